"""The table of a sweep: a row for each task, model and strategy, with intervals over seeds and test examples."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.results.outcomes import SAME
from promptopt.scores import groups_of
from promptopt.sweep.intervals import crossed_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.prompt import Prompt
    from promptopt.results.outcomes import Outcome
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.sweep.single_run import RunOutcome

LEAD = "lead over runner-up"
"""Header of the column that only the best row of a task and model has."""

HEADERS = (
    "task",
    "model",
    "strategy",
    "seeds",
    "test examples",
    "test reward",
    "gain over seed prompt",
    LEAD,
    "calls",
    "tokens",
    "dollars",
)
"""Column headers."""


class Entry(NamedTuple):
    """The run of one seed.

    Args:
        seed: random seed of the run.
        strategy: strategy of the tested run; in a portfolio, the selected one.
        run: name of the run's folder, or "" if there is none.
        outcome: result, or the reason why there is none.
        used: logical usage of the run; in a portfolio, each distinct call counts once.
    """

    seed: int
    strategy: str
    run: str
    outcome: RunOutcome
    used: Spending

    @property
    def ran(self) -> RunOutcome:
        """Former name of `outcome`."""
        _warn_renamed("Entry.ran", "Entry.outcome")
        return self.outcome


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Args:
        task: name of the task.
        model: label of the model.
        strategy: label of the strategy, or "portfolio".
        entries: one per seed.
        test: mean test reward of the chosen prompts, with its 95 % interval; None if no run has a test.
        gain: mean paired gain over the seed prompt, with its 95 % interval.
        lead: only for the best row of a task and model: mean paired difference to the runner-up, with its 95 % interval.
        lead_examples: test examples that the lead is over: those with rewards of both rows at a seed.
    """

    task: str
    model: str
    strategy: str
    entries: tuple[Entry, ...]
    test: Interval | None
    gain: Interval | None
    lead: Interval | None = None
    lead_examples: int = 0

    @property
    def complete(self) -> tuple[Entry, ...]:
        """Entries whose run is finished and tested."""
        return tuple(entry for entry in self.entries if not entry.outcome.reason and entry.outcome.outcomes)

    @property
    def less_next(self) -> Interval | None:
        """Former name of `lead`."""
        _warn_renamed("Row.less_next", "Row.lead")
        return self.lead

    @property
    def whole(self) -> tuple[Entry, ...]:
        """Former name of `complete`."""
        _warn_renamed("Row.whole", "Row.complete")
        return self.complete

    @property
    def best(self) -> bool:
        """Whether the interval of the lead over the runner-up is above 0."""
        return self.lead is not None and self.lead.low > 0

    @property
    def tested(self) -> str:
        """Test examples of a run, such as "22", or "15 to 22" if the seeds differ."""
        counts = sorted({len(_rewards_by_example(entry)[0]) for entry in self.complete})
        return "" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @property
    def calls(self) -> float | None:
        """Mean calls per seed."""
        return float(np.mean([entry.used.calls for entry in self.complete])) if self.complete else None

    @property
    def tokens(self) -> float | None:
        """Mean input and output tokens per seed, of all roles."""
        return float(np.mean([entry.used.tokens for entry in self.complete])) if self.complete else None

    @property
    def dollars(self) -> float | None:
        """Mean dollars per seed; None if a price is unknown."""
        results = [entry.outcome.result for entry in self.complete if entry.outcome.result is not None]
        if not results or any(price is None for result in results for price in result.prices.values()):
            return None
        return float(np.mean([entry.used.dollars for entry in self.complete]))

    def cells(self) -> list[str]:
        """Former name of `formatted`."""
        _warn_renamed("Row.cells", "Row.formatted")
        return self.formatted()

    def formatted(self) -> list[str]:
        """Return the texts of the row, one per column of `HEADERS`."""
        return [
            self.task,
            self.model,
            self.strategy,
            f"{len(self.complete)} of {len(self.entries)}",
            self.tested,
            _with_interval(self.test) + (" best" if self.best else ""),
            _with_interval(self.gain, "+"),
            _with_interval(self.lead, "+") + (f" on {self.lead_examples} examples" if self.lead else ""),
            "" if self.calls is None else f"{self.calls:,.0f}",
            "" if self.tokens is None else f"{self.tokens:,.0f}",
            "" if self.dollars is None else f"{self.dollars:.4f}",
        ]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The results of a sweep.

    Args:
        name: name of the sweep.
        rows: rows by task and model, in the order of the sweep file.
        notes: caveats for readers.
        rounds: rounds of portfolios: the strategies, their rewards, and which ones continued.
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all runs are finished."""
        return not any(entry.outcome.reason for row in self.rows for entry in row.entries)

    @property
    def failures(self) -> list[str]:
        """One line per failed run, with the reason."""
        return [
            f"{row.task}, {row.model}, {row.strategy}, seed {entry.seed}: {entry.outcome.reason}"
            for row in self.rows
            for entry in row.entries
            if entry.outcome.reason
        ]

    def markdown(self) -> str:
        """Return the table, failures and notes as Markdown."""
        lines = [f"# {self.name}", "", f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
        lines += [f"| {' | '.join(text.replace('|', '&#124;') for text in row.formatted())} |" for row in self.rows]
        lines += ["", *(f"- failed: {line}" for line in self.failures), *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "rows": [_row_json(row) for row in self.rows],
            "rounds": [dict(round_record) for round_record in self.rounds],
            "notes": list(self.notes),
        }


def row_of(task: str, model: str, strategy: str, entries: Sequence[Entry]) -> Row:
    """Build a row from the entries of all seeds."""
    row = Row(task=task, model=model, strategy=strategy, entries=tuple(entries), test=None, gain=None)
    if not row.complete:
        return row
    examples = list(dict.fromkeys(example for entry in row.complete for example in _rewards_by_example(entry)[0]))
    groups = _groups(row, examples)
    chosen, seed = (
        _reward_array([_rewards_by_example(entry)[side] for entry in row.complete], examples) for side in (0, 1)
    )
    kept = all(entry.outcome.result is not None and entry.outcome.result.kept for entry in row.complete)
    return replace(
        row,
        test=crossed_interval(chosen, groups=groups),
        gain=SAME if kept else crossed_interval(chosen, seed, groups=groups),
    )


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows, with the best of each task and model compared with the runner-up on common seeds and examples.

    The best has the largest gain: gains are paired with the seed prompt on the examples of each run, so they are comparable
    even if a budget limited some runs to fewer test examples than others.
    """
    compared_rows: list[Row] = []
    for _, group in groupby(rows, key=lambda row: (row.task, row.model)):
        group_rows = list(group)
        tested = [(row.gain.estimate, -i, row) for i, row in enumerate(group_rows) if row.gain is not None]
        if len(tested) > 1:
            (*_, first), (*_, second) = sorted(tested, key=lambda entry: entry[:2], reverse=True)[:2]
            group_rows = [_leading(first, second) if row is first else row for row in group_rows]
        compared_rows += group_rows
    return tuple(compared_rows)


