"""Token distributions: projection, gradient and the cross-entropy method against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from promptopt.search.categorical import (
    clipped,
    modal,
    policy_gradient,
    project_to_simplex,
    sample,
    toward_elite,
    uniform,
)

NUMBERS = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


@given(NUMBERS)
def test_the_projection_is_on_the_simplex_and_nearest_by_its_own_conditions(values: list[float]) -> None:
    """Karush-Kuhn-Tucker: what is kept was lowered by one number, what is cut lay below that number."""
    row = np.array(values)
    found = project_to_simplex(row[None])[0]
    lowered = (row - found)[found > 0]

    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert lowered == pytest.approx(np.full(lowered.size, lowered[0]), abs=1e-9)
    assert (row[found == 0] <= lowered[0] + 1e-9).all()


def test_the_projection_is_what_an_optimiser_finds() -> None:
    row = np.array([0.9, 0.3, -0.4, 0.35])
    best = minimize(
        lambda x: ((x - row) ** 2).sum(),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
    )

    assert project_to_simplex(row[None])[0] == pytest.approx(best.x, abs=1e-3)


def test_a_point_of_the_simplex_stays_and_a_row_that_sums_to_less_is_raised() -> None:
    assert project_to_simplex(np.array([[0.2, 0.5, 0.3]]))[0] == pytest.approx([0.2, 0.5, 0.3])
    assert project_to_simplex(np.array([[0.1, 0.1]]))[0] == pytest.approx([0.5, 0.5])


def test_samples_follow_the_distributions() -> None:
    p = np.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    drawn = sample(p, 20_000, np.random.default_rng(0))

    assert np.bincount(drawn[:, 0], minlength=3) / 20_000 == pytest.approx(p[0], abs=0.02)
    assert (drawn[:, 1] == 0).all()


def test_the_policy_gradient_is_unbiased() -> None:
    """The mean over many draws is d E[L] / dp up to a constant in each row, which the projection takes away."""
    p = np.array([[0.2, 0.3, 0.5]])
    losses = np.array([1.0, 3.0, -2.0])
    rng = np.random.default_rng(0)
    draws = [sample(p, 10, rng) for _ in range(20_000)]
    mean = np.mean([policy_gradient(p, chosen, losses[chosen[:, 0]]) for chosen in draws], axis=0)[0]

    assert mean - mean.mean() == pytest.approx(losses - losses.mean(), abs=0.15)


def test_the_policy_gradient_climbs_from_uniform_to_the_best_tokens_through_zeros() -> None:
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(4, 12))
    p = uniform(4, 12)
    zeros = 0
    for _ in range(300):
        chosen = sample(p, 20, rng)
        losses = cost[np.arange(4), chosen].sum(axis=1)
        p = project_to_simplex(p - 0.05 * clipped(policy_gradient(p, chosen, losses), 3.0))
        assert np.isfinite(p).all()
        zeros += int((p == 0).sum())

    assert zeros  # where the released code divides by zero
    best = cost[np.arange(4), modal(p)].sum() - cost.min(axis=1).sum()
    assert best < 0.1 * (cost.mean(axis=1) - cost.min(axis=1)).sum()


def test_the_cross_entropy_method_finds_the_best_tokens_and_leaves_failures_out() -> None:
    rng = np.random.default_rng(2)
    cost = rng.normal(size=(4, 12))
    p = uniform(4, 12)
    for _ in range(40):
        chosen = sample(p, 40, rng)
        losses = cost[np.arange(4), chosen].sum(axis=1)
        losses[0] = np.nan
        p = toward_elite(p, chosen, losses, 0.25, 0.3)

    assert cost[np.arange(4), modal(p)].sum() <= cost.min(axis=1).sum() + 0.5
    assert p.sum(axis=1) == pytest.approx(np.ones(4))


def test_losses_that_all_failed_move_nothing() -> None:
    p, chosen, lost = uniform(2, 3), np.zeros((4, 2), dtype=int), np.full(4, np.nan)

    assert (toward_elite(p, chosen, lost, 0.5, 0.5) == p).all()
    assert (policy_gradient(p, chosen, lost) == 0).all()


def test_a_long_gradient_is_shortened_and_a_short_one_stays() -> None:
    assert np.linalg.norm(clipped(np.full((3, 3), 5.0), 3.0)) == pytest.approx(3.0)
    assert clipped(np.full((1, 1), 0.5), 3.0) == pytest.approx(0.5)
