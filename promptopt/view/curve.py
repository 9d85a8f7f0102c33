"""The curve of a run in progress, as positions in a drawing: candidates as dots, the best so far as a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.view.live_state import CurvePoint

WIDTH, HEIGHT = 640, 220
_MARGIN = 10
_MOST_DOTS = 400  # the newest; the line goes through all


class Curve(NamedTuple):
    """A drawing of `WIDTH` x `HEIGHT`.

    Args:
        dots: (x, y) of candidates.
        line: points of the best so far, as in SVG.
        low: lowest reward drawn.
        high: highest reward drawn.
        calls: largest number of calls drawn.
    """

    dots: list[tuple[float, float]]
    line: str
    low: float
    high: float
    calls: float


def curve(points: Sequence[CurvePoint]) -> Curve | None:
    """Return the drawing of a curve; None before the first candidate."""
    if not points:
        return None
    low, high = min(p.reward for p in points), max(p.reward for p in points)
    calls = max(p.calls for p in points) or 1

    def place(at: float, reward: float) -> tuple[float, float]:
        up = (reward - low) / (high - low) if high > low else 0.5
        x = _MARGIN + (WIDTH - 2 * _MARGIN) * at / calls
        return round(x, 1), round(HEIGHT - _MARGIN - (HEIGHT - 2 * _MARGIN) * up, 1)

    corners, best = list[tuple[float, float]](), None
    for point in points:
        if best is None or point.reward > best:
            if best is not None:
                corners.append(place(point.calls, best))
            best = point.reward
            corners.append(place(point.calls, best))
    corners.append(place(calls, best or 0.0))
    dots = [place(point.calls, point.reward) for point in points[-_MOST_DOTS:]]
    return Curve(dots, " ".join(f"{x},{y}" for x, y in corners), low, high, calls)
