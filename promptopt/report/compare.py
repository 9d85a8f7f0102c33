"""Compare runs: headline numbers, best training reward at equal calls, paired differences on common test examples.

Works on saved results and their test outcomes; calls no model.
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

NOT_SCORED = "nothing scored yet"
"""In place of a best reward before a search has scored a candidate."""

_CALL_FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # of the calls that every run reached: where best rewards are compared


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run loaded from its folder.

    Args:
        name: name of the folder.
        result: result of the run.
        outcomes: outcomes of its test examples; () if the run had no test.
    """

    name: str
    result: Result
    outcomes: tuple[Outcome, ...]

    @property
    def curve(self) -> list[Point]:
        """The best training reward so far, by calls used."""
        return best_so_far(self.result.history)

    @property
    def calls(self) -> int | None:
        """Calls used when the last candidate was first scored; None for runs of earlier versions."""
        return max((record.calls for record in self.result.history if record.calls is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired difference between a run's chosen prompt and the first run's, on their common test examples.

    Args:
        run: name of the run.
        interval: interval of the paired difference; None without common examples.
        examples: number of common test examples that both runs scored.
    """

    run: str
    interval: Interval | None
    examples: int


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Several runs compared with the first.

    Args:
        runs: the runs; the first is the baseline.
        calls: numbers of calls at which best rewards are compared, up to the largest that every search reached; () if a run
            did not record its calls.
        best: [run][calls] best training reward so far; None if nothing was scored yet.
        differences: paired difference to the first run, for each run but the first.
        notes: caveats about comparability.
    """

    runs: tuple[SavedRun, ...]
    calls: tuple[int, ...]
    best: tuple[tuple[float | None, ...], ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the column headers and one row per quantity."""
        results = [run.result for run in self.runs]
        tests = [result.test for result in results]
        rows = [
            ["seed prompt, test reward", *(_fixed(test.seed.estimate if test else None) for test in tests)],
            ["chosen prompt, test reward", *(_fixed(test.chosen.estimate if test else None) for test in tests)],
            [
                "gain over seed prompt (paired)",
                *("same prompt" if r.test and r.kept else _with_interval(r.gain) for r in results),
            ],
            ["gain over first run (paired)", "", *(_with_interval(d.interval) for d in self.differences)],
            [
                "common test examples",
                "",
                *(self._common(d, run) for d, run in zip(self.differences, self.runs[1:], strict=True)),
            ],
            ["overfitting", *(_signed(r.optimism) for r in results)],
            ["chosen prompt, tokens", *(f"{r.lengths[1]:,}" for r in results)],
            ["candidates", *(f"{len(r.history):,}" for r in results)],
            ["total calls", *(f"{sum(s.calls for s in r.used.values()):,}" for r in results)],
            ["total dollars", *(_dollars(r) for r in results)],
        ]
        rows += [
            [
                f"best training reward after {calls:,} calls",
                *(NOT_SCORED if best[i] is None else _fixed(best[i]) for best in self.best),
            ]
            for i, calls in enumerate(self.calls)
        ]
        return ["", *(run.name for run in self.runs)], rows

    def _common(self, difference: Difference, run: SavedRun) -> str:
        most = max(len(self.runs[0].outcomes), len(run.outcomes))
        return f"{difference.examples} of {most}" if difference.examples < most else f"{difference.examples}"

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
                {"name": d.run, "difference": d.interval and _finite(d.interval), "items": d.examples}
                for d in self.differences
            ],
            "notes": list(self.notes),
        }


def read_run(folder: Path | str) -> SavedRun:
    """Load a run from its folder, or from the `result.json` in it.

    Raises:
        InputError: there is no readable result.
    """
    path = Path(folder)
    file = path if path.name == RESULT else path / RESULT
    result = Result.load(file)
    return SavedRun(name=file.resolve().parent.name, result=result, outcomes=read_outcomes(file.parent / FILE))


def compare_runs(runs: Sequence[SavedRun]) -> RunComparison:
    """Compare runs; the first is the baseline.

    Raises:
        InputError: fewer than two runs.
    """
    if len(runs) < 2:  # noqa: PLR2004  two to compare
        raise InputError("a comparison needs at least two runs: name two or more")
    counts = Counter(run.name for run in runs)
    named = tuple(
        replace(run, name=f"{run.name} ({i})") if counts[run.name] > 1 else run for i, run in enumerate(runs, 1)
    )
    reached = [run.calls for run in named]
    common = min((calls for calls in reached if calls is not None), default=0) if None not in reached else 0
    calls = tuple(sorted({math.ceil(fraction * common) for fraction in _CALL_FRACTIONS})) if common else ()
    curves = [run.curve for run in named]
    return RunComparison(
        runs=named,
        calls=calls,
        best=tuple(tuple(best_at(curve, at) for at in calls) for curve in curves),
        differences=tuple(_difference(named[0], other) for other in named[1:]),
        notes=tuple(_notes(named, calls)),
    )


def _difference(first: SavedRun, other: SavedRun) -> Difference:
    baseline = {outcome.id: outcome for outcome in first.outcomes}
    common = [
        (baseline[outcome.id], outcome)
        for outcome in other.outcomes
        if outcome.id in baseline and _same_example(baseline[outcome.id], outcome)
    ]
    pairs = [(b.chosen.reward, a.chosen.reward) for a, b in common]
    scored = [(reward, base) for reward, base in pairs if reward is not None and base is not None]
    if not scored:
        return Difference(run=other.name, interval=None, examples=0)
    rewards = np.array(scored, dtype=np.float64)
    identical = first.result.prompt == other.result.prompt and (rewards[:, 0] == rewards[:, 1]).all()
    interval = SAME if identical else paired_interval(rewards[:, 0], rewards[:, 1])
    return Difference(run=other.name, interval=interval, examples=len(scored))


def _same_example(first: Outcome, second: Outcome) -> bool:
    return (dict(first.inputs), first.target) == (dict(second.inputs), second.target)


def _notes(runs: Sequence[SavedRun], calls: tuple[int, ...]) -> list[str]:
    """List other differences between the runs, which limit the comparison."""
    results = [run.result for run in runs]
    notes = [
        f"the runs have different {what}: {'; '.join(dict.fromkeys(values))}"
        for what, values in (
            ("tasks", [r.task for r in results]),
            ("task models", [str(r.models.get("task", {}).get("model", "unknown")) for r in results]),
            ("budgets", [r.budget for r in results]),
            ("random seeds, so differences are also due to chance", [str(r.seed) for r in results]),
        )
        if len(set(values)) > 1
    ]
    if len({r.seed_prompt for r in results}) > 1:
        notes.append("the runs started from different seed prompts")
    notes += [f"{run.name} is unfinished: {run.result.unfinished}" for run in runs if not run.result.finished]
    notes += [f"{run.name} has no replies to test examples: no paired difference" for run in runs if not run.outcomes]
    if not calls:
        notes.append("a run did not record the calls of its candidates: best rewards at equal calls are not available")
    return notes


def _finite(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]


def _with_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _fixed(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _dollars(result: Result) -> str:
    known = all(price is not None for price in result.prices.values())
    spent = sum(used.dollars for used in result.used.values())
    return f"{spent:.4f}" if known else f"{spent:.4f} + unknown prices"
