"""Prediction-powered inference: human scores of some items and a judge's scores of all give one interval for the human mean.

PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453), made valid for few human scores. docs/judges.md has the formulas and
simulations of its coverage.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.statistics.intervals import Interval

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

MIN_HUMAN = 8
"""Fewest human scores of an interval with finite bounds."""

_MAX_LEVERAGE = 0.5  # a slope that hangs on one item by more than this is not estimated
_DIGITS = 9  # scores that differ by less are equal


class PredictionPowered(NamedTuple):
    """The mean of human scores, with and without the judge's help.

    Args:
        combined: estimate and interval from human and judge scores.
        human: the same from the human scores alone.
        slope: of the line that predicts human scores from judge scores; 0 if the judge is not used. The lambda of PPI++ is slope
            times N / (n + N), for n items with human scores and N without.
        correlation: Pearson's, of human and judge scores; NaN if either has no spread.
        items: n, items with both scores.
        judged: n + N, items with a judge score.
    """

    combined: Interval
    human: Interval
    slope: float
    correlation: float
    items: int
    judged: int


class _Fit(NamedTuple):
    """A line through human scores, or their mean alone.

    Args:
        residuals: [n] of each item, from the line through the others.
        slope: human score per judge score.
        shift: mean judge score of all items minus that of the items with human scores.
        spread: shift squared over the judge scores' sum of squares, both of the items with human scores.
        variance: of the predicted part of the mean over all items.
        parameters: number of coefficients.
    """

    residuals: Floats
    slope: float = 0.0
    shift: float = 0.0
    spread: float = 0.0
    variance: float = 0.0
    parameters: int = 1


def prediction_powered_interval(
    human: Floats,
    judge: Floats,
    others: Floats,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> PredictionPowered:
    """Return the confidence interval of the mean human score over items like these.

    The items with human scores must be a random sample of all. The judge may be biased, useless or adversarial: the interval is valid,
    and no shorter than the judge deserves. For a difference between two prompts, give the paired differences of human scores and of
    judge scores.

    With the power-tuned lambda, PPI++ is the regression estimator of double sampling (Cochran 1977, section 12.6). Its interval is
    made valid for few human scores by leave-one-out residuals, Student's t with n degrees of freedom, and two residuals added, one at
    each end of those measured. If the judge scores hardly vary, it is the interval of the human scores alone, made in the same way.

    Args:
        human: [n] human scores; NaN is left out.
        judge: [n] judge scores of the same items.
        others: [N] judge scores of items without a human score; NaN is left out.
        confidence: confidence level.
        bounds: least and largest possible human score. Without them, human scores that are all equal have infinite bounds.

    Raises:
        InputError: `human` and `judge` have different lengths.
    """
    if human.shape != judge.shape:
        raise InputError(f"{len(human)} human scores and {len(judge)} judge scores: give one of each for every item")
    both = ~(np.isnan(human) | np.isnan(judge))
    y, f = human[both], judge[both]
    judged = np.concatenate([f, others[~np.isnan(others)]])
    mean = _Fit(y - y.mean() if y.size else y)
    line = _line(y, f, judged) or mean
    return PredictionPowered(
        combined=_interval(y, line, confidence, bounds),
        human=_interval(y, mean, confidence, bounds),
        slope=line.slope,
        correlation=_correlation(y, f),
        items=y.size,
        judged=judged.size,
    )


def _line(y: Floats, f: Floats, judged: Floats) -> _Fit | None:
    """Fit a line; None if the judge scores hardly vary, which says nothing about the human scores."""
    if y.size < MIN_HUMAN or np.ptp(f.round(_DIGITS)) == 0:
        return None
    centred = f - f.mean()
    squares = float(centred @ centred)
    leverage = 1 / y.size + centred**2 / squares
    if leverage.max() >= _MAX_LEVERAGE:
        return None
    slope = float(centred @ y) / squares
    shift = float(judged.mean() - f.mean())
    residuals = y - y.mean() - slope * centred
    return _Fit(
        residuals=residuals * (1 - 1 / y.size) / (1 - leverage),
        slope=slope,
        shift=shift,
        spread=shift**2 / squares,
        variance=slope**2 * float(judged.var(ddof=1)) / judged.size,
        parameters=2,
    )


def _interval(y: Floats, fit: _Fit, confidence: float, bounds: tuple[float, float] | None) -> Interval:
    if y.size < MIN_HUMAN:
        return Interval(float(y.mean()) if y.size else math.nan, -math.inf, math.inf)
    from scipy.special import stdtrit  # noqa: PLC0415  loaded when used: importing the package stays light

    estimate = float(y.mean()) + fit.slope * fit.shift
    ends = _ends(y, fit.residuals, bounds)
    if ends is None:
        return Interval(estimate, -math.inf, math.inf)
    residuals = np.concatenate([fit.residuals, ends])
    error = math.sqrt(float(residuals.var(ddof=1)) * (1 / residuals.size + fit.spread) + fit.variance)
    half = float(stdtrit(residuals.size - fit.parameters, (1 + confidence) / 2)) * error
    centre = estimate + float(residuals.mean())
    low, high = (-math.inf, math.inf) if bounds is None else map(float, bounds)
    return Interval(estimate, max(low, min(estimate, centre - half)), min(high, max(estimate, centre + half)))


def _ends(y: Floats, residuals: Floats, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the two residuals to add.

    The least and the largest; or those of the human scores without a judge, if the judge reproduces every one of them; or those of
    the possible scores, if all are equal. None if these are unknown.
    """
    mean, values = float(y.mean()), np.unique(y.round(_DIGITS))
    if values.size == 1:
        return None if bounds is None else (bounds[0] - mean, bounds[1] - mean)
    if np.ptp(residuals) < np.diff(values).min() / 2:
        return float(values[0]) - mean, float(values[-1]) - mean
    return float(residuals.min()), float(residuals.max())


def _correlation(y: Floats, f: Floats) -> float:
    if y.size < 2 or not np.ptp(y) or not np.ptp(f):  # noqa: PLR2004  a correlation needs two items
        return math.nan
    return float(np.corrcoef(y, f)[0, 1])
