"""The figure of each task and model of a sweep: the searches of the strategies, over the seeds that all of them finished."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from promptopt.report.compare import NOT_SCORED
from promptopt.report.curves import best_so_far
from promptopt.report.seed_curves import SeedCurve, joined, seed_curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.report.curves import Point
    from promptopt.sweep.table import Row, Table

_CALL_FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # of the calls of the longest search: where the table under a figure reads it


class Figure(NamedTuple):
    """The searches on a task and model.

    Args:
        task: name of the task.
        model: label of the model.
        seeds: seeds that every strategy of the figure finished.
        strategies: a curve for each strategy.
        calls: calls of the longest search.
        notes: what is not drawn, and why.
    """

    task: str
    model: str
    seeds: tuple[int, ...]
    strategies: tuple[SeedCurve, ...]
    calls: int
    notes: tuple[str, ...]

    @property
    def drawn(self) -> list[SeedCurve]:
        """The curves to draw, equal ones as one."""
        return joined(self.strategies)

    @property
    def description(self) -> str:
        """The figure in words."""
        seeds = ", ".join(map(str, self.seeds))
        over = (
            f"seed {seeds}"
            if len(self.seeds) == 1
            else f"seeds {seeds}: lines are means, bands go from the lowest to the highest"
        )
        return f"Best training reward so far on {self.task} with {self.model}, by calls used; {over}."

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the figure as a table: column headers, and a row of rewards for each strategy."""
        at = sorted({math.ceil(fraction * self.calls) for fraction in _CALL_FRACTIONS})
        headers = ["best training reward after", *(f"{calls:,} calls" for calls in at)]
        return headers, [[curve.name, *(_cell(curve, calls) for calls in at)] for curve in self.strategies]


def figures(table: Table) -> list[Figure]:
    """Return the figures of a sweep, in the order of its tasks and models; those without a curve are left out."""
    groups = groupby(table.rows, key=lambda row: (row.task, row.model))
    made = [_figure(task, model, list(rows)) for (task, model), rows in groups]
    return [figure for figure in made if figure.drawn]


def _figure(task: str, model: str, rows: Sequence[Row]) -> Figure:
    curves = {row.strategy: _curves(row) for row in rows}
    notes = [f"{name} has no finished run, so it is not drawn" for name, by_seed in curves.items() if not by_seed]
    finished = {name: by_seed for name, by_seed in curves.items() if by_seed}
    every = sorted({seed for by_seed in finished.values() for seed in by_seed})
    seeds = [seed for seed in every if all(seed in by_seed for by_seed in finished.values())]
    if seeds != every:
        missing = ", ".join(str(seed) for seed in every if seed not in seeds)
        notes.append(f"not drawn: seed {missing}, which not every strategy finished")
    kept = {name: [by_seed[seed] for seed in seeds] for name, by_seed in finished.items()}
    calls = max((_calls(row, seeds) for row in rows), default=0)
    return Figure(
        task, model, tuple(seeds), tuple(seed_curve(name, kept[name], calls) for name in kept), calls, tuple(notes)
    )


def _curves(row: Row) -> dict[int, list[Point]]:
    """Return the best rewards so far by seed, of finished runs."""
    results = {entry.seed: entry.outcome.result for entry in row.complete}
    return {seed: best_so_far(result.history) for seed, result in results.items() if result is not None}


def _calls(row: Row, seeds: Sequence[int]) -> int:
    """Return the calls by which the longest search of a row scored its last candidate."""
    results = [entry.outcome.result for entry in row.complete if entry.seed in seeds]
    return max((record.calls or 0 for result in results if result for record in result.history), default=0)


def _cell(curve: SeedCurve, calls: int) -> str:
    level = curve.at(calls)
    if level is None:
        return NOT_SCORED
    return f"{level.mean:.3f}" + ("" if level.low == level.high else f" ({level.low:.3f} to {level.high:.3f})")
