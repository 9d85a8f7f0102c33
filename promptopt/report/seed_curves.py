"""Curves over several seeds: the best training reward so far, its mean and range, and their chart.

The chart is a Vega-Lite specification, drawn in a page or written to a file. Knows nothing of sweeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.report.axes import axis_over
from promptopt.report.curves import best_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.report.curves import Point

_COLOURS = ("#3b78c9", "#d17f1f", "#2a9d5f", "#8a63d2", "#d0493f", "#2b9aa8", "#a0678b", "#808891")  # on light and dark
_DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4), (1, 3))
_X, _Y = "calls used by the run", "best training reward so far"
_FILE_STYLE = {
    "background": "white",
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axisX": {"grid": False},
    "axis": {"gridColor": "#e0e0e0", "titleFontWeight": "normal"},
    "legend": {"orient": "bottom", "direction": "vertical", "labelLimit": 0, "title": None, "symbolSize": 500},
}


class Level(NamedTuple):
    """The best training rewards so far at a number of calls: their mean, lowest and highest over the seeds."""

    calls: int
    mean: float
    low: float
    high: float


class SeedCurve(NamedTuple):
    """The search of a strategy over seeds.

    Args:
        name: of the strategy; of all that have the same curve.
        levels: from the calls by which every seed had scored a candidate.
    """

    name: str
    levels: tuple[Level, ...]

    def at(self, calls: int) -> Level | None:
        """Return the level at a number of calls; None if a seed had scored nothing by then."""
        return next((level for level in reversed(self.levels) if level.calls <= calls), None)


class Line(NamedTuple):
    """How a curve is drawn."""

    name: str
    colour: str
    dash: tuple[int, ...]


def seed_curve(name: str, curves: Sequence[Sequence[Point]], end: int) -> SeedCurve:
    """Return the mean and range of the curves of several seeds, each as of `best_so_far`, up to `end` calls.

    A search that ended earlier keeps its last value.
    """
    if not curves or not all(curves):
        return SeedCurve(name, ())
    start = max(curve[0].calls for curve in curves)
    calls = sorted({start, end, *(point.calls for curve in curves for point in curve if start < point.calls < end)})
    return SeedCurve(name, tuple(_level(curves, at) for at in calls if at >= start))


def joined(curves: Sequence[SeedCurve]) -> list[SeedCurve]:
    """Return the curves, those that are equal everywhere as one with the names of all."""
    names: dict[tuple[Level, ...], list[str]] = {}
    for curve in curves:
        if curve.levels:
            names.setdefault(curve.levels, []).append(curve.name)
    return [
        SeedCurve(shared[0] if len(shared) == 1 else f"{', '.join(shared)} (equal)", levels)
        for levels, shared in names.items()
    ]


def lines(curves: Sequence[SeedCurve]) -> list[Line]:
    """Return how each curve is drawn: no two of up to 48 have the same colour and dashes."""
    colours, dashes = len(_COLOURS), len(_DASHES)
    return [
        Line(curve.name, _COLOURS[i % colours], _DASHES[(i % colours + i // colours) % dashes])
        for i, curve in enumerate(curves)
    ]


def layers(curves: Sequence[SeedCurve], *, legend: bool = False) -> list[dict[str, Any]]:
    """Return the layers of the chart: a band from the lowest to the highest seed, and a line for the mean."""
    rows: list[dict[str, Any]] = [{"name": curve.name, **level._asdict()} for curve in curves for level in curve.levels]
    drawn = lines(curves)
    x_axis, y_axis = (
        axis_over([0, *(row["calls"] for row in rows)]),
        axis_over(row[end] for row in rows for end in ("low", "high")),
    )
    x, y = (
        {
            "field": field,
            "type": "quantitative",
            "title": title,
            "scale": {"domain": [axis.values[0], axis.values[-1]], "nice": False, "zero": False},
            "axis": {"values": axis.values, "format": axis.format},
        }
        for field, title, axis in (("calls", _X, x_axis), ("mean", _Y, y_axis))
    )
    names: dict[str, Any] = {"field": "name", "type": "nominal", "sort": None, "legend": {} if legend else None}
    colour = {**names, "scale": {"domain": [line.name for line in drawn], "range": [line.colour for line in drawn]}}
    dash = {**names, "scale": {"domain": [line.name for line in drawn], "range": [list(line.dash) for line in drawn]}}
    band = {"type": "area", "interpolate": "step-after", "opacity": 0.15, "aria": False}
    tooltip = [{"field": field, "type": kind} for field, kind in (("name", "nominal"), ("calls", "quantitative"))]
    tooltip += [{"field": field, "type": "quantitative", "format": ".3f"} for field in ("mean", "low", "high")]
    return [
        {
            "data": {"values": rows},
            "mark": band,
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": {**colour, "legend": None},
            },
        },
        {
            "data": {"values": rows},
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "aria": False},
            "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash, "tooltip": tooltip},
        },
    ]


def figure(curves: Sequence[SeedCurve], description: str) -> dict[str, Any]:
    """Return the chart as a complete specification for a file: on white, with a legend."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 560,
        "height": 300,
        "description": description,
        "config": _FILE_STYLE,
        "layer": layers(curves, legend=True),
        "resolve": {
            "scale": {"color": "independent", "strokeDash": "independent"}
        },  # else no legend: the band has none
    }


def _level(curves: Sequence[Sequence[Point]], calls: int) -> Level:
    values = [value for curve in curves if (value := best_at(curve, calls)) is not None]
    return Level(calls, round(sum(values) / len(values), 6), round(min(values), 6), round(max(values), 6))
