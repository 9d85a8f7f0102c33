"""A run in a few values: what a list of runs shows. Small, so that a list needs no results.

Plain values; knows nothing of how they were obtained.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.statistics import Interval  # noqa: TC001  read when a summary is loaded
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from promptopt.results.result import Result


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in a few values.

    Args:
        task: the task's name.
        strategy: the strategy's name.
        model: the task model's name, or "".
        seed: random seed.
        budget: the budget as text.
        headline: the outcome in one sentence.
        unfinished: why the run is not finished, or "".
        improved: whether the interval of the gain is entirely above 0.
        gain: paired test difference with its 95 % interval; None without a test, or if it is not finite.
        candidates: number of candidates scored.
        calls: logical calls of all roles.
        dollars: logical dollars of the roles with a known price.
        unpriced: roles without a known price.
        seconds: wall time of the process that wrote it.
    """

    task: str
    strategy: str
    model: str
    seed: int
    budget: str
    headline: str
    unfinished: str
    improved: bool
    gain: Interval | None
    candidates: int
    calls: int
    dollars: float
    unpriced: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, result: Result) -> RunSummary:
        """Return the summary of a result."""
        gain = result.gain
        return cls(
            task=result.task,
            strategy=str(result.strategy["name"]),
            model=model_name(result.models),
            seed=result.seed,
            budget=result.budget,
            headline=result.headline,
            unfinished=result.unfinished,
            improved=result.improved,
            gain=gain if gain is not None and all(map(math.isfinite, gain)) else None,
            candidates=len(result.history),
            calls=sum(spent.calls for spent in result.used.values()),
            dollars=sum(spent.dollars for spent in result.used.values()),
            unpriced=tuple(role for role, price in result.prices.items() if price is None),
            seconds=result.seconds,
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> RunSummary:
        """Return the summary that `to_json` wrote.

        Raises:
            ValueError: the data is no summary.
        """
        return read_value(cls, data)


def model_name(models: dict[str, Any]) -> str:
    """Return the task model's name among the fingerprints of a run, or ""."""
    return str(models.get("task", {}).get("model", ""))
