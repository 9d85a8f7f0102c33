"""Intervals: published numbers, coverage in simulations, and what happens at the edges."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.randomness import named_generator
from promptopt.statistics import (
    Interval,
    clustered_interval,
    cross_fitted_interval,
    intervals,
    mean_interval,
    paired_interval,
    paired_t_interval,
    widen_by_jackknife,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.statistics.arrays import Floats

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


def test_a_paired_t_interval_is_students() -> None:
    """Student's own example: hours of sleep gained with two drugs, of ten patients (1908)."""
    first = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    second = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])

    assert paired_t_interval(first, second, 0.95) == pytest.approx((1.58, 0.7001142, 2.4598858))


def test_a_paired_t_interval_of_shares_few_or_equal_differences_is_that_of_one_comparison() -> None:
    shares = binary(9, 6), binary(4, 11)
    assert paired_t_interval(*shares, 0.99) == paired_interval(*shares, 0.99)
    assert paired_t_interval(np.arange(7.0), np.zeros(7), 0.99)[1:] == (-math.inf, math.inf)
    equal = np.full(20, 0.5), np.full(20, 0.25)
    assert paired_t_interval(*equal, 0.99) == paired_interval(*equal, 0.99)


def test_a_paired_t_interval_covers_at_high_confidence() -> None:
    rng = np.random.default_rng(0)
    draws = rng.geometric(0.05, (DRAWS, 2, 24)).astype(float)
    held = np.mean([paired_t_interval(first, second, 0.995).holds(0.0) for first, second in draws])

    assert held > 0.995 - 3 * math.sqrt(0.995 * 0.005 / DRAWS)


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
    shares = [0.4, gained, lost, 0.6 - gained - lost]
    drawn = np.random.default_rng(n).multinomial(n, shares, size=DRAWS)
    rows, counts = np.unique(drawn, axis=0, return_counts=True)
    held = [paired_interval(*pair(*row)).holds(gained - lost) for row in rows.tolist()]
    return float(np.dot(held, counts)) / DRAWS


@pytest.mark.parametrize("n", [16, 50, 200])
@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.1), (0.3, 0.1), (0.05, 0.0)])
def test_paired_intervals_cover_as_often_as_they_say(n: int, gained: float, lost: float) -> None:
    assert paired_coverage(n, gained, lost) > 0.95 - 3 * ERROR


def test_paired_intervals_of_many_items_are_no_wider_than_they_must_be() -> None:
    assert paired_coverage(200, 0.3, 0.1) < 0.95 + 3 * ERROR


def test_intervals_of_a_share_cover_as_often_as_they_say_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.95, size=4_000)
    interval = cache(lambda ones: mean_interval(binary(ones, 30 - ones)))
    covered = sum(interval(int((rng.random(30) < share).sum())).holds(share) for share in shares)

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


SKEWED: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
    "even": (lambda rng, n: rng.beta(2, 2, size=n), 0.5),
    "skewed": (lambda rng, n: rng.beta(0.5, 4.0, size=n), 1 / 9),
    "mostly whole": (lambda rng, n: np.where(rng.random(n) < 0.8, 1.0, rng.random(n)), 0.9),
}


def bootstrap_coverage(n: int, name: str, monkeypatch: pytest.MonkeyPatch, draws: int = 250) -> float:
    monkeypatch.setattr(intervals, "_RESAMPLES", 999)  # in place of 9,999, for time
    rng, (draw, mean) = np.random.default_rng(n), SKEWED[name]
    return sum(mean_interval(draw(rng, n)).holds(mean) for _ in range(draws)) / draws


@pytest.mark.parametrize("name", SKEWED)
@pytest.mark.parametrize("n", [50, pytest.param(200, marks=pytest.mark.wide)])
def test_a_bootstrap_of_enough_rewards_covers_as_often_as_it_says(
    n: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bootstrap_coverage(n, name, monkeypatch) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 250))


