"""Episodes: every prompt acts in every instance, all live episodes in lock-step, each round one batch.

A model that gives log-probabilities chooses among the actions where the environment can name them; any other writes.
Knows nothing of rewards or strategies; memo and budget are the caller's, call by call.
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
    from promptopt.evaluation.caller import Caller, Reply
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Prompt
    from promptopt.task import Task

_MOST_TURNS = 1_000  # an environment that never ends is a mistake


@dataclass
class _Episode:
    """One episode in progress."""

    environment: Environment
    prompt: Prompt
    replicate: int
    seen: str = ""
    turns: list[Turn] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    over: Reply | None = None

    def act(self, reply: Reply) -> None:
        """Take the model's reply; an error of the environment is a failure of this episode alone."""
        if isinstance(reply, Failure):
            self.over = Failure(f"round {len(self.turns) + 1}: {reply.reason}")
            return
        self.usage = Usage(*(mine + its for mine, its in zip(self.usage, reply.usage, strict=True)))
        try:
            step = self.environment.step(reply.text)
            self.turns.append(Turn(self.seen, reply.text, step.events))
            self.seen = step.observation
            if step.done or reply.truncated_before_text:
                whole = Trajectory(tuple(self.turns), self.seen, float(self.environment.score()))
                text = "" if reply.truncated_before_text and len(self.turns) == 1 else str(whole)
                self.over = Response(text, usage=self.usage, finish_reason=reply.finish_reason, trajectory=whole)
            elif len(self.turns) == _MOST_TURNS:
                self.over = Failure(f"no end after {_MOST_TURNS} rounds: an environment must end its episodes")
        except Exception as error:  # noqa: BLE001  whatever the user's environment raises
            self.over = Failure(f"round {len(self.turns) + 1}: the environment raised {error!r}")


def roll_out(
    task: Task,
    make: Callable[[], Environment],
    model: Model,
    caller: Caller,
    cells: Sequence[tuple[Prompt, Example, int]],
) -> list[Reply]:
    """Play one episode for each (prompt, instance, replicate) to its end.

    Args:
        task: how observations are shown and replies asked for.
        make: a new environment.
        model: that acts.
        caller: the way to it.
        cells: [N].

    Returns:
        [N] responses with a trajectory, whose text is the episode to read and whose usage is that of all rounds; or the
        failure that ended it.

    Raises:
        BudgetExhaustedError, FinalModelError, StoppedError: as `Caller.generate`. What was asked is in the memo.
    """
    episodes = [_begun(make, *cell) for cell in cells]
    while live := [episode for episode in episodes if episode.over is None]:
        for choices, group in _by_choices(live, model):
            contexts = [_context(task, episode) for episode in group]
            replies = (
                _chosen(model, caller, contexts, choices)
                if choices and isinstance(model, LabelModel)
                else caller.generate("task", model, _requests(task, contexts, group))
            )
            for episode, reply in zip(group, replies, strict=True):
                episode.act(reply)
    return [episode.over or Failure("never begun") for episode in episodes]


def most_rounds(examples: Sequence[Example]) -> float:
    """Return the mean of the rounds that the instances allow (`cap`, a whole number), 0 where one does not say."""
    caps = [json.loads(example.inputs["instance"]).get("cap") for example in examples]
    return sum(caps) / len(caps) if all(isinstance(cap, int) for cap in caps) else 0.0


def _begun(make: Callable[[], Environment], prompt: Prompt, example: Example, replicate: int) -> _Episode:
    episode = _Episode(make(), prompt, replicate)
    try:
        episode.seen = episode.environment.reset(json.loads(example.inputs["instance"]), replicate)
    except Exception as error:  # noqa: BLE001  as above
        episode.over = Failure(f"the environment could not begin {example.id!r}: {error!r}")
    return episode


def _by_choices(live: Sequence[_Episode], model: Model) -> list[tuple[tuple[str, ...], list[_Episode]]]:
    """Group episodes by the actions that the model is to choose among; () where it writes."""
    groups: dict[tuple[str, ...], list[_Episode]] = defaultdict(list)
    for episode in live:
        environment = episode.environment
        choosing = isinstance(model, LabelModel) and isinstance(environment, Choosing)
        groups[environment.actions() if choosing and isinstance(environment, Choosing) else ()].append(episode)
    return list(groups.items())


def _chosen(model: LabelModel, caller: Caller, contexts: Sequence[Context], choices: tuple[str, ...]) -> list[Reply]:
    """Return the action of the highest mean log-probability a token: summed, the shortest would always win."""
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
    """Return what the model is shown: the prompt, the last rounds, and what is seen now."""
    recent = episode.turns[-task.history :] if task.history else []
    rounds = [f"You saw: {turn.observation}\nYou said: {turn.reply}" for turn in recent]
    text = "\n\n".join(["What happened so far:", *rounds, "Now you see:", episode.seen]) if rounds else episode.seen
    return task.layout.render(episode.prompt, Example({"observation": text}, None, ""))
