"""Joint search: instructions and demonstration sets together; each score informs all prompts that share a part.

Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from promptopt.prompt import Demonstrations, Prompt
from promptopt.search.demonstrations import stratified_shuffle
from promptopt.search.fitness import Fitness, check_fitness, reward_of
from promptopt.search.writing import ScoredPrompt, ask, example_results, improve, paraphrase
from promptopt.strategies.checks import check_at_least
from promptopt.strategies.combinations import Pair, Parts, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.prompt import Example
    from promptopt.search.run import Run
    from promptopt.search.writing import ExampleResult
    from promptopt.statistics.arrays import Floats

_SHOTS = (1, 2, 4)  # demonstrations of each label
_FREE_SHOTS = (2, 4, 8)  # demonstrations where answers are not labels
_NEAREST = (2, 4, 8)
_FIRST_SETS = 8
_MOST_SHOTS = 16
_SHOWN = 3  # prompts of each kind, and examples of each kind, in a message to the writer


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Search instructions and demonstrations together; each score informs all prompts that share a part.

    Candidates are combinations of an instruction and a demonstration set (none, a few of each label, or the nearest to the
    input). The reward of a combination is modelled as example + instruction + set + interaction + noise; the variances are
    estimated from all scores so far (empirical Bayes). Each round, draws from the posterior choose the combinations to score on
    more examples (Thompson sampling). Every few rounds, new parts are added. The writer proposes instructions: it sees the best
    and worst ones, and examples that a parent loses and wins; the parent is drawn from the prompts that are best on some
    example. New sets exchange, add or drop a demonstration of the best ones. The search ends with the budget, or when several
    additions in a row leave the best fully scored combination unchanged.

    Not for tasks with an environment: use `promst`. Without targets, it searches instructions only.

    What it scores does not depend on the budget: a run with a larger budget continues one with a smaller budget.

    Args:
        instructions: starting instructions: the seed prompt's, and paraphrases by the writer. With 1, only demonstrations
            are searched and the writer is never asked.
        batch: combinations per round.
        block: examples that each of them is scored on in a round.
        refresh: rounds between additions of new parts.
        new: instructions, and changed sets, per addition; half as many random sets are added too.
        patience: additions in a row without a new best combination before the search ends.
        fitness: what is modelled: "reward" for the task's reward; on tasks with labels also "margin" for the label margin and
            "likelihood" for the log-probability of the right label, which tell more of each example if the model gives
            log-probabilities.
    """

    instructions: int = 4
    batch: int = 6
    block: int = 5
    refresh: int = 4
    new: int = 4
    patience: int = 6
    fitness: Fitness = "reward"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "instructions", "batch", "block", "refresh", "new", "patience")
        check_fitness(self.fitness)

    @property
    def writes(self) -> bool:
        """Whether it uses the writer."""
        return self.instructions > 1

    def search(self, run: Run) -> None:
        """Score combinations until new parts no longer change the best one."""
        table, sets = self._start(run)
        if not table.is_measured:  # every reply failed: there is nothing to learn from
            return
        leader, stale, round_number = table.leader(), 0, 0
        while stale < self.patience:
            chosen, gain = self._choose(table)
            if chosen:
                table.score(chosen, self.block)
            round_number += 1
            if not chosen or round_number % self.refresh == 0:
                before, leader = leader, table.leader()
                stale = stale + 1 if leader == before is not None else 0
                self._add_parts(table, sets)
            run.step(**self._facts(table), gain=gain)

    def _start(self, run: Run) -> tuple[Table, Iterator[Demonstrations]]:
        """Return the table with a first look at each part, and the stream of random and nearest sets."""
        seed, sets = run.task.seed_prompt, _stream(run)
        own_sets = [] if seed.demonstrations is None else [seed.demonstrations]
        parts = Parts(seed, [seed.text], [None, *own_sets])
        table = Table(run, stratified_shuffle(run.task.train, run.rng), parts, reward_of(run, self.fitness))
        table.score([Pair(0, len(own_sets))], self.block)
        table.add({}, dict.fromkeys(islice(sets, _FIRST_SETS), 0))
        if self.writes:
            wanted, plain = self.instructions - 1, Prompt(seed.text)
            answer = ask(run, partial(paraphrase, run.task, plain), wanted, each=wanted, like=plain)
            table.add({prompt.text: 0 for prompt in answer.prompts}, {})
        instructions, known_sets = len(table.parts.instructions), len(table.parts.sets)
        first = [*(Pair(i, 0) for i in range(instructions)), *(Pair(0, s) for s in range(known_sets))]
        first += [Pair(i, 1 + i % (known_sets - 1)) for i in range(1, instructions) if known_sets > 1]
        table.score([pair for pair in dict.fromkeys(first) if pair not in table.next], self.block)
        return table, sets

    def _choose(self, table: Table) -> tuple[list[Pair], float]:
        """Return the combinations to score next, by Thompson sampling, and the gain that the posterior still allows.

        Combinations already scored on all examples are left out.
        """
        draws, expected = table.draws(), table.expected
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

    def _add_parts(self, table: Table, stream: Iterator[Demonstrations]) -> None:
        """Add instructions and sets, made from those that are best so far."""
        run, expected = table.run, table.expected
        instructions = self._new_instructions(table, expected) if self.writes else {}
        order = np.argsort(-expected.max(axis=0), kind="stable").tolist()
        parents = [(s, shown) for s in order if (shown := table.parts.sets[s]) is not None and shown.nearest is None]
        sets: dict[Demonstrations, int] = {}
        for number, shown in islice(cycle(parents[:_SHOWN]), self.new):
            sets.setdefault(_changed(shown, run.task.train, run.rng), number)
        sets |= dict.fromkeys(islice(stream, self.new // 2), 0)
        if len(worked := list(table.worked.values())) > 1:
            sets |= {_balanced(worked, (), min(size, len(worked)), run.rng): 0 for size in _FREE_SHOTS[:2]}
        table.add(instructions, sets)

    def _new_instructions(self, table: Table, expected: Floats) -> dict[str, int]:
        """Ask the writer for instructions, given a parent that is best on some example; return them with its number."""
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
        answer = ask(run, message, self.new, each=self.new, like=good[0].prompt, known=known)
        return {prompt.text: parent.instruction for prompt in answer.prompts}

    @staticmethod
    def _parent(table: Table) -> tuple[Pair, list[ExampleResult], list[ExampleResult]]:
        """Draw a combination that is best on a random example; return it with examples that it loses and wins."""
        pairs, rewards = table.task_rewards()
        rng = table.run.rng
        columns = np.flatnonzero(~np.isnan(rewards).all(axis=0))
        column = rewards[:, rng.choice(columns)]
        parent = int(rng.choice(np.flatnonzero(column == np.nanmax(column))))
        own, most = rewards[parent], np.nanmax(rewards)
        scored = rng.permutation(np.flatnonzero(~np.isnan(own)))
        losses, wins = (
            [table.examples[e] for e in scored[chosen][:_SHOWN]] for chosen in (own[scored] < most, own[scored] == most)
        )
        prompt = table.parts.prompt(pairs[parent])
        return (
            pairs[parent],
            example_results(table.run, prompt, losses, np.nanargmin),
            example_results(table.run, prompt, wins, np.nanargmax),
        )

    @staticmethod
    def _facts(table: Table) -> dict[str, float]:
        return {
            "best": float(table.expected.max()),
            "instructions": len(table.parts.instructions),
            "sets": len(table.parts.sets),
            "combinations": len(table.next),
            **table.spreads(),
        }


def _stream(run: Run) -> Iterator[Demonstrations]:
    """Yield demonstration sets endlessly: a random one of each size, then the next number of nearest examples, and so on."""
    train = [example for example in run.task.train if example.target is not None]
    sizes = [size for size in _sizes(run.task.labels) if 2 * size <= len(train)]
    nearest = (Demonstrations(tuple(train), nearest=k) for k in _NEAREST if 2 * k <= len(train))
    while sizes:
        for size in sizes:
            yield _balanced(train, run.task.labels, size, run.rng)
        yield from islice(nearest, 1)


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
