"""What a sweep found, in one table: a row for each task, model and strategy, with intervals over seeds and test items."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.results.outcomes import SAME
from promptopt.sweep.intervals import crossed_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.prompt import Prompt
    from promptopt.results.outcomes import Outcome
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.sweep.cells import Ran

HEADERS = (
    "task",
    "model",
    "strategy",
    "seeds",
    "test reward",
    "less the seed prompt",
    "less the next",
    "calls",
    "dollars",
)
"""Column headers."""


class Entry(NamedTuple):
    """What came of one seed.

    Args:
        seed: of the run.
        strategy: that the tested run had; a portfolio picks it.
        run: name of its folder, "" where there is none.
        ran: result or reason.
        used: by it, logically; by a portfolio, each call once.
    """

    seed: int
    strategy: str
    run: str
    ran: Ran
    used: Spending


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        task: its name.
        model: its label.
        strategy: its label, or "portfolio".
        entries: one a seed.
        test: mean test reward of the chosen prompts, with its 95 % interval; None where no run has a test.
        gain: the same of the paired difference to the seed prompt.
        less_next: of the best row of a task and model: its test reward less the next one's, paired.
    """

    task: str
    model: str
    strategy: str
    entries: tuple[Entry, ...]
    test: Interval | None
    gain: Interval | None
    less_next: Interval | None = None

    @property
    def whole(self) -> tuple[Entry, ...]:
        """Those whose run is finished and tested."""
        return tuple(entry for entry in self.entries if not entry.ran.reason and entry.ran.outcomes)

    @property
    def best(self) -> bool:
        """Whether it is ahead of the next by more than chance."""
        return self.less_next is not None and self.less_next.low > 0

    @property
    def calls(self) -> float | None:
        """Of one seed, on average."""
        return float(np.mean([entry.used.calls for entry in self.whole])) if self.whole else None

    @property
    def dollars(self) -> float | None:
        """Of one seed, on average; None where a price is not known."""
        results = [entry.ran.result for entry in self.whole if entry.ran.result is not None]
        if not results or any(price is None for result in results for price in result.prices.values()):
            return None
        return float(np.mean([entry.used.dollars for entry in self.whole]))

    def cells(self) -> list[str]:
        """Return the row as it is shown."""
        return [
            self.task,
            self.model,
            self.strategy,
            f"{len(self.whole)} of {len(self.entries)}",
            _spanned(self.test) + (" best" if self.best else ""),
            _spanned(self.gain, "+"),
            _spanned(self.less_next, "+"),
            "" if self.calls is None else f"{self.calls:,.0f}",
            "" if self.dollars is None else f"{self.dollars:.4f}",
        ]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a sweep found.

    Args:
        name: of the sweep.
        rows: by task and model, in the file's order.
        notes: what a reader should know beside the numbers.
        rounds: of portfolios: which strategies went on, and by what.
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all runs are."""
        return not any(entry.ran.reason for row in self.rows for entry in row.entries)

    @property
    def failures(self) -> list[str]:
        """What failed, and why, a line each."""
        return [
            f"{row.task}, {row.model}, {row.strategy}, seed {entry.seed}: {entry.ran.reason}"
            for row in self.rows
            for entry in row.entries
            if entry.ran.reason
        ]

    def markdown(self) -> str:
        """Return the table, failures and notes as Markdown."""
        lines = [f"# {self.name}", "", f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
        lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row.cells())} |" for row in self.rows]
        lines += ["", *(f"- failed: {line}" for line in self.failures), *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "rows": [_row(row) for row in self.rows],
            "rounds": [dict(one) for one in self.rounds],
            "notes": list(self.notes),
        }


def row_of(task: str, model: str, strategy: str, entries: Sequence[Entry]) -> Row:
    """Return the row of what came of some seeds."""
    bare = Row(task=task, model=model, strategy=strategy, entries=tuple(entries), test=None, gain=None)
    if not bare.whole:
        return bare
    chosen, seed = (_rewards([_by_item(entry)[side] for entry in bare.whole]) for side in (0, 1))
    kept = all(entry.ran.result is not None and entry.ran.result.kept for entry in bare.whole)
    return replace(bare, test=crossed_interval(chosen), gain=SAME if kept else crossed_interval(chosen, seed))


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows, the best of each task and model compared with the next on the seeds and items of both."""
    out: list[Row] = []
    for _, group in groupby(rows, key=lambda row: (row.task, row.model)):
        here = list(group)
        tested = [(row.test.estimate, -i, row) for i, row in enumerate(here) if row.test is not None]
        if len(tested) > 1:
            (*_, first), (*_, second) = sorted(tested, key=lambda one: one[:2], reverse=True)[:2]
            here = [replace(row, less_next=_less(first, second)) if row is first else row for row in here]
        out += here
    return tuple(out)


def _less(first: Row, second: Row) -> Interval | None:
    theirs = {entry.seed: _by_item(entry)[0] for entry in second.whole}
    pairs = [(_by_item(entry)[0], theirs[entry.seed]) for entry in first.whole if entry.seed in theirs]
    if not pairs:
        return None
    items = list(dict.fromkeys(item for pair in pairs for row in pair for item in row))
    ours, others = (_rewards([pair[side] for pair in pairs], items) for side in (0, 1))
    same = _prompts(first) == _prompts(second) and np.array_equal(ours, others, equal_nan=True)
    return SAME if same else crossed_interval(ours, others)


def _prompts(row: Row) -> dict[int, Prompt]:
    """Return the chosen prompts by seed."""
    return {entry.seed: entry.ran.result.prompt for entry in row.whole if entry.ran.result is not None}


def _by_item(entry: Entry) -> tuple[dict[str, float], dict[str, float]]:
    """Return the rewards of the chosen prompt and of the seed prompt, by item; those that never came are left out."""
    found: list[dict[str, float]] = [{}, {}]
    for one in entry.ran.outcomes:
        for rewards, answer in zip(found, (one.chosen, one.seed), strict=True):
            if answer.reward is not None:
                rewards[_identity(one)] = answer.reward
    return found[0], found[1]


def _identity(one: Outcome) -> str:
    return repr((one.id, sorted(one.inputs.items()), one.target))


def _rewards(rows: Sequence[Mapping[str, float]], items: Sequence[str] | None = None) -> Floats:
    """Return rewards [seeds, items], NaN where a seed did not meet an item."""
    every = items if items is not None else list(dict.fromkeys(item for row in rows for item in row))
    return np.array([[row.get(item, math.nan) for item in every] for row in rows], dtype=np.float64)


def _row(row: Row) -> dict[str, Any]:
    return {
        "task": row.task,
        "model": row.model,
        "strategy": row.strategy,
        "test": _finite(row.test),
        "gain": _finite(row.gain),
        "less_next": _finite(row.less_next),
        "best": row.best,
        "calls": row.calls,
        "dollars": row.dollars,
        "seeds": [_entry(entry) for entry in row.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    result = entry.ran.result
    test = result.test if result is not None and not entry.ran.reason else None
    return {
        "seed": entry.seed,
        "strategy": entry.strategy,
        "run": entry.run,
        "failed": entry.ran.reason or None,
        "test": None if test is None else test.chosen.estimate,
        "gain": None if result is None or result.gain is None or test is None else result.gain.estimate,
        "calls": entry.used.calls,
        "dollars": entry.used.dollars,
        "prompt": None if test is None or result is None else str(result.prompt),
    }


def _finite(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [value if math.isfinite(value) else None for value in interval]


def _spanned(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    estimate, low, high = (format(value, f"{sign}.3f") for value in interval)
    return f"{estimate} ({low} to {high})"
