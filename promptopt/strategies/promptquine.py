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
from promptopt.masks import dropped, restored, worth
from promptopt.rewards import LabelMargin
from promptopt.scores import nanmean, standard_error
from promptopt.starts import balanced, with_other_demonstrations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.masks import Worth
    from promptopt.prompt import Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.run import Run
    from promptopt.scores import Floats
    from promptopt.tokens import Mask, Tokens

_MOVES = ("restore", "swap")  # any other is a deletion
_LEAST = {
    1: ("population", "offspring", "most_deletions", "recent", "max_prompts", "starts"),
    0: ("elite", "items", "block", "patience"),
}
_FIRST_ITEMS = 8  # on which all starts are scored
_FEW_STARTS = 2  # that need not race
_STALLED = 3  # generations without a better best after which the items double
_TRIES = 10  # draws of a number of tokens before a child is given up (code)


class Genome(NamedTuple):
    """A mask over one of the starts, the prompt that it keeps, and its fitness on each item searched on so far, [E]."""

    start: int
    mask: Mask
    prompt: Prompt
    rewards: Floats
    fitness: float


class Child(NamedTuple):
    """A mask over one of the starts that is to be scored, its prompt, and the prompt that it was made from."""

    start: int
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
        max_prompts: children drawn ("gga") or scored ("ssga") in all (paper: 10,000).
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
        confidence: that a child which a block rules out is worse than the mean survivor.
        patience: the search ends after so many generations without a better best on all items; 0 never (paper: 0).
        starts: prompts whose tokens are searched over together: the seed prompt, and the same with other training items
            shown. They race on the training items that none of the others shows: each round halves their number and
            doubles the items (paper: 1).
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
        if self.mode not in ("gga", "ssga"):
            raise InputError(f"mode must be 'gga' or 'ssga', not {self.mode!r}")
        check_fitness(self.fitness)

    @classmethod
    def paper(cls, mode: Literal["gga", "ssga"] = "gga") -> PromptQuine:
        """Return the paper's settings (table 9): "ssga" for one demonstration per class, "gga" for four."""
        return cls(
            mode=mode,
            population=30,
            offspring=50,
            largest_share=0.0,
            elite=0,
            restore=0.0,
            swap=0.0,
            guide=0.0,
            items=0,
            block=0,
            patience=0,
            starts=1,
        )

    def search(self, run: Run) -> None:
        """Evolve until the population is short, nothing new comes, nothing gets better, or the budget ends."""
        seed_tokens(run)  # refused where there is nothing to prune
        found = with_other_demonstrations(run.task.seed_prompt, run.task.train, self.starts, run.rng)
        reward = reward_of(run, self.fitness)
        shuffled = self.items or self.starts > 1
        inner = run.on(balanced(found.items, run.rng) if shuffled else found.items)
        starts = self._fastest(inner, [Start(inner.tokens(prompt)) for prompt in found.prompts], reward)
        Evolution(
            self, inner, starts, reward, min(self.items or len(inner.task.train), len(inner.task.train))
        ).run_through()

    def _fastest(self, run: Run, starts: list[Start], reward: Reward | None) -> list[Start]:
        """Return the starts that are left when half of them drop out each time that the items double."""
        items, size = run.task.train, _FIRST_ITEMS
        while len(starts) > _FEW_STARTS and size < len(items):
            means = run.score([start.prompt for start in starts], items[:size], reward=reward).mean
            order = sorted(range(len(starts)), key=lambda i: (-math.inf if math.isnan(means[i]) else -means[i], i))
            starts = [starts[i] for i in order[: (len(starts) + 1) // 2]]
            size *= 2
        return starts


@dataclass
class Start:
    """A prompt whose tokens are searched over.

    Args:
        tokens: its tokens.
        tried: masks over them and the fitness of each that was scored; of a child that a block ruled out, an estimate.
        worth: of its tokens, as far as they were tried.
    """

    tokens: Tokens
    tried: list[tuple[Mask, float]] = field(default_factory=list)
    worth: Worth | None = None

    @property
    def prompt(self) -> Prompt:
        """The prompt of all tokens."""
        return self.tokens.prompt(self.tokens.full())

    def learn(self) -> None:
        """Fit `worth` to what was tried."""
        self.worth = worth(*zip(*self.tried, strict=True)) if len(self.tried) > 1 else None


@dataclass
class Evolution:
    """One search in progress.

    Args:
        settings: of the search.
        run: scores.
        starts: the prompts that share the population.
        reward: what is searched by, or None for the task's own.
        size: training items, the first ones, that are searched on by now.
        best: the archive, best first.
        met: prompts that were scored, and
        lost: those of them that a block ruled out: they are not drawn again.
    """

    settings: PromptQuine
    run: Run
    starts: list[Start]
    reward: Reward | None
    size: int
    best: list[Genome] = field(default_factory=list)
    met: set[Prompt] = field(default_factory=set)
    lost: set[Prompt] = field(default_factory=set)

    def run_through(self) -> None:
        """Search to the end."""
        s = self.settings
        full = [Child(n, start.tokens.full(), start.prompt) for n, start in enumerate(self.starts)]
        rewards = self._rewards(full, self.run.task.train[: self.size])
        entered = sorted(self._entered(full, rewards), key=_rank)
        pool = (entered * s.population)[: s.population]
        drawn = stale = 0
        while drawn < s.max_prompts and self._mean_length(pool) > s.shortest:
            before, met = self.best[0].fitness, len(self.met)
            for start in self.starts if s.guide else ():
                start.learn()
            grown, scored = self._grown(pool)
            if len(self.met) == met:
                break
            drawn += s.offspring if s.mode == "gga" else scored  # gga: whether or not a draw was new (code)
            # Regularised evolution: only the newest may survive (section 3.2), and here the archive's best.
            young = grown[-s.recent :]
            old = [genome for genome in self.best[: s.elite] if all(genome is not other for other in young)]
            pool = sorted([*old, *young], key=lambda genome: -genome.fitness)[: s.population]
            stale = 0 if self.best[0].fitness > before else stale + 1
            self.run.step(best=self.best[0].fitness, length=self._mean_length(pool), drawn=drawn, items=self.size)
            if stale >= _STALLED and self.size < len(self.run.task.train):
                pool, stale = self._on_more_items(pool), 0
            elif stale == s.patience > 0:
                break

    def _on_more_items(self, pool: Sequence[Genome]) -> list[Genome]:
        """Double the items; return the pool, best first, with its fitness on all of them."""
        train = self.run.task.train
        more, self.size = train[self.size : 2 * self.size], min(2 * self.size, len(train))
        old = {genome.prompt: genome for genome in [*self.best, *pool]}
        seen = self.run.score(list(old), more, reward=self.reward).per_example
        new = {
            prompt: _genome(genome.start, genome.mask, prompt, np.concatenate([genome.rewards, row]))
            for (prompt, genome), row in zip(old.items(), seen, strict=True)
        }
        # What was tried on fewer items stands to the others as it did: it moves with those that were tried on all.
        moved = [new[prompt].fitness - old[prompt].fitness for prompt in old]
        shift = float(np.mean([gap for gap in moved if math.isfinite(gap)] or [0.0]))
        for start in self.starts:
            start.tried = [(mask, fitness + shift) for mask, fitness in start.tried]
        self.best = sorted((new[genome.prompt] for genome in self.best), key=_rank)
        return sorted((new[genome.prompt] for genome in pool), key=_rank)

    def _grown(self, pool: list[Genome]) -> tuple[list[Genome], int]:
        """Return the pool with one generation's children behind it, and how many of them were scored."""
        s = self.settings
        if s.mode == "gga":
            children = self._offspring(pool, s.offspring)
            return [*pool, *self._scored(children, pool)], len(children)
        grown, scored = pool, 0
        for _ in range(s.offspring):
            child = self._offspring(grown, 1)
            grown, scored = [*grown, *self._scored(child, pool)], scored + len(child)
        return grown, scored

    def _offspring(self, pool: Sequence[Genome], count: int) -> list[Child]:
        """Draw children that are neither in the population nor twice among themselves."""
        known = {genome.prompt for genome in pool} | self.lost
        out: list[Child] = []
        for _ in range(count):
            parent = self._parent(pool)
            mask = self._changed(parent)
            if mask is not None and (prompt := self.starts[parent.start].tokens.prompt(mask)) not in known:
                known.add(prompt)
                out.append(Child(parent.start, mask, prompt, parent.prompt))
        return out

    def _parent(self, pool: Sequence[Genome]) -> Genome:
        rivals = self.run.rng.integers(len(pool), size=max(1, int(self.settings.tournament * len(pool))))
        return pool[min(rivals.tolist(), key=lambda i: (-pool[i].fitness, i))]

    def _changed(self, parent: Genome) -> Mask | None:
        """Return the mask after one move, or None where ten draws found none."""
        s, rng = self.settings, self.run.rng
        most = max(s.most_deletions, int(s.largest_share * self.starts[parent.start].tokens.prunable.size))
        shares = np.cumsum([s.restore, s.swap])
        move = int(np.searchsorted(shares, rng.random(), side="right")) if shares[-1] else len(_MOVES)
        for _ in range(_TRIES):
            child = self._moved(parent, move, int(rng.integers(1, most + 1)))
            if child is not None:
                return child
        return None

    def _moved(self, parent: Genome, move: int, count: int) -> Mask | None:
        start, mask = self.starts[parent.start], parent.mask
        rng, free, guide = self.run.rng, ~start.tokens.frozen, self.settings.guide
        take = give = None
        if start.worth is not None:  # beside a uniform share, by the chance that the prompt is better without the token
            take = (1 - guide) / 2 + guide * start.worth.spoils
            give = 1 - take
        if move == _MOVES.index("restore"):
            return restored(mask, free, count, rng, give)
        fewer = dropped(mask, free, count, rng, take)
        if move != _MOVES.index("swap") or fewer is None:
            return fewer
        more = restored(mask, free, count, rng, give)
        return None if more is None else fewer | (more & ~mask)

    def _scored(self, children: Sequence[Child], pool: Sequence[Genome]) -> list[Genome]:
        """Score children on blocks of training items that double, and leave out those that a block rules out."""
        examples = self.run.task.train[: self.size]
        rewards = np.full((len(children), len(examples)), np.nan)
        order = self.run.rng.permutation(len(examples)) if self.settings.block else np.arange(len(examples))
        rival = nanmean(np.array([genome.rewards for genome in pool]), axis=0)  # [E] of the mean survivor
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

    def _still_in(self, children: Sequence[Child], alive: Sequence[int], rewards: Floats, rival: Floats) -> list[int]:
        """Return those of the children that are not clearly worse than the mean survivor on the items of both."""
        lead = rewards[alive] - rival
        gain, error = nanmean(lead, axis=1), standard_error(lead)
        out = gain < -NormalDist().inv_cdf(self.settings.confidence) * error
        # What is left out still says something of its tokens: its lead, on top of what survivors have on all items.
        level = float(nanmean(rival, axis=0))
        for n, i in enumerate(alive):
            if out[n]:
                self.starts[children[i].start].tried.append((children[i].mask, level + gain[n]))
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
            genome = _genome(child.start, child.mask, child.prompt, row)
            out.append(genome)
            if math.isfinite(genome.fitness):
                self.starts[child.start].tried.append((child.mask, genome.fitness))
        self.best = sorted({genome.prompt: genome for genome in [*self.best, *out]}.values(), key=_rank)
        self.best = self.best[: max(self.settings.elite, 1)]
        return out

    def _mean_length(self, pool: Sequence[Genome]) -> float:
        return sum(self.run.length(genome.prompt) for genome in pool) / len(pool)


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


def _genome(start: int, mask: Mask, prompt: Prompt, rewards: Floats) -> Genome:
    mean = float(nanmean(rewards, axis=0))
    # A prompt whose replies all failed ranks last; its score stays NaN in the history.
    return Genome(start, mask, prompt, rewards, -math.inf if math.isnan(mean) else mean)


def _rank(genome: Genome) -> float:
    return -genome.fitness
