"""A batch is partitioned into unions of subtrees of about equal size, in one way for the same texts."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from promptopt.models.local.common_start import common_start
from promptopt.models.replicas.partition import partition, sort_by_prefix

TEXTS = st.lists(st.text("ab", max_size=6), min_size=1, max_size=9)


def cost(texts: list[str], part: list[int], extra: list[int]) -> int:
    """Count what a part takes on its own."""
    prefixes = {texts[i][:end] for i in part for end in range(1, len(texts[i]) + 1)}
    return len(prefixes) + sum(extra[i] for i in part)


@given(texts=TEXTS)
def test_distinct_counts_every_prefix_once(texts: list[str]) -> None:
    assert sort_by_prefix(texts).preceding[-1] == cost(texts, list(range(len(texts))), [0] * len(texts))


@given(texts=TEXTS, most=st.integers(1, 5), data=st.data())
def test_parts_hold_every_text_once_and_are_about_as_small_as_can_be(
    texts: list[str], most: int, data: st.DataObject
) -> None:
    extra = data.draw(st.lists(st.integers(0, 3), min_size=len(texts), max_size=len(texts)))
    parts = partition(sort_by_prefix(texts, extra), most)
    order = sorted(range(len(texts)), key=texts.__getitem__)
    best = min(
        max(cost(texts, order[a:b], extra) for a, b in pairwise((0, *ends, len(order))))
        for count in range(min(most, len(texts)))
        for ends in combinations(range(1, len(texts)), count)
    )

    assert [i for part in parts for i in part] == order
    assert 1 <= len(parts) <= most
    assert all(parts)
    assert max(cost(texts, part, extra) for part in parts) <= 1.05 * best


@given(texts=TEXTS, most=st.integers(1, 5))
def test_tokens_are_cut_like_characters(texts: list[str], most: int) -> None:
    tokens = [tuple(map(ord, text)) for text in texts]

    assert partition(sort_by_prefix(tokens), most) == partition(sort_by_prefix(texts), most)


@given(a=st.text("ab", max_size=9), b=st.text("ab", max_size=9))
def test_the_common_start_is_the_longest(a: str, b: str) -> None:
    shared = common_start(a, b)

    assert a[:shared] == b[:shared]
    assert a[shared : shared + 1] != b[shared : shared + 1] or shared == min(len(a), len(b))


def test_prompts_stay_whole_where_that_makes_parts_hardly_uneven() -> None:
    texts = [f"{prompt}{'x' * 100}{item:04}{'y' * 20}" for prompt in "abcd" for item in range(30)]
    parts = partition(sort_by_prefix(texts), 2)

    assert [{texts[i][0] for i in part} for part in parts] == [{"a", "b"}, {"c", "d"}]


def test_one_prompt_before_many_items_is_cut_between_items_and_its_repetition_counted() -> None:
    texts = ["p" * 1000 + f"{item:03}{'y' * 97}" for item in range(16)]
    parts = partition(sort_by_prefix(texts), 2)

    assert list(map(len, parts)) == [8, 8]


def test_nothing_is_cut_into_no_parts() -> None:
    assert partition(sort_by_prefix(list[str]()), 3) == []