@pytest.mark.parametrize(("name", "coverage"), [("even", 0.925), ("skewed", 0.895), ("mostly whole", 0.9)])
def test_a_bootstrap_of_16_rewards_is_too_narrow_by_so_much(
    name: str, coverage: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bootstrap_coverage(16, name, monkeypatch, draws=500)

    assert found == pytest.approx(coverage, abs=3 * math.sqrt(coverage * (1 - coverage) / 500))


@pytest.mark.parametrize("n", range(2, 8))
def test_a_handful_of_values_bounds_nothing(n: int) -> None:
    values = np.linspace(0.1, 0.3, n)

    assert mean_interval(values) == Interval(values.mean(), -math.inf, math.inf)
    assert paired_interval(values + 0.5, values).low == -math.inf


def test_equal_gaps_within_0_to_1_are_bounded_by_that_range_alone() -> None:
    first = np.arange(1, 11) / 10
    found = paired_interval(first, first - 0.1)  # gaps that differ by rounding
    share = 1 - 0.025**0.1

    assert found == pytest.approx((0.1, 0.1 - share * 1.1, 0.1 + share * 0.9))


def test_equal_rewards_within_0_to_1_are_bounded_by_that_range_alone() -> None:
    few, many = mean_interval(np.full(8, 0.5)), mean_interval(np.full(200, 0.5))

    assert few == pytest.approx((0.5, 0.3153, 0.6847), abs=1e-4)
    assert many == pytest.approx((0.5, 0.4909, 0.5091), abs=1e-4)


def test_equal_rewards_of_an_unknown_range_bound_nothing() -> None:
    values = np.full(20, 3.0)

    assert mean_interval(values) == Interval(3.0, -math.inf, math.inf)
    assert paired_interval(values, values) == Interval(0.0, -math.inf, math.inf)


@pytest.mark.parametrize("n", [16, 50, 200])
def test_equal_rewards_seldom_hide_a_mean_beyond_their_interval(n: int) -> None:
    """A share of items so large that all n miss it with a chance of 2.5 % lies at the far end."""
    share = 1 - 0.025 ** (1 / n)
    rng = np.random.default_rng(n)
    missed = (rng.random((4_000, n)) >= share).all(axis=1).mean()
    found = mean_interval(np.full(n, 0.5))

    assert found.high == pytest.approx(0.5 + share * 0.5)
    assert missed == pytest.approx(0.025, abs=3 * math.sqrt(0.025 * 0.975 / 4_000))


# ---------------------------------------------------------------- replicates


def test_replicates_that_agree_add_nothing() -> None:
    once = binary(8, 2)

    assert mean_interval(np.repeat(once[:, None], 5, axis=1)) == pytest.approx(mean_interval(once), abs=0.02)
    assert mean_interval(np.ones((10, 5))) == mean_interval(np.ones(10))


def test_replicates_that_are_as_good_as_new_examples_count_in_full() -> None:
    rewards = np.random.default_rng(0).integers(0, 2, size=(200, 4)).astype(float)
    found, flat = mean_interval(rewards), mean_interval(rewards.ravel())

    assert found.high - found.low == pytest.approx(flat.high - flat.low, rel=0.15)


@pytest.mark.parametrize("n", [16, 50, 200])
@pytest.mark.parametrize(("level", "spread"), [(0.0, 0.5), (1.5, 1.5), (0.0, 4.0)])
def test_intervals_clustered_by_example_cover_as_often_as_they_say(n: int, level: float, spread: float) -> None:
    rng, draws = np.random.default_rng(n), 600
    quality = 1 / (1 + np.exp(-rng.normal(level, spread, size=(draws, n, 1))))
    truth = (1 / (1 + np.exp(-np.random.default_rng(0).normal(level, spread, size=400_000)))).mean()
    rewards = (rng.random((draws, n, 4)) < quality).astype(float)
    covered = sum(mean_interval(table).holds(truth) for table in rewards) / draws

    assert covered > 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)


def test_a_paired_interval_of_replicates_averages_them_within_their_example() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2, size=(30, 3)).astype(float) for _ in range(2))
    second[0] = NAN

    assert paired_interval(first, second) == pytest.approx(
        paired_interval(first[1:].mean(axis=1), second[1:].mean(axis=1)), abs=1e-12
    )


# ---------------------------------------------------------------- judges


