"""What hill climbing shows the prompt writer: one class per style of message. Knows nothing of how prompts are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from promptopt.search.writing import (
    edit,
    good_bad_message,
    improve,
    opro_message,
    paraphrase,
    summarise,
    unscored_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Context, Example
    from promptopt.search.run import Run
    from promptopt.search.writing import MetaPrompts, ScoredPrompt
    from promptopt.strategies.chain import Chain


class Message(NamedTuple):
    """A message to the writer.

    Args:
        build: returns the message that asks for a number of prompts.
        lost: examples in it that the best prompt loses.
    """

    build: Callable[[int], Context]
    lost: Sequence[Example] = ()


@dataclass(frozen=True)
class Style(ABC):
    """A way to ask for better prompts.

    Args:
        meta: wording of the messages.
        longest: most characters in a prompt.
    """

    meta: MetaPrompts
    longest: int

    @abstractmethod
    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:
        """Return the next message.

        Args:
            run: supplies the task and the random numbers.
            chain: the evaluated prompts.
            ranked: the chain's prompts, best first.
        """


@dataclass(frozen=True)
class Contrastive(Style):
    """The best and worst prompts with scores, and examples that separate the best prompt from the others."""

    good: int
    bad: int
    items: int

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:
        good, bad = best_and_worst(ranked, self.good, self.bad)
        losses, wins = chain.contrast(run, ranked[0].prompt, self.items)
        build = partial(
            improve, run.task, good, bad, losses=losses, wins=wins, meta=self.meta, longest=self.longest
        )  # fmt: skip
        return Message(build, [result.example for result in losses])


@dataclass(frozen=True)
class Lists(Style):
    """The best and worst prompts in two lists, without scores (Liu et al.)."""

    good: int
    bad: int
    words: int

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:  # noqa: ARG002  as above
        good, bad = ([scored.prompt for scored in part] for part in best_and_worst(ranked, self.good, self.bad))
        return Message(partial(good_bad_message, good, bad, words=self.words, meta=self.meta, longest=self.longest))


@dataclass(frozen=True)
class Scale(Style):
    """The best prompts in ascending order of score, and random examples (OPRO)."""

    good: int
    items: int

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:
        examples, shown = chain.sample_examples(run, self.items), ranked[: self.good]
        return Message(partial(opro_message, run.task, shown, examples=examples, meta=self.meta, longest=self.longest))


@dataclass(frozen=True)
class Criticism(Style):
    """The best prompt, with the writer's own criticism of its errors (ProTeGi)."""

    items: int

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:
        best = ranked[0].prompt
        losses, _ = chain.contrast(run, best, self.items)
        replies = run.write(summarise(run.task, best, losses, meta=self.meta)) if losses else []
        criticism = replies[0] if replies else ""
        build = partial(edit, run.task, best, criticism, meta=self.meta, longest=self.longest)
        return Message(build, [result.example for result in losses])


@dataclass(frozen=True)
class Paraphrases(Style):
    """The best prompt alone, to be said in other words: a control, and a rest for writers that copy what they are shown."""

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:  # noqa: ARG002  as above
        return Message(partial(paraphrase, run.task, ranked[0].prompt, meta=self.meta, longest=self.longest))


@dataclass(frozen=True)
class RandomPrompts(Style):
    """Random prompts of the chain without scores: a control."""

    count: int

    def message(self, run: Run, chain: Chain, ranked: Sequence[ScoredPrompt]) -> Message:  # noqa: ARG002  as above
        size = min(len(ranked), self.count)
        prompts = [ranked[i].prompt for i in run.rng.choice(len(ranked), size=size, replace=False)]
        return Message(partial(unscored_message, run.task, prompts, meta=self.meta, longest=self.longest))


def best_and_worst(
    ranked: Sequence[ScoredPrompt], good: int, bad: int
) -> tuple[Sequence[ScoredPrompt], Sequence[ScoredPrompt]]:
    """Return at most so many of the best and of the worst prompts; the two never share a prompt."""
    best = ranked[: max(1, min(good, len(ranked) - len(ranked) // 2))]
    worst = min(bad, len(ranked) - len(best))
    return best, ranked[len(ranked) - worst :]
