"""Prompts tried by hand on a few examples of a run's task, beside the chosen prompt, through the memo and within a budget."""

from __future__ import annotations

import re
import secrets
import shlex
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from promptopt.errors import InputError, PromptoptError, StoppedError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.optimization.simulation import Overlay, SimulatedCaller
from promptopt.results.outcomes import SAME, answer_of
from promptopt.results.saved import write_json
from promptopt.rewards import Judge
from promptopt.statistics import mean_interval, paired_interval

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from promptopt.prompt import Example, Prompt
    from promptopt.replies import Response
    from promptopt.results.outcomes import Answer
    from promptopt.results.result import Result
    from promptopt.scores import Scores
    from promptopt.statistics import Interval
    from promptopt.view.library import RunEntry
    from promptopt.view.recorded import RecordedRun

KEPT = "kept"
"""Name of the folder, in that of a run, with the prompts that were kept."""

_MOST_RUNS, _MOST_TRIALS = 4, 50  # kept in memory
_ID_BYTES = 12
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True)
class Price:
    """What a trial costs.

    Args:
        calls: calls that will be made.
        known: calls that the memo answers.
        dollars: at list prices, with replies half as long as allowed; None if a price is unknown.
    """

    calls: int
    known: int
    dollars: float | None


@dataclass(frozen=True)
class Findings:
    """What a trial found.

    Args:
        rows: (example, reply to the tried prompt, reply to the chosen prompt).
        tried: mean reward of the tried prompt, with its 95 % interval.
        chosen: the same for the chosen prompt.
        difference: tried minus chosen, paired, with its 95 % interval.
    """

    rows: list[tuple[Example, Answer, Answer]]
    tried: Interval
    chosen: Interval
    difference: Interval


@dataclass
class Trial:
    """A prompt to try.

    Args:
        id: in addresses.
        run_id: of the run.
        recorded: the run.
        prompt: to try.
        chosen: the run's chosen prompt.
        examples: to try it on.
        budget: the most calls to make.
        price: what it will cost; after a stop, what is left.
        stop: set to end it early.
        started: whether it was started.
        stopped: whether it was ended early; it can be started again.
        findings: once it has ended.
        error: why it ended without findings, or "".
        commands: once the prompt is kept, the commands that score it and start from it.
    """

    id: str
    run_id: str
    recorded: RecordedRun
    prompt: Prompt
    chosen: Prompt
    examples: tuple[Example, ...]
    budget: int
    price: Price
    stop: Stop = field(default_factory=Stop)
    started: bool = False
    stopped: bool = False
    findings: Findings | None = None
    error: str = ""
    commands: tuple[str, ...] = ()

    @property
    def affordable(self) -> bool:
        """Whether the budget covers the price."""
        return self.price.calls <= self.budget

    @property
    def waiting(self) -> bool:
        """Whether it goes on."""
        return self.started and self.findings is None and not self.error

    def run(self) -> None:
        """Score both prompts, and set `findings` or `error`; or, if it was stopped, the price of the rest."""
        try:
            self._try()
        except PromptoptError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001  of a reward: shown on the page, which has no other way to end
            self.error = f"{type(error).__name__} in your own code: try the prompt with promptopt score to see where"

    def _try(self) -> None:
        try:
            self.findings = self._found()
        except StoppedError:
            self.price = _price(self.recorded, _distinct(self.prompt, self.chosen), self.examples)
            self.stop, self.stopped, self.started = Stop(), True, False

    def _found(self) -> Findings:
        job = self.recorded.job
        with Memo() as memo:
            caller = Caller(memo, Ledger(Budget(calls=self.budget + self.price.known)), self.stop)
            scores = Scorer(job.task, job.model, caller).score(_distinct(self.prompt, self.chosen), self.examples)
        return _findings(scores)


