"""PromptQuine: evolve which tokens of an in-context prompt are kept (Wang et al., ICML 2025, "Evolving Prompts In-Context").

A genome is a mask over the seed prompt's tokens, its demonstrations written out; slots are never taken. Children lose
one to four tokens; parents die of age, not of rank. Numbers marked (paper) stand in the paper's table 9 and in the
released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from promptopt.errors import InputError
from promptopt.rewards import LabelMargin

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from promptopt.prompt import Prompt
    from promptopt.rewards import Reward
    from promptopt.run import Run
    from promptopt.tokens import Mask, Tokens


class Genome(NamedTuple):
    """A mask, the prompt that it keeps, and its fitness."""

    mask: Mask
    prompt: Prompt
    fitness: float


@dataclass(frozen=True, kw_only=True)
class PromptQuine:
    """Evolutionary pruning of an in-context prompt, all children of a generation scored in one batch (GGA).

    The prompt must have something to prune: written-out demonstrations are the usual start. Not for prompts of a
    dozen tokens, and not where every token is an instruction that must stay.

    What differs from the released code: tokens are cut from the text by their offsets, so that keeping all of them is
    the seed prompt to the letter; ties between labels are masked by index; siblings are deduplicated too; the search
    ends when a generation brings nothing new; the harness re-measures 16 prompts, not a tenth of all.

    Args:
        population: survivors of each generation (paper: 30).
        offspring: children drawn in each generation (paper: 50).
        most_deletions: tokens that a child may lose at once, drawn from 1 to this (paper: 4).
        tournament: share of the population that competes to be a parent, drawn with replacement (paper: 0.2).
        recent: entries, newest last, among which survivors are sought; older ones die whatever their rank (paper: 50).
        max_prompts: children drawn in all (paper: 10,000).
        shortest: the search ends when the population's mean length in tokens is at most this (paper: 15).
        fitness: "margin" searches by the label margin where the task has labels, "reward" by the task's reward.
    """

    writes: ClassVar[bool] = False

    population: int = 30
    offspring: int = 50
    most_deletions: int = 4
    tournament: float = 0.2
    recent: int = 50
    max_prompts: int = 10_000
    shortest: int = 15
    fitness: Literal["margin", "reward"] = "margin"

    def __post_init__(self) -> None:
        for name in ("population", "offspring", "most_deletions", "recent", "max_prompts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.tournament <= 1:
            raise InputError(f"tournament must be a share in (0, 1], not {self.tournament}")
        if self.fitness not in ("margin", "reward"):
            raise InputError(f"fitness must be 'margin' or 'reward', not {self.fitness!r}")

    @classmethod
    def paper(cls) -> PromptQuine:
        """Return the paper's settings for one demonstration per class, generational mode (table 9)."""
        return cls()

    def search(self, run: Run) -> None:
        """Prune until the population is short, nothing new comes, or the budget ends."""
        tokens = run.tokens(run.task.seed_prompt)
        if not tokens.prunable.size:
            raise InputError("the seed prompt has nothing to prune: give it text or demonstrations beside its slots")
        reward = self._reward(run)
        seed = self._scored(run, [tokens.full()], tokens, [None], reward)
        pool = seed * self.population
        drawn = 0
        while drawn < self.max_prompts and self._mean_length(run, pool) > self.shortest:
            parents, masks = self._offspring(pool, tokens, run.rng)
            if not masks:
                break
            children = self._scored(run, masks, tokens, parents, reward)
            drawn += self.offspring  # counted whether or not a draw was new, as in the released code
            # Regularised evolution: only the newest may survive (section 3.2).
            pool = sorted([*pool, *children][-self.recent :], key=lambda genome: -genome.fitness)[: self.population]
            run.step(best=pool[0].fitness, length=self._mean_length(run, pool), drawn=drawn)

    def _reward(self, run: Run) -> Reward | None:
        return LabelMargin(run.task.labels) if self.fitness == "margin" and run.task.labels else None

    def _scored(
        self, run: Run, masks: Sequence[Mask], tokens: Tokens, parents: Sequence[Prompt | None], reward: Reward | None
    ) -> list[Genome]:
        prompts = [tokens.prompt(mask) for mask in masks]
        means = run.score(prompts, reward=reward, parents=parents).mean.tolist()
        # A prompt whose replies all failed ranks last; its score stays NaN in the history.
        return [
            Genome(mask, prompt, -math.inf if math.isnan(mean) else mean)
            for mask, prompt, mean in zip(masks, prompts, means, strict=True)
        ]

    def _offspring(
        self, pool: Sequence[Genome], tokens: Tokens, rng: np.random.Generator
    ) -> tuple[list[Prompt | None], list[Mask]]:
        """Draw children that are neither in the population nor twice among themselves; return parents and masks."""
        known = {genome.prompt for genome in pool}
        parents: list[Prompt | None] = []
        masks: list[Mask] = []
        for _ in range(self.offspring):
            rivals = rng.integers(len(pool), size=max(1, int(self.tournament * len(pool))))
            parent = pool[min(rivals.tolist(), key=lambda i: (-pool[i].fitness, i))]
            mask = self._mutated(parent.mask, tokens, rng)
            if mask is not None and (prompt := tokens.prompt(mask)) not in known:
                known.add(prompt)
                parents.append(parent.prompt)
                masks.append(mask)
        return parents, masks

    def _mutated(self, mask: Mask, tokens: Tokens, rng: np.random.Generator) -> Mask | None:
        """Return the mask less 1 to `most_deletions` tokens, or None where it has too few left (ten draws, as released)."""
        kept = (mask & ~tokens.frozen).nonzero()[0]
        for _ in range(10):
            lost = int(rng.integers(1, self.most_deletions + 1))
            if lost < kept.size:
                child = mask.copy()
                child[rng.choice(kept, size=lost, replace=False)] = False
                return child
        return None

    def _mean_length(self, run: Run, pool: Sequence[Genome]) -> float:
        return sum(run.length(genome.prompt) for genome in pool) / len(pool)
