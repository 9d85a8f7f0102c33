"""Scores in tables: numbers on a stated scale, as shares of it. Every error names the row, the column and the fix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from promptopt.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.data.rows import Row

Scale: TypeAlias = tuple[float, float]

UNIT: Scale = (0.0, 1.0)
"""The scale of rewards."""


def read_scale(text: str) -> Scale:
    """Read a scale such as "1,5".

    Raises:
        InputError: it is not two increasing numbers.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    return check_scale((low, high), text)


def check_scale(scale: Scale, text: str = "") -> Scale:
    """Return the scale.

    Raises:
        InputError: it is not two increasing finite numbers.
    """
    low, high = scale
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a scale is its lowest and its highest score, such as 1,5, not {text or scale!r}")
    return scale


def read_score(row: Row, column: str, scale: Scale) -> float | None:
    """Return a row's score as a share of the scale, in 0 to 1; None if the row has none.

    Raises:
        InputError: it is no number, or outside the scale.
    """
    text = row.values.get(column, "").strip()
    if not text:
        return None
    low, high = scale
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InputError(
            f"{row.where}: {column} is {text!r}, which is not a number from {low:g} to {high:g}: correct it, or give its scale, such as "
            "1,5"
        )
    return (value - low) / (high - low)


def check_column(rows: Sequence[Row], column: str, purpose: str) -> None:
    """Raise InputError if no row has the column."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    if column not in names:
        raise InputError(
            f"there is no column {column!r} for {purpose}{nearest(column, names)}; columns: {', '.join(names)}"
        )
