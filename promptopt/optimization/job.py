"""A job: all that decides a run, as a value. Nothing is loaded or called yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.data.user_code import import_named
from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget
from promptopt.evaluation.scorer import chooses_labels
from promptopt.models import load_model
from promptopt.models.base import without_batches
from promptopt.models.fake import FunctionModel
from promptopt.optimization.objectives import read_objectives
from promptopt.optimization.reserves import FRONT
from promptopt.optimization.stages import least_calls
from promptopt.program import PredictProgram
from promptopt.replies import TOOL
from promptopt.rewards import Judge
from promptopt.strategies.auto import AUTO, choose
from promptopt.strategies.registry import find_strategy
from promptopt.task import Task
from promptopt.tracking import run_started
from promptopt.tracking.identity import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from promptopt.models.base import Model, Price
    from promptopt.optimization.objectives import Objectives
    from promptopt.strategies.base import Strategy
    from promptopt.tracking import RunStarted

_FIRST_PROPOSAL = 3  # messages that a writer may be sent for one, some of which are rejected
_LONGEST_NAME = 60  # characters of a name in that of a folder: a file system takes 255 bytes


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides a run.

    Args: as of `optimize`, read.
        chosen: which strategy `auto` chose and why; "" if a strategy was given.
        objectives: the objectives and the preference; None for the reward alone.
    """

    task: Task
    model: Model
    writer: Model | None
    strategy: Strategy
    budget: Budget
    seed: int
    chosen: str = ""
    objectives: Objectives | None = None

    @property
    def roles(self) -> dict[str, Model]:
        """The models that the run may ask, by role."""
        roles = {"task": self.model}
        if self.strategy.writes:
            # Without batches: the search needs each of the writer's replies at once.
            roles["writer"] = without_batches(self.writer or self.model)
        if isinstance(self.task.reward, Judge):
            roles["judge"] = self.task.reward.model
        return roles | dict(self.task.models or {})

    @property
    def begun(self) -> RunStarted:
        """What the run is, as callbacks get it."""
        models = {role: model.fingerprint for role, model in self.roles.items()}
        aims = () if self.objectives is None else (*self.objectives.names, self.objectives.prefer)
        return run_started(self.task, self.strategy, models, self.seed, str(self.budget), objectives=aims)

    @property
    def prices(self) -> dict[str, Price | None]:
        """Dollars per million tokens by role, None if unknown; also of code that asks models by itself."""
        prices = {role: model.price for role, model in self.roles.items()}
        if isinstance(self.task.program, PredictProgram):
            prices[TOOL] = self.task.program.price
        return prices

    @cached_property
    def digest(self) -> str:
        """The same for the same run, and for no other."""
        return digest_of([self.begun.name, self.prices])[:32]

    @property
    def folder_name(self) -> str:
        """Return a name for the run's folder: the same for the same run, so that running again goes on in place."""
        return f"{file_word(self.task.name, 'task')}-{self.digest[:8]}"

    @property
    def has_own_writer(self) -> bool:
        """Whether the writer is another model than the task model."""
        return self.writer is not None and self.writer is not self.model

    @property
    def least_calls(self) -> int:
        """The calls below which not even one candidate can be compared with the seed prompt."""
        writing = self.has_own_writer + _FIRST_PROPOSAL if self.strategy.writes else 0
        return least_calls(self.task, len(self.roles.keys() - {"writer"}), writing, self.test_replies, self.tested)

    @property
    def tested(self) -> int:
        """Prompts that the test is reserved for."""
        return 2 if self.objectives is None else FRONT

    @property
    def test_replies(self) -> int:
        """Calls for each prompt and test item: two where both the text and the choice among the labels are tested."""
        return 2 if self.task.read == "text" and chooses_labels(self.task, self.model) else 1

    @property
    def request(self) -> dict[str, Any]:
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
        settings |= {"options": task.request.to_json()} if task.request else {}
        return settings | ({"extra_body": extra} if extra else {})


def prepare(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str,
    *,
    writer: Model | str | None,
    budget: Budget | str | None,
    seed: int,
    settings: Mapping[str, Any] | None,
    objectives: Sequence[str] | str | None = None,
    prefer: str | None = None,
) -> Job:
    """Read what `optimize` is given; nothing is loaded or called yet."""
    task, model, strategy = read_task(task), read_model(model), read_strategy(strategy)
    writer = None if writer is None else read_model(writer)
    chosen = None
    if strategy == AUTO:
        chosen = choose(task, writes=writer is not None or _writes(model))
        strategy, settings = chosen.name, {**chosen.settings, **(settings or {})}
    return Job(
        task=task,
        model=model,
        writer=writer,
        strategy=find_strategy(strategy, settings),
        budget=read_budget(budget),
        seed=seed,
        chosen=str(chosen or ""),
        objectives=read_objectives(objectives, prefer),
    )


def _writes(model: Model) -> bool:
    """Whether a task model is asked to write prompts too, if no writer is given and no strategy is named.

    A function knows only its own inputs, and a local model takes minutes for a message of instructions.
    """
    return not isinstance(model, FunctionModel) and model.unit != "batch"


def file_word(name: str, otherwise: str) -> str:
    """Return a name as a part of the name of a folder; `otherwise` if nothing of it can stay."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:_LONGEST_NAME] or otherwise


def read_strategy(given: Strategy | str, folder: Path | None = None) -> Strategy | str:
    """Return a strategy, or its name; of `module:Class`, which is one of the user's own, the strategy with its default settings.

    Args:
        given: a strategy, a name, or `module:Class`.
        folder: where the file of `module:Class` is looked for; by default the current folder.

    Raises:
        InputError: there is no such class, or it cannot be made without arguments.
    """
    if not isinstance(given, str) or ":" not in given:
        return given
    make: Callable[[], Strategy] = import_named(
        given, folder or Path.cwd(), key="strategy", instead="the name of a strategy, or module:Class"
    )
    try:
        return make()
    except TypeError as error:
        raise InputError(
            f"strategy {given!r} cannot be made without arguments ({error}): give each of its settings a default"
        ) from error


def read_model(given: Model | str) -> Model:
    """Return a model, or the one of that name.

    Raises:
        InputError: it is neither.
    """
    if isinstance(given, str):
        return load_model(given)
    if isinstance(given, type) or not hasattr(given, "fingerprint"):
        raise InputError(
            f"{given!r} is not a model: give a name such as 'openai:gpt-4.1-mini', or a model; a function goes into "
            "FunctionModel(function, name=..., version=...)"
        )
    return given


def read_budget(given: Budget | str | None) -> Budget:
    """Return a budget, or the one that a text states; None is no limit.

    Raises:
        InputError: it is none of these.
    """
    if given is None:
        return Budget()
    if isinstance(given, Budget):
        return given
    if not isinstance(given, str):
        raise InputError(f"a budget is a text such as '500 calls' or '2 dollars', or a Budget, not {given!r}")
    return Budget.parse(given)


def read_task(given: Task | str | Path) -> Task:
    """Return a task, or what its file holds.

    Raises:
        InputError: it is neither, or the file cannot be used.
    """
    if isinstance(given, Task):
        return given
    if not isinstance(given, str | Path):
        raise InputError(f"a task is a Task, or the path of a task file, not {given!r}")
    from promptopt.data.task_file import load_task  # noqa: PLC0415  pydantic, only for task files

    return load_task(Path(given))