def unequal_examples(rows: Sequence[Row]) -> list[str]:
    """Return a caveat for each task and model whose runs were tested on different examples."""
    notes = []
    for (task, model), group in groupby(rows, key=lambda row: (row.task, row.model)):
        runs = [frozenset(_rewards_by_example(entry)[0]) for row in group for entry in row.complete]
        if len(set(runs)) > 1:
            counts = sorted(map(len, runs))
            notes.append(
                f"{task}, {model}: the runs were tested on different examples ({counts[0]} to {counts[-1]} of "
                f"{len(frozenset().union(*runs))}), for example because of the budget: compare gains and the lead, which are "
                "paired, not test rewards"
            )
    return notes


def label_biases(rows: Sequence[Row]) -> list[str]:
    """Return a caveat for each task and model with a run whose label bias was tested: the table leaves biases out."""
    notes = []
    for (task, model), group in groupby(rows, key=lambda row: (row.task, row.model)):
        results = [entry.outcome.result for row in group for entry in row.complete]
        if any(result is not None and result.predictor is not None for result in results):
            notes.append(
                f"{task}, {model}: rewards and gains are those of the prompts alone; what a label bias adds is in the "
                "report of each run"
            )
    return notes


def difference(first: Row, second: Row) -> tuple[Interval, int] | None:
    """Return the mean reward of one row minus that of another, paired by seed and test example, and the number of examples.

    Its 95 % interval is over seeds and test examples. None if they have no test example in common.
    """
    second_by_seed = {entry.seed: _rewards_by_example(entry)[0] for entry in second.complete}
    pairs = [
        (_rewards_by_example(entry)[0], second_by_seed[entry.seed])
        for entry in first.complete
        if entry.seed in second_by_seed
    ]
    examples = list(dict.fromkeys(example for mine, other in pairs for example in mine if example in other))
    if not examples:
        return None
    first_rewards, second_rewards = (_reward_array([pair[side] for pair in pairs], examples) for side in (0, 1))
    identical = _prompts(first) == _prompts(second) and np.array_equal(first_rewards, second_rewards, equal_nan=True)
    groups = _groups(first, examples)
    interval = SAME if identical else crossed_interval(first_rewards, second_rewards, groups=groups)
    return interval, len(examples)


