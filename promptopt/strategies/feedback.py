"""What PROMST learns from episodes: the errors of a prompt by kind, and messages that ask the writer to fix them.

Knows nothing of how prompts are scored or chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.environment import advice
from promptopt.replies import Response
from promptopt.search.writing import ExampleResult, MetaPrompts, ScoredPrompt, combine, edit, shorten, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    from promptopt.environment import FeedbackRule
    from promptopt.prompt import Context, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

    Message = Callable[[int], Context]

_LAST_ROUNDS = 2  # rounds of an episode shown with the advice (code)


class ErrorCase(NamedTuple):
    """One kind of error in one episode, with the reward lost in that episode."""

    kind: str
    result: ExampleResult
    lost_reward: float


class Member(NamedTuple):
    """A prompt of the population.

    Args:
        prompt: the prompt.
        parent: the prompt that it was made from.
        score: mean reward; for a prompt that was eliminated before it was evaluated on all instances, the parent's score
            plus the mean gain on the shared instances, scaled by their share of all instances.
        errors: error cases in its episodes, the most costly first.
        fully_evaluated: whether it was evaluated on all instances.
    """

    prompt: Prompt
    parent: Prompt | None
    score: float
    errors: tuple[ErrorCase, ...]
    fully_evaluated: bool

    @property
    def lost_by_kind(self) -> dict[str, float]:
        """The reward lost in episodes with each kind of error, the most costly kind first."""
        lost: dict[str, float] = {}
        for error in self.errors:
            lost[error.kind] = lost.get(error.kind, 0.0) + error.lost_reward
        return dict(sorted(lost.items(), key=lambda item: -item[1]))

    def of_kind(self, kind: str) -> list[ExampleResult]:
        """Return the episodes with one kind of error, the most costly first."""
        return [error.result for error in self.errors if error.kind == kind]


def error_cases(scores: Scores, row: int, rewards: Floats, rules: Mapping[Enum, FeedbackRule]) -> tuple[ErrorCase, ...]:
    """Return the error cases in the episodes of one prompt, the most costly first.

    Args:
        scores: of several prompts.
        row: of the prompt.
        rewards: [E] its mean rewards.
        rules: the feedback rule of each event.
    """
    best_reward = max(1.0, float(np.nanmax(rewards, initial=0.0)))
    errors = []
    for e, example in enumerate(scores.examples):
        reply, reward = scores.replies[row][e][0], float(rewards[e])
        if isinstance(reply, Response) and reward < best_reward:
            for kind, advice_given in _advice_by_kind(reply, scores.reasons[row][e][0], rules).items():
                result = ExampleResult(example, _transcript(reply), advice_given, reward)
                errors.append(ErrorCase(kind, result, best_reward - reward))
    return tuple(sorted(errors, key=lambda error: -error.lost_reward))


def _advice_by_kind(reply: Response, reason: str, rules: Mapping[Enum, FeedbackRule]) -> dict[str, str]:
    """Return the rules' advice for each kind of error in an episode; where no rule speaks, the reward's reason."""
    by_event = advice(reply.trajectory, rules) if reply.trajectory else {}
    return {event.name: words for event, words in by_event.items()} or {"wrong": reason}


def _transcript(reply: Response) -> str:
    """Return a reply, or the last rounds of an episode."""
    if reply.trajectory is None:
        return reply.text
    turns = reply.trajectory.turns[-_LAST_ROUNDS:]
    return "\n".join(f"seen: {turn.observation}\nsaid: {turn.reply}" for turn in turns)


@dataclass
class Feedback:
    """Writes messages about the errors of prompts.

    Args:
        run: asks the writer for summaries; supplies the task and the random numbers.
        meta: wording of the messages.
        shown: most episodes shown to the writer at once.
        members: all prompts that were scored; the search adds to them.
        summaries: (prompt, kind of error) -> the writer's summary.
    """

    run: Run
    meta: MetaPrompts
    shown: int
    members: Mapping[Prompt, Member]
    summaries: dict[tuple[Prompt, str], str] = field(default_factory=dict)

    def fixing(self, parent: Member, kinds: Sequence[str]) -> Message:
        """Return the message that asks to fix some kinds of errors of a prompt; summaries are requested when it is built."""
        return lambda count: self._edit(parent, {kind: self._summary(parent, kind) for kind in kinds}, count)

    def fixing_costly(self, parent: Member) -> Message:
        """Return the message that asks to fix one kind of error, drawn in proportion to the reward that it lost."""
        kinds, lost = list(parent.lost_by_kind), np.array(list(parent.lost_by_kind.values()))
        return self.fixing(parent, [kinds[int(self.run.rng.choice(len(kinds), p=lost / lost.sum()))]])

    def fixing_sample(self, parent: Member) -> Message:
        """Return the message for one child, with feedback sampled and summarised for this child only (paper)."""
        sampled = self.run.rng.permutation(len(parent.errors))[: self.shown].tolist()
        errors = [parent.errors[i] for i in sampled]
        summaries = {
            kind: self._summarise(parent, kind, shown)
            for kind in parent.lost_by_kind
            if (shown := [error.result for error in errors if error.kind == kind])
        }
        return partial(self._edit, parent, summaries)

    def combining(self, parent: Member, others: Sequence[Member]) -> Message:
        """Return the message that combines a prompt with one of the others, drawn at random."""
        other = others[int(self.run.rng.integers(len(others)))]
        pair = [ScoredPrompt(member.prompt, member.score) for member in (parent, other)]
        return partial(combine, self.run.task, pair, meta=self.meta)

    def shortening(self, parent: Member) -> Message:
        """Return the message that asks for a shorter prompt."""
        return partial(shorten, self.run.task, parent.prompt, meta=self.meta)

    def _edit(self, parent: Member, summaries: Mapping[str, str], count: int) -> Context:
        """Return the message that shows a prompt, its ancestors, and the summaries of its errors (GenLLM)."""
        parts = [f"{n}. {kind}: {summary}" for n, (kind, summary) in enumerate(summaries.items(), start=1)]
        lineage = self._ancestors(parent)
        return edit(self.run.task, parent.prompt, "\n".join(parts), count, lineage=lineage, meta=self.meta)

    def _summary(self, member: Member, kind: str) -> str:
        """Return the writer's summary of one kind of error; requested once per prompt and kind."""
        key = (member.prompt, kind)
        if key not in self.summaries:
            self.summaries[key] = self._summarise(member, kind, member.of_kind(kind)[: self.shown])
        return self.summaries[key]

    def _summarise(self, member: Member, kind: str, shown: Sequence[ExampleResult]) -> str:
        """Ask the writer to summarise some episodes with one kind of error (SumLLM)."""
        replies = self.run.write(summarise(self.run.task, member.prompt, shown, meta=self.meta))
        # If the writer gives no usable reply, use the advice of the first episode.
        summary = replies or [result.reason for result in shown[:1]]
        return " ".join([f"{len(member.of_kind(kind))} of {len(self.run.task.train)} episodes.", *summary])

    def _ancestors(self, member: Member) -> list[ScoredPrompt]:
        """Return the prompts that this one descends from, oldest first."""
        ancestors: list[ScoredPrompt] = []
        parent = member.parent
        while parent is not None and parent in self.members:
            ancestors.append(ScoredPrompt(parent, self.members[parent].score))
            parent = self.members[parent].parent
        return ancestors[::-1]
