"""The slope of one variable in a linear regression, with its confidence interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from promptopt.statistics.intervals import Interval

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

_SPARE = 6  # least degrees of freedom of an interval
_DIGITS = 9  # values that differ by less are equal


def slope_interval(outcome: Floats, variable: Floats, other: Floats, confidence: float = 0.95) -> Interval | None:
    """Return how much the outcome changes per unit of a variable while another one is the same, by least squares.

    The interval allows for unequal variances: MacKinnon and White's HC3 (1985), with Student's t.

    Args:
        outcome: [E].
        variable: [E] whose slope is estimated.
        other: [E] held fixed.
        confidence: confidence level.

    Returns:
        The slope, or None if there are too few items or the variable does not vary apart from the other.
    """
    freedom = outcome.size - 3
    if freedom < _SPARE:
        return None
    # Frisch and Waugh (1933): the slope is that of the residuals of both on the other variable.
    design = np.column_stack([np.ones(other.size), other])
    apart = _residuals(design, variable)
    squares = float(apart @ apart)
    if squares <= 10.0**-_DIGITS:
        return None
    from scipy.special import stdtrit  # noqa: PLC0415  loaded when used: importing the package stays light

    slope = float(apart @ outcome) / squares
    full = np.column_stack([design, variable])
    leverage = np.einsum("ij,ji->i", full, np.linalg.pinv(full))
    errors = _residuals(full, outcome) / np.maximum(1 - leverage, 10.0**-_DIGITS)
    error = float(np.sqrt(((apart * errors) ** 2).sum())) / squares
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(slope, slope - half, slope + half)


def _residuals(design: Floats, values: Floats) -> Floats:
    out: Floats = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return out
