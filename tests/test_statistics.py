from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.statistics import Interval, mean_interval, paired_interval, shortest_within_one_error, still_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.scores import Floats

NAN = math.nan
DRAWS = 2_000
ERROR = math.sqrt(0.95 * 0.05 / DRAWS)  # of a coverage of 95 %, estimated from so many draws

binary_pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def binary(ones: int, zeros: int) -> Floats:
    return np.repeat([1.0, 0.0], [ones, zeros])


def pair(both: int, first: int, second: int, none: int) -> tuple[Floats, Floats]:
    """Return two rows: right in both, in the first alone, in the second alone, in none."""
    counts = [both, first, second, none]
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


# ---------------------------------------------------------------- intervals of 0 and 1


@pytest.mark.parametrize(
    ("ones", "zeros", "low", "high"),
    [
        (8, 2, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 0, 0.7225, 1.0),
        (81, 182, 0.2553, 0.3662),  # Newcombe (1998), table I
        (15, 133, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 28, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_share_is_wilsons(ones: int, zeros: int, low: float, high: float) -> None:
    found = mean_interval(binary(ones, zeros))

    assert found == pytest.approx((ones / (ones + zeros), low, high), abs=5e-5)


def test_a_paired_interval_is_bonett_and_prices() -> None:
    # By hand: (4 + 1) / 12 and (1 + 1) / 12; centre 0.25; standard error sqrt((7/12 - 1/16) / 12) = 0.2083333.
    found = paired_interval(*pair(3, 4, 1, 2))

    assert found == pytest.approx((0.3, 0.25 - 0.4083258, 0.25 + 0.4083258), abs=1e-6)


def test_rows_that_never_differ_keep_the_width_of_their_number() -> None:
    few, many = paired_interval(*pair(6, 0, 0, 2)), paired_interval(*pair(60, 0, 0, 20))

    assert few.low == -few.high
    assert 0.2 < few.high < 0.3
    assert 0 < many.high < few.high / 5


@given(binary_pairs)
def test_an_interval_holds_its_estimate_and_turns_with_the_sides(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    found, turned = paired_interval(first, second), paired_interval(second, first)

    assert -1 <= found.low <= found.estimate <= found.high <= 1
    assert found.estimate == pytest.approx(first.mean() - second.mean())
    assert found == pytest.approx((-turned.estimate, -turned.high, -turned.low))
    alone = mean_interval(first)
    assert 0 <= alone.low <= alone.estimate <= alone.high <= 1


def test_more_confidence_is_wider() -> None:
    assert mean_interval(binary(8, 2), 0.99).low < mean_interval(binary(8, 2), 0.95).low
    assert paired_interval(*pair(3, 4, 1, 2), 0.99).high > paired_interval(*pair(3, 4, 1, 2), 0.95).high


def paired_coverage(n: int, gained: float, lost: float) -> float:
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(DRAWS):
        first, second = pair(*rng.multinomial(n, [0.4, gained, lost, 0.6 - gained - lost]).tolist())
        covered += paired_interval(first, second).holds(gained - lost)
    return covered / DRAWS


@pytest.mark.parametrize("n", [16, 50, 200])
@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.1), (0.3, 0.1), (0.05, 0.0)])
def test_paired_intervals_cover_as_often_as_they_say(n: int, gained: float, lost: float) -> None:
    assert paired_coverage(n, gained, lost) > 0.95 - 3 * ERROR


def test_paired_intervals_of_many_items_are_no_wider_than_they_must_be() -> None:
    assert paired_coverage(200, 0.3, 0.1) < 0.95 + 3 * ERROR


def test_intervals_of_a_share_cover_as_often_as_they_say_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.95, size=4_000)
    covered = sum(mean_interval((rng.random(30) < share).astype(float)).holds(share) for share in shares)

    assert covered / len(shares) == pytest.approx(0.95, abs=0.012)


# ---------------------------------------------------------------- other rewards


def test_a_bootstrap_of_many_even_values_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    half = 1.96 * values.std(ddof=1) / 20
    found = mean_interval(values)

    assert found.estimate == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_same_data_give_the_same_bootstrap() -> None:
    values = np.random.default_rng(0).random(20)

    assert mean_interval(values) == mean_interval(values.copy())


def test_a_bootstrap_covers_the_mean_of_skewed_rewards() -> None:
    rng = np.random.default_rng(0)
    draws = 200
    covered = sum(mean_interval(rng.beta(0.5, 4.0, size=40)).holds(1 / 9) for _ in range(draws))

    assert 0.87 <= covered / draws < 1


@pytest.mark.parametrize("n", range(2, 8))
def test_a_handful_of_values_bounds_nothing(n: int) -> None:
    values = np.linspace(0.1, 0.3, n)

    assert mean_interval(values) == Interval(values.mean(), -math.inf, math.inf)
    assert paired_interval(values + 0.5, values).low == -math.inf


def test_equal_gaps_that_differ_by_rounding_are_equal() -> None:
    first = np.arange(1, 11) / 10
    found = paired_interval(first, first - 0.1)

    assert found.low == found.estimate == found.high == pytest.approx(0.1)


