"""PromptQuine: evolve which tokens of an in-context prompt are kept (Wang et al., ICML 2025, "Evolving Prompts In-Context").

A genome is a mask over the tokens of the seed prompt, with its demonstrations written out; slots are never removed. In the
paper, children lose one to four tokens, and parents die of age regardless of rank. The default adds other moves, racing, a
growing set of examples, an archive, a regression on token effects, and starts with other demonstrations. Numbers marked
(paper) are from the paper's table 9 and the released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.rewards import LabelMargin
from promptopt.search.demonstrations import stratified_shuffle, with_other_demonstrations
from promptopt.search.masks import drop_tokens, restore_tokens, token_effects
from promptopt.statistics.arrays import nanmean, standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.search.masks import TokenEffects
    from promptopt.search.run import Run
    from promptopt.search.tokens import Mask, Tokens
    from promptopt.statistics.arrays import Floats

_MOVES = ("restore", "swap")  # any other move is a deletion
_MINIMUM = {
    1: ("population", "offspring", "most_deletions", "recent", "max_prompts", "starts"),
    0: ("elite", "items", "block", "patience"),
}
_FIRST_EXAMPLES = 8  # on which all starts are scored
_POPULATIONS = 3  # starts that get a population
_STALLED = 3  # generations without a new best after which the examples double
_MUTATION_TRIES = 10  # draws before a child is given up (code)


class Genome(NamedTuple):
    """A mask, its prompt, the rewards on the examples searched on so far, [E], and their mean."""

    mask: Mask
    prompt: Prompt
    rewards: Floats
    fitness: float


class Child(NamedTuple):
    """A mask to be scored, its prompt, and its parent's prompt."""

    mask: Mask
    prompt: Prompt
    parent: Prompt | None = None


