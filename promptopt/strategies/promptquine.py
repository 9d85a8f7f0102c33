"""PromptQuine: evolve which tokens of an in-context prompt are kept.

A genome is a mask over the tokens of the seed prompt, with its demonstrations written out; slots are never removed. The
published algorithm (Wang et al., ICML 2025) is `promptquine_paper`. This one adds other moves, racing, a growing set of
examples, an elite, a regression on token effects, and starts with other demonstrations. Numbers marked (paper) are the
published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from promptopt.errors import InputError
from promptopt.search.demonstrations import stratified_shuffle, with_other_demonstrations
from promptopt.search.fitness import Fitness, check_fitness, reward_of
from promptopt.search.halving import doubling, successive_halving
from promptopt.search.masks import drop_tokens, restore_tokens, token_effects
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
from promptopt.statistics.arrays import nanmean, standard_error
from promptopt.strategies.checks import check_at_least, check_share
from promptopt.strategies.promptquine_paper import PromptQuinePaper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.search.masks import TokenEffects
    from promptopt.search.run import Run
    from promptopt.search.tokens import Mask, Tokens

_MOVES = ("restore", "swap")  # any other move is a deletion
_FIRST_EXAMPLES = 8  # on which all starts are scored
_POPULATIONS = 3  # starts that get a population
_STALLED = 3  # generations without a new best after which the examples double


@dataclass(frozen=True, kw_only=True)
class PromptQuine:
    """Evolutionary pruning of an in-context prompt.

    The prompt must have something to prune, usually written-out demonstrations. Not for prompts of a dozen tokens, nor for
    prompts of which every token is an instruction. If replies are votes or free text, use enough training examples that no
    single reply is decisive: fitness is their mean.

    Args:
        population: survivors of each generation (paper: 30).
        offspring: children drawn in each generation (paper: 50).
        most_deletions: a child loses 1 to this many tokens at once (paper: 4).
        largest_share: raises that maximum to this share of the tokens of the starting prompt, if that is more (paper: 0).
        tournament: share of the population, drawn with replacement, that competes to be a parent (paper: 0.2).
        recent: number of newest entries from which survivors are chosen; older ones die regardless of rank (paper: 50).
        max_prompts: most children drawn in total, counting the starting prompts.
        shortest: the search ends when the population's mean length in tokens is at most this (paper: 15).
        fitness: "margin" maximizes the label margin and "likelihood" the log-probability of the right label, if the task has
            labels; "reward" the task's reward.
        elite: number of best prompts that do not die of age (paper: 0).
        restore: share of children that regain tokens instead of losing some (paper: 0).
        swap: share of children that lose some tokens and regain others (paper: 0).
        guide: weight, in the probability of removing or restoring a token, of a ridge regression over the scored masks;
            the rest is uniform (paper: 0).
        items: training examples that the search starts on, stratified_shuffle by target; they double after three generations without
            a new best. 0 uses all from the start (paper: 0).
        block: number of these examples on which children are scored first; the number then doubles, and children clearly
            worse than the mean survivor are dropped. 0 scores on all at once (paper: 0).
        confidence: required confidence that a child dropped after a block is worse than the mean survivor.
        patience: the search ends after this many generations without a new best on all examples; 0 never (paper: 0).
        starts: number of starting prompts: the seed prompt, and variants with other training examples as demonstrations.
            They race on training examples that are in none of their demonstrations; each round halves the prompts and
            doubles the examples. The seed prompt and the two best others then each get a population; whenever the
            examples double, the population with the worst best prompt is dropped (paper: 1).
    """

    writes = False

    population: int = 10
    offspring: int = 10
    most_deletions: int = 4
    largest_share: float = 1 / 16
    tournament: float = 0.2
    recent: int = 50
    max_prompts: int = 10_000
    shortest: int = 15
    fitness: Fitness = "margin"
    elite: int = 5
    restore: float = 0.15
    swap: float = 0.1
    guide: float = 0.8
    items: int = 16
    block: int = 8
    confidence: float = 0.8
    patience: int = 30
    starts: int = 16

    def __post_init__(self) -> None:
        check_at_least(self, 1, "population", "offspring", "most_deletions", "recent", "max_prompts", "starts")
        check_at_least(self, 0, "elite", "items", "block", "patience")
        for name in (*_MOVES, "guide", "largest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share in [0, 1], not {getattr(self, name)}")
        if self.restore + self.swap > 1:
            raise InputError("restore and swap are shares of the children: their sum must be at most 1")
        check_share(self, "tournament")
        if not 0.5 < self.confidence < 1:  # noqa: PLR2004  0.5 would drop every child below the mean survivor
            raise InputError(f"confidence must be in (0.5, 1), not {self.confidence}")
        check_fitness(self.fitness)

    @staticmethod
    def paper(mode: Literal["gga", "ssga"] = "gga") -> PromptQuinePaper:
        """Return the published algorithm with the paper's settings (table 9).

        Args:
            mode: "ssga" for one demonstration per class (`max_prompts` is 10,000), "gga" for four (100,000).
        """
        return PromptQuinePaper(mode=mode, max_prompts=100_000 if mode == "gga" else 10_000)

    def search(self, run: Run) -> None:
        """Evolve until the population is short, nothing is new, nothing improves, or the budget ends."""
        evolutions = self._best_starts(self._starts(run))
        for evolution in evolutions:
            evolution.begin()
        drawn = len(evolutions)
        while drawn < self.max_prompts:
            alone = len(evolutions) == 1
            active = [evolution for evolution in evolutions if evolution.is_active(alone=alone)]
            for evolution in active:
                if evolution.generation():
                    drawn += self.offspring
                    evolution.report(drawn)
            if not active:
                evolutions = sorted(evolutions, key=lambda evolution: _rank(evolution.best[0]))[:-1] or evolutions
                doubled = [evolution for evolution in evolutions if evolution.double_examples()]
                if alone and not doubled:
                    return

    def _starts(self, run: Run) -> list[Evolution]:
        """Return the evolutions of the seed prompt and of its variants, on the examples that none of them shows."""
        seed_tokens(run)  # raises if there is nothing to prune
        variants = with_other_demonstrations(run.task.seed_prompt, run.task.train, self.starts, run.rng)
        shuffled = self.items or self.starts > 1
        inner = run.restricted_to(stratified_shuffle(variants.examples, run.rng) if shuffled else variants.examples)
        size, reward = min(self.items or len(variants.examples), len(variants.examples)), reward_of(run, self.fitness)
        return [
            Evolution(self, inner, inner.tokens(prompt), reward, size, start)
            for start, prompt in enumerate(variants.prompts)
        ]

    @staticmethod
    def _best_starts(starts: list[Evolution]) -> list[Evolution]:
        """Return the seed prompt's evolution and the best others, by successive halving: half remain as examples double."""
        run, reward = starts[0].run, starts[0].reward

        def rank(remaining: list[Evolution], size: int) -> list[Evolution]:
            means = run.score([start.full for start in remaining], run.task.train[:size], reward=reward).mean
            return [
                remaining[i] for i in np.argsort(-means, kind="stable")
            ]  # a prompt whose replies all failed is last

        rounds = doubling(_FIRST_EXAMPLES, len(run.task.train))[:-1]
        remaining = successive_halving(
            starts, rounds, rank, lambda count: max(_POPULATIONS, (count + 1) // 2), enough=_POPULATIONS
        )
        return [starts[0], *(start for start in remaining if start is not starts[0])][:_POPULATIONS]


@dataclass(eq=False)
class Evolution:
    """The search over the tokens of one prompt.

    Args:
        settings: of the search.
        run: scores the prompts.
        tokens: of the prompt.
        reward: what the search maximizes; None for the task's reward.
        size: number of training examples that the search uses so far, in order.
        start: number of the starting prompt.
        population: the survivors.
        best: the best so far, best first.
        scored: masks with their fitness, which is an estimate for eliminated children.
        token_effects: estimated from the scored masks; None until there are two.
        evaluated: prompts that were scored.
        eliminated: prompts that were dropped after a block; they are not drawn again.
        stale: generations since the last new best, or since the examples doubled.
        exhausted: whether the last generation contained nothing new.
    """

    settings: PromptQuine
    run: Run
    tokens: Tokens
    reward: Reward | None
    size: int
    start: int = 0
    population: list[Genome] = field(default_factory=list)
    best: list[Genome] = field(default_factory=list)
    scored: list[tuple[Mask, float]] = field(default_factory=list)
    token_effects: TokenEffects | None = None
    evaluated: set[Prompt] = field(default_factory=set)
    eliminated: set[Prompt] = field(default_factory=set)
    stale: int = 0
    exhausted: bool = False

    @property
    def full(self) -> Prompt:
        """The prompt of all tokens."""
        return self.tokens.prompt(self.tokens.full())

    @property
    def examples(self) -> Sequence[Example]:
        """The training examples that the search uses so far."""
        return self.run.task.train[: self.size]

    @property
    def is_short(self) -> bool:
        """Whether the population is so short that the search ends."""
        return mean_length(self.run, self.population) <= self.settings.shortest

    def begin(self) -> None:
        """Score the prompt of all tokens, and make it the population."""
        full = [Child(self.tokens.full(), self.full)]
        self._score_on(full, self.examples)
        self.population = self._genomes(full) * self.settings.population

    def is_active(self, *, alone: bool) -> bool:
        """Tell whether to breed another generation on these examples.

        `patience` applies once it is the only evolution left and uses all examples; before that, three generations do.
        """
        if self.exhausted or self.is_short:
            return False
        if alone and self.size == len(self.run.task.train):
            return not self.stale >= self.settings.patience > 0
        return self.stale < _STALLED

    def generation(self) -> bool:
        """Breed one generation, and return whether it contained anything new."""
        s = self.settings
        best_before, evaluated_before = self.best[0].fitness, len(self.evaluated)
        if s.guide:
            self.token_effects = token_effects(*zip(*self.scored, strict=True)) if len(self.scored) > 1 else None
        grown = [*self.population, *self._race(self._offspring())]
        self.exhausted = len(self.evaluated) == evaluated_before
        if self.exhausted:
            return False
        young = grown[-s.recent :]
        old = [genome for genome in self.best[: s.elite] if all(genome is not other for other in young)]
        self.population = sorted([*old, *young], key=_rank)[: s.population]
        self.stale = 0 if self.best[0].fitness > best_before else self.stale + 1
        return True

    def report(self, drawn: int) -> None:
        """End a step of the run."""
        length = mean_length(self.run, self.population)
        self.run.step(start=self.start, best=self.best[0].fitness, length=length, drawn=drawn, items=self.size)

    def double_examples(self) -> bool:
        """Double the examples, and score population and best prompts on the new ones.

        Returns:
            Whether there were new examples, and the search can continue.
        """
        train, self.stale = self.run.task.train, 0
        new_examples, self.size = train[self.size : 2 * self.size], min(2 * self.size, len(train))
        if not new_examples or self.exhausted or self.is_short:
            return False
        old = {genome.prompt: genome for genome in [*self.best, *self.population]}
        self.run.score(list(old), new_examples, reward=self.reward)
        fitness = ranking_fitness(self.run.archive.rewards(list(old), self.examples))
        new = {prompt: old[prompt]._replace(fitness=mean) for prompt, mean in zip(old, fitness, strict=True)}
        # Fitness on fewer examples is not comparable: shift old values by the mean change of the rescored prompts.
        changes = [new[prompt].fitness - old[prompt].fitness for prompt in old]
        shift = float(np.mean([change for change in changes if math.isfinite(change)] or [0.0]))
        self.scored = [(mask, fitness + shift) for mask, fitness in self.scored]
        self.best = sorted((new[genome.prompt] for genome in self.best), key=_rank)
        self.population = sorted((new[genome.prompt] for genome in self.population), key=_rank)
        return True

    def _offspring(self) -> list[Child]:
        """Draw children, and return those that are new: not in the population, not eliminated, no duplicates."""
        s, rng = self.settings, self.run.rng
        parents = (tournament(self.population, s.tournament, rng) for _ in range(s.offspring))
        draws = ((parent, self._mutate(parent.mask)) for parent in parents)
        return new_children(self.tokens, draws, {genome.prompt for genome in self.population} | self.eliminated)

    def _mutate(self, mask: Mask) -> Mask | None:
        """Return the mask after one random move, or None if no draw gave a valid one."""
        s, rng = self.settings, self.run.rng
        cumulative_shares = np.cumsum([s.restore, s.swap])
        move = len(_MOVES)
        if cumulative_shares[-1]:
            move = int(np.searchsorted(cumulative_shares, rng.random(), side="right"))
        max_tokens = max(s.most_deletions, int(s.largest_share * self.tokens.prunable.size))
        return mutated(lambda count: self._apply_move(mask, move, count), max_tokens, rng)

    def _apply_move(self, mask: Mask, move: int, count: int) -> Mask | None:
        """Return the mask after a move of `count` tokens, or None if there are not enough."""
        rng, free, guide = self.run.rng, ~self.tokens.frozen, self.settings.guide
        drop_weights = restore_weights = None
        if self.token_effects is not None:  # mixes a uniform weight and the probability that dropping the token helps
            drop_weights = (1 - guide) / 2 + guide * self.token_effects.prob_harmful
            restore_weights = 1 - drop_weights
        if move == _MOVES.index("restore"):
            return restore_tokens(mask, free, count, rng, restore_weights)
        fewer = drop_tokens(mask, free, count, rng, drop_weights)
        if move != _MOVES.index("swap") or fewer is None:
            return fewer
        more = restore_tokens(mask, free, count, rng, restore_weights)
        return None if more is None else fewer | (more & ~mask)

    def _race(self, children: Sequence[Child]) -> list[Genome]:
        """Score children on doubling blocks of training examples, and return those that are not eliminated."""
        examples, block = self.examples, self.settings.block or self.size
        order: list[int] = list(range(self.size))
        if self.settings.block:
            order = self.run.rng.permutation(self.size).tolist()
        alive = list(children)
        for done, size in pairwise([0, *doubling(block, self.size)]):
            if not alive:
                break
            self._score_on(alive, [examples[e] for e in sorted(order[done:size])])
            if size < self.size:
                alive = self._survivors(alive, unscored=order[size:])
        return self._genomes(alive)

    def _survivors(self, children: Sequence[Child], unscored: Sequence[int]) -> list[Child]:
        """Return the children that are not clearly worse than the mean survivor on the examples scored so far.

        Args:
            children: [C] that are still in the race.
            unscored: indices of the examples that they were not scored on in this race.
        """
        archive, examples = self.run.archive, self.examples
        mean_survivor = nanmean(archive.rewards([genome.prompt for genome in self.population], examples), axis=0)  # [E]
        lead = archive.rewards([child.prompt for child in children], examples) - mean_survivor  # [C, E]
        lead[:, unscored] = np.nan
        gain, error = nanmean(lead, axis=1), standard_error(lead)
        is_worse = gain < -NormalDist().inv_cdf(self.settings.confidence) * error
        # An eliminated child still informs the token effects: estimate its fitness on all examples from its lead.
        level = float(nanmean(mean_survivor, axis=0))
        eliminated = {child.prompt for child, worse in zip(children, is_worse, strict=True) if worse}
        self.scored += [(child.mask, level + gain[c]) for c, child in enumerate(children) if child.prompt in eliminated]
        self.eliminated |= eliminated
        return [child for child in children if child.prompt not in eliminated]

    def _score_on(self, children: Sequence[Child], examples: Sequence[Example]) -> None:
        prompts, parents = [child.prompt for child in children], [child.parent for child in children]
        self.evaluated.update(prompts)
        self.run.score(prompts, examples, reward=self.reward, parents=parents)

    def _genomes(self, children: Sequence[Child]) -> list[Genome]:
        """Return the genomes of scored children; add them to the scored masks and to the best."""
        fitness = ranking_fitness(self.run.archive.rewards([child.prompt for child in children], self.examples))
        genomes = [Genome(child.mask, child.prompt, mean) for child, mean in zip(children, fitness, strict=True)]
        self.scored += [(genome.mask, genome.fitness) for genome in genomes if math.isfinite(genome.fitness)]
        best = sorted({genome.prompt: genome for genome in [*self.best, *genomes]}.values(), key=_rank)
        self.best = best[: max(self.settings.elite, 1)]
        return genomes


def _rank(genome: Genome) -> float:
    return -genome.fitness
