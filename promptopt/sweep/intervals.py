"""Intervals over several seeds and the same test examples. Pure functions of rewards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from promptopt.statistics import Interval, clustered_standard_error, mean_interval, paired_interval
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats


def crossed_interval(
    first: Floats, second: Floats | None = None, confidence: float = 0.95, groups: Sequence[str] | None = None
) -> Interval:
    """Interval of a mean reward, or of a mean paired difference, over random seeds and random test examples.

    Seeds and examples are crossed: every seed's prompt is run on the same examples. The variance of the mean adds the
    variance of the means by seed and that of the means by example. If no value is missing, the residual variance, which
    both contain, is subtracted once. The interval uses Student's t with Satterthwaite's degrees of freedom. It is never
    narrower than the interval over examples of rewards averaged over seeds. With one seed it equals that interval, and
    does not cover variation between seeds.

    Args:
        first: rewards [S, I]; NaN if a seed has no reward for an example.
        second: rewards to subtract [S, I]; None for the mean of `first` alone.
        confidence: confidence level.
        groups: [I] the group of each example, if those of one group are not independent. The variance over examples is then that over
            groups, and nothing is subtracted from it.
    """
    table = first if second is None else first - second
    observed = ~np.isnan(table)
    kept = np.flatnonzero(observed.any(axis=0))
    table = table[observed.any(axis=1)][:, kept]
    if not table.size:
        return Interval(math.nan, -math.inf, math.inf)
    over_examples = _interval_over_examples(first, second, confidence, groups)
    too_few_groups = groups is not None and not math.isfinite(over_examples.low)
    if len(table) == 1 or table.shape[1] == 1 or too_few_groups:
        return over_examples
    mean = float(nanmean(table.ravel(), axis=0))
    half_width = _half_width(table, confidence, None if groups is None else [groups[i] for i in kept.tolist()])
    low, high = min(mean - half_width, over_examples.low), max(mean + half_width, over_examples.high)
    observed_rewards = [rewards[~np.isnan(rewards)] for rewards in (first, second) if rewards is not None]
    if all(((rewards >= 0) & (rewards <= 1)).all() for rewards in observed_rewards):  # clip to the known range
        low, high = max(low, 0.0 if second is None else -1.0), min(high, 1.0)
    return Interval(mean, low, high)


def _interval_over_examples(
    first: Floats, second: Floats | None, confidence: float, groups: Sequence[str] | None
) -> Interval:
    if second is None:
        return mean_interval(nanmean(first, axis=0), confidence, groups)
    missing = np.isnan(first) | np.isnan(second)
    first_means, second_means = (nanmean(np.where(missing, np.nan, rewards), axis=0) for rewards in (first, second))
    return paired_interval(first_means, second_means, confidence, groups)


def _half_width(table: Floats, confidence: float, groups: Sequence[str] | None) -> float:
    """Return half the width of the interval of the mean of `table` [S, I]; S, I and the number of groups [I] are at least 2."""
    from scipy.special import stdtrit  # noqa: PLC0415  keeps `import promptopt` fast

    seeds, examples = table.shape
    seed_means, example_means = nanmean(table, axis=1), nanmean(table, axis=0)
    over_examples = (float(example_means.var(ddof=1)) / examples, examples - 1)
    if groups is not None:
        over_examples = (clustered_standard_error(example_means, groups) ** 2, len(set(groups)) - 1)
    components = [(float(seed_means.var(ddof=1)) / seeds, seeds - 1), over_examples]
    min_variance = max(component for component, _ in components)
    if groups is None and not np.isnan(table).any():
        residuals = table - seed_means[:, None] - example_means[None, :] + table.mean()
        residual_freedom = (seeds - 1) * (examples - 1)
        components.append((-float((residuals**2).sum()) / residual_freedom / table.size, residual_freedom))
    variance = max(sum(component for component, _ in components), min_variance)
    if not variance:
        return 0.0
    total_freedom = max(variance**2 / sum(component**2 / freedom for component, freedom in components), 1.0)
    return float(stdtrit(total_freedom, (1 + confidence) / 2)) * math.sqrt(variance)
