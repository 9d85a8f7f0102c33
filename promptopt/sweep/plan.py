"""From a sweep file to its cells, all checked before anything is spent."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.data.task_file import load_task
from promptopt.errors import InputError
from promptopt.optimization.preflight import check, check_budget
from promptopt.sweep.cells import Cell
from promptopt.tracking.identity import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.evaluation.ledger import Budget
    from promptopt.sweep.spec import SweepSpec, TaskModelSpec
    from promptopt.task import Task

_LONGEST = 40  # characters of one part of a folder's name


class Place(NamedTuple):
    """A task and a model: what strategies are compared on."""

    task: str
    file: Path
    model: TaskModelSpec


@dataclass(frozen=True)
class Plan:
    """What a sweep is to run.

    Args:
        spec: as its file says it.
        places: tasks x models.
        tasks: by their names.
    """

    spec: SweepSpec
    places: tuple[Place, ...]
    tasks: dict[str, Task]

    def cells(self, place: Place, budget: Budget, seed: int, rung: int | None = None) -> list[Cell]:
        """Return one cell for each strategy."""
        return [self._named(place, budget, seed, rung, number) for number in range(len(self.spec.strategy))]

    def cell(self, place: Place, budget: Budget, seed: int, strategy: int) -> Cell:
        """Return the cell of one strategy, by its number, with a test."""
        return self._named(place, budget, seed, None, strategy)

    def _named(self, place: Place, budget: Budget, seed: int, rung: int | None, strategy: int) -> Cell:
        chosen = self.spec.strategy[strategy]
        cell = Cell(
            name="",
            task=place.task,
            file=str(place.file),
            model=place.model,
            strategy=chosen,
            seed=seed,
            budget=budget,
            rung=rung,
        )
        return replace(cell, name=_name(cell, self.tasks[place.task]))


def plan(spec: SweepSpec, file: Path) -> Plan:
    """Read tasks and models, and check every cell.

    Args:
        spec: of the sweep.
        file: that it was read from: paths start from its folder.

    Raises:
        InputError: names the file and what in it cannot work.
    """
    here = file.resolve().parent
    tasks: dict[str, Task] = {}
    places: list[Place] = []
    for path in spec.tasks:
        task = load_task(here / path)
        if task.name in tasks:
            raise InputError(f"{file}: two tasks are called {task.name!r}: give their files different names")
        if spec.portfolio and not task.validation:
            raise InputError(
                f"{file}: a portfolio chooses by validation items, and the task {task.name!r} has none: give it some"
            )
        tasks[task.name] = task
        places += [Place(task.name, (here / path).resolve(), model) for model in spec.model]
    found = Plan(spec, tuple(places), tasks)
    for place in places:
        for cell in found.cells(place, spec.budget, spec.seeds[0]):
            try:
                job = cell.job(tasks[place.task])
                check(job)
                check_budget(job)
            except InputError as error:
                raise InputError(f"{file}: {cell.task}, {cell.model.label}, {cell.strategy.label}: {error}") from error
    return found


def _name(cell: Cell, task: Task) -> str:
    """Return words to know a cell by, and a digest of all that decides its run."""
    digest = digest_of([cell.job(task).digest, cell.rung is None])[:8]
    words = [cell.task, cell.model.name, cell.strategy.label, f"seed-{cell.seed}"]
    words += [] if cell.rung is None else [f"rung-{cell.rung}"]
    return "-".join([*(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-")[:_LONGEST] for word in words), digest])
