"""One prompt of a program as a task of its own, the others held. Depends on the search only through `Run`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.evaluation.scorer import Scorer
from promptopt.parsing.slots import slot_names
from promptopt.program import DESCRIBES
from promptopt.prompt import Example
from promptopt.replies import Response
from promptopt.scores import Scores
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Prompt, Prompts
    from promptopt.replies import Call, Reply
    from promptopt.rewards import Judge, Reward
    from promptopt.search.run import Run

_FILLED_ELSEWHERE = "(filled in by other code)"
_NOT_CALLED = "(the tool was not called)"


class _Cell(NamedTuple):
    """A training example with the program's response under the held prompts, and its mean reward."""

    example: Example
    response: Response
    reward: float


def component_task(run: Run, held: Prompts, name: str) -> Task:
    """Return one prompt's task: its examples hold the fields that the program filled in under the held prompts.

    Targets stay where the reply to this prompt is always the program's answer. Elsewhere they say nothing of what it should be: there the
    prompt's own reply is the target on examples with the highest reward, and the others have none. None has one if the program gives its
    prompts to other code, which takes no demonstrations.

    Raises:
        InputError: there is no such prompt, or the program never asks it.
    """
    seed, cells = held[name], _cells(run, held)
    if name not in _asked(cells, held):
        raise InputError(f"the program asks the prompt {name!r} on no training example: there is nothing to search")
    described = name.startswith(DESCRIBES)
    own = () if described else _own_examples(cells, name)
    return Task(
        train=_alike(own or _given_examples(cells, seed)),
        seed_prompt=seed,
        reward=run.task.reward,
        format=run.task.format,
        description=" ".join(filter(None, [run.task.description, _about(held, name)])),
        name=f"{run.task.name}, {name}",
        max_tokens=run.task.max_tokens,
        temperature=run.task.temperature,
    )


def asked_names(run: Run, held: Prompts) -> list[str]:
    """Return the names of the prompts that the program asks on training examples, in the order of the prompts. Scores them if need be.

    All names, if it asks none by itself: then it gives them to code that does.
    """
    return _asked(_cells(run, held), held)


def _cells(run: Run, held: Prompts) -> list[_Cell]:
    """Return the training examples to which the program gave a response, scored if need be."""
    scores = run.score([held])
    rows = zip(scores.examples, scores.replies[0], scores.per_example[0], strict=True)
    return [
        _Cell(example, reply, float(reward)) for example, (reply, *_), reward in rows if isinstance(reply, Response)
    ]


def _asked(cells: Sequence[_Cell], held: Prompts) -> list[str]:
    """Return the prompts that a model saw. A tool's description is always one: that no model called the tool may be its fault."""
    described = {name for name in held.names if name.startswith(DESCRIBES)}
    names = {call.name for cell in cells for call in cell.response.trace} & set(held.names) - described
    return [name for name in held.names if cells and (name in names | described or not names)]


def _about(held: Prompts, name: str) -> str:
    """Return what a prompt is, for the writer."""
    others = ", ".join(other for other in held.names if other != name)
    if name.startswith(DESCRIBES):
        return (
            f"This prompt describes the tool {name.removeprefix(DESCRIBES)!r} to a model that may call it: what the tool does, "
            f"when to use it, and what its arguments are. The others ({others}) stay as they are. Replies are the calls and their results."
        )
    return f"This prompt, {name!r}, is one of a program's; the others ({others}) stay as they are." if others else ""


def _own_examples(cells: Sequence[_Cell], name: str) -> tuple[Example, ...]:
    """Return the examples on which the program asks a prompt, with the inputs and the reply of the first turns.

    A reply for which tools were called is no target: shown without the calls, it would teach to guess.
    """
    first = [(cell, calls) for cell in cells for calls in [_first_turns(cell.response, name)] if calls]
    rewards = [cell.reward for cell in cells if not math.isnan(cell.reward)]
    lowest, highest = min(rewards, default=math.nan), max(rewards, default=math.nan)
    is_answer = all(calls[-1].reply == cell.response.text for cell, calls in first)

    def target(cell: _Cell, calls: Sequence[Call]) -> str | None:
        if len(calls) > 1:
            return None
        if is_answer:
            return cell.example.target
        return calls[0].reply if lowest < cell.reward == highest else None

    return tuple(Example(dict(calls[0].inputs), target(cell, calls), cell.example.id) for cell, calls in first)


def _given_examples(cells: Sequence[_Cell], seed: Prompt) -> tuple[Example, ...]:
    """Return the program's examples without targets, for a prompt that it gives to other code, which may fill further slots."""
    others = dict.fromkeys(slot_names(seed.text), _FILLED_ELSEWHERE)
    return tuple(Example({**others, **cell.example.inputs}, None, cell.example.id) for cell in cells)


def _first_turns(response: Response, name: str) -> list[Call]:
    """Return the first call of a prompt, and those that followed it after the tools it called had returned."""
    turns: list[Call] = []
    for call in response.trace:
        if call.name == name and (not turns or turns[-1].tool_calls):
            turns.append(call)
    return turns


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
        archive, replicates = self.outer.archive, len(cells[0][0])
        means = archive.objective_values(whole, self._own(examples), by_task=True)
        rewards, *others = np.repeat(means[..., None], replicates, axis=3)
        reasons = [[[""] * len(cell) for cell in row] for row in cells]
        named = dict(zip(archive.objectives, others, strict=True))
        return Scores(tuple(prompts), tuple(examples), rewards, cells, reasons, named)

    def _own(self, examples: Sequence[Example]) -> list[Example]:
        """Return the program's examples."""
        by_id = {example.id: example for example in self.outer.task.train}
        return [by_id[example.id] for example in examples]

    def _own_reply(self, reply: Reply) -> Reply:
        """Return the reply to this prompt, "" if it was not asked."""
        if not isinstance(reply, Response):
            return reply
        if self.name.startswith(DESCRIBES):
            calls = [call for call in reply.trace if call.name == self.name]
            return replace(
                reply, text="\n".join(f"{_arguments(call)} -> {call.reply}" for call in calls) or _NOT_CALLED
            )
        return replace(reply, text="\n".join(turn.said for turn in _first_turns(reply, self.name)))


def _arguments(call: Call) -> str:
    return " ".join(text for _, text in call.inputs)
