"""Intervals of means and of paired differences, and the exact test of two prompts on the same items."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.randomness import named_generator
from promptopt.statistics.arrays import nanmean, paired_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

_RESAMPLES = 9_999
_FEWEST = 8  # values below which a bootstrap interval is far too narrow: of 2 it covers the mean half of the time
_FEWEST_JUDGES = 3
_ROUNDING = 1e-12  # of the largest value; differences of equal gaps, such as 0.4 - 0.3 and 0.3 - 0.2, vary by less


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval includes `value`."""
        return self.low <= value <= self.high


def mean_interval(rewards: Floats, confidence: float = 0.95) -> Interval:
    """Interval of a mean reward over independent examples.

    Wilson's for rewards of 0 and 1, else bootstrap (BCa); seeded, so that the same data give the same interval. Replicates
    are clustered by example: Wilson's interval is then that of the effective sample size p (1 - p) / SE^2 (Korn and
    Graubard 1998), with the standard error between examples; the bootstrap is over examples. Fewer than 8 examples whose
    rewards are not 0 and 1 bound nothing: the ends are infinite. So are those of equal rewards outside 0 to 1, of which
    no range is known; equal rewards inside it get the interval that rests on nothing but that range (see `_bounded`).

    A bootstrap of few skewed rewards is too narrow: of 16 it covers 0.89 to 0.93 where it says 0.95.

    Args:
        rewards: [E], or [E, R] with replicates; NaN entries are left out.
        confidence: of the interval.
    """
    table = rewards.reshape(len(rewards), -1)
    values = nanmean(table, axis=1)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(math.nan, -math.inf, math.inf)
    if not _binary(table[~np.isnan(table)]):
        return _bootstrap(values, confidence, (0.0, 1.0))
    z, n, p = _z(confidence), _effective(values, int((~np.isnan(table)).sum())), float(values.mean())
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def paired_interval(first: Floats, second: Floats, confidence: float = 0.95) -> Interval:
    """Interval of mean(first - second) over the examples that both have.

    For rewards of 0 and 1 the adjusted Wald interval of Bonett and Price (2012), which keeps its width where the two
    never differ; else bootstrap (BCa) of the differences, with infinite ends below 8 of them. Replicates are averaged
    within their example first. Where all differences are equal, the interval rests on the range of the rewards alone if
    all lie in 0 to 1, and has infinite ends otherwise.

    Args:
        first: [E], or [E, R] with replicates, paired with
        second: of the same shape; NaN in either takes the cell out.
        confidence: of the interval.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if not a.size:
        return Interval(math.nan, -math.inf, math.inf)
    if first.ndim > 1 or not (_binary(a) and _binary(b)):
        known = float(min(a.min(), b.min())) >= 0 and float(max(a.max(), b.max())) <= 1
        shape = (len(first), -1)
        differences = paired_difference(first.reshape(shape), second.reshape(shape))
        return _bootstrap(differences, confidence, (-1.0, 1.0) if known else None)
    n = a.size
    won, lost = (float((a > b).sum()) + 1) / (n + 2), (float((a < b).sum()) + 1) / (n + 2)
    half = _z(confidence) * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    estimate = float((a - b).mean())
    return Interval(estimate, max(-1.0, min(estimate, won - lost - half)), min(1.0, max(estimate, won - lost + half)))


def widen_by_jackknife(interval: Interval, left_out: Sequence[float], confidence: float = 0.95) -> Interval:
    """Widen an interval over examples for those who judged them, where these are a sample too: the jackknife.

    The variance over M judges is (M - 1) / M times the squared differences of the estimates with one judge left out from
    their mean (Efron and Tibshirani 1993, equation 11.5), with Student's t of M - 1 degrees; it adds to that over
    examples. Fewer than 3 judges bound nothing: without one of them nobody can agree. What all judges have in common
    it cannot see.

    Args:
        interval: of the estimate by all judges, over examples.
        left_out: the estimate without each judge in turn, [M].
        confidence: of the interval.
    """
    values = np.array(left_out)
    if values.size < _FEWEST_JUDGES:
        return Interval(interval.estimate, -math.inf, math.inf)
    from scipy.special import stdtrit  # noqa: PLC0415  loaded when used: importing the package stays light

    error = math.sqrt((values.size - 1) * float(values.var()))
    half = float(stdtrit(values.size - 1, (1 + confidence) / 2)) * error
    below, above = (math.hypot(end - interval.estimate, half) for end in (interval.low, interval.high))
    return Interval(interval.estimate, interval.estimate - below, interval.estimate + above)


def _effective(values: Floats, cells: int) -> float:
    """Return how many independent rewards of 0 and 1 tell as much as these means over replicates."""
    if cells == len(values):
        return float(cells)
    mean, square = float(values.mean()), float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    # Where the standard error is 0, nothing shows that replicates add anything.
    return min(max(mean * (1 - mean) / square, 1.0), float(cells)) if square > 0 else float(len(values))


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _z(confidence: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    return float(ndtri((1 + confidence) / 2))


def _bounded(value: float, n: int, confidence: float, span: tuple[float, float] | None) -> Interval:
    """Interval of a mean where all of n values are equal.

    As many others as would show up among n with a chance of (1 - confidence) / 2 may lie at either end of the span: a
    share of at most 1 - ((1 - confidence) / 2)^(1 / n), 3.6 / n for 95 %.
    """
    if span is None or not span[0] - _ROUNDING <= value <= span[1] + _ROUNDING:
        return Interval(value, -math.inf, math.inf)
    share = 1 - ((1 - confidence) / 2) ** (1 / n)
    return Interval(value, value - share * (value - span[0]), value + share * (span[1] - value))


def _bootstrap(values: Floats, confidence: float, span: tuple[float, float] | None) -> Interval:
    mean = float(values.mean())
    if values.size < _FEWEST:
        return Interval(mean, -math.inf, math.inf)
    if np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())):
        return _bounded(mean, values.size, confidence, span)
    from scipy.stats import bootstrap  # noqa: PLC0415  takes a second to load

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=named_generator(0, "bootstrap"),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))
