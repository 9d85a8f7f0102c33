"""Events of a run in progress, and their receivers: callbacks, and trackers, which are callbacks that may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from promptopt.errors import InputError
from promptopt.strategies.registry import description_of, name_of
from promptopt.tracking.identity import digest_of, task_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.results.result import Record, Result
    from promptopt.search.archive import Candidate
    from promptopt.search.run import Run
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A run starts; no call was made yet.

    Args:
        name: unique name of the run, determined by task, models, strategy, settings, seed and budget.
        task: name of the task.
        strategy: name and settings of the strategy.
        models: fingerprint of the model in each role.
        seed: random seed.
        budget: budget, such as "500 calls".
        seed_prompt: prompt that the search starts from, as JSON values.
    """

    name: str
    task: str
    strategy: dict[str, Any]
    models: dict[str, dict[str, Any]]
    seed: int
    budget: str
    seed_prompt: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """The strategy finished a step of its search.

    Args:
        number: number of the step, from 0.
        facts: values reported by the strategy.
        candidates: candidates first scored in this step, in order, with their scores so far.
        used: logical usage of all models so far.
    """

    number: int
    facts: dict[str, Any]
    candidates: tuple[Record, ...]
    used: Spending


@dataclass(frozen=True)
class RunFinished:
    """The run ended, complete or not; its files are written."""

    result: Result


Event: TypeAlias = RunStarted | StepFinished | RunFinished
Callback: TypeAlias = Callable[[Event], None]
"""Receives each event. An exception it raises ends the run at once; all replies so far are in the memo."""


class EventEmitter:
    """Emits an event for each finished step of a run, whenever it is called.

    Args:
        record: returns the record of a candidate of a run.
        callbacks: receivers of the events.
    """

    def __init__(self, record: Callable[[Run, Candidate], Record], callbacks: Sequence[Callback]) -> None:
        self._record = record
        self._callbacks = callbacks
        self._steps = 0
        self._reported = 0

    def __call__(self, run: Run) -> None:
        """Emit events for the steps finished since the last call."""
        while self._callbacks and self._steps < len(run.steps):
            unreported = islice(run.archive.values(), self._reported, None)
            candidates = tuple(
                self._record(run, candidate) for candidate in unreported if candidate.step <= self._steps
            )
            event = StepFinished(
                number=self._steps,
                facts=run.steps[self._steps],
                candidates=candidates,
                used=run.ledger.total(run.ledger.logical),
            )
            self._reported += len(candidates)
            self._steps += 1
            for callback in self._callbacks:
                callback(event)


def run_started(
    task: Task,
    strategy: Strategy,
    models: Mapping[str, Mapping[str, Any]],
    seed: int,
    budget: str,
    *,
    objectives: tuple[str, ...] = (),
) -> RunStarted:
    """Return the first event of a run; several objectives make it another run."""
    name = name_of(strategy)
    fingerprints = {role: dict(fingerprint) for role, fingerprint in models.items()}
    digest = digest_of([task_identity(task), name, strategy, fingerprints, seed, budget, *objectives])[:10]
    return RunStarted(
        name=f"{task.name} {name} seed {seed} {digest}",
        task=task.name,
        strategy=description_of(strategy),
        models=fingerprints,
        seed=seed,
        budget=budget,
        seed_prompt=task.seed_prompt.to_json(),
    )


class Tracker:
    """A callback whose failure does not stop the run: it logs one warning and ignores later events."""

    def __init__(self) -> None:
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        self._attempt(partial(self._handle, event))

    def _attempt(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  any database or server error; none should stop the run
            self._failed = True
            _log.warning("%s: tracking stopped, the run continues (%s)", self, first_line(error))

    def _handle(self, event: Event) -> None:
        raise NotImplementedError


def first_line(error: Exception) -> str:
    """Return the first line of an error message; some databases produce pages."""
    cause = error.__cause__ or error  # Optuna's own message is the same for every database error
    return (str(cause) or repr(cause)).splitlines()[0]
