"""One run of a sweep: described by plain values, run anywhere, kept in a folder of its own.

Knows nothing of other cells, nor of who runs them where.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.data.task_file import load_task
from promptopt.errors import BudgetExhaustedError, InputError, PromptoptError
from promptopt.evaluation.ledger import Budget, Ledger, Spending
from promptopt.models import load_model
from promptopt.optimization.api import run_job
from promptopt.optimization.job import Job, prepare
from promptopt.report import write_report
from promptopt.results.outcomes import FILE as OUTCOMES
from promptopt.results.outcomes import Outcome, read_outcomes, write_outcomes
from promptopt.results.result import FILE as RESULT
from promptopt.results.result import Result
from promptopt.tracking import OptunaStudy
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from promptopt.models.base import Model, Price
    from promptopt.models.usage import Bound
    from promptopt.replies import Usage
    from promptopt.sweep.spec import ModelSpec, StrategySpec, TaskModelSpec
    from promptopt.task import Task

CALLS = "calls.json"
_KEY_DIGITS = 16  # of a memo key; of a million calls, two agree in these once in thirty million sweeps
_MODELS = 4  # kept in a process: weights that one run loaded serve the next


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run, as values that can travel.

    Args:
        name: of its folder; the same for the same run, and for no other.
        task: its task's name, and
        file: the absolute path of its task file.
        model: that prompts are searched for.
        strategy: with its settings.
        seed: of all randomness.
        budget: of the run.
        rung: of a portfolio, on which test items are left out; None for a run with a test.
    """

    name: str
    task: str
    file: str
    model: TaskModelSpec
    strategy: StrategySpec
    seed: int
    budget: Budget
    rung: int | None = None

    def job(self, task: Task | None = None) -> Job:
        """Return what is to be run; nothing is called yet.

        Args:
            task: what `file` holds, where it was read before.
        """
        task = load_task(self.file) if task is None else task
        return prepare(
            task if self.rung is None else replace(task, test=()),
            _model(self.model),
            self.strategy.name,
            writer=None if self.model.writer is None else _model(self.model.writer),
            budget=self.budget,
            seed=self.seed,
            settings=self.strategy.settings,
        )


class Use(NamedTuple):
    """What one call took, at list prices."""

    tokens: int = 0
    dollars: float = 0.0


@dataclass(frozen=True)
class Calls:
    """The calls of one run, each once, in the order of their replies.

    Args:
        uses: what each took, by the beginning of its memo key.
        sure: how many of the first come again in every run that differs by a larger budget alone: those that the search
            made before it was refused any.
    """

    uses: dict[str, Use]
    sure: int

    @property
    def repeated(self) -> dict[str, Use]:
        """Those that come again."""
        return dict(list(self.uses.items())[: self.sure])


def added(uses: Iterable[Use]) -> Spending:
    """Return what calls come to; all tokens count as input."""
    every = list(uses)
    return Spending(len(every), sum(use.tokens for use in every), dollars=sum(use.dollars for use in every))


@dataclass
class Account(Ledger):
    """A ledger that remembers which calls it counted, and which of them came before the search was refused any."""

    uses: dict[str, Use] = field(default_factory=dict)
    sure: int = 0
    refused: bool = False

    def admit(self, role: str, keys: Sequence[str], *, estimate_from_mean: bool = False) -> None:
        """As of a ledger."""
        try:
            super().admit(role, keys, estimate_from_mean=estimate_from_mean)
        except BudgetExhaustedError:
            self.refused = True
            raise

    def reserve(self, role: str, key: str, bound: Bound) -> None:
        """As of a ledger."""
        try:
            super().reserve(role, key, bound)
        except BudgetExhaustedError:
            self.refused = True
            raise

    def record(self, role: str, key: str, usage: Usage, price: Price | None, *, paid: bool, share: float = 1.0) -> None:
        """As of a ledger."""
        super().record(role, key, usage, price, paid=paid, share=share)
        self.uses[key[:_KEY_DIGITS]] = Use(usage.total, 0.0 if price is None else price.of(usage))
        if self.stage in ("start", "search") and not self.refused:
            self.sure = len(self.uses)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a cell.

    Args:
        result: of the run, None where it could not begin.
        outcomes: of its test items.
        reason: why it failed or is unfinished, or "".
        calls: that it made, those of a run that failed left out.
    """

    result: Result | None = None
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""
    calls: Calls = field(default_factory=lambda: Calls({}, 0))


def run_cell(cell: Cell, memo: str, storage: str | Path) -> Ran:
    """Run a cell; what is wrong with it is what comes of it.

    Args:
        cell: to run.
        memo: folder or URL of the memo.
        storage: that it is recorded in: a URL, or the path of an SQLite file.
    """
    account = Account()
    try:
        with closing(OptunaStudy(storage)) as study:
            result = run_job(cell.job(), memo=memo, tracking=False, callbacks=[study], ledger=account)
    except PromptoptError as error:
        return Ran(reason=str(error))
    return Ran(
        result=result,
        outcomes=result.test.outcomes if result.test else (),
        reason=result.unfinished,
        calls=Calls(account.uses, account.sure),
    )


def keep(ran: Ran, folder: Path) -> None:
    """Write what came of a cell; the result comes last, so that where it is, all is."""
    if ran.result is None:
        return
    make_private_folder(folder)
    write_outcomes(ran.outcomes, folder / OUTCOMES)
    calls = {"sure": ran.calls.sure, "calls": [[key, *use] for key, use in ran.calls.uses.items()]}
    write_private(folder / CALLS, json.dumps(calls))
    result = replace(ran.result, run_dir=str(folder))
    write_report(result, folder / "report.md")
    result.save(folder / RESULT)


def read_kept(folder: Path) -> Ran | None:
    """Return what came of a cell that is finished, or None where it is to be run."""
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
    return Ran(result=result, outcomes=outcomes, calls=calls)


def _read_calls(file: Path) -> Calls:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Calls({key: Use(*use) for key, *use in data["calls"]}, data["sure"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} holds no calls of a run ({error!r})") from error


@lru_cache(maxsize=_MODELS)
def _model(spec: ModelSpec) -> Model:
    return load_model(spec.name, base_url=spec.base_url, price=spec.cost, concurrency=spec.concurrency)
