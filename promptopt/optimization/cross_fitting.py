"""Claims for small data: the rows are split into folds, and each fold tests a search on the others.

Each fold has a run of its own, and so have all rows together, whose prompt is returned. Their stages are those of `optimize`.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.data.splits import divide_groups, sample_examples, split_folds
from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget
from promptopt.memo.memo import Memo
from promptopt.optimization.api import run_job
from promptopt.optimization.job import prepare, read_budget, read_task
from promptopt.optimization.preflight import check, check_budget, notes_on_leaks
from promptopt.results.cross_fit import CrossFit
from promptopt.rewards import REWARDS_WITH_TARGET
from promptopt.strategies.auto import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import Model
    from promptopt.optimization.job import Job
    from promptopt.prompt import Example
    from promptopt.results.result import Result
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task
    from promptopt.tracking.display import Display

FOLDS = 5
"""Number of folds. The coverage of the interval was simulated for this number (docs/statistics.md)."""

FEWEST_ROWS = 20
FEWEST_GROUPS = 10

_PREDICTOR = "the run on all rows kept a predictor: the interval is that of prompts alone, without label bias"


def cross_fit(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str = AUTO,
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
) -> CrossFit:
    """Search on all rows of a small data set, and claim what such a search gains by testing it on every row.

    All rows of the task, whatever their split, are divided into five folds. For each fold, a search on the other rows finds a prompt, which is
    tested against the seed prompt on the fold, paired. The differences on all rows give one interval: the expected gain of a prompt that this
    search finds on data of this size. A last run, on all rows, finds the prompt that is returned; it has no test of its own.
    A stopped call resumes when it is started again with the same arguments.

    Args:
        task: a task, or the path of a task file, with at least 20 rows. Training and validation examples of each run have the
            proportion of the task's. If examples have groups, no fold and no search divides one, and the interval is that of groups.
        model: as in `optimize`.
        strategy: as in `optimize`.
        writer: as in `optimize`.
        budget: the most to use for all six runs together, in equal parts; required for models that cost money.
        seed: random seed, of the folds too.
        settings: changes to the strategy's settings.
        run_dir: folder in which each run has its folder; None writes nothing.
        memo: as in `optimize`.
        display: as in `optimize`.

    Returns:
        The claim, and the prompt found on all rows.

    Raises:
        InputError: an argument cannot be used, there are too few rows or groups, a group is larger than a fold, the seed prompt shows rows, or the
            budget in calls does not cover all runs. Raised before any model is called.
        PermanentModelError, TransientModelError: a model cannot be used.
    """
    jobs = cross_fit_jobs(task, model, strategy, writer=writer, budget=budget, seed=seed, settings=settings)
    results: list[Result] = []
    with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        for name, job in jobs.items():
            folder = None if run_dir is None else Path(run_dir) / f"{name}-{job.digest[:8]}"
            results.append(run_job(job, run_dir=folder, memo=store, display=display))
            if not results[-1].finished:  # Ctrl-C ends all runs, not one of them
                break
    final = results[FOLDS] if len(results) > FOLDS else None
    whole = jobs["all"].task
    return CrossFit(
        task=whole.name,
        total=len(whole.train) + len(whole.validation),
        count=FOLDS,
        folds=tuple(results[:FOLDS]),
        final=final,
        notes=(_PREDICTOR,) if final is not None and final.predictor is not None else (),
    )


def cross_fit_jobs(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str,
    *,
    writer: Model | str | None,
    budget: Budget | str | None,
    seed: int,
    settings: Mapping[str, Any] | None,
) -> dict[str, Job]:
    """Return the runs of `cross_fit` by name, that on all rows last; the arguments are those of `cross_fit`, and nothing is called yet.

    Raises:
        InputError: as `cross_fit`.
    """
    total = read_budget(budget)
    shared = _share(total)
    parts = fold_tasks(read_task(task), seed)
    jobs = {
        name: prepare(part, model, strategy, writer=writer, budget=shared, seed=seed, settings=settings)
        for name, part in parts.items()
    }
    least = max(job.least_calls for job in jobs.values()) * len(jobs)
    if total.calls is not None and total.calls < least:
        raise InputError(
            f"the budget of {total} is too small for {len(jobs)} runs, which share it equally: they need at least {least:,} calls"
        )
    for job in jobs.values():
        check(job)
        check_budget(job)
    return jobs


def fold_tasks(task: Task, seed: int) -> dict[str, Task]:
    """Return the tasks of the runs by name: for each fold, with the fold as test, and for all rows, without a test.

    Raises:
        InputError: as `cross_fit`.
    """
    rows = (*task.train, *task.validation, *task.test)
    _check_rows(task, rows)
    tasks = {}
    for number, fold in enumerate(_folds(rows, seed), 1):
        name, held_out = f"fold-{number}", {example.id for example in fold}
        searched = [row for row in rows if row.id not in held_out]
        train, validation = _searched(searched, task, seed, name)
        tasks[name] = replace(task, train=train, validation=validation, test=fold)
    train, validation = _searched(rows, task, seed, "all")
    tasks["all"] = replace(task, train=train, validation=validation, test=())
    if any(notes_on_leaks(part, [task.seed_prompt]) for part in tasks.values()):
        raise InputError(
            "the seed prompt shows rows of the data, and each row is tested: remove these demonstrations, or the rows"
        )
    return tasks


def _check_rows(task: Task, rows: Sequence[Example]) -> None:
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"cross-fitting needs at least {FEWEST_ROWS} rows, not {len(rows)}: give more rows")
    unlabelled = next((row for row in rows if row.target is None), None)
    if unlabelled is not None and isinstance(task.reward, REWARDS_WITH_TARGET):
        raise InputError(f"example {unlabelled.id!r} has no label, and each row is tested: label it, or leave it out")


def _folds(rows: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], ...]:
    if not _grouped(rows):
        return split_folds(rows, FOLDS, seed)
    _check_groups(rows)
    return divide_groups(rows, [1 / FOLDS] * FOLDS, seed, "folds")


def _grouped(rows: Sequence[Example]) -> bool:
    return any(row.group is not None for row in rows)


def _check_groups(rows: Sequence[Example]) -> None:
    without = next((row.id for row in rows if row.group is None), None)
    if without is not None:
        raise InputError(f"example {without!r} has no group, but others have one: give each row its group")
    sizes = Counter(row.group for row in rows)
    if len(sizes) < FEWEST_GROUPS:
        raise InputError(
            f"cross-fitting needs rows of at least {FEWEST_GROUPS} groups, not {len(sizes)}: give rows of more groups"
        )
    largest, size = sizes.most_common(1)[0]
    if size * FOLDS > len(rows):
        raise InputError(
            f"group {largest!r} has {size} of {len(rows)} rows, more than a fold of {len(rows) // FOLDS}, and a fold never divides a "
            "group: leave out some of its rows"
        )


def _searched(
    rows: Sequence[Example], task: Task, seed: int, name: str
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide rows into training and validation examples, in the proportion of the task's."""
    share = len(task.train) / (len(task.train) + len(task.validation))
    if _grouped(rows):
        train, validation = divide_groups(rows, (share, 1 - share), seed, f"training of {name}")
        return train, validation
    train = sample_examples(rows, round(share * len(rows)), seed, f"training of {name}")
    ids = {example.id for example in train}
    return train, tuple(row for row in rows if row.id not in ids)


def _share(total: Budget) -> Budget:
    """Return each run's part of a budget."""
    parts = {name: None if limit is None else limit / (FOLDS + 1) for name, limit in asdict(total).items()}
    if parts["calls"] is not None:
        parts["calls"] = max(1, math.floor(parts["calls"]))
    return Budget(**parts)
