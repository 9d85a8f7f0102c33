"""Variance components, subset search and held-out scores, on simulated data whose components are known."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt import InputError
from promptopt.search.subsets import _greedy, alignment, best_subset, held_out_score, subset_score
from promptopt.statistics.components import cells, components, covariance, discrimination_p_values, shrunken_covariance

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

DRAWS = 2_000


def simulated(
    systems: int, users: int, replicates: int, *, system: float, interaction: float, noise: float, draws: int = DRAWS
) -> Floats:
    """Rewards [draws, N, K, M] of the two-way model with these standard deviations."""
    rng = np.random.default_rng(0)
    out: Floats = rng.normal(0, system, (draws, systems, 1, 1)) + rng.normal(0, 1, (draws, 1, users, 1))
    out = out + rng.normal(0, interaction, (draws, systems, users, 1))
    return out + rng.normal(0, noise, (draws, systems, users, replicates))


def coins(systems: int, users: int, replicates: int, seed: int = 0) -> Floats:
    """Rewards [DRAWS, N, K, M] of 0 and 1 with p = 0.5 whatever the prompt: all difference is chance."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (DRAWS, systems, users, replicates)).astype(np.float64)


def assert_unbiased(estimates: Any, truth: float) -> None:
    found = np.asarray(estimates, dtype=np.float64)
    error = found.std(ddof=1) / math.sqrt(found.size)
    assert abs(found.mean() - truth) < 3 * error


# ---------------------------------------------------------------- components


@pytest.mark.parametrize(("systems", "users", "replicates"), [(16, 6, 3), (5, 4, 2)])
def test_components_are_unbiased_and_their_intervals_hold(systems: int, users: int, replicates: int) -> None:
    rewards = simulated(systems, users, replicates, system=0.1, interaction=0.2, noise=0.5)
    found = [components(draw) for draw in rewards]

    for part, truth in zip(("system", "interaction", "noise"), (0.01, 0.04, 0.25), strict=True):
        intervals = [getattr(parts, part) for parts in found]
        assert_unbiased([interval.estimate for interval in intervals], truth)
        assert 0.93 < np.mean([interval.holds(truth) for interval in intervals]) < 0.98


def test_components_of_pure_chance_at_two_replicates_are_zero_where_the_plug_in_is_not() -> None:
    rewards = coins(16, 3, 2)
    found = [components(draw) for draw in rewards]

    assert_unbiased([parts.system.estimate for parts in found], 0)
    assert_unbiased([parts.interaction.estimate for parts in found], 0)
    assert_unbiased([covariance(draw)[0, 0] for draw in rewards], 0)
    plugged = np.array([covariance(draw, "plug-in")[0, 0] for draw in rewards])
    # (N - 1) / N * p q / M^2 is left: a fake standard deviation of 0.24
    assert_unbiased(plugged, 15 / 16 * 0.25 / 4)
    assert plugged.mean() > 20 * plugged.std() / math.sqrt(DRAWS)


def test_components_stay_unbiased_where_cells_and_replies_are_missing() -> None:
    rewards = simulated(12, 5, 3, system=0.2, interaction=0.1, noise=0.4)
    rewards[np.random.default_rng(1).random(rewards.shape) < 0.2] = np.nan
    rewards[:, 3, 2] = np.nan
    found = [components(draw) for draw in rewards]

    for part, truth in zip(("system", "interaction", "noise"), (0.04, 0.01, 0.16), strict=True):
        assert_unbiased([getattr(parts, part).estimate for parts in found], truth)


def test_a_missing_reply_is_a_gap_and_no_zero() -> None:
    rewards = np.ones((4, 3, 2))
    rewards[1, 2] = np.nan
    rewards[2, 0, 1] = np.nan

    assert components(rewards).system.estimate == components(rewards).noise.estimate == 0
    assert np.isnan(cells(rewards).mean[1, 2])


def test_replicates_that_never_differ_have_no_noise() -> None:
    once = np.random.default_rng(0).random((6, 5, 1))
    parts = components(np.repeat(once, 3, axis=2))

    assert tuple(parts.noise) == (0, 0, 0)
    assert parts.replicates == 0
    assert parts.interaction.low > 0


