"""How far a judge agrees with people, as a value. Knows nothing of how the scores were obtained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from promptopt.statistics import Interval
    from promptopt.statistics.calibration import Calibration

_MOST_WORTH = 100  # human scores that one with the judge's help replaces, as printed
_KINDS = {
    "none": "none needed: the judge's scores predict human scores best as they are",
    "constant": "the mean human score predicts human scores better than the judge does",
    "linear": "by a line",
    "isotonic": "by a monotone curve (isotonic regression)",
}


@dataclass(frozen=True, kw_only=True)
class JudgeCheck:
    """A judge's scores against human scores of the same replies, both as shares of their scales, 0 to 1.

    Intervals are of 95 %.

    Args:
        items: number of replies with both scores.
        human: mean human score.
        judge: mean judge score.
        offset: mean of judge minus human score.
        kappa: quadratically weighted kappa; Cohen's kappa if scores are 0 and 1.
        ranks: Spearman's rank correlation; None if both have two values only, where kappa says the same.
        correlation: Pearson's correlation; NaN if either has no spread.
        length: by how much the judge's score grows when a reply is twice as long and the human score the same; None without the
            replies, or if they do not differ in length.
        calibration: what a judge score predicts of the human score.
        failed: replies without a judge score.
        calls: calls to the judge that were made; those that the memo answered are not counted.
        notes: remarks on the numbers.
    """

    items: int
    human: float
    judge: float
    offset: Interval
    kappa: Interval
    ranks: Interval | None
    correlation: float
    length: Interval | None
    calibration: Calibration
    failed: int = 0
    calls: int = 0
    notes: tuple[str, ...] = ()

    @property
    def worth(self) -> float:
        """How many human scores without the judge one with it replaces, at best: 1 / (1 - r^2), if it scores many more replies."""
        if math.isnan(self.correlation):
            return 1.0
        return 1 / (1 - self.correlation**2) if abs(self.correlation) < 1 else math.inf

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        low, high = self.kappa.low, self.kappa.high
        if math.isnan(self.kappa.estimate) or math.isinf(low):
            return f"Too few scores to tell: {self.items} replies have both scores."
        agreement = f"kappa {self.kappa.estimate:.2f}, 95 % interval {low:.2f} to {high:.2f}, {self.items} replies"
        if low > 0:
            return f"The judge agrees with people more than by chance ({agreement})."
        return f"The judge is not shown to agree with people ({agreement})."

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as rows (name, value)."""
        rows = [
            ("replies with both scores", f"{self.items:,}"),
            ("mean score: people, judge", f"{self.human:.3f}, {self.judge:.3f}"),
            ("judge minus people", _span(self.offset, "+.3f")),
            ("kappa (quadratic weights)", _span(self.kappa, ".2f")),
        ]
        if self.ranks is not None:
            rows.append(("rank correlation", _span(self.ranks, ".2f")))
        if self.length is not None:
            rows.append(("for a reply twice as long", _span(self.length, "+.3f")))
        rows.append(("calibration", _KINDS[self.calibration.kind]))
        errors = self.calibration.error
        rows.append(
            ("error of the judge's score", f"{errors['none']:.3f}, calibrated {errors[self.calibration.kind]:.3f}")
        )
        worth = f"{self.worth:.1f}" if self.worth <= _MOST_WORTH else f"more than {_MOST_WORTH}"
        rows.append(("one human score is worth", f"{worth} without the judge, at best"))
        return rows

    def __str__(self) -> str:
        lines = [self.headline, "", *(f"{name:28}{value}" for name, value in self.rows())]
        return printable("\n".join([*lines, *(f"note: {note}" for note in self.notes)]))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinities become null."""
        intervals = {name: getattr(self, name) for name in ("offset", "kappa", "ranks", "length")}
        numbers = {name: getattr(self, name) for name in ("items", "human", "judge", "failed", "calls")}
        return {
            "headline": self.headline,
            **numbers,
            **{name: None if value is None else [_finite(v) for v in value] for name, value in intervals.items()},
            "correlation": _finite(self.correlation),
            "worth": _finite(self.worth),
            "calibration": {
                "kind": self.calibration.kind,
                "points": [list(point) for point in self.calibration.points],
                "error": dict(self.calibration.error),
            },
            "notes": list(self.notes),
        }


def _span(interval: Interval, form: str) -> str:
    if math.isinf(interval.low):
        return f"{interval.estimate:{form}} (too few replies for an interval)"
    return f"{interval.estimate:{form}}, 95 % interval {interval.low:{form}} to {interval.high:{form}}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
