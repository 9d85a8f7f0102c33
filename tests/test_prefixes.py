"""Sequences that share a start are grouped so that few tokens are computed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promptopt.models.prefixes import like_lengths, prefix_groups

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple), min_size=1, max_size=20)


@given(SEQUENCES)
def test_every_sequence_is_in_one_group_whose_prefix_it_has_and_outgrows(sequences: list[tuple[int, ...]]) -> None:
    groups = prefix_groups(sequences)

    assert sorted(i for group in groups for i in group.members) == list(range(len(sequences)))
    for shared, members in groups:
        assert len({sequences[i][:shared] for i in members}) == 1
        assert all(len(sequences[i]) > shared for i in members)


@given(SEQUENCES)
def test_grouping_never_computes_more_tokens_than_no_grouping(sequences: list[tuple[int, ...]]) -> None:
    computed = sum(
        shared + sum(len(sequences[i]) - shared for i in members) for shared, members in prefix_groups(sequences)
    )

    assert computed <= sum(map(len, sequences))


def test_examples_of_one_prompt_share_it() -> None:
    first, second = tuple(range(100, 140)), tuple(range(200, 240))
    sequences = [(*prompt, n, n + 1) for n in range(5) for prompt in (first, second)]

    assert sorted((group.shared, len(group.members)) for group in prefix_groups(sequences)) == [(40, 5), (40, 5)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 2000))
def test_batches_hold_every_item_once_and_keep_to_the_limit(lengths: list[int], most: int) -> None:
    batches = like_lengths(dict(enumerate(lengths)), most)

    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= most or len(batch) == 1
        assert padded <= 256 or sum(lengths[i] for i in batch) >= 0.8 * padded
