"""What a test can show: probabilities against simulation of the interval itself, and what a dry run says."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from toys import TASK, answer

from promptopt import FakeModel, estimate
from promptopt.randomness import named_generator
from promptopt.statistics import detectable_difference, examples_to_detect, paired_interval, prob_shown


def shown_in_simulations(n: int, difference: float, differing: float, repeats: int) -> float:
    """How often the interval of a run's test is above 0."""
    shown = 0
    for seed in range(repeats):
        uniform = named_generator(seed, f"power {n} {difference}").random(n)
        won = uniform < (differing + difference) / 2
        lost = ~won & (uniform < differing)
        shown += paired_interval(won.astype(float), lost.astype(float)).low > 0
    return shown / repeats


@pytest.mark.parametrize("n", [20, 50, 200])
def test_a_detectable_difference_shows_in_four_of_five_tests(n: int) -> None:
    difference, repeats = detectable_difference(n), 2000
    assert difference is not None
    differing = max(0.2, difference)
    error = math.sqrt(0.8 * 0.2 / repeats)

    assert shown_in_simulations(n, difference, differing, repeats) == pytest.approx(0.8, abs=3 * error)


@pytest.mark.parametrize(("n", "difference", "differing"), [(20, 0.5, 0.5), (100, 0.0, 0.2), (60, 0.1, 0.4)])
def test_the_probability_is_that_of_the_interval(n: int, difference: float, differing: float) -> None:
    probability, repeats = prob_shown(n, difference, differing=differing), 2000
    error = math.sqrt(probability * (1 - probability) / repeats)

    assert shown_in_simulations(n, difference, differing, repeats) == pytest.approx(probability, abs=3 * error + 1e-3)


def test_more_examples_show_smaller_differences() -> None:
    found = [detectable_difference(n) for n in (10, 30, 100, 300, 1000, 10_000)]

    assert all(a is not None and b is not None and a > b for a, b in pairwise(found))


def test_too_few_examples_show_nothing() -> None:
    assert detectable_difference(3) is None
    assert examples_to_detect(1e-6) is None


def test_the_examples_for_a_difference_are_the_fewest() -> None:
    wanted = examples_to_detect(0.1)

    assert wanted is not None
    assert prob_shown(wanted, 0.1) >= 0.8
    assert prob_shown(wanted - 20, 0.1) < 0.8
    assert np.isclose(detectable_difference(wanted) or 0.0, 0.1, atol=0.005)


def test_a_dry_run_says_what_the_test_can_show() -> None:
    smallest = detectable_difference(12)
    notes = " ".join(estimate(TASK, FakeModel(answer), "promptquine").notes)

    assert "comparing even one candidate with the seed prompt takes 56 calls or more" in notes
    assert f"12 test examples: the smallest improvement that shows with a probability of 80% is {smallest:.3f}" in notes
    assert "more test examples would halve it" in notes
