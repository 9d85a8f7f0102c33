"""The crossed model of instructions and demonstration sets."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt.statistics.crossed import fit_crossed

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats


def rewards_of(
    seed: int, sizes: tuple[int, int], share: float, examples: int = 60
) -> tuple[Floats, list[tuple[int, int]], Floats]:
    """Return rewards [C, E] of a share of the combinations, their numbers, and the true rewards of all."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 0.12, sizes[0]), rng.normal(0, 0.06, sizes[1])
    truth = 0.5 + first[:, None] + second + rng.normal(0, 0.03, sizes)
    pairs = [pair for pair in product(range(sizes[0]), range(sizes[1])) if rng.random() < share]
    easy = rng.normal(0, 0.2, examples)
    chances = np.array([truth[pair] + easy for pair in pairs])
    rewards = (rng.random(chances.shape) < chances).astype(float)
    rewards[rng.random(rewards.shape) > 0.3] = np.nan
    return rewards, pairs, truth


def test_a_combination_that_was_never_measured_is_ranked_by_its_parts() -> None:
    correlations = []
    for seed in range(8):
        rewards, pairs, truth = rewards_of(seed, (8, 8), 0.4)
        unmeasured = [pair for pair in product(range(8), range(8)) if pair not in pairs]
        expected = fit_crossed(rewards, pairs, (8, 8)).expected()
        rows = np.array([[values[pair] for pair in unmeasured] for values in (expected, truth)])
        correlations.append(np.corrcoef(rows)[0, 1])

    assert np.mean(correlations) > 0.6


def test_the_variances_are_recovered() -> None:
    fits = [fit_crossed(*rewards_of(seed, (10, 10), 0.8)[:2], (10, 10)) for seed in range(6)]
    spreads = np.sqrt(np.mean([fit.variances for fit in fits], axis=0))

    assert spreads == pytest.approx([0.12, 0.06, 0.03, 0.2, 0.45], abs=0.04)


def test_draws_have_the_posterior_mean_and_unmeasured_combinations_the_wider_spread() -> None:
    rewards, pairs, _ = rewards_of(1, (4, 4), 0.5)
    fit = fit_crossed(rewards, pairs, (4, 4))
    draws = fit.draw(4_000, np.random.default_rng(0))
    unmeasured = next(pair for pair in product(range(4), range(4)) if pair not in pairs)

    assert draws.mean(axis=0) == pytest.approx(fit.expected(), abs=0.01)
    assert draws[:, *unmeasured].std() > draws[:, *pairs[0]].std()


def test_a_start_from_other_variances_leads_to_the_same_ranking() -> None:
    rewards, pairs, _ = rewards_of(2, (5, 5), 0.6)
    first = fit_crossed(rewards, pairs, (5, 5))
    again = fit_crossed(rewards, pairs, (5, 5), first.variances)

    assert again.expected() == pytest.approx(first.expected(), abs=0.01)


def test_one_combination_and_equal_rewards_are_no_error() -> None:
    fit = fit_crossed(np.ones((1, 3)), [(0, 0)], (2, 2))

    assert np.isfinite(fit.expected()).all()
    assert fit.expected()[0, 0] == pytest.approx(1, abs=0.05)
