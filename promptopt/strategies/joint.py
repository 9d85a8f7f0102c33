"""Joint search: instructions and demonstration sets together, each score telling of everything that shares a part with it.

Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.prompt import Demonstrations, Prompt
from promptopt.search.demonstrations import stratified_shuffle
from promptopt.search.writing import ScoredPrompt, ask, example_result, improve, paraphrase
from promptopt.statistics.crossed import fit_crossed
from promptopt.strategies.checks import check_at_least

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.prompt import Example
    from promptopt.search.run import Run
    from promptopt.search.writing import ExampleResult
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.crossed import Crossed

_DRAWS = 200  # from the posterior, for what a round may still gain
_SHOTS = (1, 2, 4)  # demonstrations of each label
_FREE_SHOTS = (2, 4, 8)  # demonstrations where answers are not labels
_NEAREST = (2, 4, 8)
_MOST_SHOTS = 16
_SHOWN = 3  # prompts of each kind, and examples of each kind, in a message to the writer
_WORTH = 0.002  # expected gain of the best prompt below which a round is not worth its calls


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
    """

    seed: Prompt
    instructions: list[str]
    sets: list[Demonstrations | None]

    def prompt(self, pair: Pair) -> Prompt:
        """Return the combination."""
        return replace(self.seed, text=self.instructions[pair.instruction], demonstrations=self.sets[pair.shown])

    def pairs(self) -> Iterator[Pair]:
        """Yield all combinations."""
        return (Pair(i, s) for i in range(len(self.instructions)) for s in range(len(self.sets)))


