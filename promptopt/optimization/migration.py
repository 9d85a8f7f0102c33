"""Move a prompt to other models: the old prompt and the old run's best candidates, on each new model.

Each new model gets a run of its own, whose seed prompt is the old prompt. Its stages (start, choice, test) are those of `optimize`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import InputError
from promptopt.memo.memo import Memo
from promptopt.optimization.api import run_job
from promptopt.optimization.gate import fitting_prompt
from promptopt.optimization.job import file_word, prepare, read_model, read_task
from promptopt.optimization.preflight import check, check_budget, notes_on_leaks
from promptopt.optimization.recorded_test import matched
from promptopt.prompt import Prompts
from promptopt.results.migration import Migration, Move
from promptopt.results.outcomes import FILE, read_outcomes
from promptopt.results.result import Result
from promptopt.results.saved import folder_of
from promptopt.scores import groups_of
from promptopt.search.archive import well_measured
from promptopt.statistics import paired_interval
from promptopt.strategies.auto import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.ledger import Budget
    from promptopt.models.base import Model
    from promptopt.optimization.job import Job
    from promptopt.prompt import Prompt
    from promptopt.results.outcomes import Outcome
    from promptopt.results.result import Record
    from promptopt.search.run import Run
    from promptopt.statistics import Interval
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task
    from promptopt.tracking.display import Display

DEFAULT_CANDIDATES = 8


@dataclass(frozen=True, kw_only=True)
class KnownCandidates:
    """Scores prompts that are known, and may then search on from the best.

    Args:
        prompts: to score.
        then: the search that goes on; None for none.
        programs: whether the prompts are those of a program.
    """

    name = "migrate"

    prompts: tuple[Prompt, ...]
    then: Strategy | None = None
    programs: bool = False

    @property
    def writes(self) -> bool:
        """Whether the search that goes on uses a writer."""
        return self.then is not None and self.then.writes

    def search(self, run: Run) -> None:
        """Score the seed prompt and the known prompts on all training examples."""
        prompts = [run.task.seed_prompt, *self.prompts]
        scores = run.score(prompts)
        run.step(best=float(np.fmax.reduce(scores.mean)), known=len(prompts))
        if self.then is not None:
            best = run.archive.ranked(prompts)[0].prompt
            self.then.search(replace(run, task=replace(run.task, seed_prompt=best)))


def migrate(
    run: Result | str | Path,
    models: Sequence[Model | str],
    task: Task | str | Path,
    *,
    candidates: int = DEFAULT_CANDIDATES,
    budget: Budget | str | None = None,
    search: Budget | str | None = None,
    strategy: Strategy | str = AUTO,
    writer: Model | str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
) -> Migration:
    """Move the prompt that a run found to other models, by measuring what the run knows already.

    On each new model, the old prompt (the run's chosen one) and the run's best other candidates are scored on training and validation
    items; one is chosen by the rule of `optimize`, and tested once against the old prompt, paired, on test items. There is no
    search, unless `search` asks for one: it then starts from the best of these prompts, and the test is still against the old prompt.
    A stopped migration resumes when it is started again with the same arguments.

    Args:
        run: a result, or the folder of a run.
        models: the new models, or their names.
        task: the run's task, or the path of its file.
        candidates: how many of the run's candidates to measure beside the old prompt: its seed prompt, and the best by its training and
            validation items together.
        budget: the most to use for each new model; required for models that cost money.
        search: as `budget`, for the candidates and a search; by default there is no search.
        strategy: of the search, as in `optimize`.
        writer: of the search, as in `optimize`.
        settings: changes to the strategy's settings.
        seed: random seed.
        run_dir: folder in which each new model has the folder of its run; None writes nothing.
        memo: as in `optimize`.
        display: as in `optimize`.

    Returns:
        The measured pairs of prompt and model, and what was chosen for each model.

    Raises:
        InputError: an argument cannot be used, or a prompt of the run does not fit the task. Raised before any model is called.
        PermanentModelError, TransientModelError: a model cannot be used.
    """
    old = run if isinstance(run, Result) else Result.load(run)
    jobs = migration_jobs(
        old,
        models,
        task,
        candidates=candidates,
        budget=budget,
        search=search,
        strategy=strategy,
        writer=writer,
        settings=settings,
        seed=seed,
    )
    for job in jobs:
        check(job)
        check_budget(job)
    recorded = _recorded(run, old)
    matching = _matching(jobs[0].task, recorded, old)
    moves: list[Move] = []
    with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        for name, job in zip(_names(models), jobs, strict=True):
            folder = None if run_dir is None else Path(run_dir) / f"{file_word(name, 'model')}-{job.digest[:8]}"
            result = run_job(job, run_dir=folder, memo=store, display=display)
            moves.append(Move(model=name, result=result, over_model=_over_model(result, matching)))
            if not result.finished:  # Ctrl-C ends the migration, not one run of it
                break
    return Migration(
        task=jobs[0].task.name,
        old_model=str(old.models.get("task", {}).get("model", "the old model")),
        recorded=old.test,
        moves=tuple(moves),
        models=len(jobs),
        candidates=len(_best(old, candidates)),
        notes=() if matching or old.test is None else (_NO_RECORD,),
    )


_NO_RECORD = "none of the old run's test items is in this test: its recorded rewards are of other items"


def migration_jobs(
    old: Result,
    models: Sequence[Model | str],
    task: Task | str | Path,
    *,
    candidates: int,
    budget: Budget | str | None,
    search: Budget | str | None,
    strategy: Strategy | str,
    writer: Model | str | None,
    settings: Mapping[str, Any] | None,
    seed: int,
) -> list[Job]:
    """Return the run of each new model; the arguments are those of `migrate`, and nothing is called yet.

    Raises:
        InputError: as `migrate`.
    """
    if search is None and (strategy != AUTO or writer is not None or settings):
        raise InputError(
            "a strategy, its settings and a writer are for a search: give its budget too (--search, search=)"
        )
    if search is not None and budget is not None:
        raise InputError("the budget of a search covers the candidates too: give search alone, not budget")
    if not models or isinstance(models, str):
        raise InputError(f"the new models must be several, or one in a list, not {models!r}")
    names = _names(models)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"the model {repeated!r} is named twice: name each new model once")
    task = read_task(task)
    prompts = [fitting_prompt(prompt, "old", task) for prompt in (old.prompt, *_best(old, candidates))]
    task = replace(task, seed_prompt=prompts[0], notes=(*task.notes, *notes_on_leaks(task, prompts)))
    known = KnownCandidates(prompts=tuple(prompts[1:]), programs=isinstance(prompts[0], Prompts))
    jobs = []
    for model in models:
        job = prepare(
            task,
            model,
            known if search is None else strategy,
            writer=writer,
            budget=budget if search is None else search,
            seed=seed,
            settings=settings,
        )
        jobs.append(job if search is None else replace(job, strategy=replace(known, then=job.strategy)))
    return jobs


def _best(old: Result, count: int) -> list[Prompt]:
    """Return a run's best candidates other than its chosen prompt, best first, after its seed prompt.

    Raises:
        InputError: the count is below 1, or there are none.
    """
    if count < 1:
        raise InputError(f"the number of candidates must be at least 1, not {count}")
    measured = well_measured(record for record in old.history if record.reward is not None)
    ranked = sorted(measured, key=lambda record: (-_together(record), record.number))
    prompts = dict.fromkeys([old.seed_prompt, *(record.prompt for record in ranked)])
    others = [prompt for prompt in prompts if prompt != old.prompt]
    if not others:
        raise InputError("the run scored no other prompt than the chosen one: use `promptopt score` on the new models")
    return others[:count]


def _together(record: Record) -> float:
    """Return the mean reward on training and validation items together."""
    validated = 0 if record.validation is None else record.validated
    total = (record.reward or 0.0) * record.cells + (record.validation or 0.0) * validated
    return total / (record.cells + validated) if record.cells + validated else -math.inf


def _names(models: Sequence[Model | str]) -> list[str]:
    return [m if isinstance(m, str) else str(read_model(m).fingerprint.get("model", m)) for m in models]


def _recorded(run: Result | str | Path, old: Result) -> tuple[Outcome, ...]:
    """Return the test replies of the old run; () if it has none."""
    if old.test is not None and old.test.outcomes:
        return old.test.outcomes
    folder = Path(old.run_dir or ".") if isinstance(run, Result) else folder_of(run)
    return read_outcomes(folder / FILE) if old.test is not None else ()


def _matching(task: Task, recorded: Sequence[Outcome], old: Result) -> dict[str, float]:
    """Return {id of a test example: what the old prompt earned for it on the old model}, for the items that are the same."""
    tested = replace(task, train=task.test, validation=(), test=()) if task.test else None
    if tested is None or not recorded:
        return {}
    try:
        pairs = matched(tested, recorded, old.task)
    except InputError:  # none is the same
        return {}
    rewards = {example.id: outcome.chosen.reward for example, outcome in pairs.items()}
    return {name: reward for name, reward in rewards.items() if reward is not None}


def _over_model(result: Result, recorded: Mapping[str, float]) -> tuple[Interval, Interval] | None:
    """Return the rewards of the old and the chosen prompt minus the recorded ones, paired by item."""
    outcomes = [o for o in result.test.outcomes if o.id in recorded] if result.test else []
    if not outcomes:
        return None
    before = np.array([recorded[o.id] for o in outcomes])
    sides = [[answer.reward for answer in side] for side in zip(*((o.seed, o.chosen) for o in outcomes), strict=True)]
    first, second = (np.array([math.nan if reward is None else reward for reward in side]) for side in sides)
    groups = groups_of(outcomes)
    return paired_interval(first, before, clusters=groups), paired_interval(second, before, clusters=groups)
