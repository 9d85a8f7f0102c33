"""Confidence intervals of means and of paired differences."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.randomness import named_generator
from promptopt.statistics.arrays import nanmean, paired_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

_RESAMPLES = 9_999
_MIN_VALUES = 8  # a bootstrap of fewer is far too narrow: with 2 values it covers the mean half of the time
_MIN_CLUSTERS = 8  # the variance of fewer is known too badly
_MIN_ANNOTATORS = 3
_BISECTIONS = 40
_ROUNDING = 1e-12  # relative to the largest value; equal gaps, such as 0.4 - 0.3 and 0.3 - 0.2, differ by less


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval includes `value`."""
        return self.low <= value <= self.high


def mean_interval(rewards: Floats, confidence: float = 0.95, clusters: Sequence[str] | None = None) -> Interval:
    """Return the confidence interval of a mean reward over independent examples, or over examples in independent clusters.

    Wilson's interval for rewards of 0 and 1, else a BCa bootstrap with a fixed seed. Replicates are clustered by example:
    Wilson's interval then uses the effective sample size p (1 - p) / SE^2 (Korn and Graubard 1998), with the standard error
    between examples; the bootstrap resamples examples. With fewer than 8 examples and rewards other than 0 and 1, the
    bounds are infinite. They are also infinite for equal rewards outside 0 to 1, whose range is unknown; equal rewards
    inside it get the interval that follows from that range alone (see `_bounded`).

    A bootstrap of few skewed rewards is too narrow: with 16 it covers 0.89 to 0.93 at a nominal 0.95.

    Args:
        rewards: [E], or [E, R] with replicates; NaN entries are left out.
        confidence: confidence level.
        clusters: [E] the cluster of each example, if those of one cluster are not independent: see `clustered_mean_interval`.
    """
    if clusters is not None:
        return clustered_mean_interval(rewards, clusters, confidence)
    table = rewards.reshape(len(rewards), -1)
    values = nanmean(table, axis=1)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(math.nan, -math.inf, math.inf)
    if not _binary(table[~np.isnan(table)]):
        return _bootstrap(values, confidence, (0.0, 1.0))
    return _wilson(float(values.mean()), _effective(values, int((~np.isnan(table)).sum())), _z(confidence))


def paired_interval(
    first: Floats, second: Floats, confidence: float = 0.95, clusters: Sequence[str] | None = None
) -> Interval:
    """Return the confidence interval of mean(first - second) over the examples that both have.

    For rewards of 0 and 1, the adjusted Wald interval of Bonett and Price (2012), which has positive width even if the two
    never differ; else a BCa bootstrap of the differences, with infinite bounds below 8 of them. Replicates are first averaged
    within each example. If all differences are equal, the interval follows from the range of the rewards if they are in 0
    to 1, and has infinite bounds otherwise.

    Args:
        first: [E], or [E, R] with replicates.
        second: rewards paired with `first`, of the same shape; NaN in either drops the pair.
        confidence: confidence level.
        clusters: [E] the cluster of each example, if those of one cluster are not independent: see `clustered_interval`. Rewards are
            then [E].
    """
    if clusters is not None:
        return clustered_interval(first, second, clusters, confidence)
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if not a.size:
        return Interval(math.nan, -math.inf, math.inf)
    if first.ndim > 1 or not (_binary(a) and _binary(b)):
        bounded = float(min(a.min(), b.min())) >= 0 and float(max(a.max(), b.max())) <= 1
        shape = (len(first), -1)
        differences = paired_difference(first.reshape(shape), second.reshape(shape))
        return _bootstrap(differences, confidence, (-1.0, 1.0) if bounded else None)
    n = a.size
    won, lost = (float((a > b).sum()) + 1) / (n + 2), (float((a < b).sum()) + 1) / (n + 2)
    half = _z(confidence) * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    estimate = float((a - b).mean())
    return Interval(estimate, max(-1.0, min(estimate, won - lost - half)), min(1.0, max(estimate, won - lost + half)))


