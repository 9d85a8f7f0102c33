"""The loop around a strategy: preflight, search, selection, test, result.

The harness chooses and claims; the strategy only scores. A run is a pure function of task, models, strategy, seed and
budget, so that running it again continues it: everything that it asked before is in the memo.
"""

from __future__ import annotations

import math
import platform
import re
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt._version import __version__
from promptopt.data.near_duplicates import near_duplicates
from promptopt.errors import (
    BudgetExhaustedError,
    InputError,
    MemoError,
    ModelError,
    PassingModelError,
    PromptoptError,
    RewardError,
    StoppedError,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer, chooses_labels
from promptopt.memo.memo import Memo
from promptopt.models import load_model
from promptopt.models.base import Request
from promptopt.optimization.run_folder import open_folder, save, spare_descriptors
from promptopt.optimization.selection import Choice, choose, compare, shortlist
from promptopt.optimization.signals import stop_on_signals
from promptopt.optimization.stages import Stages, least_calls, too_small
from promptopt.prompt import Message
from promptopt.randomness import named_generator
from promptopt.replies import Failure, Response
from promptopt.results.result import Record, Result
from promptopt.rewards import MEETS_TARGET, Exact, Judge
from promptopt.search.run import Run
from promptopt.search.writing import rejections
from promptopt.strategies.base import needs_no_labels
from promptopt.strategies.registry import find_strategy, settings_of
from promptopt.task import Task
from promptopt.tracking import Ended, Teller, begun, study
from promptopt.tracking.identity import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import Model
    from promptopt.optimization.selection import Validated
    from promptopt.prompt import Example
    from promptopt.results.outcomes import Comparison
    from promptopt.rewards import Reward
    from promptopt.search.run import Candidate
    from promptopt.strategies.base import Strategy
    from promptopt.tracking import Begun, Callback
    from promptopt.tracking.display import Display

_FAILED_SHARE = 0.01  # above this share of failed replies a run is unfinished (design, decision 4)
_ITEMS_A_LABEL = 5  # answers that stand so often look like labels
_FIRST_PROPOSAL = 3  # messages that a writer may be sent for one, some of which are rejected
_FIRST_CALL = 2.0  # one call says to this factor what the others will take
_ENDS = (StoppedError, ModelError, RewardError, MemoError)  # what ends a run in good order, unfinished
_SHOWN_IDS = 5  # items that a message names
_LONGEST_NAME = 60  # characters of a task's name in that of a folder: a file system takes 255 bytes


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
    job.check()
    job.check_budget()
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
            result = finished(job.run(Caller(store, ledger or Ledger(), stop), display, told))
        except _CrashedError as crash:
            saved = finished(crash.result)
            if saved.run_dir:
                crash.cause.add_note(f"what was found until then is in {saved.run_dir}")
            raise crash.cause from crash.cause.__cause__
        for callback in told:
            callback(Ended(result))
    return result


class _CrashedError(Exception):
    """Something of the user's, or of ours, raised what nobody expected; carries what was found until then."""

    def __init__(self, result: Result, cause: Exception) -> None:
        super().__init__(str(cause))
        self.result = result
        self.cause = cause


def prepare(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str,
    *,
    writer: Model | str | None,
    budget: Budget | str | None,
    seed: int,
    settings: Mapping[str, Any] | None,
) -> Job:
    """Read what `optimize` is given; nothing is loaded or called yet."""
    from promptopt.data.task_file import load_task  # noqa: PLC0415  pydantic, only for task files

    if not isinstance(task, Task | str | Path):
        raise InputError(f"a task is a Task, or the path of a task file, not {task!r}")
    return Job(
        task=task if isinstance(task, Task) else load_task(Path(task)),
        model=_model(model),
        writer=None if writer is None else _model(writer),
        strategy=find_strategy(strategy, settings),
        budget=_budget(budget),
        seed=seed,
    )


def _model(given: Model | str) -> Model:
    if isinstance(given, str):
        return load_model(given)
    if isinstance(given, type) or not hasattr(given, "fingerprint"):
        raise InputError(
            f"{given!r} is no model: give a name such as 'openai:gpt-4.1-mini', or a model; a function goes into "
            "FunctionModel(function, name=..., version=...)"
        )
    return given


def _budget(given: Budget | str | None) -> Budget:
    if given is None:
        return Budget()
    if isinstance(given, Budget):
        return given
    if not isinstance(given, str):
        raise InputError(f"a budget is a text such as '500 calls' or '2 dollars', or a Budget, not {given!r}")
    return Budget.parse(given)


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides a run.

    Args: as of `optimize`, read.
    """

    task: Task
    model: Model
    writer: Model | None
    strategy: Strategy
    budget: Budget
    seed: int

    @property
    def roles(self) -> dict[str, Model]:
        """The models that the run may ask, by role."""
        roles = {"task": self.model}
        if self.strategy.writes:
            roles["writer"] = self.writer or self.model
        if isinstance(self.task.reward, Judge):
            roles["judge"] = self.task.reward.model
        return roles

    @property
    def begun(self) -> Begun:
        """What the run is, as callbacks are told."""
        models = {role: model.fingerprint for role, model in self.roles.items()}
        return begun(self.task, self.strategy, models, self.seed, str(self.budget))

    @cached_property
    def digest(self) -> str:
        """The same for the same run, and for no other."""
        prices = {role: model.price for role, model in self.roles.items()}
        return digest_of([self.begun.name, prices])[:32]

    @property
    def folder_name(self) -> str:
        """Return a name for the run's folder: the same for the same run, so that running again goes on in place."""
        words = re.sub(r"[^\w.+-]+", "-", self.task.name).strip("-.")[:_LONGEST_NAME]
        return f"{words or 'task'}-{self.digest[:8]}"

    def check(self) -> None:
        """Refuse, before anything is spent, what cannot work."""
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"the seed must be a whole number, 0 or more, not {self.seed!r}")
        bare = next((item for item in self.task.train if item.target is None), None)
        if bare and isinstance(self.task.reward, MEETS_TARGET) and not needs_no_labels(self.strategy):
            raise InputError(
                f"training item {bare.id!r} has no label, by which {type(self.strategy).__name__} searches: label the "
                "training items, or take the strategy unsupervised"
            )
        for role, model in self.roles.items():
            if self.budget.dollars is not None and model.price is None:
                raise InputError(
                    f"a budget in dollars needs the price of the {role} model: give --price INPUT,OUTPUT in dollars "
                    "per million tokens, or a budget in calls or tokens"
                )
        if self.budget.calls is not None and self.budget.calls < self.least_calls:
            raise too_small(self.task, self.budget, f"at least {self.least_calls:,} calls")

    @property
    def least_calls(self) -> int:
        """The calls below which not even one candidate can be compared with the seed prompt."""
        apart = self.writer is not None and self.writer is not self.model
        writing = apart + _FIRST_PROPOSAL if self.strategy.writes else 0
        return least_calls(self.task, len(self.roles.keys() - {"writer"}), writing, self._test_replies)

    @property
    def _test_replies(self) -> int:
        """Calls for each prompt and test item: two where both the text and the choice among the labels are tested."""
        return 2 if self.task.read == "text" and chooses_labels(self.task, self.model) else 1

    def check_budget(self) -> None:
        """Refuse to spend money without a limit."""
        for role, model in self.roles.items():
            costs = model.price is None or any(model.price)
            if costs and self.budget == Budget():
                raise InputError(
                    f"the {role} model costs money and there is no budget: give one, such as --budget '500 calls' or "
                    "budget='2 dollars'"
                )

    def run(self, caller: Caller, display: Display | None, callbacks: Sequence[Callback] = ()) -> Result:
        """Run all stages.

        Args:
            caller: the way to the models, its ledger fresh.
            display: shows progress; None is silent.
            callbacks: are told of beginning and steps.
        """
        ledger = caller.ledger
        stages = Stages(self.task, self.budget, ledger, self.seed, self._test_replies)
        stages.start()
        scorer = Scorer(self.task, self.model, caller)
        run = Run(
            self.task,
            named_generator(self.seed, f"strategy {type(self.strategy).__name__}"),
            self.seed,
            scorer,
            self.roles.get("writer"),
        )
        tell = Teller(run, lambda candidate: _record(run, candidate), callbacks)

        def watch() -> None:
            if display is not None:
                display.show(run)
            tell()

        if display is not None:
            caller.watch = lambda: display.show(run)
        run.watch = watch
        if callbacks:
            first = self.begun
            for callback in callbacks:
                callback(first)
        notes = self._notes()
        crashes: list[Exception] = []
        unfinished = self._prepare(scorer, stages)
        if not unfinished:
            stages.search()
            unfinished = self._search(run, crashes)
        choice, test, unfinished = self._choose_and_test(run, stages, unfinished, notes, crashes)
        unfinished = unfinished or self._too_many_failures(run)
        notes += [*stages.notes, *ledger.notes(), *filter(None, [rejections(run.proposed)])]
        notes += [*scorer.silence.notes(self.task.max_tokens), *scorer.tally.notes]
        if caller.halved:
            notes.append(
                f"{len(caller.halved)} replies contained half of a surrogate pair (an emoji cut in two), replaced by U+FFFD"
            )
        result = Result(
            task=self.task.name,
            prompt=choice.prompt,
            seed_prompt=self.task.seed_prompt,
            test=test,
            history=_records(run, choice),
            seed_number=_seed_number(run),
            steps=tuple(run.steps),
            lengths=(run.length(self.task.seed_prompt), run.length(choice.prompt)),
            used=ledger.logical,
            failed=ledger.failed,
            unfinished=unfinished,
            notes=tuple(notes),
            warnings=(scorer.silence.headline,) if scorer.silence.headline else (),
            strategy={"name": type(self.strategy).__name__, "settings": settings_of(self.strategy)},
            prices={role: model.price for role, model in self.roles.items()},
            models={role: dict(model.fingerprint) for role, model in self.roles.items()},
            seed=self.seed,
            budget=str(self.budget),
            request=self._request,
            versions=_versions(),
            paid=ledger.paid,
            seconds=math.nan,
        )
        if crashes:
            raise _CrashedError(result, crashes[0])
        return result

    @property
    def _request(self) -> dict[str, Any]:
        """What is sent beside the prompt, and is needed to do the same elsewhere."""
        task = self.task
        settings: dict[str, Any] = {
            "format": task.format,
            "max_tokens": task.max_tokens,
            "temperature": task.temperature,
        }
        more = {"top_p": (task.top_p, 1), "top_k": (task.top_k, 0), "stop": (list(task.stop), [])}
        extra = self.roles["task"].fingerprint.get("extra_body")
        settings |= {name: value for name, (value, default) in more.items() if value != default}
        return settings | ({"extra_body": extra} if extra else {})

    def _prepare(self, scorer: Scorer, stages: Stages) -> str:
        """Call every model, and the task model with the seed prompt; return why the run ends here already, or ""."""
        try:
            self._preflight(scorer)
        except StoppedError as error:
            return str(error)
        except BudgetExhaustedError as error:
            raise stages.too_small() from error
        stages.check(_FIRST_CALL)
        try:
            scorer.score([self.task.seed_prompt], self.task.train, reward=self._start)
        except _ENDS as error:
            return str(error)
        except BudgetExhaustedError as error:
            raise stages.too_small() from error
        return ""

    @property
    def _start(self) -> Reward | None:
        """The reward of the seed prompt on training items before the search: none is read, and labels may be missing."""
        free = needs_no_labels(self.strategy) and not isinstance(self.task.reward, Judge)
        return _unread if free else None

    def _preflight(self, scorer: Scorer) -> None:
        """One call to each model, each of a kind that the run makes anyway or that costs next to nothing."""
        first = scorer.score([self.task.seed_prompt], self.task.train[:1], reward=self._start).replies[0][0][0]
        if isinstance(first, Response) and first.speechless:
            raise InputError(
                f"the task model's first reply was cut off at {self.task.max_tokens} tokens, before any text: raise the "
                "task's max_tokens (a model that thinks before it answers needs hundreds or thousands)"
            )
        _must_answer("task", first)
        writer = self.roles.get("writer")
        if writer is not None and writer is not self.model:
            hello = Request(context=(Message("user", "Reply with the word ready."),), max_tokens=8)
            _must_answer("writer", *scorer.caller.generate("writer", writer, [hello]))

    def _search(self, run: Run, crashes: list[Exception]) -> str:
        """Let the strategy search; return why the run is unfinished, or "". What nobody expected goes into `crashes`."""
        try:
            self.strategy.search(run)
        except BudgetExhaustedError as error:
            if not run.history:
                raise InputError(f"the budget of {self.budget} ends before the search can begin: {error}") from error
        except _ENDS as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  of strategies and callbacks: what was found until then is saved first
            crashes.append(error)
            return _in_words(error)
        if not run.history:
            raise InputError(f"the strategy {type(self.strategy).__name__} scored nothing: it must call run.score")
        return ""

    def _choose_and_test(
        self, run: Run, stages: Stages, unfinished: str, notes: list[str], crashes: list[Exception]
    ) -> tuple[Choice, Comparison | None, str]:
        """Return the choice, the test where the run came so far, and why it is unfinished, or ""."""
        seed = self.task.seed_prompt
        listed = shortlist(run.history.values(), seed)
        start = run.history.get(seed)
        better = listed and (start is None or listed[0].fitness > start.fitness)
        choice = Choice(listed[0].prompt if better else seed, {})  # what the search says, until validation says more
        if unfinished:
            return choice, None, unfinished
        try:
            if listed:
                choice = self._choose(run, stages, listed, choice, notes)
            return choice, self._test(run, stages, choice, notes), ""
        except _ENDS as error:
            return choice, None, str(error)
        except Exception as error:  # noqa: BLE001  as in `_search`
            crashes.append(error)
            return choice, None, _in_words(error)

    def _choose(
        self, run: Run, stages: Stages, listed: Sequence[Candidate], before: Choice, notes: list[str]
    ) -> Choice:
        """Race the shortlist on validation items, as far as the budget goes."""
        if not self.task.validation:
            notes.append("no validation data: the choice was made by the search's own scores")
            return before
        places, items = stages.validation(len(listed), _cells(run, before))
        try:
            choice = choose(run.scorer, self.task.seed_prompt, listed[:places], items, run.length) if items else None
        except BudgetExhaustedError:
            choice = None
        if choice is None:
            notes.append("the budget ended before validation: the choice was made by the search's own scores")
            return before
        if choice.shorter is not None:
            notes.append(
                f"candidate {run.history[choice.shorter].number} has {run.length(choice.shorter)} tokens in place "
                f"of {run.length(choice.prompt)} and was within one standard error on validation items"
            )
        return choice

    def _test(self, run: Run, stages: Stages, choice: Choice, notes: list[str]) -> Comparison | None:
        """Compare on test items, on as many as the rest of the budget pays for; where the seed prompt is kept, test it alone."""
        if not self.task.test:
            notes.append("no test data: nothing is claimed")
            return None
        seed, found = self.task.seed_prompt, None
        for items in stages.test(1 if choice.prompt == seed else 2, _cells(run, choice)):
            try:
                found = compare(run.scorer, seed, choice.prompt, items)
            except BudgetExhaustedError:
                break
        if found is None:
            notes.append("the budget ended before the test: nothing is claimed")
        return found

    def _notes(self) -> list[str]:
        notes = list(self.task.notes)
        notes += [
            f"the price of the {role} model is not known: what it costs is not counted; --price says it"
            for role, model in self.roles.items()
            if model.price is None
        ]
        items = (*self.task.train, *self.task.validation, *self.task.test)
        told = sorted({item.target for item in items if item.target is not None})
        unseen = [label for label in self.task.labels if label not in told]
        if told and unseen:
            notes.append(f"no item has the label {', '.join(map(repr, unseen))}: nothing is learnt or tested of it")
        if isinstance(self.task.reward, Exact) and 1 < len(told) <= len(items) / _ITEMS_A_LABEL:
            notes.append(
                f"{len(items)} items have {len(told)} answers among them, such as {told[0]!r}: if the model is to choose one of "
                "these, name them as labels"
            )
        pairs = near_duplicates(self.task.train, self.task.validation, self.task.test)
        if pairs:
            first = pairs[0]
            notes.append(
                f"{len(pairs)} near-duplicates stand in two splits, such as {first.first_id} ({first.first_split}) and "
                f"{first.second_id} ({first.second_split}): the test flatters what has seen them"
            )
        return notes

    def _too_many_failures(self, run: Run) -> str:
        ledger = run.scorer.caller.ledger
        failed, calls = ledger.failed, ledger.total(ledger.logical).calls
        if failed > _FAILED_SHARE * calls:
            share = f"{failed} of {calls} replies failed, more than {_FAILED_SHARE:.0%}"
            first = run.scorer.first_failure  # none where only the writer's replies failed
            refused = sorted(run.scorer.refused)
            advice = (
                f"; leave out items that the endpoint refuses: {', '.join(refused[:_SHOWN_IDS])}" if refused else ""
            )
            return f"{share}{advice}; run again to ask for them again{first and f'. The first was {first}'}"
        # A judge's verdict may hold no score although it came.
        empty = sum(candidate.failed for candidate in run.history.values())
        cells = empty + sum(candidate.cells for candidate in run.history.values())
        if empty > _FAILED_SHARE * cells:
            return (
                f"{empty} of {cells} replies have no score, more than {_FAILED_SHARE:.0%}; look at what the judge says"
            )
        return ""


