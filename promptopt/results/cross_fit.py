"""The outcome of a cross-fitted claim. As a value, as a table and as JSON.

Knows nothing of how it was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.results.outcomes import SAME
from promptopt.scores import groups_of
from promptopt.statistics import cross_fitted_interval
from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from promptopt.prompt import Prompt
    from promptopt.results.result import Result
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats

HEADS = ("fold", "rows", "seed prompt", "chosen prompt", "gain", "choice")
"""Column headings of `CrossFit.rows`: mean rewards on the rows of each fold, then on all."""

_UNTESTED = "no test data: nothing is claimed"  # of the run on all rows: the claim is the cross-fitted one


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """The outcome of `cross_fit`.

    Args:
        task: the task's name.
        total: number of rows in all folds.
        count: number of folds.
        folds: for each fold, the run on the other rows, tested on the fold. If one is unfinished, those after it are missing.
        final: the run on all rows, which has no test; None if it was not reached.
        notes: remarks on the numbers.
    """

    task: str
    total: int
    count: int
    folds: tuple[Result, ...]
    final: Result | None
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether each run has its result."""
        return self.final is not None and self.final.finished and all(fold.finished for fold in self.folds)

    @property
    def prompt(self) -> Prompt | None:
        """The prompt found on all rows; None if its run was not reached. The interval of the gain is not that of this prompt."""
        return None if self.final is None else self.final.prompt

    @property
    def gain(self) -> Interval | None:
        """Expected gain of a prompt that this search finds on data of this size, with its 95 % interval; None if unfinished.

        Exactly 0 if the seed prompt was kept in each fold.
        """
        if not self.finished:
            return None
        if all(fold.kept for fold in self.folds):
            return SAME
        seed, chosen = self._rewards.T
        return cross_fitted_interval(chosen, seed, self.count, self._groups)

    @property
    def improved(self) -> bool:
        """Whether the interval of the gain is entirely above 0."""
        return self.gain is not None and self.gain.low > 0

    @property
    def tested(self) -> int:
        """Number of rows with replies to both prompts."""
        return int((~np.isnan(self._rewards).any(axis=1)).sum())

    @property
    def _rewards(self) -> Floats:
        """Test rewards [E, 2] of the seed prompt and of each fold's chosen prompt; NaN where a reply failed."""
        return np.concatenate([np.empty((0, 2)), *map(_test_rewards, self.folds)])

    @property
    def _groups(self) -> tuple[str, ...] | None:
        """The groups of the test rows [E]; None if rows are independent."""
        return groups_of([outcome for fold in self.folds if fold.test for outcome in fold.test.outcomes])

    @property
    def tested_groups(self) -> int | None:
        """Number of groups of the test rows; None if rows are independent."""
        return None if self._groups is None else len(set(self._groups))

    @property
    def headline(self) -> str:
        """The outcome in a few sentences."""
        gain = self.gain
        if gain is None:
            reason = next((run.unfinished for run in self._runs.values() if not run.finished), "not all runs were made")
            return f"Unfinished ({reason}): nothing is claimed."
        if gain == SAME:
            return f"No improvement found: the search kept your prompt in each of {self.count} folds. {self._returned}"
        rows = (
            f"{self.tested} rows"
            if self.tested_groups is None
            else f"{self.tested} rows in {self.tested_groups} groups"
        )
        span = (
            f"{gain.estimate:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}, {rows}, cross-fitted"
            f" in {self.count} folds"
        )
        if not self.improved:
            return f"No improvement shown: on this much data, the search may find nothing better ({span}). {self._returned}"
        seed, chosen = self._means
        return (
            f"On this much data, the search finds better prompts than the seed prompt: {seed:.3f} -> {chosen:.3f} ({span}). "
            f"{self._returned}"
        )

    @property
    def _returned(self) -> str:
        if self.final is None or self.final.kept:
            return "On all rows, it kept your prompt."
        return "The prompt below was found on all rows, and was not tested itself: the interval is that of the search."

    @property
    def _means(self) -> tuple[float, float]:
        rewards = self._rewards
        seed, chosen = rewards[~np.isnan(rewards).any(axis=1)].mean(axis=0).tolist()
        return seed, chosen

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, as rows under `HEADS`: a row for each fold, and the last for all rows."""
        folds: list[tuple[str, ...]] = [
            (
                f"{number}",
                f"{fold.test.examples}",
                *_numbers(fold.test.seed.estimate, fold.test.chosen.estimate),
                _choice(fold),
            )
            for number, fold in enumerate(self.folds, 1)
            if fold.test is not None
        ]
        if self.gain is None or self.final is None:
            return folds
        return [*folds, ("all", f"{self.tested}", *_numbers(*self._means), _choice(self.final))]

    @property
    def all_notes(self) -> list[str]:
        """The notes of all runs; one that several runs share is there once, without the name of a run."""
        noted = [(name, note) for name, run in self._runs.items() for note in (*run.warnings, *run.notes)]
        runs_with = Counter(note for _, note in noted)
        named = [note if runs_with[note] > 1 else f"{name}: {note}" for name, note in noted if note != _UNTESTED]
        return list(dict.fromkeys([*self.notes, *named]))

    @property
    def _runs(self) -> dict[str, Result]:
        folds = {f"fold {number}": fold for number, fold in enumerate(self.folds, 1)}
        return folds if self.final is None else folds | {"all rows": self.final}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinities become null."""
        gain = self.gain
        return {
            "task": self.task,
            "rows": self.total,
            "tested": self.tested,
            "groups": self.tested_groups,
            "finished": self.finished,
            "improved": self.improved,
            "headline": self.headline,
            "gain": None if gain is None else [value if math.isfinite(value) else None for value in gain],
            "prompt": None if self.prompt is None else self.prompt.to_json(),
            "folds": [
                {"run_dir": fold.run_dir, "kept": fold.kept, "prompt": fold.prompt.to_json(), "rows": _rows_of(fold)}
                for fold in self.folds
            ],
            "run_dir": "" if self.final is None else self.final.run_dir,
            "notes": self.all_notes,
        }

    def __str__(self) -> str:
        table = [HEADS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return printable("\n".join([*lines, "", self.headline, *(f"note: {note}" for note in self.all_notes)]))


def _test_rewards(fold: Result) -> Floats:
    outcomes = fold.test.outcomes if fold.test else ()
    pairs = [(outcome.seed.reward, outcome.chosen.reward) for outcome in outcomes]
    return np.array([[math.nan if reward is None else reward for reward in pair] for pair in pairs]).reshape(-1, 2)


def _rows_of(fold: Result) -> int:
    return 0 if fold.test is None else fold.test.examples


def _numbers(seed: float, chosen: float) -> tuple[str, str, str]:
    return f"{seed:.3f}", f"{chosen:.3f}", f"{chosen - seed:+.3f}"


def _choice(result: Result) -> str:
    record = result.chosen_record
    return "seed prompt kept" if result.kept else f"candidate {record.number}" if record else "chosen prompt"
