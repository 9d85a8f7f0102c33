"""One prompt of a program as a task of its own, the others held. Depends on the search only through `Run`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError
from promptopt.evaluation.scorer import Scorer
from promptopt.prompt import Example
from promptopt.replies import Call, Response
from promptopt.scores import Scores
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.prompt import Prompt, Prompts
    from promptopt.replies import Reply
    from promptopt.rewards import Judge, Reward
    from promptopt.search.run import Run


def component_task(run: Run, held: Prompts, name: str) -> Task:
    """Return one prompt's task: its examples hold the fields that the program filled in under the held prompts.

    Targets stay where the reply to this prompt is always the program's answer. Elsewhere they say nothing of what it should be: there the
    prompt's own reply is the target on examples with the highest reward, and the others have none. None has one if the program gives its
    prompts to other code, which takes no demonstrations.

    Raises:
        InputError: there is no such prompt, or the program never asks it.
    """
    seed = held[name]
    calls = _first_calls(run, held, name)
    if not calls:
        raise InputError(f"the program asks the prompt {name!r} on no training example: there is nothing to search")
    examples = tuple(Example(dict(calls[id_].inputs), target, id_) for id_, target in _targets(run, held, name, calls))
    others = ", ".join(other for other in held.names if other != name)
    about = f"This prompt, {name!r}, is one of a program's; the others ({others}) stay as they are." if others else ""
    return Task(
        train=_alike(examples),
        seed_prompt=seed,
        reward=run.task.reward,
        format=run.task.format,
        description=" ".join(filter(None, [run.task.description, about])),
        name=f"{run.task.name}, {name}",
        max_tokens=run.task.max_tokens,
        temperature=run.task.temperature,
    )


def _targets(run: Run, held: Prompts, name: str, calls: Mapping[str, Call]) -> Iterator[tuple[str, str | None]]:
    """Yield the id of each example on which a prompt was asked, with the target of the component's task."""
    scores = run.score([held])
    rewards = {
        example.id: float(reward) for example, reward in zip(scores.examples, scores.per_example[0], strict=True)
    }
    known = [reward for reward in rewards.values() if not math.isnan(reward)]
    responses = {
        e.id: r for e, (r, *_) in zip(scores.examples, scores.replies[0], strict=True) if isinstance(r, Response)
    }
    is_asked = any(call.name == name for id_ in calls for call in responses[id_].trace)
    answers = all(call.reply == responses[id_].text for id_, call in calls.items())
    for example in scores.examples:
        if example.id not in calls:
            continue
        right = min(known) < rewards[example.id] == max(known)
        own = example.target if answers else calls[example.id].reply if right else None
        yield example.id, own if is_asked else None


def asked_names(run: Run, held: Prompts) -> list[str]:
    """Return the names of the prompts that the program asks on training examples, in the order of the prompts. Scores them if need be.

    All names, if it asks none by itself: then it gives them to code that does.
    """
    replies = (reply for row in run.score([held]).replies[0] for reply in row)
    asked = {call.name for reply in replies if isinstance(reply, Response) for call in reply.trace}
    return [name for name in held.names if name in asked or not asked & set(held.names)]


def _first_calls(run: Run, held: Prompts, name: str) -> dict[str, Call]:
    """Return the first call of a prompt for each training example, by id; the program's own inputs and answer, if it asks none."""
    if name not in asked_names(run, held):
        return {}
    scores = run.score([held])
    out: dict[str, Call] = {}
    for example, (reply, *_) in zip(scores.examples, scores.replies[0], strict=True):
        if not isinstance(reply, Response):
            continue
        called = [call for call in reply.trace if call.name == name]
        if called:
            out[example.id] = called[0]
        elif not any(call.name in held.names for call in reply.trace):
            out[example.id] = Call(name, tuple(example.inputs.items()), reply.text)
    return out


def _alike(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Return the examples with the fields that the first one has; a program may fill more for some."""
    fields = examples[0].inputs
    return tuple(example for example in examples if set(fields) <= set(example.inputs))


@dataclass
class ComponentScorer(Scorer):
    """Scores one prompt of a program by the whole program's reward.

    Args:
        outer: the run of the whole program, which scores and keeps what is scored.
        held: the other prompts.
        name: of the prompt.
    """

    outer: Run = field(kw_only=True)
    held: Prompts = field(kw_only=True)
    name: str = field(kw_only=True)

    def score(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        replicates: int = 1,
        reward: Reward | Judge | None = None,
        *,
        written: bool = False,  # noqa: ARG002  programs are always written
    ) -> Scores:
        """Score the program under each prompt; replies are those to this prompt.

        Raises: as `Run.score`.
        """
        whole = [self.held.replaced(self.name, prompt) for prompt in prompts]
        parents = [self.held] * len(whole)
        scores = self.outer.score(whole, self._own(examples), replicates, reward=reward, parents=parents)
        replies = [[[self._own_reply(reply) for reply in cell] for cell in row] for row in scores.replies]
        return replace(scores, prompts=tuple(prompts), examples=tuple(examples), replies=replies)

    def affordable(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],  # noqa: ARG002  not known before a program runs
        replicates: int = 1,  # noqa: ARG002
        reward: Reward | Judge | None = None,  # noqa: ARG002
    ) -> int:
        """Return the number of prompts: what they cost is known only afterwards."""
        return len(prompts)

    def apply_reward(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        cells: Sequence[Sequence[Sequence[Reply]]],
        reward: Reward | Judge,  # noqa: ARG002  the task's own
    ) -> Scores:
        """Return the task's own rewards of prompts that were scored by another one."""
        whole = [self.held.replaced(self.name, prompt) for prompt in prompts]
        means = self.outer.archive.task_rewards(whole, self._own(examples))
        rewards = np.repeat(means[:, :, None], len(cells[0][0]), axis=2)
        reasons = [[[""] * len(cell) for cell in row] for row in cells]
        return Scores(tuple(prompts), tuple(examples), rewards, cells, reasons)

    def _own(self, examples: Sequence[Example]) -> list[Example]:
        """Return the program's examples."""
        by_id = {example.id: example for example in self.outer.task.train}
        return [by_id[example.id] for example in examples]

    def _own_reply(self, reply: Reply) -> Reply:
        """Return what was said to this prompt, "" if it was not asked."""
        if not isinstance(reply, Response):
            return reply
        said = [call.reply for call in reply.trace if call.name == self.name]
        return replace(reply, text=said[0] if said else "")
