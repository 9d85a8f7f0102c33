from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.search.masks import drop_tokens, restore_tokens, token_effects
from promptopt.statistics.pareto import nondominated, pareto, pareto_order

LENGTH = 12
rows = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH).map(np.array)
counts = st.integers(1, 6)
seeds = st.integers(0, 99)


@given(rows, rows, counts, seeds)
def test_dropping_takes_so_many_free_tokens_and_leaves_one(
    mask: np.ndarray, free: np.ndarray, count: int, seed: int
) -> None:
    child = drop_tokens(mask, free, count, np.random.default_rng(seed))

    if child is None:
        assert (mask & free).sum() <= count
    else:
        assert (mask & ~child).sum() == count
        assert not (child & ~mask).any()
        assert (child[~free] == mask[~free]).all()


@given(rows, rows, counts, seeds)
def test_restoring_gives_so_many_missing_free_tokens_back(
    mask: np.ndarray, free: np.ndarray, count: int, seed: int
) -> None:
    child = restore_tokens(mask, free, count, np.random.default_rng(seed))

    if child is None:
        assert (~mask & free).sum() < count
    else:
        assert (child & ~mask).sum() == count
        assert not (mask & ~child).any()
        assert (child[~free] == mask[~free]).all()


def test_no_move_changes_the_mask_it_is_given() -> None:
    mask, free, rng = np.array([True] * 6 + [False] * 6), np.ones(12, dtype=bool), np.random.default_rng(0)
    before = mask.copy()
    for move in (drop_tokens, restore_tokens):
        move(mask, free, 2, rng)

    assert (mask == before).all()


def test_tokens_are_drawn_by_their_chances() -> None:
    mask, rng = np.ones(4, dtype=bool), np.random.default_rng(0)
    chances = np.array([0.1, 0.1, 0.1, 0.7])
    lost = [
        int(np.flatnonzero(~child)[0])
        for _ in range(2000)
        if (child := drop_tokens(mask, mask, 1, rng, chances)) is not None
    ]

    assert lost.count(3) / 2000 == pytest.approx(0.7, abs=0.04)


def test_the_worth_of_tokens_is_found_from_scored_masks() -> None:
    rng = np.random.default_rng(1)
    true = np.array([3.0, -3.0, 0.0, 1.0, 0.0])
    masks = rng.random((400, 5)) < 0.7
    masks[:, 4] = True  # a slot
    found = token_effects(list(masks), (masks @ true + rng.normal(0, 1, 400)).tolist())

    assert found is not None
    assert found.mean == pytest.approx(true, abs=0.4)
    assert found.error[:4] == pytest.approx([math.sqrt(1 / (400 * 0.21))] * 4, rel=0.2)
    assert found.prob_harmful[0] < 0.01
    assert found.prob_harmful[1] > 0.99
    assert found.prob_harmful[4] == 0.5


def test_the_errors_of_the_worth_cover_the_truth() -> None:
    """Of 200 drawn problems with as many tokens as masks allow, 90 % to 98 % of coefficients lie within two errors."""
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(200):
        true = rng.normal(0, 0.5, 8)
        masks = rng.random((60, 8)) < 0.6
        found = token_effects(list(masks), (masks @ true + rng.normal(0, 1, 60)).tolist())
        assert found is not None
        inside += (np.abs(found.mean - true) < 2 * found.error).tolist()

    assert 0.88 < np.mean(inside) < 0.98


def test_more_tokens_than_masks_still_have_a_worth() -> None:
    rng = np.random.default_rng(3)
    masks = rng.random((10, 50)) < 0.9
    found = token_effects(list(masks), rng.normal(0, 1, 10).tolist())

    assert found is not None
    assert np.isfinite(found.mean).all()
    assert (found.error > 0).all()


def test_where_nothing_varies_nothing_is_known() -> None:
    same = [np.ones(4, dtype=bool)] * 3

    assert token_effects(same, [1.0, 2.0, 3.0]) is None
    assert token_effects([np.array([True, False]), np.array([False, True])], [1.0, 1.0]) is None


def test_the_front_goes_from_the_shortest_to_the_best() -> None:
    values = [0.5, 0.9, 0.9, 0.7, math.nan, 0.4]
    lengths = [10, 40, 30, 20, 5, 12]

    assert pareto(values, lengths) == [0, 3, 2]
    assert pareto([], []) == []


def test_a_row_is_on_the_front_if_no_other_is_as_good_in_every_column() -> None:
    values = np.array(
        [[0.5, -10], [0.9, -30], [0.9, -40], [0.5, -10], [0.4, -5], [math.nan, 0], [0.3, -5]], dtype=float
    )

    assert nondominated(values) == [1, 0, 4]
    assert nondominated(np.empty((0, 2))) == []


def test_the_front_of_many_is_that_of_all_pairs() -> None:
    values = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    beaten = [
        any((other >= row).all() and ((other > row).any() or o < r) for o, other in enumerate(values) if o != r)
        for r, row in enumerate(values)
    ]

    assert sorted(nondominated(values)) == [r for r in range(60) if not beaten[r]]


def test_every_beginning_of_the_order_spans_the_front() -> None:
    front = [[n / 10, 1 - n / 10] for n in range(11)]
    values = np.array([*front, [0.05, 0.05], [math.nan, 1.0]])

    order = pareto_order(values)
    assert order[:3] == [10, 0, 5]  # the best by each column, then the middle
    assert order[-1] == 11  # the next front
    assert sorted(order) == list(range(12))  # without the row that is not known