@dataclass
class Table:
    """What was measured of the combinations.

    Args:
        run: scores prompts; its archive holds the rewards.
        examples: [E] training examples in the order in which each combination meets them.
        parts: the parts.
        next: combination -> number of its next example.
    """

    run: Run
    examples: Sequence[Example]
    parts: Parts
    next: dict[Pair, int] = field(default_factory=dict)
    _fit: Crossed | None = None

    def score(self, pairs: Sequence[Pair], count: int) -> None:
        """Score combinations, each on its next `count` examples."""
        by_start: dict[int, list[Pair]] = {}
        for pair in pairs:
            by_start.setdefault(self.next.get(pair, 0), []).append(pair)
        for start, group in sorted(by_start.items()):
            block = self.examples[start : start + count]
            prompts = [self.parts.prompt(pair) for pair in group]
            self.run.score(prompts, block, parents=[self.run.task.seed_prompt] * len(prompts))
            self.next |= dict.fromkeys(group, start + len(block))
        self._refit()

    def complete(self, pair: Pair) -> bool:
        """Whether a combination has met all examples."""
        return self.next.get(pair, 0) >= len(self.examples)

    def rewards(self) -> tuple[list[Pair], Floats]:
        """Return the measured combinations [C] and their rewards [C, E]; those without any reply are left out."""
        rewards = self.run.archive.rewards([self.parts.prompt(pair) for pair in self.next], self.examples)
        known = ~np.isnan(rewards).all(axis=1)
        return [pair for pair, some in zip(self.next, known, strict=True) if some], rewards[known]

    def add(self, instructions: Sequence[str], sets: Sequence[Demonstrations]) -> None:
        """Add parts that are new."""
        self.parts.instructions += [text for text in instructions if text not in self.parts.instructions]
        self.parts.sets += [shown for shown in dict.fromkeys(sets) if shown not in self.parts.sets]
        self._refit()

    @property
    def expected(self) -> Floats:
        """[I, S] expected reward of every combination; minus infinity before any reply."""
        if self._fit is None:
            return np.full((len(self.parts.instructions), len(self.parts.sets)), -np.inf)
        return self._grid(self._fit.expected())

    def draws(self) -> Floats:
        """Return [_DRAWS, I, S]: draws from the posterior; no draws before any reply."""
        if self._fit is None:
            return self.expected[None][:0]
        return self._grid(self._fit.draw(_DRAWS, self.run.rng))

    def spreads(self) -> dict[str, float]:
        """Return the estimated standard deviations."""
        variances = self._fit.variances._asdict() if self._fit else {}
        return {f"spread of {name}": float(np.sqrt(value)) for name, value in variances.items()}

    def _refit(self) -> None:
        """Fit the posterior of all combinations.

        An instruction alone and the same one before demonstrations are two first parts: their order differs.
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


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Search instructions and demonstrations together: each score tells of all prompts that share a part with it.

    Candidates are combinations of an instruction and a demonstration set (none, a few of each label, or the nearest to the
    input). The reward of a combination is modelled as example + instruction + set + interaction + noise; the variances are
    estimated from all scores so far (empirical Bayes). Each round, draws from the posterior say which combinations meet
    their next examples (Thompson sampling). Every few rounds new parts join: instructions from the writer, which sees the
    best and worst instructions and examples that a parent loses and wins, the parent drawn from the prompts that are best on
    some example; and sets made from the best ones by exchanging, adding or dropping a demonstration. The search ends when
    the posterior expects no gain from another round, even with new parts, or with the budget.

    Not for tasks with an environment (use `promst`), and without targets only instructions are searched.

    Args:
        instructions: number of starting instructions: the seed prompt's, and paraphrases by the writer. 1 never asks the
            writer: only demonstrations are searched.
        sets: number of random starting sets, besides none and the nearest examples.
        batch: combinations per round.
        block: examples that each of them meets in a round.
        refresh: rounds between additions of new parts.
        new: instructions, and sets, that an addition asks for.
        patience: additions in a row without a gain before the search ends.
    """

    instructions: int = 5
    sets: int = 8
    batch: int = 6
    block: int = 10
    refresh: int = 3
    new: int = 4
    patience: int = 3

    def __post_init__(self) -> None:
        check_at_least(self, 1, "instructions", "batch", "block", "refresh", "new", "patience")
        check_at_least(self, 0, "sets")

    @property
    def writes(self) -> bool:
        """Whether it uses the writer."""
        return self.instructions > 1

    def search(self, run: Run) -> None:
        """Score combinations until another round is not worth its calls."""
        table = self._start(run)
        best, stale, round_number = -np.inf, 0, 0
        while stale < self.patience:
            chosen, gain = self._choose(table)
            if chosen and gain > _WORTH:
                table.score(chosen, self.block)
            round_number += 1
            if not chosen or gain <= _WORTH or round_number % self.refresh == 0:
                top = float(table.expected.max())
                stale = 0 if top > best + _WORTH else stale + 1
                best = max(best, top)
                self._add_parts(table)
            run.step(**self._facts(table), gain=gain)

    def _start(self, run: Run) -> Table:
        """Return the table with the seed prompt and a first combination of each part scored."""
        seed, train = run.task.seed_prompt, run.task.train
        parts = Parts(seed, [seed.text], [None, *self._first_sets(run)])
        if seed.demonstrations is not None:
            parts.sets.insert(1, seed.demonstrations)
        table = Table(run, stratified_shuffle(train, run.rng), parts)
        table.score([Pair(0, 1 if seed.demonstrations else 0)], self.block)
        if self.writes:
            wanted = self.instructions - 1
            found = ask(
                run, partial(paraphrase, run.task, Prompt(seed.text)), wanted, each=wanted, like=Prompt(seed.text)
            )
            table.add([prompt.text for prompt in found.prompts], [])
        sets = len(parts.sets)
        first = [Pair(i, 0) for i in range(len(parts.instructions))] + [Pair(0, s) for s in range(sets)]
        if sets > 1:
            first += [Pair(i, 1 + i % (sets - 1)) for i in range(1, len(parts.instructions))]
        table.score([pair for pair in dict.fromkeys(first) if pair not in table.next], self.block)
        return table

    def _first_sets(self, run: Run) -> list[Demonstrations]:
        """Return random sets with as many examples of each label, and the nearest examples, of several sizes."""
        train = [example for example in run.task.train if example.target is not None]
        sizes = sorted({size for size in _sizes(run.task.labels) if 2 * size <= len(train)})
        if not sizes:
            return []
        drawn = [_balanced(train, run.task.labels, sizes[i % len(sizes)], run.rng) for i in range(self.sets)]
        nearest = [Demonstrations(tuple(train), nearest=k) for k in _NEAREST if 2 * k <= len(train)]
        return list(dict.fromkeys([*drawn, *nearest]))

    def _choose(self, table: Table) -> tuple[list[Pair], float]:
        """Return the combinations that draws from the posterior prefer, and the reward they may be expected to add.

        Combinations that have met all examples are not among them.
        """
        draws, expected = table.draws(), table.expected
        if not len(draws):
            return [], 0.0
        best = np.unravel_index(expected.argmax(), expected.shape)
        gain = float((draws.max(axis=(1, 2)) - draws[:, best[0], best[1]]).mean())
        chosen: list[Pair] = []
        for draw in draws:
            pair = Pair(*map(int, np.unravel_index(draw.argmax(), draw.shape)))
            if not table.complete(pair) and pair not in chosen:
                chosen.append(pair)
            if len(chosen) == self.batch:
                break
        return chosen, gain

    def _add_parts(self, table: Table) -> None:
        """Add instructions and sets, made from those that are best so far."""
        if not len(table.draws()):
            return
        run, expected = table.run, table.expected
        instructions = self._new_instructions(table, expected) if self.writes else []
        order = np.argsort(-expected.max(axis=0), kind="stable").tolist()
        parents = [shown for s in order if (shown := table.parts.sets[s]) is not None and shown.nearest is None]
        best = parents[:_SHOWN]
        sets = [_changed(best[i % len(best)], run.task.train, run.rng) for i in range(self.new if best else 0)]
        table.add(instructions, sets)

    def _new_instructions(self, table: Table, expected: Floats) -> list[str]:
        """Ask the writer for instructions, given a parent that is best on some example."""
        run, texts = table.run, table.parts.instructions
        parent, losses, wins = self._parent(table)
        values = expected.max(axis=1)
        order = np.argsort(-values, kind="stable").tolist()
        scored = [ScoredPrompt(Prompt(texts[i]), float(values[i])) for i in order]
        good = [s for s in scored[:_SHOWN] if s.prompt.text != texts[parent.instruction]]
        good.insert(0, ScoredPrompt(Prompt(texts[parent.instruction]), float(values[parent.instruction])))
        bad = scored[max(len(scored) - _SHOWN, _SHOWN) :]
        message = partial(improve, run.task, good, bad, losses=losses, wins=wins)
        known = [Prompt(text) for text in texts]
        return [p.text for p in ask(run, message, self.new, each=self.new, like=good[0].prompt, known=known).prompts]

    @staticmethod
    def _parent(table: Table) -> tuple[Pair, list[ExampleResult], list[ExampleResult]]:
        """Draw a combination that is best on a random example; return it with examples that it loses and wins."""
        pairs, rewards = table.rewards()
        rng = table.run.rng
        columns = np.flatnonzero(~np.isnan(rewards).all(axis=0))
        column = rewards[:, rng.choice(columns)]
        parent = int(rng.choice(np.flatnonzero(column == np.nanmax(column))))
        own = rewards[parent]
        met = rng.permutation(np.flatnonzero(~np.isnan(own)))
        ordered = met[np.argsort(own[met], kind="stable")]
        results = []
        for places in (ordered[:_SHOWN], ordered[::-1][:_SHOWN]):
            examples = [table.examples[e] for e in places]
            scores = table.run.score([table.parts.prompt(pairs[parent])], examples)
            results.append(
                [
                    example_result(example, scores.replies[0][e][0], scores.reasons[0][e][0], float(own[place]))
                    for e, (example, place) in enumerate(zip(examples, places, strict=True))
                ]
            )
        return pairs[parent], *results

    @staticmethod
    def _facts(table: Table) -> dict[str, float]:
        return {
            "best": float(table.expected.max()),
            "instructions": len(table.parts.instructions),
            "sets": len(table.parts.sets),
            "combinations": len(table.next),
            **table.spreads(),
        }


