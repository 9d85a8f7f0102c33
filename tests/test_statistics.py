"""Shrinkage and the one-standard-error rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt.statistics import shortest_within_one_error, shrunken_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

NAN = math.nan


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


# ---------------------------------------------------------------- shrinkage and the winner's curse


def landscape(seed: int, prompts: int, items: int, spread: float) -> tuple[Floats, Floats]:
    """Draw true qualities [P], of so many standard errors, and rewards [P, E]."""
    rng = np.random.default_rng([seed, prompts, items])
    truth = rng.normal(0, spread / math.sqrt(items), size=prompts)
    return truth, truth[:, None] + rng.normal(0, 2, size=items) + rng.normal(0, 1, size=(prompts, items))


SPREADS = [0.0, 1.0, 3.0]


@pytest.mark.parametrize("items", [16, 50, 200])
@pytest.mark.parametrize("spread", SPREADS)
def test_shrunk_scores_are_nearer_the_truth_and_flatter_the_best_no_longer(items: int, spread: float) -> None:
    """In standard errors of one mean: at prompts that differ by 0, 1 and 3 of them."""
    errors, flattery = np.zeros(2), []
    for seed in range(120):
        truth, rewards = landscape(seed, 16, items, spread)
        centred = truth - truth.mean()
        scores = shrunken_means(rewards)
        measured = rewards.mean(axis=1)
        errors += [((s - s.mean() - centred) ** 2).mean() for s in (measured, scores)]
        best = int(scores.argmax())
        flattery.append((scores[best] - scores.mean() - centred[best]) * math.sqrt(items))

    assert errors[1] < errors[0]
    assert np.mean(flattery) == pytest.approx(0, abs=3 * float(np.std(flattery)) / math.sqrt(120) + 0.15)
