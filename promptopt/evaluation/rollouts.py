"""Runs episodes: every prompt acts in every instance. All active episodes advance in lock-step, one batch per round.

A model with log-probabilities chooses among the actions if the environment can list them; any other model writes its action.
Knows nothing of rewards or strategies; memo and budget belong to the caller.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptopt.environment import Choosing, Trajectory, Turn
from promptopt.models.base import LabelModel, Request, TokenModel
from promptopt.prompt import Example
from promptopt.replies import Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.environment import Environment
    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Prompt
    from promptopt.replies import Reply
    from promptopt.task import Task

_MAX_TURNS = 1_000  # guards against environments that never end


@dataclass
class _Episode:
    """One episode in progress."""

    environment: Environment
    prompt: Prompt
    replicate: int
    observation: str = ""
    turns: list[Turn] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    outcome: Reply | None = None

    def act(self, reply: Reply) -> None:
        """Apply the model's reply. An exception in the environment fails this episode only."""
        if isinstance(reply, Failure):
            self.outcome = Failure(f"round {len(self.turns) + 1}: {reply.reason}")
            return
        self.usage = Usage(*(total + new for total, new in zip(self.usage, reply.usage, strict=True)))
        try:
            step = self.environment.step(reply.text)
            self.turns.append(Turn(self.observation, reply.text, step.events))
            self.observation = step.observation
            if step.done or reply.truncated_before_text:
                trajectory = Trajectory(tuple(self.turns), self.observation, float(self.environment.score()))
                text = "" if reply.truncated_before_text and len(self.turns) == 1 else str(trajectory)
                self.outcome = Response(
                    text, usage=self.usage, finish_reason=reply.finish_reason, trajectory=trajectory
                )
            elif len(self.turns) == _MAX_TURNS:
                self.outcome = Failure(f"no end after {_MAX_TURNS} rounds: an environment must end its episodes")
        except Exception as error:  # noqa: BLE001  whatever the user's environment raises
            self.outcome = Failure(f"round {len(self.turns) + 1}: the environment raised {error!r}")


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
    episodes = [_start_episode(make, *cell) for cell in cells]
    while active := [episode for episode in episodes if episode.outcome is None]:
        for choices, group in _by_choices(active, model):
            contexts = [_context(task, episode) for episode in group]
            replies = (
                _chosen(model, caller, contexts, choices)
                if choices and isinstance(model, LabelModel)
                else caller.generate("task", model, _requests(task, contexts, group))
            )
            for episode, reply in zip(group, replies, strict=True):
                episode.act(reply)
    return [episode.outcome or Failure("never begun") for episode in episodes]


def most_rounds(examples: Sequence[Example]) -> float:
    """Return the mean of the instances' round limits (`cap`, an integer), or 0 if an instance has none."""
    caps = [json.loads(example.inputs["instance"]).get("cap") for example in examples]
    return sum(caps) / len(caps) if all(isinstance(cap, int) for cap in caps) else 0.0


def _start_episode(make: Callable[[], Environment], prompt: Prompt, example: Example, replicate: int) -> _Episode:
    episode = _Episode(make(), prompt, replicate)
    try:
        episode.observation = episode.environment.reset(json.loads(example.inputs["instance"]), replicate)
    except Exception as error:  # noqa: BLE001  user code may raise anything
        episode.outcome = Failure(f"the environment could not begin {example.id!r}: {error!r}")
    return episode


def _by_choices(active: Sequence[_Episode], model: Model) -> list[tuple[tuple[str, ...], list[_Episode]]]:
    """Group episodes by the actions that the model chooses among; () if it writes its action."""
    groups: dict[tuple[str, ...], list[_Episode]] = defaultdict(list)
    for episode in active:
        environment = episode.environment
        choosing = isinstance(model, LabelModel) and isinstance(environment, Choosing)
        groups[environment.actions() if choosing and isinstance(environment, Choosing) else ()].append(episode)
    return list(groups.items())


def _chosen(model: LabelModel, caller: Caller, contexts: Sequence[Context], choices: tuple[str, ...]) -> list[Reply]:
    """Return the action with the highest mean log-probability per token; sums would favour short actions."""
    lengths = [len(model.pieces(f" {choice}")) if isinstance(model, TokenModel) else 1 for choice in choices]

    def best(reply: Reply) -> Reply:
        if isinstance(reply, Failure) or reply.label_logprobs is None:
            return reply
        means = [value / length for value, length in zip(reply.label_logprobs, lengths, strict=True)]
        return Response(choices[means.index(max(means))], usage=reply.usage)

    return [best(reply) for reply in caller.label_logprobs("task", model, contexts, choices)]


def _requests(task: Task, contexts: Sequence[Context], group: Sequence[_Episode]) -> list[Request]:
    return [
        Request(
            context=context,
            max_tokens=task.max_tokens,
            temperature=task.temperature,
            top_p=task.top_p,
            top_k=task.top_k,
            stop=task.stop,
            replicate=episode.replicate,
        )
        for context, episode in zip(contexts, group, strict=True)
    ]


def _context(task: Task, episode: _Episode) -> Context:
    """Return the request context: the prompt, the last rounds and the current observation."""
    recent = episode.turns[-task.history :] if task.history else []
    rounds = [f"You saw: {turn.observation}\nYou said: {turn.reply}" for turn in recent]
    text = (
        "\n\n".join(["What happened so far:", *rounds, "Now you see:", episode.observation])
        if rounds
        else episode.observation
    )
    return task.layout.render(episode.prompt, Example({"observation": text}, None, ""))