def test_one_replicate_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="one replicate cannot tell a better prompt from a luckier reply"):
        components(np.ones((4, 3, 1)))
    with pytest.raises(InputError, match="two or more, not 1"):
        components(np.ones((1, 3, 2)))
    with pytest.raises(InputError, match="two or more of them, not 1"):
        components(np.ones((4, 1, 2)))


def test_the_best_number_of_replicates_measures_differences_best_at_a_fixed_budget() -> None:
    """Between 0.2, noise 0.8: M* = 16; at 96 cells a column, 4 and 48 replicates are both worse."""
    spread = {}
    for replicates in (4, 16, 48):
        rewards = simulated(192 // replicates, 2, replicates, system=0.0, interaction=0.2, noise=0.8, draws=1000)
        spread[replicates] = np.std([covariance(draw)[0, 0] for draw in rewards])

    assert spread[16] < min(spread[4], spread[48])
    assert components(
        simulated(64, 40, 8, system=0.0, interaction=0.2, noise=0.8, draws=1)[0]
    ).replicates == pytest.approx(16, rel=0.2)


def test_the_expected_gain_is_that_of_picking_the_best_of_some() -> None:
    rng = np.random.default_rng(0)
    parts = components(simulated(400, 60, 4, system=0.1, interaction=0.2, noise=0.5, draws=1)[0])
    quality = rng.normal(0, 0.1, (20_000, 16))
    shown = quality + rng.normal(0, math.sqrt(0.04 / 10 + 0.25 / 20), quality.shape)
    picked = np.take_along_axis(quality, shown.argmax(axis=1)[:, None], axis=1).mean()

    assert parts.gain(16, 10, 2) == pytest.approx(picked, rel=0.1)
    assert parts.gain(1, 10, 2) == 0


# ---------------------------------------------------------------- covariance


def test_the_score_of_a_subset_is_unbiased() -> None:
    """The variance of the true mean over 3 user prompts is sigma_S^2 + sigma_SU^2 / 3."""
    rewards = simulated(8, 5, 2, system=0.1, interaction=0.3, noise=0.5)

    assert_unbiased([subset_score(covariance(draw), (0, 2, 4)) for draw in rewards], 0.01 + 0.09 / 3)


def test_the_plug_in_score_is_the_papers_equation_5() -> None:
    rewards = coins(6, 5, 4)[0]
    p, subset = rewards.mean(axis=2), (0, 3, 4)
    of_prompts = p[:, subset].mean(axis=1)
    chance = 5 / 36 * (p * (1 - p))[:, subset].mean(axis=1).sum() / (3 * 4)

    assert subset_score(covariance(rewards, "plug-in"), subset) == pytest.approx(of_prompts.var() - chance)
    with pytest.raises(InputError, match="for rewards of 0 and 1"):
        covariance(rewards / 2, "plug-in")


def test_shrinking_brings_the_matrix_nearer_to_the_truth() -> None:
    near, far = [], []
    for draw in simulated(10, 12, 4, system=0.1, interaction=0.2, noise=0.5, draws=100):
        truth = 0.01 + 0.04 * np.eye(12)
        near.append(((shrunken_covariance(draw) - truth) ** 2).sum())
        far.append(((covariance(draw) - truth) ** 2).sum())

    assert np.mean(near) < 0.3 * np.mean(far)


def test_shrinking_keeps_what_is_there() -> None:
    """Two user prompts that carry everything stay far above the others."""
    rng = np.random.default_rng(0)
    loading = np.array([0.4, 0.4, *[0.0] * 10])
    rewards = (rng.normal(size=(16, 1)) * loading)[..., None] + rng.normal(0, 0.3, (16, 12, 8))

    assert best_subset(shrunken_covariance(rewards), 2) == (0, 1)
    assert shrunken_covariance(rewards)[0, 1] > 0.5 * 0.16


# ---------------------------------------------------------------- subsets


def brute_force(matrix: Floats, size: int, *, aligned: bool) -> tuple[int, ...] | None:
    every = [s for s in combinations(range(len(matrix)), size) if not aligned or alignment(matrix, s) > 0]
    return max(every, key=lambda s: subset_score(matrix, s), default=None)


def symmetric(users: int, seed: int) -> Floats:
    half = np.random.default_rng(seed).normal(size=(users, users))
    return half + half.T


@given(st.integers(2, 9), st.data(), st.integers(0, 10_000), st.booleans())
def test_the_search_equals_brute_force(users: int, data: st.DataObject, seed: int, aligned: bool) -> None:  # noqa: FBT001
    size = data.draw(st.integers(1, users))
    matrix = symmetric(users, seed)

    assert best_subset(matrix, size, aligned=aligned) == brute_force(matrix, size, aligned=aligned)


def test_the_greedy_search_comes_close_to_brute_force() -> None:
    shares = []
    for seed in range(40):
        factor = np.random.default_rng(seed).normal(size=(10, 3))
        matrix = factor @ factor.T
        found, best = _greedy(matrix, 4, aligned=False), brute_force(matrix, 4, aligned=False)
        assert found is not None
        assert best is not None
        shares.append(subset_score(matrix, tuple(found)) / subset_score(matrix, best))

    assert np.mean(shares) > 0.99
    assert np.mean(np.array(shares) > 1 - 1e-9) > 0.8


def test_many_subsets_are_searched_greedily() -> None:
    """C(64, 16) = 4.9e14: the sixteen that agree are found all the same, and a swap undoes a bad beginning."""
    together = np.arange(64) % 4 == 1
    matrix = 0.1 * np.eye(64) + np.outer(together, together) + 0.001

    assert best_subset(matrix, 16) == tuple(np.flatnonzero(together).tolist())


def test_the_guard_refuses_a_minority_of_opposed_taste() -> None:
    taste = np.array([1.0] * 8 + [-1.5] * 3)
    matrix = np.outer(taste, taste)

    assert best_subset(matrix, 2, aligned=False) == (8, 9)
    found = best_subset(matrix, 2)
    assert found == (0, 1)
    assert alignment(matrix, found) > 0 > alignment(matrix, (8, 9))
    assert best_subset(-np.ones((4, 4)) + 5 * np.eye(4), 2) is None
    assert best_subset(matrix, 11) == tuple(range(11))


def test_unmeasured_user_prompts_are_never_chosen() -> None:
    rewards = coins(8, 5, 2)[0]
    rewards[:, 2] = np.nan
    matrix = shrunken_covariance(rewards)

    assert np.isnan(matrix[2, 2])
    assert 2 not in (best_subset(matrix, 4, aligned=False) or ())
    with pytest.raises(InputError, match="1 to 4 of the user prompts that were measured, not 5"):
        best_subset(matrix, 5)


# ---------------------------------------------------------------- held-out scores, tests


def test_the_score_on_other_system_prompts_is_not_flattered_by_the_choice() -> None:
    """Chance alone: the chosen pair's own score is far above zero, its held-out score is not."""

    def choose(rewards: Floats) -> tuple[int, ...] | None:
        return best_subset(covariance(rewards), 2, aligned=False)

    draws = coins(8, 8, 2)[:500]
    assert_unbiased([held_out_score(draw, choose) for draw in draws], 0)
    flattered = [subset_score(covariance(draw), choose(draw) or ()) for draw in draws]
    assert np.mean(flattered) > 0.05
    assert math.isnan(held_out_score(draws[0][:3], choose))


def test_user_prompts_that_tell_prompts_apart_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    chance = np.full((16, 20), 0.5)
    chance[:8, 4], chance[8:, 4] = 0.05, 0.95
    rewards = (rng.random((16, 20, 16)) < chance[..., None]).astype(float)

    assert np.flatnonzero(discrimination_p_values(rewards) < 0.01).tolist() == [4]
    assert np.flatnonzero(discrimination_p_values(rewards + 0.3 * rng.random(rewards.shape)) < 0.01).tolist() == [4]
    alarms = [(discrimination_p_values(draw) < 0.05).any() for draw in coins(16, 10, 8)[:300]]
    assert np.mean(alarms) < 0.09


def test_without_noise_any_difference_tells() -> None:
    rewards = np.ones((4, 3, 2))
    rewards[1, 2] = 0

    assert discrimination_p_values(rewards).tolist() == [1, 1, 0]
