"""One run of a sweep: its specification, its execution in any process, and its saved outcome.

Independent of the other runs of the sweep and of the pool that executes them.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.data.task_file import load_task
from promptopt.data.user_code import import_named
from promptopt.errors import BudgetExhaustedError, InputError, PromptoptError
from promptopt.evaluation.ledger import Budget, Ledger, Spending
from promptopt.models import load_model
from promptopt.optimization.api import run_job
from promptopt.optimization.job import Job, prepare, read_strategy
from promptopt.report import write_report
from promptopt.results.outcomes import FILE as OUTCOMES
from promptopt.results.outcomes import Outcome, read_outcomes, write_outcomes
from promptopt.results.predictor import write_predictor
from promptopt.results.result import FILE as RESULT
from promptopt.results.result import Result
from promptopt.tracking import OptunaStudy
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.models.base import Model, Price
    from promptopt.models.usage import Bound
    from promptopt.replies import Usage
    from promptopt.sweep.spec import ModelSpec, StrategySpec, TaskModelSpec
    from promptopt.task import Task
    from promptopt.tracking import Callback

CALLS = "calls.json"
_KEY_DIGITS = 16  # of a memo key; with a million calls, a collision occurs once in thirty million sweeps
_CACHED_MODELS = 4  # per process, so that runs share loaded weights


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The specification of one run, as serialisable values.

    Args:
        name: unique name of the run, and of its folder.
        task: name of the task.
        file: absolute path of the task file.
        model: task model, and optionally a writer.
        strategy: strategy with its settings.
        seed: random seed.
        budget: budget of the run.
        folder: absolute path of the sweep file's folder, where files of `module:name` are looked for.
        rung: round of a portfolio, in which test examples are not used; None for a run with a test.
        callbacks: functions to call with each event, as `module:function`.
    """

    name: str
    task: str
    file: str
    model: TaskModelSpec
    strategy: StrategySpec
    seed: int
    budget: Budget
    folder: str = "."
    rung: int | None = None
    callbacks: tuple[str, ...] = ()

    def job(self, task: Task | None = None) -> Job:
        """Prepare the run without calling a model.

        Args:
            task: the task in `file`, if it is already loaded.
        """
        task = load_task(self.file) if task is None else task
        return prepare(
            task if self.rung is None else replace(task, test=()),
            _model(self.model),  # pyright: ignore[reportArgumentType]  frozen, so hashable
            read_strategy(self.strategy.name, Path(self.folder)),
            writer=None if self.model.writer is None else _model(self.model.writer),  # pyright: ignore[reportArgumentType]
            budget=self.budget,
            seed=self.seed,
            settings=self.strategy.settings,
        )


def load_callbacks(names: Sequence[str], folder: str) -> list[Callback]:
    """Import the callbacks of a sweep, in the process in which they are called.

    Raises:
        InputError: there is no such function.
    """
    return [import_named(name, Path(folder), key="callbacks", instead="module:function") for name in names]


class CallUsage(NamedTuple):
    """Tokens and dollars of one call, at list prices."""

    tokens: int = 0
    dollars: float = 0.0


@dataclass(frozen=True)
class Calls:
    """The distinct calls of one run, in the order of their replies.

    Args:
        usage: usage of each call, by the first digits of its memo key.
        repeatable_count: number of leading calls that a run with a larger budget is certain to repeat: those made before
            the budget first refused the search a call.
    """

    usage: dict[str, CallUsage]
    repeatable_count: int

    @property
    def repeatable(self) -> dict[str, CallUsage]:
        """The calls that a run with a larger budget is certain to repeat."""
        return dict(list(self.usage.items())[: self.repeatable_count])


def total_spending(usages: Iterable[CallUsage]) -> Spending:
    """Return the sum over calls. All tokens count as input."""
    calls = list(usages)
    return Spending(len(calls), sum(usage.tokens for usage in calls), dollars=sum(usage.dollars for usage in calls))