# ---------------------------------------------------------------- missing cells


def test_examples_that_one_side_lacks_are_in_no_pair() -> None:
    first, second = pair(3, 4, 1, 2)
    with_holes = paired_interval(np.append(first, [NAN, 1.0, NAN]), np.append(second, [1.0, NAN, NAN]))

    assert with_holes == paired_interval(first, second)
    assert mean_interval(np.append(first, NAN)) == mean_interval(first)


def test_nothing_bounds_nothing() -> None:
    for found in (mean_interval(np.array([NAN])), paired_interval(np.array([NAN, 1.0]), np.array([1.0, NAN]))):
        assert math.isnan(found.estimate)
        assert (found.low, found.high) == (-math.inf, math.inf)


# ---------------------------------------------------------------- elimination


@given(
    st.integers(1, 6).flatmap(
        lambda e: st.lists(
            st.lists(st.sampled_from([0.0, 0.3, 1.0, NAN]), min_size=e, max_size=e), min_size=1, max_size=6
        )
    )
)
def test_the_best_row_and_its_twins_always_stay(rows: list[list[float]]) -> None:
    table = np.array([*rows, *rows])
    kept = still_in(table)
    present = [i for i in range(len(table)) if not np.isnan(table[i]).all()]

    assert kept == sorted(set(kept))
    if present:
        best = max(present, key=lambda i: (np.nanmean(table[i]), -i))
        assert {best, (best + len(rows)) % len(table)} <= set(kept)
    else:
        assert kept == list(range(len(table)))


def test_a_clearly_worse_row_goes_and_a_slightly_worse_one_stays() -> None:
    best, close, far = binary(60, 4), binary(58, 6), binary(20, 44)

    assert still_in(np.array([far, best, close])) == [1, 2]


@pytest.mark.parametrize("gap", [0.1, 0.125])
def test_a_gap_without_spread_drops_nobody(gap: float) -> None:
    first = np.arange(1, 9) / 10  # less 0.1 the gaps differ by rounding, less 0.125 hardly

    assert still_in(np.array([first, first - gap])) == [0, 1]


def test_a_row_without_replies_stays() -> None:
    assert still_in(np.array([binary(30, 2), np.full(32, NAN), binary(2, 30)])) == [0, 1]


@pytest.mark.parametrize("rows", [2, 5, 17])
def test_a_round_loses_a_row_as_good_as_the_best_no_oftener_than_it_says(rows: int) -> None:
    rng = np.random.default_rng(rows)
    draws = 1_000
    lost = sum(0 not in still_in((rng.random((rows, 48)) < 0.7).astype(float)) for _ in range(draws))

    assert lost / draws < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_a_round_on_64_items_mostly_drops_a_row_that_is_30_points_worse() -> None:
    rng = np.random.default_rng(0)
    dropped = sum(1 not in still_in((rng.random((2, 64)) < np.array([[0.9], [0.6]])).astype(float)) for _ in range(200))

    assert dropped / 200 > 0.9


# ---------------------------------------------------------------- the one-standard-error rule


def rule(*rows: Sequence[float], lengths: list[int]) -> int:
    return shortest_within_one_error(np.array(rows), lengths)


def test_a_shorter_row_within_one_error_is_preferred() -> None:
    # Behind by (0, 0, 1, 0): 0.25, with a standard error of 0.25.
    assert rule([1, 1, 1, 0], [1, 1, 0, 0], lengths=[9, 4]) == 1


def test_a_shorter_row_beyond_one_error_is_not() -> None:
    # Behind by (0, 1, 1, 0): 0.5, with a standard error of 0.289.
    assert rule([1, 1, 1, 0], [1, 0, 0, 0], lengths=[9, 1]) == 0


def test_among_several_the_shortest_then_the_better_then_the_earlier() -> None:
    best, near, far = [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]

    assert rule(far, best, near, near, lengths=[1, 9, 5, 4]) == 3
    assert rule(near, best, lengths=[5, 5]) == 1
    assert rule(near, best, near, lengths=[4, 9, 4]) == 0


@pytest.mark.parametrize("gap", [0.1, 0.125])
def test_a_gap_without_spread_is_beyond_one_error(gap: float) -> None:
    first = np.arange(1, 9) / 10

    assert shortest_within_one_error(np.array([first, first - gap]), [9, 1]) == 0


def test_cells_that_one_side_lacks_do_not_count() -> None:
    assert rule([1, 1, 1, 0, 1], [1, 1, 0, 0, NAN], lengths=[9, 4]) == 1
    assert rule([NAN, NAN], [1, 0], lengths=[1, 9]) == 1


@pytest.mark.parametrize("call", [mean_interval, lambda values: paired_interval(values, values)])
def test_nothing_given_is_changed(call: Callable[[Floats], Interval]) -> None:
    values = np.array([1.0, NAN, 0.0])
    call(values)

    assert np.array_equal(values, [1.0, NAN, 0.0], equal_nan=True)