def paired_t_interval(first: Floats, second: Floats, confidence: float) -> Interval:
    """Return `paired_interval`, with Student's t in place of the bootstrap: for the high confidence of simultaneous intervals.

    There, a bootstrap of few values is too narrow: it never leaves the range of what was seen (docs/objectives.md has a simulation).
    Rewards of 0 and 1, differences that are all equal, and fewer than 8 of them are treated as in `paired_interval`.

    Args:
        first: [E].
        second: [E] paired with `first`; NaN in either drops the pair.
        confidence: confidence level.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    gaps = (first - second)[both]
    equal = gaps.size > 0 and np.ptp(gaps) <= _ROUNDING * max(1.0, float(np.abs(gaps).max()))
    if gaps.size < _MIN_VALUES or equal or (_binary(first[both]) and _binary(second[both])):
        return paired_interval(first, second, confidence)
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(gaps.size)
    half = _t(gaps.size - 1, confidence) * error
    return Interval(mean, mean - half, mean + half)


def clustered_interval(first: Floats, second: Floats, clusters: Sequence[str], confidence: float) -> Interval:
    """Return the confidence interval of mean(first - second) over examples that come in clusters, such as those of one customer.

    Student's t over clusters, with the cluster-robust variance of a ratio (Cochran 1977, chapter 6): examples of different clusters are independent, those
    of one cluster need not be. For rewards of 0 and 1, two clusters of mean size are added, one in which `first` always wins and one in which
    it always loses, as Bonett and Price (2012) add two examples: rare differences then do not make the interval too narrow. So they are for other rewards in 0 to 1 if
    all differences are equal; outside that range, whose ends are unknown, the bounds are then infinite, and with fewer than 8 clusters always.

    Args:
        first: [E].
        second: [E] paired with `first`; NaN in either drops the pair.
        clusters: [E] the cluster of each example.
        confidence: confidence level.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if not a.size:
        return Interval(math.nan, -math.inf, math.inf)
    gaps = a - b
    sums, sizes = _totals(gaps, np.asarray(clusters)[both])
    estimate, mean_size = float(gaps.mean()), gaps.size / len(sizes)
    equal = np.ptp(gaps) <= _ROUNDING * max(1.0, float(np.abs(gaps).max()))
    bounded = _in_unit(a) and _in_unit(b)
    if len(sizes) < _MIN_CLUSTERS or (equal and not bounded):
        return Interval(estimate, -math.inf, math.inf)
    if equal or (_binary(a) and _binary(b)):
        sums, sizes = np.append(sums, [mean_size, -mean_size]), np.append(sizes, [mean_size, mean_size])
    centre, error = _ratio(sums, sizes)
    half = _t(len(sizes) - 1, confidence) * error
    return Interval(estimate, min(estimate, centre - half), max(estimate, centre + half))


def clustered_mean_interval(rewards: Floats, clusters: Sequence[str], confidence: float) -> Interval:
    """Return the confidence interval of a mean reward over examples that come in clusters, such as those of one customer.

    For rewards of 0 and 1, Wilson's interval with the effective sample size p (1 - p) / SE^2 and Student's t over clusters in place of the
    normal quantile (Korn and Graubard 1998), with the cluster-robust SE of a ratio; if no reward or every reward is 1, each cluster counts
    once. For other rewards, Student's t over clusters, inside 0 to 1 if they are. With fewer than 8 clusters, the bounds are infinite.

    Args:
        rewards: [E], or [E, R] with replicates, which are averaged within each example; NaN entries are left out.
        clusters: [E] the cluster of each example.
        confidence: confidence level.
    """
    values = nanmean(rewards.reshape(len(rewards), -1), axis=1)
    measured = ~np.isnan(values)
    values = values[measured]
    if not values.size:
        return Interval(math.nan, -math.inf, math.inf)
    sums, sizes = _totals(values, np.asarray(clusters)[measured])
    mean = float(values.mean())
    if len(sizes) < _MIN_CLUSTERS:
        return Interval(mean, -math.inf, math.inf)
    if _binary(values):
        return _clustered_share(sums, sizes, confidence)
    if np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())):
        return _bounded(mean, len(sizes), confidence, (0.0, 1.0))
    half = _t(len(sizes) - 1, confidence) * _ratio(sums, sizes)[1]
    low, high = mean - half, mean + half
    return Interval(mean, max(0.0, low), min(1.0, high)) if _in_unit(values) else Interval(mean, low, high)


