"""What every reward promises: a number for any reply, and the same one each time."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING

from promptopt.environment import Trajectory, Turn
from promptopt.evaluation.verdicts import verdict
from promptopt.replies import Response
from promptopt.rewards import Judge
from promptopt.testing.oddities import ODD_TEXTS, untouched_randomness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.environment import Environment
    from promptopt.evaluation.verdicts import Verdict
    from promptopt.prompt import Example
    from promptopt.replies import Finish
    from promptopt.rewards import Reward
    from promptopt.task import Task

_EXAMPLES = 8
_ROUNDS = 3  # of an episode that is not played to its end
_FINISHES: tuple[Finish, ...] = ("length", "refusal")


def check_reward(reward: Reward | Judge, task: Task, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Check what a reward promises, on the first training examples of a task and on replies that nobody expects.

    Args:
        reward: to check.
        task: whose examples the reward can be used with.
        bounds: lowest and highest reward.

    Raises:
        AssertionError: a promise is broken.
        InputError: raised by the reward, because it cannot be used with an example.
    """
    if isinstance(reward, Judge):
        raise AssertionError("a Judge is not a function: check its model, and let people apply its criteria")
    cases = [(example, reply) for example in task.train[:_EXAMPLES] for reply in _replies(task, example)]
    with untouched_randomness("the reward"):
        first = [_value(reward, example, reply, bounds) for example, reply in cases]
        again = [_value(reward, example, reply, bounds) for example, reply in reversed(cases)]
    for (example, reply), value, other in zip(cases, first, again[::-1], strict=True):
        if value != other:
            raise AssertionError(
                f"the reward gives {value}, and later {other}, for example {example.id!r} and the reply {reply.text[:60]!r}: "
                "let it depend on nothing else"
            )


def _value(reward: Reward, example: Example, reply: Response, bounds: tuple[float, float]) -> Verdict:
    before = deepcopy(example)
    try:
        value = verdict(reward, example, reply)
    except Exception as error:
        raise AssertionError(str(error)) from error
    if example != before:
        raise AssertionError(f"the reward changes the example {example.id!r}: leave it as it is")
    if not bounds[0] <= value[0] <= bounds[1] or math.isnan(value[0]):
        raise AssertionError(
            f"the reward gives {value[0]:g} for example {example.id!r} and the reply {reply.text[:60]!r}: keep it between "
            f"{bounds[0]:g} and {bounds[1]:g}, or pass bounds=..."
        )
    return value


def _replies(task: Task, example: Example) -> Iterator[Response]:
    if task.environment is not None:
        for text in ODD_TEXTS:
            trajectory = _episode(task.environment(), json.loads(example.inputs["instance"]), text)
            yield Response(str(trajectory), trajectory=trajectory)
        return
    for text in (example.target or "", *ODD_TEXTS, *task.labels):
        yield Response(text)
    for finish in _FINISHES:
        yield Response("", finish_reason=finish)
    if task.labels:
        even = -math.log(len(task.labels))
        yield Response("", tuple(even for _ in task.labels), labels=task.labels)
        yield Response("", (0.0, *(-math.inf for _ in task.labels[1:])), labels=task.labels)


def _episode(environment: Environment, instance: dict[str, object], text: str) -> Trajectory:
    observation, turns = environment.reset(instance, 0), list[Turn]()
    for step in islice(iter(lambda: environment.step(text), None), _ROUNDS):
        turns.append(Turn(observation, text, step.events))
        observation = step.observation
        if step.done:
            break
    return Trajectory(tuple(turns), observation, environment.score())
