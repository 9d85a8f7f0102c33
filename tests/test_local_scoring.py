"""What the benchmark of local scoring counts: its shares and ratios rest on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def work() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield pytest.importorskip("benchmarks.local_scoring.work", reason="benchmarks come with a checkout only")


@given(sequences=SEQUENCES)
def test_distinct_counts_every_prefix_once_and_what_its_last_token_attends_to(
    work: Any, sequences: list[list[int]]
) -> None:
    prefixes = {tuple(ids[:end]) for ids in sequences for end in range(1, len(ids) + 1)}

    assert work.distinct(sequences) == (len(prefixes), sum(map(len, prefixes)))


@given(sequences=SEQUENCES, most=st.integers(1, 20))
def test_batches_hold_every_sequence_once_within_their_tokens(work: Any, sequences: list[list[int]], most: int) -> None:
    batches = list(work.like_lengths(sequences, most))

    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    assert all(len(b) == 1 or len(b) * max(len(sequences[i]) for i in b) <= most for b in batches)


def test_mutants_leave_out_one_to_four_pieces_and_follow_their_seed(work: Any) -> None:
    pieces = [chr(ord("a") + n) for n in range(26)]
    texts = work.mutants(pieces, 200, "seed")

    assert {len(pieces) - len(text) for text in texts} == {1, 2, 3, 4}
    assert all(sorted(text) == list(text) for text in texts)
    assert texts == work.mutants(pieces, 200, "seed") != work.mutants(pieces, 200, "other")
