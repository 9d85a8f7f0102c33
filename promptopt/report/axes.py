"""Axes of charts: round tick values that cover the data, and the format of their labels. Knows nothing of any chart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEPS = (1, 2, 2.5, 5, 10)  # times a power of ten
_MAX_INTERVALS = 6
_WIDEN = 0.1  # of the value, on each side, where all values are equal
_MIN_WIDEN = 0.05


class Axis(NamedTuple):
    """An axis from its first tick to its last.

    Args:
        values: at least three tick values, ascending.
        format: d3 format of the labels.
    """

    values: tuple[float, ...]
    format: str

    def label(self, value: float) -> str:
        """Return the label of a tick."""
        return format(value + 0.0, self.format)

    def percent(self, value: float) -> float:
        """Return the position of a value in percent of the axis."""
        low, high = self.values[0], self.values[-1]
        return round(100 * (value - low) / (high - low), 2)


def axis_over(values: Iterable[float | None]) -> Axis:
    """Return an axis that covers the finite values; from 0 to 1 if there are none. It never has fewer than three ticks."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        widen = max(abs(low) * _WIDEN, _MIN_WIDEN)
        low, high = low - widen, high + widen
    step = _round_step((high - low) / _MAX_INTERVALS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != step:  # a step of 2.5
        decimals += 1
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Axis(ticks, f",.{decimals}f")


def _round_step(least: float) -> float:
    """Return the smallest round step that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in _STEPS if power * step >= least * (1 - 1e-9))