def _sizes(labels: Sequence[str]) -> list[int]:
    if not labels:
        return list(_FREE_SHOTS)
    sizes = [shots * len(labels) for shots in _SHOTS if shots * len(labels) <= _MOST_SHOTS]
    return sizes or [min(len(labels), _MOST_SHOTS)]


def _balanced(
    examples: Sequence[Example], labels: Sequence[str], size: int, rng: np.random.Generator
) -> Demonstrations:
    """Return `size` random examples in random order, about as many of each label."""
    shuffled = [examples[i] for i in rng.permutation(len(examples)).tolist()]
    rank: dict[str | None, int] = {}
    position = []
    for example in shuffled:
        rank[example.target] = rank.get(example.target, 0) + 1
        position.append(rank[example.target] if labels else 0)
    first = sorted(range(len(shuffled)), key=lambda i: position[i])[:size]
    chosen = [shuffled[i] for i in first]
    return Demonstrations(tuple(chosen[i] for i in rng.permutation(len(chosen)).tolist()))


def _changed(shown: Demonstrations, train: Sequence[Example], rng: np.random.Generator) -> Demonstrations:
    """Return the set after one exchange, addition, removal, or another order."""
    items = list(shown.items)
    others = [example for example in train if example.target is not None and example not in items]
    kinds = ["exchange", "exchange", "add", "drop", "order"]
    kind = kinds[int(rng.integers(len(kinds)))]
    place = int(rng.integers(len(items)))
    if kind == "order":
        items = [items[i] for i in rng.permutation(len(items)).tolist()]
    elif kind == "drop" and len(items) > 1:
        del items[place]
    elif others and kind == "add" and len(items) < _MOST_SHOTS:
        items.insert(place, others[int(rng.integers(len(others)))])
    elif others:
        alike = [example for example in others if example.target == items[place].target] or others
        items[place] = alike[int(rng.integers(len(alike)))]
    return Demonstrations(tuple(items))