def test_judges_widen_an_interval_by_the_jackknife_over_them() -> None:
    # Means of 3 judges 0.2, 0.5, 0.8: without one 0.65, 0.5, 0.35, error 0.3 / sqrt(3); Student's t of 2 degrees 4.3027.
    half = 4.302653 * 0.3 / math.sqrt(3)
    found = widen_by_jackknife(Interval(0.5, 0.4, 0.7), [0.65, 0.5, 0.35])

    assert found == pytest.approx((0.5, 0.5 - math.hypot(0.1, half), 0.5 + math.hypot(0.2, half)))
    assert widen_by_jackknife(Interval(0.5, 0.4, 0.7), [0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.4, 0.7))


def test_two_judges_bound_nothing() -> None:
    assert widen_by_jackknife(Interval(0.5, 0.4, 0.7), [0.5, 0.5]) == Interval(0.5, -math.inf, math.inf)


@pytest.mark.parametrize("judges", [3, 8])
def test_intervals_over_judges_and_examples_cover_as_often_as_they_say(judges: int) -> None:
    rng = np.random.default_rng(judges)
    covered = {"examples alone": 0, "both": 0}
    for _ in range(DRAWS):
        said = 0.1 * rng.normal(size=(judges, 1)) + 0.5 * rng.normal(size=40) + 0.2 * rng.normal(size=(judges, 40))
        values, mean = said.mean(axis=0), float(said.mean())
        half = 1.96 * float(values.std(ddof=1)) / math.sqrt(40)
        over_examples = Interval(mean, mean - half, mean + half)
        left_out = [float(np.delete(said, j, axis=0).mean()) for j in range(judges)]
        covered["examples alone"] += over_examples.holds(0.0)
        covered["both"] += widen_by_jackknife(over_examples, left_out).holds(0.0)

    assert covered["both"] / DRAWS > 0.95 - 3 * ERROR
    assert covered["examples alone"] / DRAWS < 0.93


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


@pytest.mark.parametrize("call", [mean_interval, lambda values: paired_interval(values, values)])
def test_nothing_given_is_changed(call: Callable[[Floats], Interval]) -> None:
    values = np.array([1.0, NAN, 0.0])
    call(values)

    assert np.array_equal(values, [1.0, NAN, 0.0], equal_nan=True)


def test_a_cross_fitted_interval_is_that_over_rows_with_its_ends_moved_out() -> None:
    first, second = np.tile([1.0, 1, 1, 0, 1], 12), np.tile([0.0, 1, 1, 1, 0], 12)
    rows, ours = paired_interval(first, second), cross_fitted_interval(first, second, 5)
    assert ours.estimate == rows.estimate
    assert ours.low - ours.estimate == pytest.approx(1.5 * (rows.low - rows.estimate))
    assert ours.high - ours.estimate == pytest.approx(1.5 * (rows.high - rows.estimate))
    assert cross_fitted_interval(np.ones(12), np.zeros(12), 5).high == 1


def test_the_interval_of_clusters_of_one_is_students() -> None:
    first, second = np.array([5.0, 3, 4, 8, 6, 7, 5, 9, 2]), np.array([4.0, 3, 1, 5, 6, 5, 4, 4, 3])
    clusters = [str(i) for i in range(9)]
    assert clustered_interval(first, second, clusters, 0.95) == pytest.approx(paired_t_interval(first, second, 0.95))