@dataclass(frozen=True, kw_only=True)
class PromptQuine:
    """Evolutionary pruning of an in-context prompt.

    The prompt must have something to prune, usually written-out demonstrations. Not for prompts of a dozen tokens, nor for
    prompts of which every token is an instruction. If replies are votes or free text, use enough training examples that no
    single reply is decisive: fitness is their mean.

    What differs from the released code, in the paper's settings too: tokens are cut from the text by their offsets, so
    that keeping all of them reproduces the seed prompt exactly; ties between labels are masked by index; siblings are
    also deduplicated; the search ends when a generation contains nothing new. Selection happens outside the strategy: the
    16 best by fitness race on validation examples, where the paper re-ranks the best 5 or 10 in a hundred.

    Args:
        mode: "gga" scores all children of a generation in one batch; "ssga" scores one at a time, and each may be a parent
            of the next (only for local models: nothing runs concurrently).
        population: survivors of each generation (paper: 30).
        offspring: children drawn in each generation (paper: 50).
        most_deletions: a child loses 1 to this many tokens at once (paper: 4).
        largest_share: raises that maximum to this share of the tokens of the starting prompt, if that is more (paper: 0).
        tournament: share of the population, drawn with replacement, that competes to be a parent (paper: 0.2).
        recent: number of newest entries from which survivors are chosen; older ones die regardless of rank (paper: 50).
        max_prompts: most children drawn ("gga") or scored ("ssga") in total, counting the starting prompts (code) (paper:
            10,000 for one demonstration per class, 100,000 for four; most searches end by about 10,000).
        shortest: the search ends when the population's mean length in tokens is at most this (paper: 15).
        fitness: "margin" maximises the label margin if the task has labels, "reward" the task's reward.
        elite: number of best prompts that do not die of age (paper: 0).
        restore: share of children that regain tokens instead of losing some (paper: 0).
        swap: share of children that lose some tokens and regain others (paper: 0).
        guide: weight, in the probability of removing or restoring a token, of a ridge regression over the scored masks;
            the rest is uniform (paper: 0).
        items: training examples that the search starts on, stratified_shuffle by target; they double after three generations without
            a new best. 0 uses all from the start (paper: 0).
        block: number of these examples on which children are scored first; the number then doubles, and children clearly
            worse than the mean survivor are dropped. 0 scores on all at once (paper: 0).
        halving: if the task has no labels (reasoning, generation), children are scored on the first half of the examples,
            and on the second half only if their mean is not below the worst survivor's; otherwise that mean is their
            fitness (paper; on in the authors' scripts for GSM8K, rejected there for classification). Needs `block=0`.
        confidence: required confidence that a child dropped after a block is worse than the mean survivor.
        patience: the search ends after this many generations without a new best on all examples; 0 never (paper: 0).
        starts: number of starting prompts: the seed prompt, and variants with other training examples as demonstrations.
            They race on training examples that are in none of their demonstrations; each round halves the prompts and
            doubles the examples. The seed prompt and the two best others then each get a population; whenever the
            examples double, the population with the worst best prompt is dropped (paper: 1).
    """

    writes: ClassVar[bool] = False

    mode: Literal["gga", "ssga"] = "gga"
    population: int = 10
    offspring: int = 10
    most_deletions: int = 4
    largest_share: float = 1 / 16
    tournament: float = 0.2
    recent: int = 50
    max_prompts: int = 10_000
    shortest: int = 15
    fitness: Literal["margin", "reward"] = "margin"
    elite: int = 5
    restore: float = 0.15
    swap: float = 0.1
    guide: float = 0.8
    items: int = 16
    block: int = 8
    halving: bool = False
    confidence: float = 0.8
    patience: int = 30
    starts: int = 16

    def __post_init__(self) -> None:
        for minimum, names in _MINIMUM.items():
            for name in names:
                if getattr(self, name) < minimum:
                    raise InputError(f"{name} must be at least {minimum}, not {getattr(self, name)}")
        for name in (*_MOVES, "guide", "largest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share in [0, 1], not {getattr(self, name)}")
        if self.restore + self.swap > 1:
            raise InputError("restore and swap are shares of the children: their sum must be at most 1")
        if not 0 < self.tournament <= 1:
            raise InputError(f"tournament must be a share in (0, 1], not {self.tournament}")
        if not 0.5 < self.confidence < 1:  # noqa: PLR2004  0.5 would drop every child below the mean survivor
            raise InputError(f"confidence must be in (0.5, 1), not {self.confidence}")
        self._check_modes()
        check_fitness(self.fitness)

    def _check_modes(self) -> None:
        if self.halving and self.block:
            raise InputError(
                "halving and block both choose the examples that children are scored on first: set block=0"
            )
        if self.mode not in ("gga", "ssga"):
            raise InputError(f"mode must be 'gga' or 'ssga', not {self.mode!r}")

    @classmethod
    def paper(cls, mode: Literal["gga", "ssga"] = "gga") -> PromptQuine:
        """Return the paper's settings (table 9).

        Args:
            mode: "ssga" for one demonstration per class (`max_prompts` is 10,000), "gga" for four (100,000).
        """
        return cls(
            mode=mode,
            population=30,
            offspring=50,
            largest_share=0.0,
            elite=0,
            restore=0.0,
            swap=0.0,
            guide=0.0,
            max_prompts=100_000 if mode == "gga" else 10_000,
            items=0,
            block=0,
            halving=True,
            patience=0,
            starts=1,
        )

    def search(self, run: Run) -> None:
        """Evolve until the population is short, nothing is new, nothing improves, or the budget ends."""
        seed_tokens(run)  # raises if there is nothing to prune
        variants = with_other_demonstrations(run.task.seed_prompt, run.task.train, self.starts, run.rng)
        reward = reward_of(run, self.fitness)
        shuffled = self.items or self.starts > 1
        inner = run.restricted_to(stratified_shuffle(variants.items, run.rng) if shuffled else variants.items)
        size = min(self.items or len(inner.task.train), len(inner.task.train))
        starts = [Evolution(self, inner, inner.tokens(prompt), reward, size) for prompt in variants.prompts]
        evolutions = self._best_starts(inner, starts, reward)
        for evolution in evolutions:
            evolution.begin()
        drawn = len(evolutions)  # the authors' counter also starts at 1 (code)
        while drawn < self.max_prompts:
            alone = len(evolutions) == 1
            active = [evolution for evolution in evolutions if evolution.is_active(alone=alone)]
            for evolution in active:
                if count := evolution.generation():
                    drawn += count
                    run.step(
                        start=starts.index(evolution),
                        best=evolution.best[0].fitness,
                        length=evolution.mean_length(),
                        drawn=drawn,
                        items=evolution.size,
                    )
            if active:
                continue
            if not alone:
                evolutions = sorted(evolutions, key=lambda evolution: _rank(evolution.best[0]))[:-1]
            if not [evolution for evolution in evolutions if evolution.double_examples()] and alone:
                break

    def _best_starts(self, run: Run, starts: list[Evolution], reward: Reward | None) -> list[Evolution]:
        """Return the seed prompt's evolution and the best others, by successive halving: half remain as examples double."""
        examples, size, remaining = run.task.train, _FIRST_EXAMPLES, starts
        while len(remaining) > _POPULATIONS and size < len(examples):
            means = run.score([start.full for start in remaining], examples[:size], reward=reward).mean
            order = sorted(range(len(remaining)), key=lambda i: (-math.inf if math.isnan(means[i]) else -means[i], i))
            remaining = [remaining[i] for i in order[: max(_POPULATIONS, (len(remaining) + 1) // 2)]]
            size *= 2
        return [starts[0], *(start for start in remaining if start is not starts[0])][:_POPULATIONS]


@dataclass(eq=False)
class Evolution:
    """The search over the tokens of one prompt.

    Args:
        settings: of the search.
        run: scores the prompts.
        tokens: of the prompt.
        reward: what the search maximises; None for the task's reward.
        size: number of training examples that the search uses so far, in order.
        pool: the population.
        best: the archive, best first.
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
    pool: list[Genome] = field(default_factory=list)
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

    def begin(self) -> None:
        """Score the prompt of all tokens, and make it the population."""
        full = [Child(self.tokens.full(), self.full)]
        genomes = self._add_genomes(full, self._rewards(full, self.run.task.train[: self.size]))
        self.pool = genomes * self.settings.population

    def is_active(self, *, alone: bool) -> bool:
        """Tell whether to breed another generation on these examples.

        `patience` applies once it is the only evolution left and uses all examples; before that, three generations do.
        """
        if self.exhausted or self.mean_length() <= self.settings.shortest:
            return False
        if alone and self.size == len(self.run.task.train):
            return not self.stale >= self.settings.patience > 0
        return self.stale < _STALLED

    def generation(self) -> int:
        """Breed one generation, and return how many children count as drawn; 0 if none was new."""
        s = self.settings
        best_before, evaluated_before = self.best[0].fitness, len(self.evaluated)
        if s.guide:
            self.token_effects = token_effects(*zip(*self.scored, strict=True)) if len(self.scored) > 1 else None
        grown, scored_children = self._with_children()
        if len(self.evaluated) == evaluated_before:
            self.exhausted = True
            return 0
        # Regularised evolution: only the newest survive (section 3.2); we also keep the best of the archive.
        young = grown[-s.recent :]
        old = [genome for genome in self.best[: s.elite] if all(genome is not other for other in young)]
        self.pool = sorted([*old, *young], key=lambda genome: -genome.fitness)[: s.population]
        self.stale = 0 if self.best[0].fitness > best_before else self.stale + 1
        return s.offspring if s.mode == "gga" else scored_children  # gga also counts draws that were not new (code)

    def double_examples(self) -> bool:
        """Double the examples, and score population and archive on the new ones.

        Returns:
            Whether there were new examples, and the search can continue.
        """
        train, self.stale = self.run.task.train, 0
        new_examples, self.size = train[self.size : 2 * self.size], min(2 * self.size, len(train))
        if not new_examples or self.exhausted or self.mean_length() <= self.settings.shortest:
            return False
        old = {genome.prompt: genome for genome in [*self.best, *self.pool]}
        new_rewards = self.run.score(list(old), new_examples, reward=self.reward).per_example
        new = {
            prompt: _genome(genome.mask, prompt, np.concatenate([genome.rewards, row]))
            for (prompt, genome), row in zip(old.items(), new_rewards, strict=True)
        }
        # Fitness on fewer examples is not comparable: shift old values by the mean change of the rescored prompts.
        changes = [new[prompt].fitness - old[prompt].fitness for prompt in old]
        shift = float(np.mean([change for change in changes if math.isfinite(change)] or [0.0]))
        self.scored = [(mask, fitness + shift) for mask, fitness in self.scored]
        self.best = sorted((new[genome.prompt] for genome in self.best), key=_rank)
        self.pool = sorted((new[genome.prompt] for genome in self.pool), key=_rank)
        return True

    def _with_children(self) -> tuple[list[Genome], int]:
        """Return the population followed by one generation of children, and how many children were scored."""
        s = self.settings
        if s.mode == "gga":
            children = self._offspring(self.pool, s.offspring)
            return [*self.pool, *self._score(children)], len(children)
        grown, scored_children = self.pool, 0
        for _ in range(s.offspring):
            child = self._offspring(grown, 1)
            grown, scored_children = [*grown, *self._score(child)], scored_children + len(child)
        return grown, scored_children

    def _offspring(self, pool: Sequence[Genome], count: int) -> list[Child]:
        """Draw `count` children, and return those that are new: not in the population, not eliminated, no duplicates."""
        known = {genome.prompt for genome in pool} | self.eliminated
        children: list[Child] = []
        for _ in range(count):
            parent = self._select_parent(pool)
            mask = self._mutate(parent)
            if mask is not None and (prompt := self.tokens.prompt(mask)) not in known:
                known.add(prompt)
                children.append(Child(mask, prompt, parent.prompt))
        return children

    def _select_parent(self, pool: Sequence[Genome]) -> Genome:
        """Return the winner of a tournament."""
        contestants = self.run.rng.integers(len(pool), size=max(1, int(self.settings.tournament * len(pool))))
        return pool[min(contestants.tolist(), key=lambda i: (-pool[i].fitness, i))]

    def _mutate(self, parent: Genome) -> Mask | None:
        """Return the mask after one random move, or None if ten draws gave no valid one."""
        s, rng = self.settings, self.run.rng
        max_tokens = max(s.most_deletions, int(s.largest_share * self.tokens.prunable.size))
        cumulative_shares = np.cumsum([s.restore, s.swap])
        move = len(_MOVES)
        if cumulative_shares[-1]:
            move = int(np.searchsorted(cumulative_shares, rng.random(), side="right"))
        for _ in range(_MUTATION_TRIES):
            child = self._apply_move(parent, move, int(rng.integers(1, max_tokens + 1)))
            if child is not None:
                return child
        return None

    def _apply_move(self, parent: Genome, move: int, count: int) -> Mask | None:
        """Return the mask after a move of `count` tokens, or None if there are not enough."""
        mask, rng, free, guide = parent.mask, self.run.rng, ~self.tokens.frozen, self.settings.guide
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

    def _score(self, children: Sequence[Child]) -> list[Genome]:
        """Score children on doubling blocks of training examples, and return those that are not eliminated."""
        examples = self.run.task.train[: self.size]
        if self.settings.halving and not self.run.task.labels:
            return self._score_by_halving(children, examples)
        rewards = np.full((len(children), len(examples)), np.nan)
        order = self.run.rng.permutation(len(examples)) if self.settings.block else np.arange(len(examples))
        mean_survivor = nanmean(np.array([genome.rewards for genome in self.pool]), axis=0)  # [E]
        done, alive = 0, list(range(len(children)))
        while alive and done < len(examples):
            size = min(max(2 * done, self.settings.block or len(examples)), len(examples))
            block = np.sort(order[done:size])
            block_rewards = self._rewards([children[i] for i in alive], [examples[e] for e in block.tolist()])
            rewards[np.array(alive)[:, None], block] = block_rewards
            done = size
            if done < len(examples):
                alive = self._eliminate(children, alive, rewards, mean_survivor)
        return self._add_genomes([children[i] for i in alive], rewards[alive])

    def _score_by_halving(self, children: Sequence[Child], examples: Sequence[Example]) -> list[Genome]:
        """Score children on half of the examples; those not below the worst survivor also on the other half."""
        half, worst = (len(examples) + 1) // 2, min(genome.fitness for genome in self.pool)
        rewards = np.full((len(children), len(examples)), np.nan)
        if children:
            rewards[:, :half] = self._rewards(children, examples[:half])
        passed = [i for i, mean in enumerate(nanmean(rewards, axis=1)) if mean >= worst]
        if passed and half < len(examples):
            rewards[passed, half:] = self._rewards([children[i] for i in passed], examples[half:])
        return self._add_genomes(children, rewards)

    def _eliminate(
        self, children: Sequence[Child], alive: Sequence[int], rewards: Floats, mean_survivor: Floats
    ) -> list[int]:
        """Return the indices of children that are not clearly worse than the mean survivor on the examples scored so far.

        Args:
            children: of this generation.
            alive: indices of the children that are still in the race.
            rewards: [children, E]; NaN where not scored.
            mean_survivor: [E], mean rewards over the population.
        """
        lead = rewards[alive] - mean_survivor
        gain, error = nanmean(lead, axis=1), standard_error(lead)
        is_worse = gain < -NormalDist().inv_cdf(self.settings.confidence) * error
        # An eliminated child still informs the token effects: estimate its fitness on all examples from its lead.
        level = float(nanmean(mean_survivor, axis=0))
        for n, i in enumerate(alive):
            if is_worse[n]:
                self.scored.append((children[i].mask, level + gain[n]))
                self.eliminated.add(children[i].prompt)
        return [i for n, i in enumerate(alive) if not is_worse[n]]

    def _rewards(self, children: Sequence[Child], examples: Sequence[Example]) -> Floats:
        """Return rewards [children, examples]."""
        prompts, parents = [child.prompt for child in children], [child.parent for child in children]
        self.evaluated.update(prompts)
        return self.run.score(prompts, examples, reward=self.reward, parents=parents).per_example

    def _add_genomes(self, children: Sequence[Child], rewards: Floats) -> list[Genome]:
        """Add children to the scored masks and to the archive, and return their genomes."""
        genomes = []
        for child, row in zip(children, rewards, strict=True):
            genome = _genome(child.mask, child.prompt, row)
            genomes.append(genome)
            if math.isfinite(genome.fitness):
                self.scored.append((child.mask, genome.fitness))
        self.best = sorted({genome.prompt: genome for genome in [*self.best, *genomes]}.values(), key=_rank)
        self.best = self.best[: max(self.settings.elite, 1)]
        return genomes

    def mean_length(self) -> float:
        """Return the mean length of the population, in tokens."""
        return sum(self.run.length(genome.prompt) for genome in self.pool) / len(self.pool)


def seed_tokens(run: Run) -> Tokens:
    """Tokenize the seed prompt.

    Raises:
        InputError: there is nothing to prune.
    """
    tokens = run.tokens(run.task.seed_prompt)
    if not tokens.prunable.size:
        raise InputError("the seed prompt has nothing to prune, only slots: add text or demonstrations")
    return tokens


def reward_of(run: Run, fitness: str) -> Reward | None:
    """Return the reward that a search maximises: the label margin if `fitness` says so and there are labels, else None."""
    return LabelMargin(run.task.labels) if fitness == "margin" and run.task.labels else None


def check_fitness(fitness: str) -> None:
    """Raise InputError if the fitness is unknown."""
    if fitness not in ("margin", "reward"):
        raise InputError(f"fitness must be 'margin' or 'reward', not {fitness!r}")


def _genome(mask: Mask, prompt: Prompt, rewards: Floats) -> Genome:
    mean = float(nanmean(rewards, axis=0))
    # A prompt whose replies all failed ranks last; its score remains NaN in the history.
    return Genome(mask, prompt, rewards, -math.inf if math.isnan(mean) else mean)


def _rank(genome: Genome) -> float:
    return -genome.fitness
