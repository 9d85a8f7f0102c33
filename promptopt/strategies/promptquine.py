"""PromptQuine: evolve which tokens of an in-context prompt are kept (Wang et al., ICML 2025, "Evolving Prompts In-Context").

A genome is a mask over the seed prompt's tokens, its demonstrations written out; slots are never taken. In the paper
children lose one to four tokens and parents die of age, not of rank; the default adds other moves, racing, items that
grow with the search, an archive, a guess of what each token is worth, and other demonstrations to start from. Numbers
marked (paper) stand in the paper's table 9 and in the released code.
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

_MOVES = ("restore", "swap")  # any other is a deletion
_LEAST = {
    1: ("population", "offspring", "most_deletions", "recent", "max_prompts", "starts"),
    0: ("elite", "items", "block", "patience"),
}
_FIRST_ITEMS = 8  # on which all starts are scored
_POPULATIONS = 3  # starts that are searched from
_STALLED = 3  # generations without a better best after which the items double
_TRIES = 10  # draws of a number of tokens before a child is given up (code)


class Genome(NamedTuple):
    """A mask, the prompt that it keeps, and its fitness on each item searched on so far, [E]."""

    mask: Mask
    prompt: Prompt
    rewards: Floats
    fitness: float


class Child(NamedTuple):
    """A mask that is to be scored, its prompt, and the prompt that it was made from."""

    mask: Mask
    prompt: Prompt
    parent: Prompt | None = None


@dataclass(frozen=True, kw_only=True)
class PromptQuine:
    """Evolutionary pruning of an in-context prompt.

    The prompt must have something to prune: written-out demonstrations are the usual start. Not for prompts of a
    dozen tokens, and not where every token is an instruction that must stay. Where replies are votes or free text, give
    enough training items that one reply does not decide: fitness is their mean.

    What differs from the released code, in the paper's settings too: tokens are cut from the text by their offsets, so
    that keeping all of them is the seed prompt to the letter; ties between labels are masked by index; siblings are
    deduplicated too; the search ends when a generation brings nothing new. Calibration-then-selection is the harness's:
    it races the 16 best by fitness on validation items, where the paper re-ranks the best 5 or 10 in a hundred.

    Args:
        mode: "gga" scores all children of a generation in one batch, "ssga" one at a time, each a possible parent of the
            next (for local models alone: nothing runs at the same time).
        population: survivors of each generation (paper: 30).
        offspring: children drawn in each generation (paper: 50).
        most_deletions: tokens that a child may lose at once, drawn from 1 to this (paper: 4), or
        largest_share: to this share of the tokens of the prompt that it was started from, where that is more (paper: 0).
        tournament: share of the population that competes to be a parent, drawn with replacement (paper: 0.2).
        recent: entries, newest last, among which survivors are sought; older ones die whatever their rank (paper: 50).
        max_prompts: children drawn ("gga") or scored ("ssga") in all, the prompts started from with them (code) (paper: 10,000
            for one demonstration per class, 100,000 for four, where most searches end by about 10,000).
        shortest: the search ends when the population's mean length in tokens is at most this (paper: 15).
        fitness: "margin" searches by the label margin where the task has labels, "reward" by the task's reward.
        elite: best prompts so far that do not die of age (paper: 0).
        restore: share of children that get tokens back in place of losing some (paper: 0).
        swap: share that lose some and get others back (paper: 0).
        guide: share of the chance of a token to be taken or given back that follows what a ridge regression over the
            scored masks makes of it; the rest is uniform (paper: 0).
        items: training items, as many of each target as can be, that the search starts on; they double whenever three
            generations bring no better best. 0 takes all from the start (paper: 0).
        block: of these items, those that children are scored on first; then as many again, and so on doubling, without those
            that are clearly worse than the mean survivor. 0 scores on all of them at once (paper: 0).
        halving: where the task has no labels, as in reasoning and generation, children are scored on the first half of the
            items, and on the others only where their mean there is not below the worst survivor's; else that mean is their
            fitness (paper; on in the authors' scripts for GSM8K, and refused there for classification). Needs `block=0`.
        confidence: that a child which a block rules out is worse than the mean survivor.
        patience: the search ends after so many generations without a better best on all items; 0 never (paper: 0).
        starts: prompts to start from: the seed prompt, and the same with other training items shown. They race on the
            training items that none of the others shows: each round halves their number and doubles the items. The seed
            prompt and the best two others are then searched from, each with a population of its own; whenever the items
            double, the one with the worst best is left (paper: 1).
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
        for least, names in _LEAST.items():
            for name in names:
                if getattr(self, name) < least:
                    raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in (*_MOVES, "guide", "largest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share in [0, 1], not {getattr(self, name)}")
        if self.restore + self.swap > 1:
            raise InputError("restore and swap are shares of the children: they must not add up above 1")
        if not 0 < self.tournament <= 1:
            raise InputError(f"tournament must be a share in (0, 1], not {self.tournament}")
        if not 0.5 < self.confidence < 1:  # noqa: PLR2004  at 0.5 the better half of all would be all that is left
            raise InputError(f"confidence must be in (0.5, 1), not {self.confidence}")
        self._check_modes()
        check_fitness(self.fitness)

    def _check_modes(self) -> None:
        if self.halving and self.block:
            raise InputError("halving and block both choose the items that children are scored on first: set block=0")
        if self.mode not in ("gga", "ssga"):
            raise InputError(f"mode must be 'gga' or 'ssga', not {self.mode!r}")

    @classmethod
    def paper(cls, mode: Literal["gga", "ssga"] = "gga") -> PromptQuine:
        """Return the paper's settings (table 9): "ssga" for one demonstration per class, "gga" for four.

        `max_prompts` goes with them: 10,000 and 100,000.
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
        """Evolve until the population is short, nothing new comes, nothing gets better, or the budget ends."""
        seed_tokens(run)  # refused where there is nothing to prune
        found = with_other_demonstrations(run.task.seed_prompt, run.task.train, self.starts, run.rng)
        reward = reward_of(run, self.fitness)
        shuffled = self.items or self.starts > 1
        inner = run.restricted_to(stratified_shuffle(found.items, run.rng) if shuffled else found.items)
        size = min(self.items or len(inner.task.train), len(inner.task.train))
        starts = [Evolution(self, inner, inner.tokens(prompt), reward, size) for prompt in found.prompts]
        rivals = self._fastest(inner, starts, reward)
        for rival in rivals:
            rival.begin()
        drawn = len(rivals)  # the authors' counter starts at 1, too (code)
        while drawn < self.max_prompts:
            alone = len(rivals) == 1
            going = [rival for rival in rivals if rival.goes_on(alone=alone)]
            for rival in going:
                if count := rival.generation():
                    drawn += count
                    run.step(
                        start=starts.index(rival),
                        best=rival.best[0].fitness,
                        length=rival.mean_length(),
                        drawn=drawn,
                        items=rival.size,
                    )
            if going:
                continue
            if not alone:
                rivals = sorted(rivals, key=lambda rival: _rank(rival.best[0]))[:-1]
            if not [rival for rival in rivals if rival.on_more_items()] and alone:
                break

    def _fastest(self, run: Run, starts: list[Evolution], reward: Reward | None) -> list[Evolution]:
        """Return the seed prompt's and the best others, when half drop out each time that the items double."""
        items, size, left = run.task.train, _FIRST_ITEMS, starts
        while len(left) > _POPULATIONS and size < len(items):
            means = run.score([start.full for start in left], items[:size], reward=reward).mean
            order = sorted(range(len(left)), key=lambda i: (-math.inf if math.isnan(means[i]) else -means[i], i))
            left = [left[i] for i in order[: max(_POPULATIONS, (len(left) + 1) // 2)]]
            size *= 2
        return [starts[0], *(start for start in left if start is not starts[0])][:_POPULATIONS]


@dataclass(eq=False)
class Evolution:
    """The search over the tokens of one prompt.

    Args:
        settings: of the search.
        run: scores.
        tokens: of the prompt.
        reward: what is searched by, or None for the task's own.
        size: training items, the first ones, that are searched on by now.
        pool: the population.
        best: the archive, best first.
        tried: masks and the fitness of each that was scored; of a child that a block ruled out, an estimate.
        worth: of the tokens, as far as they were tried.
        met: prompts that were scored, and
        lost: those of them that a block ruled out: they are not drawn again.
        stale: generations since there was a better best, or since the items doubled.
        ended: nothing new was found.
    """

    settings: PromptQuine
    run: Run
    tokens: Tokens
    reward: Reward | None
    size: int
    pool: list[Genome] = field(default_factory=list)
    best: list[Genome] = field(default_factory=list)
    tried: list[tuple[Mask, float]] = field(default_factory=list)
    worth: TokenEffects | None = None
    met: set[Prompt] = field(default_factory=set)
    lost: set[Prompt] = field(default_factory=set)
    stale: int = 0
    ended: bool = False

    @property
    def full(self) -> Prompt:
        """The prompt of all tokens."""
        return self.tokens.prompt(self.tokens.full())

    def begin(self) -> None:
        """Score the prompt of all tokens, and make it the population."""
        full = [Child(self.tokens.full(), self.full)]
        entered = self._entered(full, self._rewards(full, self.run.task.train[: self.size]))
        self.pool = entered * self.settings.population

    def goes_on(self, *, alone: bool) -> bool:
        """Tell whether there is more to be had on these items; with rivals, or with items left, it stalls soon."""
        if self.ended or self.mean_length() <= self.settings.shortest:
            return False
        if alone and self.size == len(self.run.task.train):
            return not self.stale >= self.settings.patience > 0
        return self.stale < _STALLED

    def generation(self) -> int:
        """Breed one generation, and return how many children count as drawn; 0 where nothing new came."""
        s = self.settings
        before, met = self.best[0].fitness, len(self.met)
        if s.guide:
            self.worth = token_effects(*zip(*self.tried, strict=True)) if len(self.tried) > 1 else None
        grown, scored = self._grown()
        if len(self.met) == met:
            self.ended = True
            return 0
        # Regularised evolution: only the newest may survive (section 3.2), and here the archive's best.
        young = grown[-s.recent :]
        old = [genome for genome in self.best[: s.elite] if all(genome is not other for other in young)]
        self.pool = sorted([*old, *young], key=lambda genome: -genome.fitness)[: s.population]
        self.stale = 0 if self.best[0].fitness > before else self.stale + 1
        return s.offspring if s.mode == "gga" else scored  # gga: whether or not a draw was new (code)

    def on_more_items(self) -> bool:
        """Double the items, and score population and archive on the new ones; tell whether there were any."""
        train, self.stale = self.run.task.train, 0
        more, self.size = train[self.size : 2 * self.size], min(2 * self.size, len(train))
        if not more or self.ended or self.mean_length() <= self.settings.shortest:
            return False
        old = {genome.prompt: genome for genome in [*self.best, *self.pool]}
        seen = self.run.score(list(old), more, reward=self.reward).per_example
        new = {
            prompt: _genome(genome.mask, prompt, np.concatenate([genome.rewards, row]))
            for (prompt, genome), row in zip(old.items(), seen, strict=True)
        }
        # What was tried on fewer items stands to the others as it did: it moves with those that were tried on all.
        moved = [new[prompt].fitness - old[prompt].fitness for prompt in old]
        shift = float(np.mean([gap for gap in moved if math.isfinite(gap)] or [0.0]))
        self.tried = [(mask, fitness + shift) for mask, fitness in self.tried]
        self.best = sorted((new[genome.prompt] for genome in self.best), key=_rank)
        self.pool = sorted((new[genome.prompt] for genome in self.pool), key=_rank)
        return True

    def _grown(self) -> tuple[list[Genome], int]:
        """Return the population with one generation's children behind it, and how many of them were scored."""
        s = self.settings
        if s.mode == "gga":
            children = self._offspring(self.pool, s.offspring)
            return [*self.pool, *self._scored(children)], len(children)
        grown, scored = self.pool, 0
        for _ in range(s.offspring):
            child = self._offspring(grown, 1)
            grown, scored = [*grown, *self._scored(child)], scored + len(child)
        return grown, scored

    def _offspring(self, pool: Sequence[Genome], count: int) -> list[Child]:
        """Draw children that are neither in the population nor twice among themselves."""
        known = {genome.prompt for genome in pool} | self.lost
        out: list[Child] = []
        for _ in range(count):
            parent = self._parent(pool)
            mask = self._changed(parent)
            if mask is not None and (prompt := self.tokens.prompt(mask)) not in known:
                known.add(prompt)
                out.append(Child(mask, prompt, parent.prompt))
        return out

    def _parent(self, pool: Sequence[Genome]) -> Genome:
        rivals = self.run.rng.integers(len(pool), size=max(1, int(self.settings.tournament * len(pool))))
        return pool[min(rivals.tolist(), key=lambda i: (-pool[i].fitness, i))]

    def _changed(self, parent: Genome) -> Mask | None:
        """Return the mask after one move, or None where ten draws found none."""
        s, rng = self.settings, self.run.rng
        most = max(s.most_deletions, int(s.largest_share * self.tokens.prunable.size))
        shares = np.cumsum([s.restore, s.swap])
        move = int(np.searchsorted(shares, rng.random(), side="right")) if shares[-1] else len(_MOVES)
        for _ in range(_TRIES):
            child = self._moved(parent, move, int(rng.integers(1, most + 1)))
            if child is not None:
                return child
        return None

    def _moved(self, parent: Genome, move: int, count: int) -> Mask | None:
        mask, rng, free, guide = parent.mask, self.run.rng, ~self.tokens.frozen, self.settings.guide
        take = give = None
        if self.worth is not None:  # beside a uniform share, by the chance that the prompt is better without the token
            take = (1 - guide) / 2 + guide * self.worth.prob_harmful
            give = 1 - take
        if move == _MOVES.index("restore"):
            return restore_tokens(mask, free, count, rng, give)
        fewer = drop_tokens(mask, free, count, rng, take)
        if move != _MOVES.index("swap") or fewer is None:
            return fewer
        more = restore_tokens(mask, free, count, rng, give)
        return None if more is None else fewer | (more & ~mask)

    def _scored(self, children: Sequence[Child]) -> list[Genome]:
        """Score children on blocks of training items that double, and leave out those that a block rules out."""
        examples = self.run.task.train[: self.size]
        if self.settings.halving and not self.run.task.labels:
            return self._halved(children, examples)
        rewards = np.full((len(children), len(examples)), np.nan)
        order = self.run.rng.permutation(len(examples)) if self.settings.block else np.arange(len(examples))
        rival = nanmean(np.array([genome.rewards for genome in self.pool]), axis=0)  # [E] of the mean survivor
        done, alive = 0, list(range(len(children)))
        while alive and done < len(examples):
            size = min(max(2 * done, self.settings.block or len(examples)), len(examples))
            block = np.sort(order[done:size])
            seen = self._rewards([children[i] for i in alive], [examples[e] for e in block.tolist()])
            rewards[np.array(alive)[:, None], block] = seen
            done = size
            if done < len(examples):
                alive = self._still_in(children, alive, rewards, rival)
        return self._entered([children[i] for i in alive], rewards[alive])

    def _halved(self, children: Sequence[Child], examples: Sequence[Example]) -> list[Genome]:
        """Score children on half of the items, and on the rest those whose mean is not below the worst survivor's."""
        half, worst = (len(examples) + 1) // 2, min(genome.fitness for genome in self.pool)
        rewards = np.full((len(children), len(examples)), np.nan)
        if children:
            rewards[:, :half] = self._rewards(children, examples[:half])
        able = [i for i, mean in enumerate(nanmean(rewards, axis=1)) if mean >= worst]
        if able and half < len(examples):
            rewards[able, half:] = self._rewards([children[i] for i in able], examples[half:])
        return self._entered(children, rewards)

    def _still_in(self, children: Sequence[Child], alive: Sequence[int], rewards: Floats, rival: Floats) -> list[int]:
        """Return those of the children that are not clearly worse than the mean survivor on the items of both."""
        lead = rewards[alive] - rival
        gain, error = nanmean(lead, axis=1), standard_error(lead)
        out = gain < -NormalDist().inv_cdf(self.settings.confidence) * error
        # What is left out still says something of its tokens: its lead, on top of what survivors have on all items.
        level = float(nanmean(rival, axis=0))
        for n, i in enumerate(alive):
            if out[n]:
                self.tried.append((children[i].mask, level + gain[n]))
                self.lost.add(children[i].prompt)
        return [i for n, i in enumerate(alive) if not out[n]]

    def _rewards(self, children: Sequence[Child], examples: Sequence[Example]) -> Floats:
        """Return rewards [children, examples]."""
        prompts, parents = [child.prompt for child in children], [child.parent for child in children]
        self.met.update(prompts)
        return self.run.score(prompts, examples, reward=self.reward, parents=parents).per_example

    def _entered(self, children: Sequence[Child], rewards: Floats) -> list[Genome]:
        """Enter children that were scored on all items into what was tried and into the archive."""
        out = []
        for child, row in zip(children, rewards, strict=True):
            genome = _genome(child.mask, child.prompt, row)
            out.append(genome)
            if math.isfinite(genome.fitness):
                self.tried.append((child.mask, genome.fitness))
        self.best = sorted({genome.prompt: genome for genome in [*self.best, *out]}.values(), key=_rank)
        self.best = self.best[: max(self.settings.elite, 1)]
        return out

    def mean_length(self) -> float:
        """Return the mean length of the population, in tokens."""
        return sum(self.run.length(genome.prompt) for genome in self.pool) / len(self.pool)


def seed_tokens(run: Run) -> Tokens:
    """Cut the seed prompt into tokens.

    Raises:
        InputError: there is nothing to prune.
    """
    tokens = run.tokens(run.task.seed_prompt)
    if not tokens.prunable.size:
        raise InputError("the seed prompt has nothing to prune: give it text or demonstrations beside its slots")
    return tokens


def reward_of(run: Run, fitness: str) -> Reward | None:
    """Return what a search goes by: the label margin where it is asked for and there are labels, else None."""
    return LabelMargin(run.task.labels) if fitness == "margin" and run.task.labels else None


def check_fitness(fitness: str) -> None:
    """Raise InputError for a fitness that there is not."""
    if fitness not in ("margin", "reward"):
        raise InputError(f"fitness must be 'margin' or 'reward', not {fitness!r}")


def _genome(mask: Mask, prompt: Prompt, rewards: Floats) -> Genome:
    mean = float(nanmean(rewards, axis=0))
    # A prompt whose replies all failed ranks last; its score stays NaN in the history.
    return Genome(mask, prompt, rewards, -math.inf if math.isnan(mean) else mean)


def _rank(genome: Genome) -> float:
    return -genome.fitness
