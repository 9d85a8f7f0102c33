"""Prediction-powered intervals: the published estimate, exact cases, coverage and width by simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import ROOT

from promptopt import InputError
from promptopt.randomness import named_generator
from promptopt.statistics import prediction_powered_interval

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    judges: Any = pytest.importorskip("benchmarks.judges", reason="benchmarks come with a checkout only")

REPEATS = 400
ERROR = math.sqrt(0.05 * 0.95 / REPEATS)  # of a simulated coverage of 95 %


def sample(n: int, others: int, correlation: float = 0.8, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    drawn = judges.draw(named_generator(seed, "a sample"), "ratings", n + others, correlation, difference=False)
    return drawn.human[:n], drawn.judge[:n], drawn.judge[n:]


@pytest.mark.parametrize(("n", "others"), [(16, 200), (50, 30)])
def test_the_estimate_is_that_of_ppi_with_its_lambda(n: int, others: int) -> None:
    human, judge, rest = sample(n, others)

    found = prediction_powered_interval(human, judge, rest)

    tuned = found.slope * others / (n + others)  # Angelopoulos et al. 2023, section 6, with the variance of the n items
    assert found.slope == pytest.approx(np.cov(human, judge)[0, 1] / judge.var(ddof=1))
    assert found.combined.estimate == pytest.approx(tuned * rest.mean() + (human - tuned * judge).mean())


def test_with_many_human_scores_the_interval_is_the_published_one() -> None:
    human, judge, rest = sample(20_000, 40_000)

    found = prediction_powered_interval(human, judge, rest).combined

    assert (found.low, found.high) == pytest.approx(judges.published(human, judge, rest), abs=2e-4)
    assert found.high - found.low < 0.015


def test_leave_one_out_residuals_are_those_of_lines_through_the_others() -> None:
    human, judge, rest = sample(16, 100)
    lines = [np.polyfit(np.delete(judge, i), np.delete(human, i), 1) for i in range(16)]
    left_out = np.array([human[i] - np.polyval(line, judge[i]) for i, line in enumerate(lines)]) * (1 - 1 / 16)
    every = np.concatenate([judge, rest])
    padded = np.append(left_out, [left_out.min(), left_out.max()])
    spread = (every.mean() - judge.mean()) ** 2 / ((judge - judge.mean()) ** 2).sum()
    slope = np.polyfit(judge, human, 1)[0]
    error = math.sqrt(padded.var(ddof=1) * (1 / 18 + spread) + slope**2 * every.var(ddof=1) / 116)
    half = 2.119905 * error  # Student's t of 16 degrees of freedom, 97.5 %
    centre = human.mean() + slope * (every.mean() - judge.mean()) + padded.mean()

    found = prediction_powered_interval(human, judge, rest).combined

    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_the_interval_of_differences_is_turned_round_with_them() -> None:
    human, judge, rest = sample(16, 100)

    one = prediction_powered_interval(human, judge, rest).combined
    other = prediction_powered_interval(-human, 1 - judge, 1 - rest).combined

    assert other == pytest.approx((-one.estimate, -one.high, -one.low))


@pytest.mark.parametrize("judge", [np.full(16, 0.7), np.eye(16)[0]], ids=["constant", "one item apart"])
def test_a_judge_that_hardly_varies_leaves_the_human_scores_alone(judge: Floats) -> None:
    human = sample(16, 0)[0]

    found = prediction_powered_interval(human, judge, np.linspace(0, 1, 50))

    assert found.combined == found.human
    assert found.slope == 0
    assert found.judged == 66


def test_equal_scores_take_their_range_from_the_bounds() -> None:
    ones, judge = np.ones(16), np.linspace(0, 1, 16)

    bounded = prediction_powered_interval(ones, judge, judge, bounds=(0, 1))
    unbounded = prediction_powered_interval(ones, judge, judge)

    assert bounded.combined.high == 1 > bounded.combined.low > 0.7
    assert unbounded.combined[1:] == (-math.inf, math.inf)
    assert math.isnan(bounded.correlation)


def test_a_judge_that_copies_the_human_scores_does_not_make_the_interval_a_point() -> None:
    human = np.array([0.0, 1.0] * 8)

    found = prediction_powered_interval(human, human, np.array([0.0, 1.0] * 100), bounds=(0, 1))

    assert found.correlation == pytest.approx(1)
    assert 0.2 < found.combined.high - found.combined.low < found.human.high - found.human.low


def test_missing_scores_are_left_out_and_few_have_no_interval() -> None:
    human, judge, rest = sample(16, 30)
    gaps = np.append(human, [math.nan, 0.5]), np.append(judge, [0.5, math.nan]), np.append(rest, math.nan)

    assert prediction_powered_interval(*gaps) == prediction_powered_interval(human, judge, rest)
    assert prediction_powered_interval(human[:7], judge[:7], rest).combined[1:] == (-math.inf, math.inf)
    assert math.isnan(prediction_powered_interval(human[:0], judge[:0], rest).combined.estimate)


def test_scores_without_a_partner_are_refused() -> None:
    with pytest.raises(InputError, match="16 human scores and 15 judge scores"):
        prediction_powered_interval(np.ones(16), np.ones(15), np.ones(3))


CASES = [
    (judge, kind, diff, binary)
    for judge in ("0.9", "useless", "adversarial")
    for kind in ("0/1", "ratings")
    for diff in (False, True)
    for binary in (False, True)
]
TESTED = {
    ("0.9", "0/1", False, False),
    ("useless", "ratings", True, False),
    ("adversarial", "0/1", True, True),
    ("0.9", "ratings", True, True),
}


@pytest.mark.parametrize(
    ("judge", "kind", "difference", "binary"),
    [pytest.param(*case, marks=() if case in TESTED else pytest.mark.wide) for case in CASES],
)
def test_sixteen_human_scores_cover(judge: str, kind: str, difference: bool, binary: bool) -> None:  # noqa: FBT001
    options = {"difference": difference, "binary": binary, "repeats": REPEATS}
    intervals, plain = judges.prediction_powered(kind, 16, 200, judges.JUDGES[judge], **options)

    truth = judges.true_mean(kind, difference=difference)
    held, _, width = judges.summary(intervals, truth)

    assert held >= 0.95 - 3 * ERROR
    assert width < 1.12
    assert len(plain) == REPEATS


@pytest.mark.wide
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize(
    ("judge", "widest"), [("0.9", 0.75), ("0.7", 0.9), ("0.5", 1.0), ("0.3", 1.04), ("useless", 1.05)]
)
def test_more_human_scores_cover_and_good_judges_pay(judge: str, widest: float, n: int) -> None:
    intervals, _ = judges.prediction_powered(
        "ratings", n, 2000, judges.JUDGES[judge], difference=False, binary=False, repeats=REPEATS
    )

    held, _, width = judges.summary(intervals, judges.true_mean("ratings", difference=False))

    assert held >= 0.95 - 3 * ERROR
    assert width < widest


def test_fifty_human_scores_cover_and_a_good_judge_pays() -> None:
    intervals, _ = judges.prediction_powered("ratings", 50, 400, 0.7, difference=True, binary=False, repeats=REPEATS)

    held, _, width = judges.summary(intervals, judges.true_mean("ratings", difference=True))

    assert held >= 0.95 - 3 * ERROR
    assert width < 0.95


def test_the_published_interval_covers_less_with_sixteen() -> None:
    _, ends = judges.prediction_powered("0/1", 16, 200, 0.7, difference=False, binary=False, repeats=REPEATS)

    truth = judges.true_mean("0/1", difference=False)

    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) < 0.93
