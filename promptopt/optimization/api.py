"""The loop around a strategy: preflight, search, selection, test, result.

The loop chooses and claims; the strategy only scores. A run is a pure function of task, models, strategy, seed and
budget, so that running it again continues it: everything that it asked before is in the memo.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import (
    BudgetExhaustedError,
    InputError,
    MemoError,
    ModelError,
    PromptoptError,
    RewardError,
    StoppedError,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.optimization.claim import claim, record, result_of
from promptopt.optimization.job import Job, prepare
from promptopt.optimization.preflight import call_each_model, check, check_budget, notes_on, start
from promptopt.optimization.run_folder import open_folder, save, spare_descriptors
from promptopt.optimization.selection import by_search, select
from promptopt.optimization.signals import stop_on_signals
from promptopt.optimization.stages import Stages
from promptopt.randomness import named_generator
from promptopt.search.run import Run
from promptopt.tracking import Ended, Teller, study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import Model
    from promptopt.optimization.selection import Choice
    from promptopt.results.outcomes import Comparison
    from promptopt.results.result import Result
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task
    from promptopt.tracking import Callback
    from promptopt.tracking.display import Display

_ENDS = (StoppedError, ModelError, RewardError, MemoError)  # what ends a run in good order, unfinished


def optimize(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str = "promptquine",
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
    tracking: bool | str = True,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
) -> Result:
    """Search for a better prompt, choose on validation data, and compare with the seed prompt once on test data.

    Stopped in any way and started again with the same arguments, it goes on where it was. Ctrl-C, SIGTERM and SIGHUP end
    the search and return the best so far, marked unfinished; Ctrl-C again leaves at once. Where a callback or a strategy
    raises, what was found until then is written to `run_dir` as an unfinished result before the exception goes on.

    Args:
        task: a task, or the path of a task file.
        model: the model that the prompt is for, or its name such as `openai:gpt-4.1-mini`.
        strategy: a strategy, or its name such as `promptquine.paper`.
        writer: the model that writes prompts, for strategies that ask one; by default the task model.
        budget: the most to use, over all stages, such as `"500 calls"` or `"2 dollars"`; hosted models need one.
        seed: of all randomness.
        settings: changes to the strategy's settings.
        run_dir: where to write `result.json`, `test.jsonl` (the replies to the test items) and `report.md`; None writes
            nothing.
        memo: where replies are kept: a memo, a folder, or a server's URL; by default as `promptopt memo path` says.
        display: shows progress; None is silent.
        tracking: the run is also an Optuna study: in `study.db` of `run_dir` (True), in a storage with this URL, or nowhere
            (False). It decides nothing.
        callbacks: are told when the run begins, when a step of the search ends, and when the run has ended; what one raises
            ends the run.
        overwrite: write over the result of another run in `run_dir`; without it that is refused, and the same run goes on.

    Returns:
        The result; look at `finished` and `improved` before using its prompt.

    Raises:
        InputError: something given cannot be used, or `run_dir` holds another run's result; said before anything is spent
            where it can be known.
        FinalModelError, PassingModelError: a model cannot be used at all; later failures end the search instead.
    """
    job = prepare(task, model, strategy, writer=writer, budget=budget, seed=seed, settings=settings)
    return run_job(
        job,
        run_dir=run_dir,
        memo=memo,
        display=display,
        tracking=tracking,
        callbacks=callbacks,
        overwrite=overwrite,
    )


def run_job(
    job: Job,
    *,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
    tracking: bool | str = True,
    callbacks: Sequence[Callback] = (),
    ledger: Ledger | None = None,
    overwrite: bool = False,
) -> Result:
    """Do what `optimize` does once its arguments are read.

    Args: as of `optimize`, and
        job: to run.
        ledger: a fresh account, for those who look into it afterwards.

    Raises: as `optimize`.
    """
    started = time.monotonic()
    check(job)
    check_budget(job)
    if run_dir is not None:
        open_folder(Path(run_dir), job.begun, job.digest, overwrite=overwrite)
    tracker = study(tracking, run_dir)
    told: tuple[Callback, ...] = (tracker, *callbacks) if tracker else tuple(callbacks)

    def finished(result: Result) -> Result:
        release()
        result = replace(
            result, seconds=time.monotonic() - started, run_dir=str(run_dir or ""), digest=job.digest if run_dir else ""
        )
        return result if run_dir is None else save(result, Path(run_dir))

    with (
        display or nullcontext(),
        closing(tracker) if tracker else nullcontext(),
        nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store,
        spare_descriptors() as release,
        stop_on_signals(display) as stop,
    ):
        try:
            result = finished(run_stages(job, Caller(store, ledger or Ledger(), stop), display, told))
        except CrashedError as crash:
            saved = finished(crash.result)
            if saved.run_dir:
                crash.cause.add_note(f"what was found until then is in {saved.run_dir}")
            raise crash.cause from crash.cause.__cause__
        for callback in told:
            callback(Ended(result))
    return result


class CrashedError(Exception):
    """Something of the user's, or of ours, raised what nobody expected; carries what was found until then."""

    def __init__(self, result: Result, cause: Exception) -> None:
        super().__init__(str(cause))
        self.result = result
        self.cause = cause


