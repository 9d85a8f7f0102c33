"""The test of a run by human scores of some of its replies, as a value. Knows nothing of how the scores were obtained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from promptopt.statistics import Interval
    from promptopt.statistics.prediction_powered import PredictionPowered


@dataclass(frozen=True, kw_only=True)
class HumanClaim:
    """What human scores of some test replies, and the run's rewards of all, say of the chosen prompt.

    Scores and differences are shares of the scale of human scores; rewards are as recorded. Intervals are of 95 %.

    Args:
        difference: mean human score of the chosen prompt minus that of the seed prompt, paired, for items like the test items: with the
            rewards' help (`combined`) and without (`human`).
        seed: mean human score of the seed prompt, likewise.
        chosen: that of the chosen prompt.
        rewards: the run's own claim: the paired difference of rewards on all test items.
        task: name of the task.
        notes: remarks on the numbers.
    """

    difference: PredictionPowered
    seed: PredictionPowered
    chosen: PredictionPowered
    rewards: Interval
    task: str
    notes: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether the interval of the human difference is entirely above 0."""
        return self.difference.combined.low > 0

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        gain, low, high = self.difference.combined
        items = f"{self.difference.items:,} of {self.difference.judged:,} test items scored by people"
        if math.isinf(low):
            return f"Too few human scores to tell ({items})."
        numbers = f"{gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, {items}"
        if self.improved:
            return f"Better than the seed prompt by human scores: {numbers}."
        verdict = "Worse than the seed prompt" if high < 0 else "No improvement shown"
        return f"{verdict} by human scores ({numbers})."

    @property
    def width_ratio(self) -> float:
        """Width of the interval of the difference, as a share of that of the human scores alone; NaN if that is infinite."""
        (_, low, high), (_, human_low, human_high) = self.difference[:2]
        return (high - low) / (human_high - human_low) if math.isfinite(human_high - human_low) else math.nan

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as rows (name, value)."""
        return [
            ("task", self.task),
            ("human scores", f"{self.difference.items:,} of {self.difference.judged:,} test items, for both prompts"),
            ("difference", _span(self.difference.combined, "+")),
            ("by human scores alone", _span(self.difference.human, "+")),
            ("by rewards alone", _span(self.rewards, "+")),
            ("correlation with rewards", f"{self.difference.correlation:.2f} (of the differences)"),
            ("seed prompt", _span(self.seed.combined)),
            ("chosen prompt", _span(self.chosen.combined)),
        ]

    def __str__(self) -> str:
        lines = [self.headline, "", *(f"{name:26}{value}" for name, value in self.rows())]
        return printable("\n".join([*lines, *(f"note: {note}" for note in self.notes)]))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinities become null."""
        return {
            "headline": self.headline,
            "improved": self.improved,
            "task": self.task,
            "difference": _powered(self.difference),
            "seed": _powered(self.seed),
            "chosen": _powered(self.chosen),
            "rewards": _numbers(self.rewards),
            "notes": list(self.notes),
        }


def _span(interval: Interval, sign: str = "") -> str:
    if math.isinf(interval.low):
        return f"{interval.estimate:{sign}.3f} (no interval)"
    return f"{interval.estimate:{sign}.3f}, 95 % interval {interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _powered(value: PredictionPowered) -> dict[str, Any]:
    return {
        "combined": _numbers(value.combined),
        "human": _numbers(value.human),
        "slope": value.slope,
        "correlation": value.correlation if math.isfinite(value.correlation) else None,
        "items": value.items,
        "judged": value.judged,
    }


def _numbers(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]