def _unread(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    return 0.0


def _must_answer(role: str, reply: Response | Failure) -> None:
    if isinstance(reply, Failure):
        raise PassingModelError(f"the first call to the {role} model failed: {reply.reason}")


def _cells(run: Run, choice: Choice) -> int:
    """Return how many cells were measured: by the search, and by the choice."""
    return sum(c.cells + c.failed for c in run.history.values()) + sum(v.examples for v in choice.validated.values())


def _records(run: Run, choice: Choice) -> tuple[Record, ...]:
    return tuple(_record(run, c, choice.validated.get(c.prompt)) for c in run.history.values())


def _record(run: Run, candidate: Candidate, seen: Validated | None = None) -> Record:
    return Record(
        number=candidate.number,
        prompt=candidate.prompt,
        length=run.length(candidate.prompt),
        parent=candidate.parent,
        step=candidate.step,
        fitness=_number(candidate.fitness),
        reward=_number(candidate.reward),
        cells=candidate.cells,
        failed=candidate.failed,
        validation=_number(seen.mean) if seen else None,
        validated=seen.examples if seen else 0,
        calls=candidate.calls,
        dollars=candidate.dollars,
    )


def _seed_number(run: Run) -> int | None:
    candidate = run.history.get(run.task.seed_prompt)
    return candidate.number if candidate else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _versions() -> dict[str, str]:
    out = {"promptopt": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "transformers"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # torch and transformers are optional
            continue
    return out


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, PromptoptError) else f"{type(error).__name__}: {error}"
