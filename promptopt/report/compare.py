"""Runs side by side: headline numbers, the best so far at equal calls, and chosen prompts paired on the same test items.

Knows finished results and the replies that lie beside them; asks no model.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import InputError
from promptopt.report.curves import Point, best_at, best_so_far
from promptopt.results.outcomes import FILE, SAME, read_outcomes
from promptopt.results.result import FILE as RESULT
from promptopt.results.result import Result
from promptopt.statistics import paired_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.outcomes import Outcome
    from promptopt.statistics import Interval

_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the calls that all runs made, at which their best is compared


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run as its folder holds it.

    Args:
        name: its folder's.
        result: of the run.
        outcomes: of its test items; () where there was no test.
    """

    name: str
    result: Result
    outcomes: tuple[Outcome, ...]

    @property
    def curve(self) -> list[Point]:
        """The best training reward as the calls go on."""
        return best_so_far(self.result.history)

    @property
    def calls(self) -> int | None:
        """Calls that its search had used when the last candidate came; None in runs of earlier versions."""
        return max((record.calls for record in self.result.history if record.calls is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One run's chosen prompt less the first run's, on the test items that both have.

    Args:
        run: its name.
        interval: of the paired difference, None where they share no item.
        items: that both have, with a reward.
    """

    run: str
    interval: Interval | None
    items: int


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Runs side by side.

    Args:
        runs: in the order given.
        calls: at which the bests are compared, the last of them being the most that every search made; () where a run does
            not know its calls.
        best: [run][calls] best training reward, None where nothing was scored yet.
        differences: of each run but the first.
        notes: what makes the numbers less comparable.
    """

    runs: tuple[SavedRun, ...]
    calls: tuple[int, ...]
    best: tuple[tuple[float | None, ...], ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads of the columns, and one row for each number."""
        results = [run.result for run in self.runs]
        tests = [result.test for result in results]
        rows = [
            ["seed prompt, test reward", *(_plain(test.seed.estimate if test else None) for test in tests)],
            ["chosen prompt, test reward", *(_plain(test.chosen.estimate if test else None) for test in tests)],
            ["difference, paired", *("the same prompt" if r.test and r.kept else _spanned(r.gain) for r in results)],
            ["less the first run, paired", "", *(_spanned(d.interval) for d in self.differences)],
            ["on common test items", "", *(str(d.items) for d in self.differences)],
            ["overfitting", *(_signed(r.optimism) for r in results)],
            ["tokens of the chosen prompt", *(f"{r.lengths[1]:,}" for r in results)],
            ["candidates", *(f"{len(r.history):,}" for r in results)],
            ["calls in all", *(f"{sum(s.calls for s in r.used.values()):,}" for r in results)],
            ["dollars in all", *(_dollars(r) for r in results)],
        ]
        rows += [
            [f"best by {calls:,} calls", *(_plain(best[i]) for best in self.best)] for i, calls in enumerate(self.calls)
        ]
        return ["", *(run.name for run in self.runs)], rows

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "runs": [
                {
                    "name": run.name,
                    "headline": run.result.headline,
                    "strategy": run.result.strategy["name"],
                    "seed_reward": run.result.test and _finite(run.result.test.seed),
                    "chosen_reward": run.result.test and _finite(run.result.test.chosen),
                    "difference": run.result.gain and _finite(run.result.gain),
                    "optimism": run.result.optimism,
                    "tokens": run.result.lengths[1],
                    "candidates": len(run.result.history),
                    "calls": sum(spent.calls for spent in run.result.used.values()),
                    "best": list(best),
                }
                for run, best in zip(self.runs, self.best, strict=True)
            ],
            "best_at_calls": list(self.calls),
            "less_the_first": [
                {"name": d.run, "difference": d.interval and _finite(d.interval), "items": d.items}
                for d in self.differences
            ],
            "notes": list(self.notes),
        }


def read_run(folder: Path | str) -> SavedRun:
    """Read a run's folder, or the `result.json` in it.

    Raises:
        InputError: it holds no result.
    """
    given = Path(folder)
    file = given if given.name == RESULT else given / RESULT
    result = Result.load(file)
    return SavedRun(name=file.resolve().parent.name, result=result, outcomes=read_outcomes(file.parent / FILE))


def compare_runs(runs: Sequence[SavedRun]) -> Compared:
    """Put runs side by side; the first is what the others are measured against.

    Raises:
        InputError: fewer than two.
    """
    if len(runs) < 2:  # noqa: PLR2004  two to compare
        raise InputError("one run has nothing to be compared with: name two or more")
    counts = Counter(run.name for run in runs)
    named = tuple(
        replace(run, name=f"{run.name} ({i})") if counts[run.name] > 1 else run for i, run in enumerate(runs, 1)
    )
    reached = [run.calls for run in named]
    common = min((calls for calls in reached if calls is not None), default=0) if None not in reached else 0
    calls = tuple(sorted({math.ceil(share * common) for share in _SHARES})) if common else ()
    curves = [run.curve for run in named]
    return Compared(
        runs=named,
        calls=calls,
        best=tuple(tuple(best_at(curve, at) for at in calls) for curve in curves),
        differences=tuple(_difference(named[0], other) for other in named[1:]),
        notes=tuple(_notes(named, calls)),
    )


def _difference(first: SavedRun, other: SavedRun) -> Difference:
    ours = {one.id: one for one in first.outcomes}
    shared = [(ours[one.id], one) for one in other.outcomes if one.id in ours and _same(ours[one.id], one)]
    pairs = [(b.chosen.reward, a.chosen.reward) for a, b in shared]
    both = [(second, reward) for second, reward in pairs if second is not None and reward is not None]
    if not both:
        return Difference(run=other.name, interval=None, items=0)
    rewards = np.array(both, dtype=np.float64)
    same = first.result.prompt == other.result.prompt and (rewards[:, 0] == rewards[:, 1]).all()
    interval = SAME if same else paired_interval(rewards[:, 0], rewards[:, 1])
    return Difference(run=other.name, interval=interval, items=len(both))


def _same(one: Outcome, other: Outcome) -> bool:
    return (dict(one.inputs), one.target) == (dict(other.inputs), other.target)


def _notes(runs: Sequence[SavedRun], calls: tuple[int, ...]) -> list[str]:
    """Say what differs between the runs beside what they are compared for."""
    results = [run.result for run in runs]
    out = [
        f"the runs have different {what}: {'; '.join(dict.fromkeys(values))}"
        for what, values in (
            ("tasks", [r.task for r in results]),
            ("task models", [str(r.models.get("task", {}).get("model", "unknown")) for r in results]),
            ("budgets", [r.budget for r in results]),
        )
        if len(set(values)) > 1
    ]
    if len({r.seed_prompt for r in results}) > 1:
        out.append("the runs began with different seed prompts")
    out += [f"{run.name} is unfinished: {run.result.unfinished}" for run in runs if not run.result.finished]
    out += [f"{run.name} holds no replies to test items: it cannot be paired" for run in runs if not run.outcomes]
    if not calls:
        out.append("a run does not say at which call its candidates came: their bests cannot be set at equal calls")
    return out


def _finite(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]


def _spanned(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _dollars(result: Result) -> str:
    known = all(price is not None for price in result.prices.values())
    spent = sum(used.dollars for used in result.used.values())
    return f"{spent:.4f}" if known else f"{spent:.4f} and unknown prices"