def _leading(first: Row, second: Row) -> Row:
    """Return the first row with its lead over the second, on the seeds and examples of both."""
    lead = difference(first, second)
    return first if lead is None else replace(first, lead=lead[0], lead_examples=lead[1])


def _prompts(row: Row) -> dict[int, Prompt]:
    """Return the chosen prompts by seed."""
    return {entry.seed: entry.outcome.result.prompt for entry in row.complete if entry.outcome.result is not None}


def _rewards_by_example(entry: Entry) -> tuple[dict[str, float], dict[str, float]]:
    """Return the rewards of the chosen prompt and of the seed prompt by example; unscored examples are left out."""
    chosen: dict[str, float] = {}
    seed: dict[str, float] = {}
    for outcome in entry.outcome.outcomes:
        for rewards, answer in ((chosen, outcome.chosen), (seed, outcome.seed)):
            if answer.reward is not None:
                rewards[_example_key(outcome)] = answer.reward
    return chosen, seed


def _example_key(outcome: Outcome) -> str:
    return repr((outcome.id, sorted(outcome.inputs.items()), outcome.target))


def _groups(row: Row, examples: Sequence[str]) -> tuple[str, ...] | None:
    """Return the groups of examples, given by their keys; None if they have none."""
    by_key = {_example_key(outcome): outcome for entry in row.complete for outcome in entry.outcome.outcomes}
    return groups_of([by_key[example] for example in examples])


def _reward_array(by_seed: Sequence[Mapping[str, float]], examples: Sequence[str]) -> Floats:
    """Return rewards [seeds, examples]; NaN if a seed has no reward for an example."""
    return np.array([[rewards.get(example, math.nan) for example in examples] for rewards in by_seed], dtype=np.float64)


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "task": row.task,
        "model": row.model,
        "strategy": row.strategy,
        "test": _finite(row.test),
        "gain": _finite(row.gain),
        "less_next": _finite(row.lead),
        "lead_examples": row.lead_examples,
        "best": row.best,
        "calls": row.calls,
        "tokens": row.tokens,
        "dollars": row.dollars,
        "seeds": [_entry_json(entry) for entry in row.entries],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    result = entry.outcome.result
    test = result.test if result is not None and not entry.outcome.reason else None
    return {
        "seed": entry.seed,
        "strategy": entry.strategy,
        "run": entry.run,
        "failed": entry.outcome.reason or None,
        "test": None if test is None else test.chosen.estimate,
        "seed_prompt": None if test is None else test.seed.estimate,
        "gain": None if result is None or result.gain is None or test is None else result.gain.estimate,
        "examples": None if test is None else test.examples,
        "calls": entry.used.calls,
        "tokens": entry.used.tokens,
        "dollars": entry.used.dollars,
        "prompt": None if test is None or result is None else str(result.prompt),
    }


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release", DeprecationWarning, stacklevel=3
    )


def _finite(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [value if math.isfinite(value) else None for value in interval]


def _with_interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    estimate, low, high = (format(value, f"{sign}.3f") for value in interval)
    return f"{estimate} ({low} to {high})"
