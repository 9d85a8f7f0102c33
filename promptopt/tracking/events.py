"""What is told of a run while it goes, and to whom: callbacks, and trackers, which are callbacks that may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from promptopt.errors import InputError
from promptopt.strategies.registry import settings_of
from promptopt.tracking.identity import digest_of, task_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.results.result import Record, Result
    from promptopt.search.run import Candidate, Run
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run begins; nothing was asked yet.

    Args:
        name: the same for the same run, and for no other: of task, models, strategy, settings, seed and budget.
        task: the task's name.
        strategy: its name and settings.
        models: role -> fingerprint.
        seed: of all randomness.
        budget: in words.
        seed_prompt: where the search starts, as JSON values.
    """

    name: str
    task: str
    strategy: dict[str, Any]
    models: dict[str, dict[str, Any]]
    seed: int
    budget: str
    seed_prompt: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """The strategy ended a step of its search.

    Args:
        number: of the step, from 0.
        facts: what the strategy reported.
        candidates: those first scored in this step, in order, with what was seen of them so far.
        used: by all models so far, logically.
    """

    number: int
    facts: dict[str, Any]
    candidates: tuple[Record, ...]
    used: Spending


@dataclass(frozen=True)
class Ended:
    """The run ended, finished or not; its files are written."""

    result: Result


Event: TypeAlias = Begun | Stepped | Ended
Callback: TypeAlias = Callable[[Event], None]
"""Is told of each event. What it raises ends the run at once; all replies are in the memo by then."""


class Teller:
    """Makes events of what a run does, looking whenever it is called.

    Args:
        run: that is looked at.
        record: of a candidate.
        callbacks: to be told.
    """

    def __init__(self, run: Run, record: Callable[[Candidate], Record], callbacks: Sequence[Callback]) -> None:
        self._run = run
        self._record = record
        self._callbacks = callbacks
        self._steps = 0
        self._told = 0

    def __call__(self) -> None:
        """Tell of the steps that ended since the last call."""
        ledger = self._run.scorer.caller.ledger
        while self._callbacks and self._steps < len(self._run.steps):
            fresh = islice(self._run.history.values(), self._told, None)
            new = tuple(self._record(candidate) for candidate in fresh if candidate.step <= self._steps)
            facts = self._run.steps[self._steps]
            event = Stepped(number=self._steps, facts=facts, candidates=new, used=ledger.total(ledger.logical))
            self._told += len(new)
            self._steps += 1
            for callback in self._callbacks:
                callback(event)


def begun(task: Task, strategy: Strategy, models: Mapping[str, Mapping[str, Any]], seed: int, budget: str) -> Begun:
    """Return the first event of a run."""
    name, settings = type(strategy).__name__, settings_of(strategy)
    fingerprints = {role: dict(fingerprint) for role, fingerprint in models.items()}
    digest = digest_of([task_identity(task), name, strategy, fingerprints, seed, budget])[:10]
    return Begun(
        name=f"{task.name} {name} seed {seed} {digest}",
        task=task.name,
        strategy={"name": name, "settings": settings},
        models=fingerprints,
        seed=seed,
        budget=budget,
        seed_prompt=task.seed_prompt.to_json(),
    )


class Tracker:
    """A callback that is not worth a run: where it fails, it says so once and is silent from then on."""

    def __init__(self) -> None:
        self._off = False

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if self._off:
            return
        try:
            self._take(event)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  of any database or server; none is worth the run
            self._off = True
            _log.warning("%s: not tracked any more, the run goes on (%s)", self, first_line(error))

    def _take(self, event: Event) -> None:
        raise NotImplementedError


def first_line(error: Exception) -> str:
    """Return what an error says first; some databases say pages."""
    cause = error.__cause__ or error  # Optuna's own words are the same for all that a database does not like
    return (str(cause) or repr(cause)).splitlines()[0]
