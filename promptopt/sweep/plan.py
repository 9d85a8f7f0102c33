"""Turn a sweep file into its runs, and check them all before anything is spent."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.data.task_file import load_task
from promptopt.errors import InputError
from promptopt.optimization.preflight import check, check_budget
from promptopt.sweep.single_run import RunSpec, load_callbacks
from promptopt.tracking.identity import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.evaluation.ledger import Budget
    from promptopt.sweep.spec import SweepSpec, TaskModelSpec
    from promptopt.task import Task

_MAX_NAME_PART = 40  # characters of one part of a folder's name


class TaskModelPair(NamedTuple):
    """A task and a model, on which strategies are compared."""

    task: str
    file: Path
    model: TaskModelSpec


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Args:
        spec: content of the sweep file.
        pairs: tasks x models.
        tasks: tasks by name.
        folder: absolute path of the sweep file's folder.
    """

    spec: SweepSpec
    pairs: tuple[TaskModelPair, ...]
    tasks: dict[str, Task]
    folder: str

    def run_specs(self, pair: TaskModelPair, budget: Budget, seed: int, rung: int | None = None) -> list[RunSpec]:
        """Return one run for each strategy."""
        return [self._run_spec(pair, budget, seed, rung, index) for index in range(len(self.spec.strategy))]

    def run_spec(self, pair: TaskModelPair, budget: Budget, seed: int, strategy: int) -> RunSpec:
        """Return the run of one strategy, by its index, with a test."""
        return self._run_spec(pair, budget, seed, None, strategy)

    def _run_spec(self, pair: TaskModelPair, budget: Budget, seed: int, rung: int | None, strategy: int) -> RunSpec:
        strategy_spec = self.spec.strategy[strategy]
        run_spec = RunSpec(
            name="",
            task=pair.task,
            file=str(pair.file),
            model=pair.model,
            strategy=strategy_spec,
            seed=seed,
            budget=budget,
            folder=self.folder,
            rung=rung,
            callbacks=self.spec.callbacks,
        )
        return replace(run_spec, name=_run_name(run_spec, self.tasks[pair.task]))


def plan_sweep(spec: SweepSpec, file: Path) -> Plan:
    """Load the tasks and models, and check every run.

    Args:
        spec: content of the sweep file.
        file: the sweep file; paths are relative to its folder.

    Raises:
        InputError: a run cannot work; the message names the file and the cause.
    """
    folder = file.resolve().parent
    tasks: dict[str, Task] = {}
    pairs: list[TaskModelPair] = []
    for path in spec.tasks:
        task = load_task(folder / path)
        if task.name in tasks:
            raise InputError(f"{file}: two tasks are named {task.name!r}: rename one of them")
        if spec.portfolio and not task.validation:
            raise InputError(
                f"{file}: a portfolio selects on validation examples, but task {task.name!r} has none: add some"
            )
        tasks[task.name] = task
        pairs += [TaskModelPair(task.name, (folder / path).resolve(), model) for model in spec.model]
    plan = Plan(spec, tuple(pairs), tasks, str(folder))
    _check_callbacks(plan, file)
    for pair in pairs:
        for run_spec in plan.run_specs(pair, spec.budget, spec.seeds[0]):
            try:
                job = run_spec.job(tasks[pair.task])
                check(job)
                check_budget(job)
            except InputError as error:
                raise InputError(
                    f"{file}: {run_spec.task}, {run_spec.model.label}, {run_spec.strategy.label}: {error}"
                ) from error
    return plan


def _check_callbacks(plan: Plan, file: Path) -> None:
    try:
        load_callbacks(plan.spec.callbacks, plan.folder)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _run_name(run_spec: RunSpec, task: Task) -> str:
    """Return a readable name with a digest of everything that determines the run."""
    digest = digest_of([run_spec.job(task).digest, run_spec.rung is None])[:8]
    parts = [run_spec.task, run_spec.model.name, run_spec.strategy.label, f"seed-{run_spec.seed}"]
    parts += [] if run_spec.rung is None else [f"rung-{run_spec.rung}"]
    return "-".join([*(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-")[:_MAX_NAME_PART] for word in parts), digest])
