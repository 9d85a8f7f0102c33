"""Means, standard errors and paired differences of reward arrays in which NaN marks missing values."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def nanmean(values: Floats, axis: int) -> Floats:
    """Return the mean over entries that are not NaN; NaN, without a warning, if there are none."""
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    out: Floats = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


def standard_error(per_example: Floats) -> Floats:
    """Return the standard errors of the row means of [P, E], ignoring NaN, [P]."""
    count = (~np.isnan(per_example)).sum(axis=1)
    centred = per_example - nanmean(per_example, axis=1)[:, None]
    squares = np.nansum(centred**2, axis=1)
    out: Floats = np.full(len(per_example), np.nan)
    np.divide(squares, count * (count - 1), out=out, where=count > 1)
    return np.sqrt(out)


def paired_difference(first: Floats, second: Floats) -> Floats:
    """Return the mean difference of two [E, R] rewards per example, over pairs without NaN; [at most E]."""
    difference = nanmean(first - second, axis=1)
    return difference[~np.isnan(difference)]
