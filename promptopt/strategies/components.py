"""Components: improve a program's prompts one at a time, each from what it was asked and what it said.

Parents by instance front and merges are GEPA's (Agrawal et al. 2025, arXiv 2507.19457); demonstrations from the program's own right
answers are DSPy's bootstrapped ones (Khattab et al. 2024). Knows nothing of models, caching or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Demonstrations, Prompt, Prompts
from promptopt.search.component import asked_names
from promptopt.search.halving import doubling, successive_halving
from promptopt.search.writing import ScoredPrompt, ask, example_results, improve
from promptopt.statistics.arrays import nanmean
from promptopt.strategies.checks import check_at_least

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.prompt import Example
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_FIRST_EXAMPLES = 6  # scored before a candidate may be dropped
_REDUCTION = 3  # successive halving keeps one candidate in three each time that the examples double
_SHOWN = 3  # versions of a prompt, and examples of each kind, in a message to the writer
_SHOTS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Components:
    """Improve a program's prompts one at a time: new instructions from the writer, new demonstrations from right answers.

    Each round draws a parent, with the probability of how many examples it is best on, and a prompt of it, by how often a change of
    that prompt paid (Thompson sampling). The writer sees the versions of this prompt with their scores, and examples that the
    parent loses and wins: what the program filled in, what the prompt's reply was, and the reward's words. Demonstrations are the
    prompt's own inputs and replies on examples that the parent got right, or the targets where its reply is the program's answer. New
    candidates are scored on few examples first, most of which the parent loses; the best third of those not behind it on twice
    as many, and so on; one is kept if it is ahead on all. After each improvement, the best candidate is also tried with the prompts that
    others have changed. With several objectives, parents are drawn from the front, and candidates have to beat theirs in one of them.

    Only for tasks with a program.

    Args:
        instructions: instructions that the writer is asked for in a round; 0 changes demonstrations only.
        sets: demonstration sets tried in a round; 0 changes instructions only.
        patience: the search ends after this many rounds in a row without a new best candidate.
    """

    instructions: int = 3
    sets: int = 2
    patience: int = 8

    programs = True

    def __post_init__(self) -> None:
        check_at_least(self, 0, "instructions", "sets")
        check_at_least(self, 1, "patience")
        if not self.instructions + self.sets:
            raise InputError("instructions and sets are both 0, which changes nothing: set one of them to 1 or more")

    @property
    def writes(self) -> bool:
        """Whether it uses the writer."""
        return self.instructions > 0

    def search(self, run: Run) -> None:
        """Run rounds until they stop paying."""
        seed = run.task.seed_prompt
        if not isinstance(seed, Prompts):
            raise InputError("the strategy components is for tasks with a program: choose another one, such as joint")
        run.score([seed])
        paid = {name: np.ones(2) for name in asked_names(run, seed)}  # successes and failures of each prompt, plus one
        if not paid or np.isnan(run.archive[seed].fitness):  # every reply failed: there is nothing to learn from
            return
        stale = 0
        while stale < self.patience:
            front = _Front(run)
            best, leaders = front.best, front.leaders
            parent = front.draw(run.rng)
            name = self._component(run, paid)
            children = self._children(run, front, parent, name)
            ahead = self._screen(run, parent, children)
            paid[name] += (1, 0) if ahead else (0, 1)
            if ahead:
                self._merge(run, best)
            front = _Front(run)
            stale = 0 if front.leaders != leaders else stale + 1
            run.step(best=run.archive[front.best].fitness, prompt=name, new=len(children), ahead=len(ahead))

    @staticmethod
    def _component(run: Run, paid: dict[str, Floats]) -> str:
        """Draw the prompt to change: the one with the highest draw of its posterior chance to pay."""
        draws = {name: float(run.rng.beta(*counts)) for name, counts in paid.items()}
        return max(draws, key=draws.__getitem__)

    def _children(self, run: Run, front: _Front, parent: Prompts, name: str) -> list[Prompts]:
        """Return new candidates that differ from the parent in one prompt."""
        if name not in asked_names(run, parent):
            return []
        part = run.component(name, parent)
        prompts = [*self._instructions(part, front, parent, name), *self._demonstrated(part)]
        new = (parent.replaced(name, prompt) for prompt in prompts)
        return [child for child in dict.fromkeys(new) if child not in run.archive]

    def _instructions(self, part: Run, front: _Front, parent: Prompts, name: str) -> list[Prompt]:
        """Ask the writer for instructions."""
        if not self.instructions:
            return []
        own, versions = parent[name], front.versions(name)
        ranked = [ScoredPrompt(prompt, value) for prompt, value in versions.items() if prompt != own]
        good = [ScoredPrompt(own, versions[own]), *ranked[: _SHOWN - 1]]
        bad = ranked[max(len(ranked) - _SHOWN, _SHOWN - 1) :]
        lost, won = front.contrast(parent, part.task.train)
        losses = example_results(part, own, lost, np.nanargmin)
        wins = example_results(part, own, won, np.nanargmax)
        message, count = partial(improve, part.task, good, bad, losses=losses, wins=wins), self.instructions
        return ask(part, message, count, each=count, like=own, known=versions).prompts

    def _demonstrated(self, part: Run) -> list[Prompt]:
        """Return the parent's prompt with other demonstrations: random ones, a different number in each set."""
        own, labelled = part.task.seed_prompt, [example for example in part.task.train if example.target is not None]
        sizes = [size for size in _SHOTS if size <= len(labelled)]
        if not sizes:
            return []
        drawn = part.rng.permutation(len(sizes))[: self.sets].tolist()
        orders = [part.rng.permutation(len(labelled))[: sizes[i]].tolist() for i in drawn]
        return [Prompt(own.text, Demonstrations(tuple(labelled[i] for i in order)), own.turns) for order in orders]

    @staticmethod
    def _screen(run: Run, parent: Prompts, children: Sequence[Prompts]) -> list[Prompt]:
        """Score candidates on growing numbers of examples; return those ahead of the parent on all."""
        examples = _screening_order(run, parent)
        rivals = run.archive.rewards([parent], examples)[0]

        def rank(remaining: list[Prompt], size: int) -> list[Prompt]:
            rewards = run.score(remaining, examples[:size], parents=[parent] * len(remaining)).per_example
            gains = np.nansum(rewards - rivals[:size], axis=1)
            if run.archive.objectives:
                return run.archive.ahead(remaining, parent, examples[:size])
            order = np.argsort(-gains, kind="stable").tolist()
            last = size == len(examples)
            return [remaining[i] for i in order if gains[i] > 0 or (gains[i] == 0 and not last)]

        rounds = doubling(_FIRST_EXAMPLES, len(examples))
        return successive_halving(list(children), rounds, rank, lambda count: -(-count // _REDUCTION))

    def _merge(self, run: Run, former: Prompts) -> None:
        """Try the best candidate with the prompts of the former best one, and of the next best, that it has not changed."""
        seed, front = run.task.seed_prompt, _Front(run)
        best, changed = front.best, list[Prompts]()
        for other in dict.fromkeys([former, *front.ranked[:_SHOWN]]):
            child = best
            for name, prompt in other.components:
                if isinstance(seed, Prompts) and best[name] == seed[name] != prompt:
                    child = child.replaced(name, prompt)
            if child not in run.archive and child not in changed:
                changed.append(child)
        if changed:
            self._screen(run, best, changed)


class _Front:
    """The candidates that were scored on all training examples.

    Attributes:
        ranked: they, best first.
    """

    def __init__(self, run: Run) -> None:
        train = run.task.train
        complete: list[Prompts] = [
            prompt
            for prompt in run.archive
            if isinstance(prompt, Prompts) and len(run.archive.examples_of(prompt)) >= len(train)
        ]
        rewards = run.archive.rewards(complete, train)
        means = nanmean(rewards, axis=1)
        order = np.argsort(-np.where(np.isnan(means), -np.inf, means), kind="stable").tolist()
        self.ranked: list[Prompts] = [complete[i] for i in order]
        self._means = {complete[i]: float(means[i]) for i in order}
        self._rewards = {complete[i]: rewards[i] for i in order}
        self._train = train
        self._archive = run.archive

    @property
    def best(self) -> Prompts:
        """The best candidate; of equal ones the first."""
        return self.ranked[0]

    @property
    def leaders(self) -> list[Prompts]:
        """The best candidate alone or, with several objectives, all that no other beats in all of them."""
        if not self._archive.objectives:
            return self.ranked[:1]
        front = {candidate.prompt for candidate in self._archive.front(self.ranked)}
        return [prompts for prompts in self.ranked if prompts in front]

    def draw(self, rng: np.random.Generator) -> Prompts:
        """Return a candidate, drawn by the number of examples on which no other is better.

        Left out are candidates that are best on no example on which a better candidate is not. With several objectives, all
        candidates on the front have the same probability.
        """
        if self._archive.objectives:
            leaders = self.leaders
            return leaders[int(rng.integers(len(leaders)))]
        rewards = np.array([self._rewards[prompt] for prompt in self.ranked])
        top = np.max(np.where(np.isnan(rewards), -np.inf, rewards), axis=0)
        kept: list[tuple[Prompts, set[int]]] = []
        for prompts, wins in zip(self.ranked, rewards == top, strict=True):
            won = set(np.flatnonzero(wins).tolist())
            if won and not any(won <= other for _, other in kept):
                kept.append((prompts, won))
        counts = np.array([len(won) for _, won in kept], dtype=np.float64)
        return kept[int(rng.choice(len(kept), p=counts / counts.sum()))][0] if kept else self.best

    def versions(self, name: str) -> dict[Prompt, float]:
        """Return the versions of one prompt, best first, each with the mean reward of the best candidate that has it."""
        out: dict[Prompt, float] = {}
        for prompts in self.ranked:
            out.setdefault(prompts[name], self._means[prompts])
        return out

    def contrast(self, parent: Prompts, among: Iterable[Example]) -> tuple[list[Example], list[Example]]:
        """Return examples that a parent loses, worst against the best candidate first, and examples that it wins."""
        number = {example.id: e for e, example in enumerate(self._train)}
        own = self._rewards[parent]
        top = np.max([np.nan_to_num(self._rewards[prompt], nan=-np.inf) for prompt in self.ranked], axis=0)
        known = [(example, number[example.id]) for example in among if not np.isnan(own[number[example.id]])]
        losses = sorted(known, key=lambda pair: (own[pair[1]], own[pair[1]] - top[pair[1]]))
        mean, lowest = float(nanmean(own, axis=0)), min((own[e] for _, e in known), default=0.0)
        lost = [example for example, e in losses if own[e] <= mean][:_SHOWN]
        best = reversed([(example, e) for example, e in losses if own[e] >= mean and own[e] > lowest])
        won = [example for example, _ in best if example not in lost][:_SHOWN]
        return lost, won


def _screening_order(run: Run, parent: Prompts) -> list[Example]:
    """Return the training examples in a random order: two that the parent loses, then one that it does not, and so on."""
    train = run.task.train
    rewards = run.archive.rewards([parent], train)[0]
    order = run.rng.permutation(len(train)).tolist()
    mean = float(nanmean(rewards, axis=0))
    lost = [i for i in order if rewards[i] < mean]
    won = [i for i in order if i not in set(lost)]
    mixed = list[int]()
    while lost or won:
        mixed += [*lost[:2], *won[:1]]
        lost, won = lost[2:], won[1:]
    return [train[i] for i in mixed]
