"""Runs episodes: every prompt acts in every instance. An episode is a program, so all advance in lock-step, one batch per round.

A model with log-probabilities chooses among the actions if the environment can list them; any other model writes its action.
Knows nothing of rewards or strategies; memo and budget belong to the caller.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from promptopt.environment import Choosing, Trajectory, Turn
from promptopt.evaluation.driver import PendingCall, ProgramRun, drive
from promptopt.models.base import LabelModel, TokenModel
from promptopt.prompt import Example
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from promptopt.environment import Environment
    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Prompt
    from promptopt.replies import Reply
    from promptopt.task import Task

NO_END = (
    "`step` must return `done=True` at some point; or set the task's max_rounds, after which the score so far counts"
)
"""What to do about an episode that does not end."""

_MAX_ROUNDS = 1_000  # guards against environments that never end, unless the task has a limit


def roll_out(
    task: Task,
    make: Callable[[], Environment],
    model: Model,
    caller: Caller,
    cells: Sequence[tuple[Prompt, Example, int]],
) -> list[Reply]:
    """Run one complete episode for each (prompt, instance, replicate).

    Args:
        task: supplies layout and sampling settings.
        make: returns a new environment.
        model: the model that acts.
        caller: sends requests to the model.
        cells: [N] prompts, instances and replicate numbers.

    Returns:
        [N] responses with the trajectory, its transcript as text and the usage of all rounds; or the failure that ended the
        episode.

    Raises:
        BudgetExhaustedError, PermanentModelError, StoppedError: as for `Caller.generate`. Earlier replies are in the memo.
    """
    chooser = _Chooser(model)
    begun = (ProgramRun(_episode(task, make, chooser, cell), cell[2]) for cell in cells)
    replies = drive(task, model, caller, begun, max_calls=task.max_rounds or _MAX_ROUNDS, resample=False)
    return [replace(reply, trace=()) if isinstance(reply, Response) else reply for reply in replies]


def most_rounds(task: Task, examples: Sequence[Example]) -> float:
    """Return the mean of the instances' round limits, or 0 if an instance has none."""
    limits = [round_limit(json.loads(example.inputs["instance"]), task.max_rounds) for example in examples]
    return sum(filter(None, limits)) / len(limits) if all(limits) else 0.0


def round_limit(instance: Mapping[str, Any], max_rounds: int | None) -> int | None:
    """Return the most rounds of an episode: the instance's `cap`, if it is an integer, or the task's limit; None without either."""
    limits = [limit for limit in (instance.get("cap"), max_rounds) if isinstance(limit, int)]
    return min(limits, default=None)


async def _episode(
    task: Task, make: Callable[[], Environment], chooser: _Chooser, cell: tuple[Prompt, Example, int]
) -> Reply:
    """Play one episode. An exception in the environment fails this episode only."""
    prompt, example, seed = cell
    environment, turns = make(), list[Turn]()
    try:
        observation = environment.reset(json.loads(example.inputs["instance"]), seed)
    except Exception as error:  # noqa: BLE001  user code may raise anything
        return Failure(f"the environment could not begin {example.id!r}: {error!r}")
    limit = task.max_rounds or _MAX_ROUNDS
    while len(turns) < limit:
        choices = chooser.choices(environment)
        context = _context(task, prompt, turns, observation)
        reply: Response = await PendingCall(f"round {len(turns) + 1}", (), context, choices=choices)
        text = chooser.best(reply, choices)
        try:
            step = environment.step(text)
            turns.append(Turn(observation, text, step.events))
            observation = step.observation
            if step.done or reply.truncated_before_text or len(turns) == task.max_rounds:
                trajectory = Trajectory(tuple(turns), observation, float(environment.score()))
                transcript = "" if reply.truncated_before_text and len(turns) == 1 else str(trajectory)
                return Response(transcript, finish_reason=reply.finish_reason, trajectory=trajectory)
        except Exception as error:  # noqa: BLE001  as above
            return Failure(f"round {len(turns) + 1}: the environment raised {error!r}")
    return Failure(f"the episode did not end within {limit:,} rounds: {NO_END}")


class _Chooser:
    """Chooses among the actions that an environment lists, by a model's log-probabilities.

    Args:
        model: the model that acts.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lengths: dict[tuple[str, ...], list[int]] = {}

    def choices(self, environment: Environment) -> tuple[str, ...]:
        """Return the actions that the model chooses among; () if it writes its action."""
        chooses = isinstance(self._model, LabelModel) and isinstance(environment, Choosing)
        return environment.actions() if chooses and isinstance(environment, Choosing) else ()

    def best(self, reply: Response, choices: tuple[str, ...]) -> str:
        """Return the action with the highest mean log-probability per token (sums would favour short actions), or the reply's text."""
        if reply.label_logprobs is None:
            return reply.text
        if choices not in self._lengths:
            model = self._model
            self._lengths[choices] = [
                len(model.pieces(f" {choice}")) if isinstance(model, TokenModel) else 1 for choice in choices
            ]
        pairs = zip(reply.label_logprobs, self._lengths[choices], strict=True)
        means = [value / length for value, length in pairs]
        return choices[means.index(max(means))]


def _context(task: Task, prompt: Prompt, turns: Sequence[Turn], observation: str) -> Context:
    """Return the request context: the prompt, the last rounds and the current observation."""
    recent = turns[-task.history :] if task.history else []
    rounds = [f"You saw: {turn.observation}\nYou said: {turn.reply}" for turn in recent]
    text = "\n\n".join(["What happened so far:", *rounds, "Now you see:", observation]) if rounds else observation
    return task.layout.render(prompt, Example({"observation": text}, None, ""))