class Playground:
    """All trials of this server, one at a time.

    Args:
        load: loads task and models of the run in a folder.
    """

    def __init__(self, load: Callable[[Path], RecordedRun]) -> None:
        self._load = load
        self._runs: dict[str, RecordedRun] = {}
        self._trials: dict[str, Trial] = {}
        self._lock = threading.Lock()

    def loaded(self, entry: RunEntry) -> RecordedRun | None:
        """Return a run that was loaded, or None."""
        return self._runs.get(entry.id)

    def load(self, entry: RunEntry, result: Result) -> None:
        """Load task and models of a run.

        Raises:
            InputError: they cannot be loaded, differ from those of the run, or take several calls for an example.
        """
        recorded = self._load(entry.folder)
        if recorded.job.digest != result.digest:
            raise InputError(
                "the task cannot be loaded as it was: data, reward, prices, models or settings have changed since this run"
            )
        if recorded.job.task.takes_several_calls:
            raise InputError(
                "this task takes several calls per example (a program or an environment), which the playground cannot try: use promptopt score"
            )
        _put(self._runs, entry.id, recorded, _MOST_RUNS)

    def trial(
        self, entry: RunEntry, prompt: Prompt, chosen: Prompt, examples: tuple[Example, ...], budget: int
    ) -> Trial:
        """Return a new trial with its price. No model is called.

        Raises:
            InputError: the run is not loaded, or the memo cannot be read.
        """
        recorded = self._runs.get(entry.id)
        if recorded is None:
            raise InputError("the task of this run is not loaded: open the playground again and load it")
        price = _price(recorded, _distinct(prompt, chosen), examples)
        trial = Trial(secrets.token_hex(_ID_BYTES), entry.id, recorded, prompt, chosen, examples, budget, price)
        _put(self._trials, trial.id, trial, _MOST_TRIALS)
        return trial

    def get(self, trial_id: str, entry: RunEntry) -> Trial | None:
        """Return a trial of a run, None if there is none of this id or it was forgotten."""
        trial = self._trials.get(trial_id)
        return trial if trial is not None and trial.run_id == entry.id else None

    def start(self, trial: Trial) -> None:
        """Start a trial in a thread, unless it was started before.

        Raises:
            InputError: it costs more than its budget, or another trial goes on.
        """
        with self._lock:
            if trial.started:
                return
            if not trial.affordable:
                raise InputError(
                    f"this takes {trial.price.calls:,} calls, and the budget is {trial.budget:,}: raise it"
                )
            if any(other.waiting for other in self._trials.values()):
                raise InputError("another prompt is being tried: wait until it ends, or stop it")
            trial.started = True
        threading.Thread(target=trial.run, name="promptopt playground", daemon=True).start()


def keep(trial: Trial, entry: RunEntry, name: str) -> None:
    """Write the prompt of a trial into the folder of its run, and set the commands that use it.

    Raises:
        InputError: the name cannot be used or is taken, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"the name {name!r} cannot be used: take up to 60 letters, digits, '-' and '_'")
    file = entry.folder / KEPT / f"{name}.json"
    if file.exists() or file.parent.is_symlink():
        raise InputError(f"there is a prompt {name!r} already: give another name")
    try:
        write_json(trial.prompt.to_json(), file)
    except OSError as error:
        raise InputError(f"{file} could not be written ({error.strerror or error})") from error
    task_words, start = trial.recorded.task_words, ("--prompt-from", str(file))
    trial.commands = (
        shlex.join(["promptopt", "score", *task_words, *start]),
        shlex.join(["promptopt", "optimize", *task_words, *trial.recorded.search_words, *start]),
    )


def _price(recorded: RecordedRun, prompts: list[Prompt], examples: tuple[Example, ...]) -> Price:
    job = recorded.job
    with Memo() as memo:
        caller = SimulatedCaller(Overlay(memo), Ledger(), labels=job.task.labels)
        judge = isinstance(job.task.reward, Judge)  # which makes calls of its own
        Scorer(job.task, job.model, caller).score(prompts, examples, reward=None if judge else _zero)
    asked, known = (sum(usage[i].calls for usage in caller.needs.values()) for i in range(2))
    unpriced = any(job.prices.get(role) is None for _, role in caller.needs)
    dollars = None if unpriced else sum(usage[0].dollars for usage in caller.needs.values())
    return Price(asked, known, dollars)


def _findings(scores: Scores) -> Findings:
    last = len(scores.prompts) - 1
    rows = [(e, answer_of(scores, 0, i), answer_of(scores, last, i)) for i, e in enumerate(scores.examples)]
    first, second = scores.per_example[0], scores.per_example[last]
    groups = scores.groups
    difference = paired_interval(first, second, clusters=groups) if last else SAME
    return Findings(rows, mean_interval(first, clusters=groups), mean_interval(second, clusters=groups), difference)


def _distinct(prompt: Prompt, chosen: Prompt) -> list[Prompt]:
    return list(dict.fromkeys((prompt, chosen)))


def _zero(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    """Reward simulated replies, which a reward of the user's may not understand."""
    return 0.0


def _put(values: dict[str, T], key: str, value: T, most: int) -> None:
    values[key] = value
    while len(values) > most:
        values.pop(next(iter(values)))
