"""What a joint search measured of combinations of an instruction and a demonstration set, and their posterior."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.replies import Response
from promptopt.statistics.crossed import fit_crossed

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from promptopt.prompt import Demonstrations, Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.crossed import Crossed

_DIGITS = 9  # rounded, so that floating-point noise decides no tie
_DRAWS = 200  # from the posterior, per round


class Pair(NamedTuple):
    """Numbers of an instruction and of a demonstration set."""

    instruction: int
    shown: int


@dataclass
class Parts:
    """The instructions and demonstration sets to combine.

    Args:
        seed: the seed prompt; combinations keep its turns.
        instructions: texts.
        sets: demonstrations; the first is None, which shows nothing.
        instruction_parents: number of the instruction that each was made from.
        set_parents: number of the set that each was made from; 0 for new ones.
    """

    seed: Prompt
    instructions: list[str]
    sets: list[Demonstrations | None]
    instruction_parents: list[int] = field(init=False)
    set_parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.instruction_parents, self.set_parents = [0] * len(self.instructions), [0] * len(self.sets)

    def prompt(self, pair: Pair) -> Prompt:
        """Return the combination."""
        return replace(self.seed, text=self.instructions[pair.instruction], demonstrations=self.sets[pair.shown])

    def parent(self, pair: Pair, measured: Container[Pair]) -> Prompt:
        """Return the measured combination that `pair` differs from by its newest part; the seed prompt without one."""
        set_before = Pair(pair.instruction, self.set_parents[pair.shown])
        instruction_before = Pair(self.instruction_parents[pair.instruction], pair.shown)
        parents = (before for before in (set_before, instruction_before) if before != pair and before in measured)
        return next(map(self.prompt, parents), self.seed)


@dataclass
class Table:
    """What was measured of the combinations.

    Args:
        run: scores prompts; its archive holds the rewards.
        examples: [E] training examples, in the order in which each combination is scored on them.
        parts: the parts.
        fitness: what is modelled; None for the task's reward.
        next: combination -> number of its next example.
        worked: for tasks without labels, example id -> the example with a fully rewarded reply of the task model as its target.
    """

    run: Run
    examples: Sequence[Example]
    parts: Parts
    fitness: Reward | None = None
    next: dict[Pair, int] = field(default_factory=dict)
    worked: dict[str, Example] = field(default_factory=dict)
    _fit: Crossed | None = None

    def score(self, pairs: Sequence[Pair], count: int) -> None:
        """Score combinations, each on its next `count` examples."""
        by_start: dict[int, list[Pair]] = {}
        for pair in pairs:
            by_start.setdefault(self.next.get(pair, 0), []).append(pair)
        for start, group in sorted(by_start.items()):
            block = self.examples[start : start + count]
            prompts = [self.parts.prompt(pair) for pair in group]
            parents = [self.parts.parent(pair, self.next) for pair in group]
            self._note_worked(self.run.score(prompts, block, reward=self.fitness, parents=parents))
            self.next |= dict.fromkeys(group, start + len(block))
        self._refit()

    def _note_worked(self, scores: Scores) -> None:
        """Note replies with the full reward that say more than the target, such as the steps to a number."""
        if self.run.task.labels:
            return
        for row, replies in zip(scores.per_example, scores.replies, strict=True):
            for example, reward, (reply, *_) in zip(scores.examples, row, replies, strict=True):
                if isinstance(reply, Response) and reward >= 1 and len(reply.text) > 2 * len(example.target or ""):
                    self.worked.setdefault(example.id, replace(example, target=reply.text.strip()))

    def complete(self, pair: Pair) -> bool:
        """Whether a combination has been scored on all examples."""
        return self.next.get(pair, 0) >= len(self.examples)

    def leader(self) -> Pair | None:
        """Return the combination with the highest expected reward among those scored on all examples."""
        complete, expected = [pair for pair in self.next if self.complete(pair)], self.expected
        return max(complete, key=lambda pair: float(expected[pair]), default=None)

    def rewards(self) -> tuple[list[Pair], Floats]:
        """Return the measured combinations [C] and their fitness [C, E]; those without any reply are left out."""
        return self._replied(self.run.archive.rewards(self._prompts, self.examples))

    def task_rewards(self) -> tuple[list[Pair], Floats]:
        """Return the same with the task's rewards."""
        return self._replied(self.run.archive.task_rewards(self._prompts, self.examples))

    @property
    def _prompts(self) -> list[Prompt]:
        return [self.parts.prompt(pair) for pair in self.next]

    def _replied(self, rewards: Floats) -> tuple[list[Pair], Floats]:
        pairs, replied = list(self.next), np.flatnonzero(~np.isnan(rewards).all(axis=1))
        return [pairs[c] for c in replied], rewards[replied]

    def add(self, instructions: Mapping[str, int], sets: Mapping[Demonstrations, int]) -> None:
        """Add parts that are new.

        Args:
            instructions: instruction -> number of the one it was made from.
            sets: demonstration set -> number of the one it was made from; 0 for a new one.
        """
        parts = self.parts
        for text, parent in instructions.items():
            if text not in parts.instructions:
                parts.instructions.append(text)
                parts.instruction_parents.append(parent)
        for shown, parent in sets.items():
            if shown not in parts.sets:
                parts.sets.append(shown)
                parts.set_parents.append(parent)
        self._refit()

    @property
    def is_measured(self) -> bool:
        """Whether any combination got a reply; only then is there a posterior."""
        return self._fit is not None

    @property
    def expected(self) -> Floats:
        """[I, S] expected fitness of every combination."""
        return self._grid(self._posterior.expected()).round(_DIGITS)

    def draws(self) -> Floats:
        """Return [_DRAWS, I, S]: draws from the posterior."""
        return self._grid(self._posterior.draw(_DRAWS, self.run.rng))

    def spreads(self) -> dict[str, float]:
        """Return the estimated standard deviations."""
        variances = self._posterior.variances._asdict()
        return {f"spread of {name}": float(np.sqrt(value)) for name, value in variances.items()}

    @property
    def _posterior(self) -> Crossed:
        if self._fit is None:
            raise LookupError("no combination got a reply")
        return self._fit

    def _refit(self) -> None:
        """Fit the posterior of all combinations.

        An instruction has one effect with demonstrations and another without: instructions rank differently in the two.
        """
        pairs, rewards = self.rewards()
        if not pairs:
            return
        count = len(self.parts.instructions)
        numbers = [(pair.instruction + (count if pair.shown else 0), pair.shown) for pair in pairs]
        start = self._fit.variances if self._fit else None
        self._fit = fit_crossed(rewards, numbers, (2 * count, len(self.parts.sets)), start)

    def _grid(self, values: Floats) -> Floats:
        """Return [..., I, S] of the posterior's values [..., 2 I, S]."""
        count = len(self.parts.instructions)
        return np.concatenate([values[..., :count, :1], values[..., count:, 1:]], axis=-1)