def _clustered_share(sums: Floats, sizes: Floats, confidence: float) -> Interval:
    """Return the interval of a share of 1 among rewards of 0 and 1, from the sums and sizes of clusters [C]."""
    p, error = _ratio(sums, sizes)
    quantile, examples = _t(len(sizes) - 1, confidence), float(sizes.sum())
    effective = min(p * (1 - p) / error**2, examples) if error > 0 else float(len(sizes))
    return _wilson(p, max(effective, 1.0), quantile)


def _wilson(p: float, n: float, quantile: float) -> Interval:
    square = quantile * quantile
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def clustered_standard_error(values: Floats, clusters: Sequence[str]) -> float:
    """Return the standard error of the mean of values [E], none of them NaN, that come in clusters [E], two or more of them."""
    return _ratio(*_totals(values, clusters))[1]


def _totals(values: Floats, clusters: Sequence[str] | np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
    """Return the sums and the sizes of clusters, [C] each, of values [E]."""
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(numbers, values).astype(np.float64), np.bincount(numbers).astype(np.float64)


def _ratio(sums: Floats, sizes: Floats) -> tuple[float, float]:
    """Return a mean over clusters of these sums [C] and sizes [C], and its standard error (Cochran 1977, chapter 6)."""
    count, total = len(sizes), float(sizes.sum())
    mean = float(sums.sum()) / total
    return mean, math.sqrt(count / (count - 1) * float(((sums - sizes * mean) ** 2).sum())) / total


def paired_score_interval(first: Floats, second: Floats, confidence: float) -> Interval:
    """Return the confidence interval of mean(first - second) for one-sided decisions at small error probabilities.

    For rewards of 0 and 1, Tango's score interval (1998), which keeps its error on each side even if `first` differs from `second`
    in rare losses only. For other rewards in 0 to 1, Student's t of the differences with one difference of +1 and one of -1
    added: without them, an interval of differences that happen to be small excludes rare large losses too early. For rewards outside
    0 to 1, whose range is unknown, `paired_t_interval`.

    Args:
        first: [E].
        second: [E] paired with `first`; NaN in either drops the pair.
        confidence: confidence level.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if not a.size:
        return Interval(math.nan, -math.inf, math.inf)
    if float(min(a.min(), b.min())) < 0 or float(max(a.max(), b.max())) > 1:
        return paired_t_interval(first, second, confidence)
    if _binary(a) and _binary(b):
        return _tango(int((a > b).sum()), int((a < b).sum()), a.size, _z(confidence))
    padded = np.concatenate([a - b, [1.0, -1.0]])
    error = float(padded.std(ddof=1)) / math.sqrt(padded.size)
    half, centre = _t(padded.size - 1, confidence) * error, float(padded.mean())
    estimate = float((a - b).mean())
    return Interval(estimate, max(-1.0, min(estimate, centre - half)), min(1.0, max(estimate, centre + half)))


def cross_fitted_interval(first: Floats, second: Floats, folds: int, clusters: Sequence[str] | None = None) -> Interval:
    """Return the 95 % confidence interval of the expected gain of a procedure that was cross-fitted on all rows.

    The rows of one fold share what was chosen without them, and the folds share the rows that it was chosen from, so an interval over
    independent rows is too narrow. Its ends are moved out by sqrt(1 + k / (k - 1)): this is the variance of Nadeau and Bengio (2003), with
    the variance over rows in place of that over k fold means, which is known too badly. Their correction is an approximation: it was
    simulated for five folds of 40 to 100 rows in all, also in clusters (docs/statistics.md).

    Args:
        first: [E] rewards of what was chosen without each row's fold, over all rows.
        second: [E] paired with `first`, such as those of the seed prompt; NaN in either drops the pair.
        folds: number of folds, at least 2.
        clusters: [E] the cluster of each row, if rows of one cluster are not independent; no fold divides one.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    if clusters is None:
        estimate, low, high = paired_t_interval(first, second, 0.95)
    else:
        estimate, low, high = clustered_interval(first, second, clusters, 0.95)
    factor = math.sqrt(1 + folds / (folds - 1))
    low, high = estimate - factor * (estimate - low), estimate + factor * (high - estimate)
    if _in_unit(first[both]) and _in_unit(second[both]):
        low, high = max(-1.0, low), min(1.0, high)
    return Interval(estimate, low, high)


def widen_by_jackknife(interval: Interval, left_out: Sequence[float], confidence: float = 0.95) -> Interval:
    """Widen an interval over examples for the variance over annotators, estimated by the jackknife.

    The variance over M annotators is (M - 1) / M times the sum of squared deviations of the leave-one-out estimates from their
    mean (Efron and Tibshirani 1993, equation 11.5), with Student's t of M - 1 degrees of freedom; it is added to the variance
    over examples. With fewer than 3 annotators the bounds are infinite: without one of them there is no agreement. Errors
    shared by all annotators are not covered.

    Args:
        interval: interval over examples, for the estimate with all annotators.
        left_out: [M] the estimate without each annotator in turn.
        confidence: confidence level.
    """
    values = np.array(left_out)
    if values.size < _MIN_ANNOTATORS:
        return Interval(interval.estimate, -math.inf, math.inf)
    error = math.sqrt((values.size - 1) * float(values.var()))
    half = _t(values.size - 1, confidence) * error
    below, above = (math.hypot(end - interval.estimate, half) for end in (interval.low, interval.high))
    return Interval(interval.estimate, interval.estimate - below, interval.estimate + above)


@lru_cache(maxsize=1024)
def _tango(won: int, lost: int, n: int, z: float) -> Interval:
    """Return the differences that a score test at normal quantile `z` does not reject, found by bisection."""
    estimate = (won - lost) / n

    def score(difference: float) -> float:
        """Return the score statistic of the hypothesis that the true difference is `difference` (Tango 1998, equation 4)."""
        b = -won - lost + (2 * n - won + lost) * difference
        c = -lost * difference * (1 - difference)
        losing = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # maximum likelihood under the hypothesis
        variance = n * (2 * losing + difference * (1 - difference))
        gap = won - lost - n * difference
        return gap / math.sqrt(variance) if variance > _ROUNDING else math.copysign(math.inf, gap) if gap else 0.0

    def end(rejected: float) -> float:
        kept = estimate
        for _ in range(_BISECTIONS):
            middle = (kept + rejected) / 2
            if abs(score(middle)) > z:
                rejected = middle
            else:
                kept = middle
        return kept

    return Interval(estimate, end(-1.0), end(1.0))


def _effective(values: Floats, cells: int) -> float:
    """Return the effective sample size of means over replicates, in independent rewards of 0 and 1."""
    if cells == len(values):
        return float(cells)
    mean, square = float(values.mean()), float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    # With a standard error of 0 there is no evidence that replicates add information.
    return min(max(mean * (1 - mean) / square, 1.0), float(cells)) if square > 0 else float(len(values))


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _in_unit(values: Floats) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _t(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415  loaded when used: importing the package stays light

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _z(confidence: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    return float(ndtri((1 + confidence) / 2))


def _bounded(value: float, n: int, confidence: float, span: tuple[float, float] | None) -> Interval:
    """Return the interval of a mean when all n values are equal.

    Other values, at either end of the span, may have a share of at most 1 - ((1 - confidence) / 2)^(1 / n), about 3.6 / n for
    95 %: with a larger share, one would appear among n values with a probability above (1 + confidence) / 2.
    """
    if span is None or not span[0] - _ROUNDING <= value <= span[1] + _ROUNDING:
        return Interval(value, -math.inf, math.inf)
    share = 1 - ((1 - confidence) / 2) ** (1 / n)
    return Interval(value, value - share * (value - span[0]), value + share * (span[1] - value))


def _bootstrap(values: Floats, confidence: float, span: tuple[float, float] | None) -> Interval:
    mean = float(values.mean())
    if values.size < _MIN_VALUES:
        return Interval(mean, -math.inf, math.inf)
    if np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())):
        return _bounded(mean, values.size, confidence, span)
    from scipy.stats import bootstrap  # noqa: PLC0415  takes a second to load

    bootstrapped = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=named_generator(0, "bootstrap"),
    ).confidence_interval
    return Interval(mean, float(bootstrapped.low), float(bootstrapped.high))
