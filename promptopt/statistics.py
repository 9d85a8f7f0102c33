"""The statistics of comparing prompts: intervals, paired differences, elimination, the one-standard-error rule.

Pure functions over rewards; knows nothing of models or prompts. scipy.stats is loaded when an interval is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.randomness import named_generator
from promptopt.scores import nanmean, standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.scores import Floats

_RESAMPLES = 9_999
_FEWEST = 8  # values below which a bootstrap interval is far too narrow: of 2 it covers the mean half of the time
_ROUNDING = 1e-12  # of the largest value; differences of equal gaps, such as 0.4 - 0.3 and 0.3 - 0.2, vary by less


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval includes `value`."""
        return self.low <= value <= self.high


def mean_interval(per_example: Floats, confidence: float = 0.95) -> Interval:
    """Interval of a mean reward over independent examples.

    Wilson's for rewards of 0 and 1, else bootstrap (BCa); seeded, so that the same data give the same interval. Fewer
    than 8 rewards that are not 0 and 1 bound nothing: the ends are infinite.

    Args:
        per_example: [E]; NaN entries are left out.
        confidence: of the interval.
    """
    values = per_example[~np.isnan(per_example)]
    if not values.size:
        return Interval(math.nan, -math.inf, math.inf)
    if not _binary(values):
        return _bootstrap(values, confidence)
    z, n, p = _z(confidence), values.size, float(values.mean())
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def paired_interval(first: Floats, second: Floats, confidence: float = 0.95) -> Interval:
    """Interval of mean(first - second) over the examples that both have.

    For rewards of 0 and 1 the adjusted Wald interval of Bonett and Price (2012), which keeps its width where the two
    never differ; else bootstrap (BCa) of the differences, with infinite ends below 8 of them.

    Args:
        first: [E], paired with
        second: [E]; NaN in either takes the example out.
        confidence: of the interval.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if not a.size:
        return Interval(math.nan, -math.inf, math.inf)
    if not (_binary(a) and _binary(b)):
        return _bootstrap(a - b, confidence)
    n = a.size
    won, lost = (float((a > b).sum()) + 1) / (n + 2), (float((a < b).sum()) + 1) / (n + 2)
    half = _z(confidence) * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    estimate = float((a - b).mean())
    return Interval(estimate, max(-1.0, min(estimate, won - lost - half)), min(1.0, max(estimate, won - lost + half)))


def still_in(per_example: Floats, confidence: float = 0.95) -> list[int]:
    """One round of paired successive elimination.

    A row stays unless its paired difference to the best row is below zero by more than z standard errors, with z
    shared among the rows (Bonferroni). First version: no correction for looking several times.

    Args:
        per_example: [P, E]; NaN entries are left out of their pairs.
        confidence: that no row as good as the best is lost in this round.

    Returns:
        Indices of the rows that stay, the best among them, in order.
    """
    means = nanmean(per_example, axis=1)
    if np.isnan(means).all():
        return list(range(len(per_example)))
    best = int(np.nanargmax(means))
    z = _z(1 - 2 * (1 - confidence) / max(len(per_example) - 1, 1))
    behind = per_example[best] - per_example
    gap, error = nanmean(behind, axis=1), standard_error(behind)
    # With no spread in the differences the standard error says nothing: such a row stays.
    spread = error > _ROUNDING * np.abs(gap)
    return [i for i in range(len(per_example)) if i == best or not (spread[i] and gap[i] > z * error[i])]


def shortest_within_one_error(per_example: Floats, lengths: Sequence[int]) -> int:
    """The one-standard-error rule: the shortest row that is at most one standard error behind the best.

    The error is that of the paired difference to the best row. Ties go to the higher mean, then to the earlier row.

    Args:
        per_example: [P, E]; NaN entries are left out of their pairs.
        lengths: [P].
    """
    means = nanmean(per_example, axis=1)
    best = int(np.nanargmax(means))
    behind = per_example[best] - per_example
    gap, error = nanmean(behind, axis=1), standard_error(behind)
    near = [i for i in range(len(means)) if i == best or gap[i] <= 0 or (error[i] > 0 and gap[i] <= error[i])]
    return min(near, key=lambda i: (lengths[i], -means[i], i))


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _z(confidence: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    return float(ndtri((1 + confidence) / 2))


def _bootstrap(values: Floats, confidence: float) -> Interval:
    mean = float(values.mean())
    if values.size < _FEWEST:
        return Interval(mean, -math.inf, math.inf)
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return Interval(mean, mean, mean)
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
