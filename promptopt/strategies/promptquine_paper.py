"""PromptQuine as published (Wang et al., ICML 2025, "Evolving Prompts In-Context"): prune a prompt by evolution.

A genome is a mask over the tokens of the seed prompt. Children lose one to four tokens, and parents die of age regardless of
rank. Constants are from the paper's table 9; "(code)" marks what only the released code says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from promptopt.search.fitness import Fitness, check_fitness, reward_of
from promptopt.search.masks import drop_tokens
from promptopt.search.pruning import (
    Child,
    Genome,
    mean_length,
    mutated,
    new_children,
    ranking_fitness,
    seed_tokens,
    tournament,
)
from promptopt.statistics.arrays import nanmean
from promptopt.strategies.checks import check_at_least, check_choice, check_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.search.run import Run
    from promptopt.search.tokens import Mask, Tokens
    from promptopt.statistics.arrays import Floats


@dataclass(frozen=True, kw_only=True)
class PromptQuinePaper:
    """Evolutionary pruning of an in-context prompt, as published.

    What differs from the released code: tokens are cut from the text by their offsets, so that keeping all of them
    reproduces the seed prompt exactly; ties between labels are masked by index; siblings are also deduplicated; the search
    ends when a generation contains nothing new. Selection happens outside the strategy: the 16 best by fitness race on
    validation examples, where the paper re-ranks the best 5 or 10 in a hundred.

    Args:
        mode: "gga" scores all children of a generation in one batch; "ssga" scores one at a time, and each may be a parent
            of the next (only for local models: nothing runs concurrently).
        population: survivors of each generation.
        offspring: children drawn in each generation.
        most_deletions: a child loses 1 to this many tokens.
        tournament: share of the population, drawn with replacement, that competes to be a parent.
        recent: number of newest entries from which survivors are chosen; older ones die regardless of rank.
        max_prompts: most children drawn ("gga") or scored ("ssga") in total, counting the seed prompt (code). The paper has
            10,000 for one demonstration per class, 100,000 for four; most searches end by about 10,000.
        shortest: the search ends when the population's mean length in tokens is at most this.
        fitness: "margin" maximizes the label margin and "likelihood" the log-probability of the right label, if the task has
            labels; "reward" the task's reward.
        halving: if the task has no labels (reasoning, generation), children are scored on the first half of the examples,
            and on the second half only if their mean is not below the worst survivor's; otherwise that mean is their
            fitness (on in the authors' scripts for GSM8K, rejected there for classification).
    """

    writes = False

    mode: Literal["gga", "ssga"] = "gga"
    population: int = 30
    offspring: int = 50
    most_deletions: int = 4
    tournament: float = 0.2
    recent: int = 50
    max_prompts: int = 100_000
    shortest: int = 15
    fitness: Fitness = "margin"
    halving: bool = True

    def __post_init__(self) -> None:
        check_at_least(self, 1, "population", "offspring", "most_deletions", "recent", "max_prompts")
        check_share(self, "tournament")
        check_choice(self, "mode", "gga", "ssga")
        check_fitness(self.fitness)

    def search(self, run: Run) -> None:
        """Evolve until the population is short, nothing is new, or enough prompts were drawn."""
        evolution = _Evolution(self, run, seed_tokens(run), reward_of(run, self.fitness))
        evolution.begin()
        drawn = 1  # (code)
        while drawn < self.max_prompts and mean_length(run, evolution.population) > self.shortest:
            count = evolution.generation()
            if not count:
                return
            drawn += count
            run.step(best=evolution.best, length=mean_length(run, evolution.population), drawn=drawn)


@dataclass(eq=False)
class _Evolution:
    """One search in progress.

    Args:
        settings: of the search.
        run: scores the prompts.
        tokens: of the seed prompt.
        reward: what the search maximizes; None for the task's reward.
        population: the survivors.
        best: highest fitness so far.
        evaluated: prompts that were scored.
    """

    settings: PromptQuinePaper
    run: Run
    tokens: Tokens
    reward: Reward | None
    population: list[Genome] = field(default_factory=list)
    best: float = -math.inf
    evaluated: set[Prompt] = field(default_factory=set)

    def begin(self) -> None:
        """Fill the population with copies of the seed prompt."""
        full = self.tokens.full()
        seed = [Child(full, self.tokens.prompt(full))]
        self.population = self._genomes(seed, self._rewards(seed, self.run.task.train)) * self.settings.population

    def generation(self) -> int:
        """Breed one generation, and return how many prompts count as drawn; 0 if none was new."""
        s, evaluated_before = self.settings, len(self.evaluated)
        children = self._one_batch() if s.mode == "gga" else self._one_by_one()
        if len(self.evaluated) == evaluated_before:
            return 0
        newest = [*self.population, *children][-s.recent :]  # regularised evolution (section 3.2)
        self.population = sorted(newest, key=lambda genome: -genome.fitness)[: s.population]
        return s.offspring if s.mode == "gga" else len(children)  # gga also counts draws that were not new (code)

    def _one_batch(self) -> list[Genome]:
        """Return the children of a generation of GGA: their parents are the survivors."""
        return self._score(self._draw(self.population, self.settings.offspring))

    def _one_by_one(self) -> list[Genome]:
        """Return the children of a generation of SSGA: each may be a parent of the next."""
        children: list[Genome] = []
        for _ in range(self.settings.offspring):
            children += self._score(self._draw([*self.population, *children], 1))
        return children

    def _draw(self, pool: Sequence[Genome], count: int) -> list[Child]:
        """Draw children of tournament winners, and return those that are not in the pool."""
        parents = (tournament(pool, self.settings.tournament, self.run.rng) for _ in range(count))
        draws = ((parent, self._mutate(parent.mask)) for parent in parents)
        return new_children(self.tokens, draws, {genome.prompt for genome in pool})

    def _mutate(self, mask: Mask) -> Mask | None:
        free, rng = ~self.tokens.frozen, self.run.rng
        return mutated(lambda count: drop_tokens(mask, free, count, rng), self.settings.most_deletions, rng)

    def _score(self, children: Sequence[Child]) -> list[Genome]:
        """Score children on all examples; with halving, on the second half only if the first half does not rule them out."""
        if not children:
            return []
        train = self.run.task.train
        if not self.settings.halving or self.run.task.labels:
            return self._genomes(children, self._rewards(children, train))
        half, worst = (len(train) + 1) // 2, min(genome.fitness for genome in self.population)
        rewards = np.full((len(children), len(train)), np.nan)
        rewards[:, :half] = self._rewards(children, train[:half])
        passed = [i for i, mean in enumerate(nanmean(rewards, axis=1)) if mean >= worst]
        if passed and half < len(train):
            rewards[passed, half:] = self._rewards([children[i] for i in passed], train[half:])
        return self._genomes(children, rewards)

    def _rewards(self, children: Sequence[Child], examples: Sequence[Example]) -> Floats:
        """Return rewards [children, examples]."""
        prompts, parents = [child.prompt for child in children], [child.parent for child in children]
        self.evaluated.update(prompts)
        return self.run.score(prompts, examples, reward=self.reward, parents=parents).per_example

    def _genomes(self, children: Sequence[Child], rewards: Floats) -> list[Genome]:
        """Return the genomes of children with rewards [children, examples]."""
        fitness = ranking_fitness(rewards)
        self.best = max(self.best, *fitness)
        return [Genome(child.mask, child.prompt, mean) for child, mean in zip(children, fitness, strict=True)]
