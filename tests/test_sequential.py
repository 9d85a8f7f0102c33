"""Tests for races: what each p-value, share of error and chance says, against enumeration and simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt.evaluation.racing import sizes
from promptopt.statistics import alpha_spending, pairwise_p_values, prob_in_top_k

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

NAN = math.nan


def pair(won: int, lost: int, both: int) -> Floats:
    """Return two rows of 0 and 1: the second is ahead where `won`, behind where `lost`."""
    counts = [won, lost, both]
    return np.array([np.repeat([0.0, 1.0, 1.0], counts), np.repeat([1.0, 0.0, 1.0], counts)])


def test_the_looks_spend_the_error_and_no_more() -> None:
    shares = alpha_spending([8, 16, 32], 0.05)

    assert sum(shares) == pytest.approx(0.05)
    assert shares[0] == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 4))
    assert alpha_spending([], 0.05) == []


def test_without_end_the_p_value_is_mcnemars_one_sided() -> None:
    found = pairwise_p_values(pair(9, 1, 6), 10**9)

    assert found[0, 1] == pytest.approx(11 / 1024, rel=1e-6)
    assert found[1, 0] == 1
    assert found[0, 0] == 1


@pytest.mark.parametrize(("won", "lost", "n", "total"), [(9, 1, 32, 64), (12, 3, 60, 200), (8, 0, 16, 64)])
def test_a_known_end_makes_it_nearly_the_hypergeometric_one(won: int, lost: int, n: int, total: int) -> None:
    """Exact where as many examples tell the two apart in all as this part lets expect, evenly."""
    from scipy.stats import hypergeom

    half = round((won + lost) * total / n / 2)
    exact = hypergeom.sf(won - 1, 2 * half, half, won + lost)
    found = pairwise_p_values(pair(won, lost, n - won - lost), total)[0, 1]

    assert exact / 2 < found < 2 * exact


def test_a_few_examples_that_differ_prove_little_however_equal_the_gaps() -> None:
    first = np.array([*[0.5] * 12, 0.1, 0.2, 0.3, 0.4])
    second = first + np.array([*[0.0] * 12, 0.3, 0.3, 0.3, 0.3])

    assert pairwise_p_values(np.array([first, second]), 10**9)[0, 1] == pytest.approx(0.5**4)


def test_a_gap_without_spread_a_row_without_rewards_and_the_last_example_are_handled() -> None:
    first = np.arange(1, 9) / 10

    assert (pairwise_p_values(np.array([first, first + 0.1]), 64) == 1).all()
    assert (pairwise_p_values(np.array([first, np.full(8, NAN)]), 64) == 1).all()
    assert pairwise_p_values(pair(3, 1, 4), 8)[0, 1] == 0  # all is known


def sequential_errors(total: int, kind: str, draws: int) -> float:
    """Return how often a row as good as another is found to be behind it, over all looks of a race."""
    rng = np.random.default_rng(total)
    looks = sizes(total)[:-1]
    levels = alpha_spending(looks, 0.05)
    wrong = 0
    for _ in range(draws):
        if kind == "binary":
            apart = 2 * (total // 8)
            rows = pair(apart // 2, apart // 2, total - apart)
        else:
            gap = rng.exponential(size=total) if kind == "skewed" else rng.normal(size=total)
            rows = np.array([np.zeros(total), gap - gap.mean()])  # exactly as good on all examples
        rows = rows[:, rng.permutation(total)]
        wrong += any(
            pairwise_p_values(rows[:, :n], total)[0, 1] <= level for n, level in zip(looks, levels, strict=True)
        )
    return wrong / draws


@pytest.mark.parametrize("total", [16, 50, 200])
@pytest.mark.parametrize("kind", ["binary", "normal"])
def test_a_row_as_good_as_the_best_is_lost_no_oftener_than_the_error_in_all_looks_together(
    total: int, kind: str
) -> None:
    draws = 600

    assert sequential_errors(total, kind, draws) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_with_very_skewed_gaps_it_is_lost_a_little_oftener() -> None:
    """Where the other row's lead comes in rare large gaps, in the direction that a t test takes for a deficit."""
    assert sequential_errors(200, "skewed", 600) < 0.08


def test_chances_add_up_to_the_places() -> None:
    rewards = np.random.default_rng(0).random((6, 12))
    rewards[2] = NAN
    rewards[3, 8:] = NAN
    for top_k in (1, 3):
        chances = prob_in_top_k(rewards, 40, top_k)
        assert np.nansum(chances) == pytest.approx(top_k)
        assert np.isnan(chances).tolist() == [False, False, True, False, False, False]
    assert np.nansum(prob_in_top_k(rewards, 40, 5)) == 5


def test_equal_rows_have_equal_chances() -> None:
    assert prob_in_top_k(np.ones((4, 8)), 64).tolist() == [0.25] * 4
    twins = prob_in_top_k(np.array([[1.0, 0.0] * 8] * 2 + [[0.0, 0.0] * 8]), 64)
    assert twins[0] == pytest.approx(twins[1], abs=0.03)


def test_a_few_equal_gaps_are_no_proof_and_many_are() -> None:
    level = np.linspace(0, 1, 8)

    assert prob_in_top_k(np.array([level, level - 0.1]), 800)[1] > 0.01
    assert prob_in_top_k(np.array([np.zeros(64), np.ones(64)]), 128)[0] < 1e-3


@pytest.mark.parametrize("total", [16, 50, 200])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_a_chance_is_as_often_right_as_it_says(total: int, spread: float) -> None:
    """Of rows whose chance of the first place lies near p, the share p has it; spread in standard errors of all items."""
    said, had = [], []
    rng = np.random.default_rng([total, int(spread)])
    for _ in range(60):
        quality = rng.normal(0, spread / math.sqrt(total), size=(8, 1))
        rewards = quality + rng.normal(0, 2, size=total) + rng.normal(size=(8, total))
        said += prob_in_top_k(rewards[:, : total // 2], total).tolist()
        had += (np.arange(8) == rewards.mean(axis=1).argmax()).tolist()
    chances, right = np.array(said), np.array(had)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.01)):
        bin_ = (chances >= low) & (chances < high)
        if bin_.sum() >= 30:
            error = math.sqrt(max(chances[bin_].mean() * (1 - chances[bin_].mean()), 0.01) / bin_.sum())
            assert right[bin_].mean() == pytest.approx(chances[bin_].mean(), abs=3 * error + 0.02)