def test_copies_of_an_example_in_its_cluster_change_nothing() -> None:
    first, second = np.random.default_rng(0).random((2, 12))
    once = clustered_interval(first, second, [str(i) for i in range(12)], 0.95)
    thrice = clustered_interval(np.repeat(first, 3), np.repeat(second, 3), [str(i // 3) for i in range(36)], 0.95)
    assert thrice == pytest.approx(once)
    won, zeros = np.array([1.0, 0, 1, 1, 1, 0, 1, 1, 1, 1]), np.zeros(10)
    once = clustered_interval(won, zeros, [str(i) for i in range(10)], 0.95)
    thrice = clustered_interval(np.repeat(won, 3), np.zeros(30), [str(i // 3) for i in range(30)], 0.95)
    assert thrice == pytest.approx(once)


def test_an_interval_of_clusters_never_has_no_width() -> None:
    clusters = [str(i // 2) for i in range(20)]
    for rewards in (np.ones(20), np.full(20, 0.5)):
        _, low, high = clustered_interval(rewards, rewards, clusters, 0.95)
        assert -0.3 < low < -0.1
        assert high == -low
    assert clustered_interval(np.full(20, 3.0), np.zeros(20), clusters, 0.95) == (3, -math.inf, math.inf)
    assert clustered_interval(np.ones(14), np.zeros(14), clusters[:14], 0.95) == (1, -math.inf, math.inf)
    assert clustered_interval(np.ones(20), np.full(20, NAN), clusters, 0.95)[1:] == (-math.inf, math.inf)


def test_the_mean_of_clusters_of_one_is_wilsons_with_students_t() -> None:
    rewards, clusters = np.array([1.0, 0, 1, 1, 0, 1, 1, 1, 1, 0]), [str(i) for i in range(10)]
    alone, grouped = mean_interval(rewards), mean_interval(rewards, clusters=clusters)
    assert grouped.estimate == alone.estimate
    assert grouped.low < alone.low < alone.high < grouped.high
    thrice = mean_interval(np.repeat(rewards, 3), clusters=np.repeat(clusters, 3).tolist())
    assert thrice == pytest.approx(grouped)  # copies say nothing new
    assert mean_interval(np.repeat(rewards, 3)).low > alone.low


def test_the_mean_of_clusters_stays_in_the_range_of_the_rewards() -> None:
    clusters = [str(i // 2) for i in range(20)]
    assert mean_interval(np.ones(20), clusters=clusters).high == 1
    assert 0 < mean_interval(np.ones(20), clusters=clusters).low < mean_interval(np.ones(20)).low
    graded = np.linspace(0.5, 1.0, 20)
    assert mean_interval(graded, clusters=clusters).high <= 1
    assert mean_interval(10 * graded, clusters=clusters).high > 8
    assert (
        mean_interval(np.full(20, 0.5), clusters=clusters).low
        < 0.5
        < mean_interval(np.full(20, 0.5), clusters=clusters).high
    )
    assert mean_interval(np.ones(14), clusters=clusters[:14]) == (1, -math.inf, math.inf)
    assert mean_interval(np.full(20, NAN), clusters=clusters)[1:] == (-math.inf, math.inf)
    assert mean_interval(np.stack([graded, graded], axis=1), clusters=clusters) == mean_interval(
        graded, clusters=clusters
    )


@pytest.mark.parametrize(("rewards", "sizes"), [("0 and 1", "3"), ("0 and 1, rare failures", "1 to 6")])
def test_the_intervals_of_groups_cover_where_those_of_independent_examples_do_not(rewards: str, sizes: str) -> None:
    simulation = pytest.importorskip("benchmarks.groups", reason="benchmarks come with a checkout only")
    case = simulation.Case(rewards, 100, sizes, 1.0)
    mean, difference, mean_of_groups, difference_of_groups = simulation.coverage(case, 200)
    assert max(mean, difference) < 0.8
    assert min(mean_of_groups, difference_of_groups) > 0.95 - 3 * 0.0155


def test_a_cross_fitted_interval_of_groups_covers_where_that_over_rows_does_not() -> None:
    simulation = pytest.importorskip("benchmarks.cross_fit", reason="benchmarks come with a checkout only")
    world = simulation.World(binary=True, spread=False, fresh=False, gain=0.2, alike=1.0)
    groups = simulation.groups_of(60, "3")
    draws = [simulation.draw_groups(world, groups, named_generator(seed, "groups")) for seed in range(100)]
    target = float(np.mean([d.returned for d in draws]))
    assert np.mean([d.clustered.holds(target) for d in draws]) > 0.95 - 3 * 0.022
    assert np.mean([d.independent.holds(target) for d in draws]) < 0.88


def test_a_cross_fitted_interval_covers_the_gain_of_a_search_where_that_over_rows_does_not() -> None:
    simulation = pytest.importorskip("benchmarks.cross_fit", reason="benchmarks come with a checkout only")
    world = simulation.World(binary=False, spread=False, fresh=False, gain=0.06)  # the case in which it covers least
    draws = [simulation.draw(world, 60, 5, named_generator(seed, "cross-fitted interval")) for seed in range(100)]
    target = float(np.mean([d.returned for d in draws]))
    covered = {name: np.mean([d.cross[name].holds(target) for d in draws]) for name in ("rows", "rows, corrected")}
    assert covered["rows, corrected"] > 0.95 - 3 * 0.022
    assert covered["rows"] < 0.88