@dataclass
class RecordingLedger(Ledger):
    """A ledger that records its calls, and how many came before the search was first refused one."""

    usage: dict[str, CallUsage] = field(default_factory=dict)
    repeatable_count: int = 0
    refused: bool = False

    def affordable(self, keys: Sequence[str]) -> int:
        """See `Ledger`."""
        count = super().affordable(keys)
        self.refused = self.refused or count < len(keys)
        return count

    def admit(self, role: str, keys: Sequence[str], *, estimate_from_mean: bool = False) -> None:
        """See `Ledger`."""
        try:
            super().admit(role, keys, estimate_from_mean=estimate_from_mean)
        except BudgetExhaustedError:
            self.refused = True
            raise

    def reserve(self, role: str, key: str, bound: Bound) -> None:
        """See `Ledger`."""
        try:
            super().reserve(role, key, bound)
        except BudgetExhaustedError:
            self.refused = True
            raise

    def record(self, role: str, key: str, usage: Usage, price: Price | None, *, paid: bool, share: float = 1.0) -> None:
        """See `Ledger`."""
        super().record(role, key, usage, price, paid=paid, share=share)
        self.usage[key[:_KEY_DIGITS]] = CallUsage(usage.total, 0.0 if price is None else price.of(usage))
        if self.stage_name in ("start", "search") and not self.refused:
            self.repeatable_count = len(self.usage)


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """The outcome of one run.

    Args:
        result: result of the run; None if it could not start.
        outcomes: outcomes of its test examples.
        reason: why it failed or is unfinished, or "".
        calls: calls that it made; empty for a failed run.
    """

    result: Result | None = None
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""
    calls: Calls = field(default_factory=lambda: Calls({}, 0))


def execute_run(run_spec: RunSpec, memo: str, storage: str | Path, folder: Path | None) -> RunOutcome:
    """Execute a run. Errors of the package become the reason of the outcome.

    Args:
        run_spec: the run.
        memo: folder or URL of the memo.
        storage: Optuna storage to record the run in: a URL, or the path of an SQLite file.
        folder: folder of the sweep, in which the run writes its events and replies; None to write none.
    """
    ledger = RecordingLedger()
    record_dir = None if folder is None else folder / run_spec.name
    try:
        with closing(OptunaStudy(storage)) as study:
            callbacks: list[Callback] = [study, *load_callbacks(run_spec.callbacks, run_spec.folder)]
            job = run_spec.job()
            if record_dir is not None:
                make_private_folder(record_dir)
            result = run_job(job, memo=memo, tracking=False, callbacks=callbacks, ledger=ledger, record_dir=record_dir)
    except PromptoptError as error:
        return RunOutcome(reason=str(error))
    return RunOutcome(
        result=result,
        outcomes=result.test.outcomes if result.test else (),
        reason=result.unfinished,
        calls=Calls(ledger.usage, ledger.repeatable_count),
    )


def save_outcome(outcome: RunOutcome, folder: Path) -> None:
    """Save the outcome of a run. The result is written last, so its presence means that all files are complete."""
    if outcome.result is None:
        return
    make_private_folder(folder)
    write_outcomes(outcome.outcomes, folder / OUTCOMES)
    calls = {
        "sure": outcome.calls.repeatable_count,
        "calls": [[key, *usage] for key, usage in outcome.calls.usage.items()],
    }
    write_private(folder / CALLS, json.dumps(calls))
    result = replace(outcome.result, run_dir=str(folder))
    write_report(result, folder / "report.md")
    write_predictor(result.predictor, folder)
    result.save(folder / RESULT)


def load_outcome(folder: Path) -> RunOutcome | None:
    """Load the outcome of a finished run; None if it has to be run."""
    if not (folder / RESULT).exists():
        return None
    try:
        result = Result.load(folder / RESULT)
        calls = _read_calls(folder / CALLS)
        outcomes = read_outcomes(folder / OUTCOMES)
    except InputError:
        return None
    if not result.finished:
        return None
    return RunOutcome(result=result, outcomes=outcomes, calls=calls)


def _read_calls(file: Path) -> Calls:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Calls({key: CallUsage(*usage) for key, *usage in data["calls"]}, data["sure"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot read the calls of a run in {file} ({error!r})") from error


@lru_cache(maxsize=_CACHED_MODELS)
def _model(spec: ModelSpec) -> Model:
    return load_model(
        spec.name,
        base_url=spec.base_url,
        price=spec.cost,
        concurrency=spec.concurrency,
        options=spec.options or None,
    )
