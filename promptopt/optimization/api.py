"""The loop around a strategy: preflight, search, selection, test, result.

This module selects and tests; the strategy only scores. A run is a pure function of task, models, strategy, seed and
budget, so running it again continues it: all earlier replies are in the memo.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
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
from promptopt.evaluation.caller import Caller, nothing
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.optimization.calibration import fit_predictor
from promptopt.optimization.claim import claim, record, result_of
from promptopt.optimization.fronts import select_front
from promptopt.optimization.job import Job, prepare
from promptopt.optimization.objectives import in_words
from promptopt.optimization.preflight import call_each_model, check, check_budget, fields_not_sent, notes_on, start
from promptopt.optimization.recording import NOT_RECORDED, Recording, record_run
from promptopt.optimization.run_folder import open_folder, save, spare_descriptors
from promptopt.optimization.selection import by_search, select
from promptopt.optimization.signals import stop_on_signals
from promptopt.optimization.stages import Stages
from promptopt.search.archive import Archive
from promptopt.search.run import Run
from promptopt.strategies.auto import AUTO
from promptopt.strategies.registry import name_of, random_numbers
from promptopt.tracking import EventEmitter, RunFinished, study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.calls import Stop
    from promptopt.models.base import Model
    from promptopt.optimization.selection import Choice
    from promptopt.results.outcomes import Comparison
    from promptopt.results.predictor import Predictor
    from promptopt.results.result import Result
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task
    from promptopt.tracking import Callback
    from promptopt.tracking.display import Display

_log = logging.getLogger(__name__)

_RUN_ENDING_ERRORS = (StoppedError, ModelError, RewardError, MemoError)  # the run returns an unfinished result


def optimize(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str = AUTO,
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    objectives: Sequence[str] | str | None = None,
    prefer: str | None = None,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
    tracking: bool | str = True,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
) -> Result:
    """Search for a better prompt, select on validation data, and compare with the seed prompt once on test data.

    A stopped run resumes when started again with the same arguments. Ctrl-C, SIGTERM and SIGHUP end the search and return
    the best prompt so far, marked unfinished; a second Ctrl-C quits immediately. If a callback or a strategy raises, an
    unfinished result is written to `run_dir` before the exception propagates.

    Args:
        task: a task, or the path of a task file.
        model: the model that the prompt is for, or its name such as `openai:gpt-4.1-mini`.
        strategy: a strategy, or its name such as `promptquine.paper`; by default it is chosen by the task.
        writer: the model that writes prompts, for strategies that use one; by default the task model.
        budget: the most to use, over all stages, such as `"500 calls"` or `"2 dollars"`; required for models that cost
            money.
        seed: random seed.
        settings: changes to the strategy's settings.
        objectives: `"reward"` and others, such as `("reward", "tokens")`: "tokens" or "dollars" of a reply and its prompt, or a
            number that the reward returns by name. The result is then a front (docs/objectives.md); by default, the reward alone
            counts.
        prefer: which point of the front is the result's prompt, such as `"tokens, reward >= best - 0.01"`; by default that
            with the highest reward.
        run_dir: folder for `result.json`, `test.jsonl` (the replies to the test examples), `report.md` and, if the run kept a
            predictor, `predictor.json`; None writes nothing.
        memo: where replies are stored: a memo, a folder, or a server's URL; the default is shown by `promptopt memo path`.
        display: shows progress; None is silent.
        tracking: record the run as an Optuna study: in `study.db` in `run_dir` (True), in a storage with this URL, or
            nowhere (False). It does not influence the run.
        callbacks: called when the run starts, after each step of the search, and when the run has ended; an exception from
            a callback ends the run.
        overwrite: overwrite another run's result in `run_dir`. Without it, another run's result is an error; the same run
            resumes in either case.

    Returns:
        The result; check `finished` and `improved` before using its prompt.

    Raises:
        InputError: an argument cannot be used, or `run_dir` holds another run's result. Raised before any model is called,
            except if the first replies are needed to know.
        PermanentModelError, TransientModelError: a model cannot be used at all; later failures end the search instead.
    """
    job = prepare(
        task,
        model,
        strategy,
        writer=writer,
        budget=budget,
        seed=seed,
        settings=settings,
        objectives=objectives,
        prefer=prefer,
    )
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
    stop: Stop | None = None,
    record_dir: str | Path | None = None,
) -> Result:
    """Run a job, as `optimize` does.

    Args:
        job: the parsed arguments of `optimize`.
        run_dir: as in `optimize`.
        memo: as in `optimize`.
        display: as in `optimize`.
        tracking: as in `optimize`.
        callbacks: as in `optimize`.
        ledger: a new ledger, for callers that inspect it afterwards.
        overwrite: as in `optimize`.
        stop: set by the caller to end the search; None sets it on signals.
        record_dir: existing folder for events and replies, for callers that save the result themselves; `run_dir` by default.

    Returns:
        The result.

    Raises:
        InputError, PermanentModelError, TransientModelError: as in `optimize`.
    """
    started = time.monotonic()
    check(job)
    check_budget(job)
    if run_dir is not None:
        open_folder(Path(run_dir), job.begun, job.digest, overwrite=overwrite)
    tracker = study(tracking, run_dir)
    all_callbacks: tuple[Callback, ...] = (tracker, *callbacks) if tracker else tuple(callbacks)

    def save_result(result: Result) -> Result:
        release_descriptors()
        result = replace(
            result,
            seconds=time.monotonic() - started,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            run_dir=str(run_dir or ""),
            digest=job.digest if run_dir else "",
        )
        return result if run_dir is None else save(result, Path(run_dir))

    with (
        display or nullcontext(),
        closing(tracker) if tracker else nullcontext(),
        nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store,
        spare_descriptors() as release_descriptors,
        nullcontext(stop) if stop else stop_on_signals(display) as stopping,
        record_run(job, record_dir or run_dir, stopping) as recording,
    ):
        if job.chosen:
            _log.info("%s", job.chosen)
        if forgotten := fields_not_sent(job.task):
            _log.warning("%s", forgotten)
        try:
            watch = display.refresh if display else nothing
            caller = Caller(store, ledger or Ledger(), stopping, watch=watch)
            result = save_result(run_stages(job, caller, display, (*recording.callbacks, *all_callbacks), recording))
        except CrashedError as crash:
            saved = save_result(crash.result)
            recording.finish(saved)
            if saved.run_dir:
                crash.cause.add_note(f"the unfinished result is in {saved.run_dir}")
            raise crash.cause from crash.cause.__cause__
        recording.finish(result)
        for callback in all_callbacks:
            callback(RunFinished(result))
    return result


class CrashedError(Exception):
    """An unexpected exception ended the run; holds that exception and the unfinished result."""

    def __init__(self, result: Result, cause: Exception) -> None:
        super().__init__(str(cause))
        self.result = result
        self.cause = cause


def run_stages(
    job: Job,
    caller: Caller,
    display: Display | None = None,
    callbacks: Sequence[Callback] = (),
    recording: Recording = NOT_RECORDED,
) -> Result:
    """Run all stages of a job.

    Args:
        job: to run.
        caller: calls the models; its ledger must be new.
        display: shows progress; None is silent. The caller refreshes it after each reply.
        callbacks: called at the start and after each step.
        recording: what is written of the run while it goes on.

    Raises:
        InputError: the budget is too small, or the strategy scored nothing.
        PermanentModelError, TransientModelError: a model cannot be used at all.
        CrashedError: an unexpected exception ended the run; it holds the unfinished result.
    """
    stages = Stages(job.task, job.budget, caller.ledger, job.seed, job.test_replies, job.tested)
    run = _new_run(job, caller, display, callbacks, recording)
    for callback in callbacks:
        callback(job.begun)
    notes = notes_on(job)
    choice: Choice | None = None
    predictor: Predictor | None = None
    test: Comparison | None = None
    crash: Exception | None = None
    unfinished, answered = "", False
    try:
        with stages.start():
            call_each_model(job, run.scorer, stages)
            answered = True
            start(job, run.scorer, stages)
        with stages.search():
            _search(job, run)
        if job.objectives is None:
            choice = select(run, stages, notes)
            predictor = fit_predictor(run, choice)
        else:
            choice = select_front(run, stages, job.objectives, notes)
        test = claim(run, stages, choice, notes, predictor)
    except _RUN_ENDING_ERRORS as error:
        if not answered and not isinstance(error, StoppedError):
            raise
        unfinished = str(error) or type(error).__name__  # a callback may raise a bare StoppedError
    except Exception as error:  # raised by a strategy or a callback: what was found is saved first
        if not run.archive:
            raise
        crash = error
        unfinished = str(error) if isinstance(error, PromptoptError) else f"{type(error).__name__}: {error}"
    notes += stages.notes
    result = result_of(
        job,
        run,
        choice=choice or by_search(run),
        predictor=predictor,
        test=test,
        unfinished=unfinished,
        notes=notes,
    )
    if crash is not None:
        raise CrashedError(result, crash)
    return result


def _new_run(
    job: Job, caller: Caller, display: Display | None, callbacks: Sequence[Callback], recording: Recording
) -> Run:
    """Return a new run that updates the display and emits events."""
    emit_events = EventEmitter(record, callbacks)

    def watch(run: Run) -> None:
        if display is not None:
            display.show(run)
        emit_events(run)

    rng = random_numbers(job.strategy, job.seed)
    scorer = Scorer(job.task, job.model, caller, observe=recording.observe)
    task, archive = job.task, Archive()
    if job.objectives is not None:
        description = " ".join(filter(None, [task.description, in_words(job.objectives)]))
        task, archive = replace(task, description=description), Archive(job.objectives.others)
    run = Run(task, rng, job.seed, scorer, job.roles.get("writer"), watch=watch, archive=archive)
    if display is not None:
        display.follow(run)
    recording.follow(run)
    return run


def _search(job: Job, run: Run) -> None:
    """Run the strategy until it finishes or the budget is exhausted.

    Raises:
        InputError: the strategy scored nothing.
    """
    try:
        job.strategy.search(run)
    except BudgetExhaustedError as error:
        if not run.archive:
            raise InputError(f"the budget of {job.budget} is too small to begin the search: {error}") from error
    if not run.archive:
        raise InputError(f"the strategy {name_of(job.strategy)} scored nothing: its search method must call run.score")
