"""The default, `auto`: chooses a strategy by the task, before any model is called."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.program import PredictProgram
from promptopt.rewards import REWARDS_WITH_TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.task import Task

AUTO = "auto"
"""Name under which the task decides the strategy."""

ABOUT = """\
Chooses the strategy by the task, before any model is called.

* `promst` for a task with an environment.
* `components` for a task with a program; without a writer, if the task model is a function or a local model and none is given.
* `hillclimb` for captions, which take no demonstrations.
* `unsupervised` where training examples have no labels and the reward needs them.
* `joint` for everything else: it searches the instruction and the demonstrations together. Where no
  writer is given and the task model is a function or a local model, it searches the demonstrations only; where there are none to
  show either, it is `promptquine`.

The run's first line and a note in its result say which strategy it is and why. The run is the same as with that strategy's
name; so are the settings that it takes."""

_NO_WRITER = "no writer is given, and a function or a local model is not asked to write"


class Chosen(NamedTuple):
    """The name of a strategy, why it was chosen, and its settings."""

    name: str
    reason: str
    settings: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        return f"strategy {AUTO} runs {self.name}: {self.reason}"


def choose(task: Task, *, writes: bool) -> Chosen:
    """Return the strategy for a task.

    Args:
        task: the task.
        writes: whether there is a model that can write prompts.

    Raises:
        InputError: nothing could be searched without a writer.
    """
    unlabelled = [example.id for example in task.train if example.target is None]
    if task.environment is not None:
        return Chosen("promst", "the task has an environment")
    if task.program is not None:
        why = "the task has a program of several prompts"
        if writes:
            return Chosen("components", why)
        if isinstance(task.program, PredictProgram):
            raise InputError(
                "the prompts of code that asks models by itself (predict) need a writer, which proposes others: give --writer "
                "MODEL, or writer= in Python"
            )
        return Chosen("components", f"{why}; {_NO_WRITER}", MappingProxyType({"instructions": 0}))
    if task.format == "caption":
        return Chosen("hillclimb", "captions take no demonstrations")
    if unlabelled and isinstance(task.reward, REWARDS_WITH_TARGET):
        return Chosen("unsupervised", f"training example {unlabelled[0]!r} has no label")
    return _for_most_tasks(shows=len(unlabelled) < len(task.train), writes=writes)


def _for_most_tasks(*, shows: bool, writes: bool) -> Chosen:
    """Return the strategy by whether there are examples to show and a model that writes."""
    if writes and shows:
        return Chosen("joint", "it searches the instruction and the demonstrations together")
    if writes:
        return Chosen("joint", "it searches the instruction; no training example has a target to show")
    if shows:
        return Chosen("joint", f"it searches the demonstrations; {_NO_WRITER}", MappingProxyType({"instructions": 1}))
    return Chosen("promptquine", f"it prunes the prompt; no training example has a target to show, and {_NO_WRITER}")
