"""Intervals of what several seeds found on the same test items. Pure functions over rewards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from promptopt.statistics import Interval, mean_interval, paired_interval
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats


def crossed_interval(first: Floats, second: Floats | None = None, confidence: float = 0.95) -> Interval:
    """Interval of a mean reward, or of a mean paired difference, over seeds and test items, both being samples.

    Seeds and items are crossed: every seed's prompt meets the same items. The variance of the mean is that of the means by
    seed and that of the means by item, less what both hold of the rest where the table is whole; Student's t with
    Satterthwaite's degrees of freedom. It is never narrower than the interval over items of the rewards averaged over
    seeds, and with one seed it is that: then nothing is said of other seeds.

    Args:
        first: [S, I]; NaN where a seed did not meet an item, or no reply came.
        second: of the same shape, subtracted; None for the mean of `first` alone.
        confidence: of the interval.
    """
    table = first if second is None else first - second
    kept = ~np.isnan(table)
    table = table[kept.any(axis=1)][:, kept.any(axis=0)]
    if not table.size:
        return Interval(math.nan, -math.inf, math.inf)
    by_item = _over_items(first, second, confidence)
    if len(table) == 1 or table.shape[1] == 1:
        return by_item
    mean = float(nanmean(table.ravel(), axis=0))
    half = _half(table, confidence)
    low, high = min(mean - half, by_item.low), max(mean + half, by_item.high)
    sides = [side[~np.isnan(side)] for side in (first, second) if side is not None]
    if all(((side >= 0) & (side <= 1)).all() for side in sides):  # a known range, which the normal theory does not know
        low, high = max(low, 0.0 if second is None else -1.0), min(high, 1.0)
    return Interval(mean, low, high)


def _over_items(first: Floats, second: Floats | None, confidence: float) -> Interval:
    if second is None:
        return mean_interval(nanmean(first, axis=0), confidence)
    both = np.isnan(first) | np.isnan(second)
    ours, theirs = (nanmean(np.where(both, np.nan, side), axis=0) for side in (first, second))
    return paired_interval(ours, theirs, confidence)


def _half(table: Floats, confidence: float) -> float:
    """Return half the width of the interval of the mean of [S, I], S and I at least 2."""
    from scipy.special import stdtrit  # noqa: PLC0415  importing the package stays light

    seeds, items = table.shape
    rows, columns = nanmean(table, axis=1), nanmean(table, axis=0)
    parts = [(float(rows.var(ddof=1)) / seeds, seeds - 1), (float(columns.var(ddof=1)) / items, items - 1)]
    least = max(part for part, _ in parts)
    if not np.isnan(table).any():
        left = table - rows[:, None] - columns[None, :] + table.mean()
        freedom = (seeds - 1) * (items - 1)
        parts.append((-float((left**2).sum()) / freedom / table.size, freedom))
    variance = max(sum(part for part, _ in parts), least)
    if not variance:
        return 0.0
    freedom_of_all = max(variance**2 / sum(part**2 / freedom for part, freedom in parts), 1.0)
    return float(stdtrit(freedom_of_all, (1 + confidence) / 2)) * math.sqrt(variance)