def run_stages(job: Job, caller: Caller, display: Display | None = None, callbacks: Sequence[Callback] = ()) -> Result:
    """Run all stages of a job.

    Args:
        job: to run.
        caller: the way to the models, its ledger fresh.
        display: shows progress; None is silent.
        callbacks: are told of beginning and steps.

    Raises:
        InputError: the budget is too small, or the strategy scored nothing.
        FinalModelError, PassingModelError: a model cannot be used at all.
        CrashedError: something of the user's, or of ours, raised what nobody expected; it holds what was found until then.
    """
    stages = Stages(job.task, job.budget, caller.ledger, job.seed, job.test_replies)
    stages.start()
    run = _run_of(job, caller)
    _watch(run, display, callbacks)
    for callback in callbacks:
        callback(job.begun)
    notes = notes_on(job)
    choice: Choice | None = None
    test: Comparison | None = None
    crash: Exception | None = None
    unfinished, answered = "", False
    try:
        call_each_model(job, run.scorer, stages)
        answered = True
        start(job, run.scorer, stages)
        stages.search()
        _search(job, run)
        choice = select(run, stages, notes)
        test = claim(run, stages, choice, notes)
    except _ENDS as error:
        if not answered and not isinstance(error, StoppedError):
            raise
        unfinished = str(error)
    except Exception as error:  # raised by a strategy or a callback: what was found is saved first
        if not run.history:
            raise
        crash = error
        unfinished = str(error) if isinstance(error, PromptoptError) else f"{type(error).__name__}: {error}"
    notes += stages.notes
    result = result_of(job, run, choice=choice or by_search(run), test=test, unfinished=unfinished, notes=notes)
    if crash is not None:
        raise CrashedError(result, crash)
    return result


def _run_of(job: Job, caller: Caller) -> Run:
    rng = named_generator(job.seed, f"strategy {type(job.strategy).__name__}")
    return Run(job.task, rng, job.seed, Scorer(job.task, job.model, caller), job.roles.get("writer"))


def _watch(run: Run, display: Display | None, callbacks: Sequence[Callback]) -> None:
    """Show the run and tell of it while it goes."""
    tell = Teller(run, lambda candidate: record(run, candidate), callbacks)
    show = (lambda: display.show(run)) if display is not None else None

    def watch() -> None:
        if show is not None:
            show()
        tell()

    if show is not None:
        run.scorer.caller.watch = show
    run.watch = watch


def _search(job: Job, run: Run) -> None:
    """Let the strategy search, until it or the budget ends.

    Raises:
        InputError: it scored nothing.
    """
    try:
        job.strategy.search(run)
    except BudgetExhaustedError as error:
        if not run.history:
            raise InputError(f"the budget of {job.budget} ends before the search can begin: {error}") from error
    if not run.history:
        raise InputError(f"the strategy {type(job.strategy).__name__} scored nothing: it must call run.score")
