"""The token trie: what is merged can be read back, and a run of nodes sees its ancestors and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra 'local' is not installed")

from promptopt.models.local.trie import blocks, merge, shared_prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence

# Few tokens and short sequences share much; large ids reach into every byte of the sort key.
Sequences = st.lists(
    st.lists(st.sampled_from([0, 1, 2, 255, 256, 65_536, 262_143]), min_size=1, max_size=7), min_size=1, max_size=12
)


def prefixes(sequences: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    return {tuple(sequence[: i + 1]) for sequence in sequences for i in range(len(sequence))}


@given(Sequences)
def test_every_sequence_is_read_back(sequences: list[list[int]]) -> None:
    trie = merge(sequences)
    for i, sequence in enumerate(sequences):
        assert trie.tokens[trie.nodes(i)].tolist() == sequence


@given(Sequences)
def test_there_is_one_node_for_each_distinct_prefix(sequences: list[list[int]]) -> None:
    trie = merge(sequences)

    assert len(trie) == len(prefixes(sequences)) <= sum(map(len, sequences))
    found = {(*trie.tokens[trie.ancestors(node)].tolist(), int(trie.tokens[node])) for node in range(len(trie))}
    assert found == prefixes(sequences)


@given(Sequences)
def test_what_is_above_a_node_comes_before_it_and_is_as_long_as_it_is_deep(sequences: list[list[int]]) -> None:
    trie = merge(sequences)
    for node in range(len(trie)):
        above = trie.ancestors(node)

        assert len(above) == trie.depths[node]
        assert (above < node).all()


@given(Sequences, st.data(), st.integers(1, 5))
def test_a_run_sees_its_ancestors_and_itself_each_once(
    sequences: list[list[int]], data: st.DataObject, size: int
) -> None:
    trie = merge(sequences)
    start = data.draw(st.integers(0, len(trie) - 1))
    stop = data.draw(st.integers(start + 1, len(trie)))
    plan = blocks(trie, start, stop, size)

    for node in range(start, stop):
        block, row = divmod(node - start, size)
        seen = plan.columns[block][plan.visible[block, row]]

        assert sorted(seen.tolist()) == [*trie.ancestors(node).tolist(), node]
        assert plan.depths[block, row] == trie.depths[node]
        assert plan.column_depths[block][plan.visible[block, row]].tolist() == trie.depths[seen].tolist()


@given(Sequences, st.data(), st.integers(1, 5))
def test_a_run_sees_nothing_before_it_but_the_path_to_its_first_node(
    sequences: list[list[int]], data: st.DataObject, size: int
) -> None:
    trie = merge(sequences)
    start = data.draw(st.integers(0, len(trie) - 1))
    columns = blocks(trie, start, len(trie), size).columns

    assert set(columns[(columns >= 0) & (columns < start)].tolist()) <= set(trie.ancestors(start).tolist())


@given(Sequences, st.integers(1, 3))
def test_a_stem_is_a_start_of_several_rows_in_which_nothing_branches_or_ends(
    sequences: list[list[int]], size: int
) -> None:
    trie = merge(sequences)
    rows = {tuple(sequence) for sequence in sequences}
    found = {}
    for start, stop in shared_prefixes(trie, size):
        stem = tuple(trie.tokens[start:stop].tolist())
        below = [row for row in rows if row[0] == stem[0]]

        assert len(stem) % size == 0
        assert len(below) > 1
        assert all(row[: len(stem)] == stem and len(row) > len(stem) for row in below)
        found[stem[0]] = len(stem)
    for first in {row[0] for row in rows}:  # and none is missed, or shorter than it could be
        below = [row for row in rows if row[0] == first]
        straight = min(len(row) for row in below) - 1
        while any(row[:straight] != below[0][:straight] for row in below):
            straight -= 1
        assert found.get(first, 0) == (straight // size * size if len(below) > 1 else 0)


def test_equal_sequences_are_one_row_and_a_prefix_is_a_row_of_its_own() -> None:
    trie = merge([[3, 1, 2], [3, 1], [3, 1, 2], [4]])

    assert trie.row_of.tolist() == [1, 0, 1, 2]
    assert trie.lengths.tolist() == [2, 3, 1]
    assert trie.tokens.tolist() == [3, 1, 2, 4]
    assert np.array_equal(trie.paths, [[0, 1, -1], [0, 1, 2], [3, -1, -1]])
