"""The stages of a run under one budget: how much each may use, estimated from the ledger's calls so far.

Nothing here depends on a reward or a clock, so a resumed run makes the same decisions.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget, Spending
from promptopt.evaluation.rollouts import most_rounds
from promptopt.models.usage import Bound
from promptopt.optimization.reserves import BLOCK, Reserves, affordable, after_search, before_search, least_cells
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from promptopt.evaluation.ledger import Ledger
    from promptopt.prompt import Example
    from promptopt.task import Task

SAFETY_FACTOR = 1.5
"""On the estimated calls, tokens and dollars of later stages."""


@dataclass
class Stages:
    """Divides one run's budget among its stages. Each stage is a context, in which the ledger has that stage's limit.

    Args:
        task: supplies the examples.
        budget: for all stages together.
        ledger: of the run.
        seed: of the samples.
        test_replies: replies per prompt and test example.
        tested: prompts that the test is reserved for: two, or as many as a front may have.
        cut: split -> (examples used, examples available), for splits that the budget does not cover.
    """

    task: Task
    budget: Budget
    ledger: Ledger
    seed: int
    test_replies: int = 1
    tested: int = 2
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)

    def start(self) -> AbstractContextManager[None]:
        """Return the first stage: calls to every model, and the seed prompt on the training examples."""
        return self.ledger.stage("start", self.budget)

    def search(self) -> AbstractContextManager[None]:
        """Return the search stage: it may use what selection and test will not need.

        Raises:
            InputError: by the seed prompt's usage, the budget does not cover comparing one candidate.
        """
        self.check()
        per_cell = self._per_cell_at_start()
        planned = self._planned(per_cell)
        reserved_cells = planned.race.cells + self.tested * self.test_replies * planned.test_items
        return self.ledger.stage("search", self._limit(reserved_cells, per_cell, self._one_candidate()))

    @contextmanager
    def validation(self, candidates: int, cells: int) -> Iterator[tuple[int, tuple[Example, ...]]]:
        """Enter the validation stage: it may use what the search has left and the test will not need.

        Args:
            candidates: number of candidates available to race.
            cells: number of cells measured so far.

        Yields:
            The number of candidates to race, and the validation examples to race them on.
        """
        per_cell = self._per_cell(cells)
        reserves = after_search(
            self._affordable_cells(per_cell), len(self.task.validation), len(self.task.test), candidates, self.tested
        )
        limit = self._limit(
            self.tested * self.test_replies * reserves.test_items, per_cell, dict.fromkeys(self._limits, 0.0)
        )
        with self.ledger.stage("validation", limit):
            yield reserves.race.listed, self._sample("validation", reserves.race.items)

    def test(self) -> AbstractContextManager[None]:
        """Return the test stage: it may use the whole budget."""
        return self.ledger.stage("test", self.budget)

    def test_samples(self, prompts: int, cells: int) -> Iterator[tuple[Example, ...]]:
        """Yield the test examples that the remaining budget covers, in the order of the data; then larger sets, if it covers more.

        Args:
            prompts: number of prompts to test: one, two to compare, three with that of a predictor, or those of a front.
            cells: number of cells measured before the test.
        """
        prompts *= self.test_replies
        total, done = len(self.task.test), 0
        while done < total:
            more = affordable(self._affordable_cells(self._per_cell(cells + done * prompts)), prompts, total - done)
            if more < (min(BLOCK, total - done) if done else 1):
                return
            done += more
            yield tuple(sorted(self._sample("test", done), key=self.task.test.index))

    @property
    def notes(self) -> list[str]:
        """Notes on examples that the budget does not cover."""
        return [
            f"budget limits {split} to {used} of {total} examples (random sample)"
            for split, (used, total) in self.cut.items()
        ]

    def check(self, factor: float = 1.0) -> None:
        """Raise if, by the calls so far, the budget does not cover comparing one candidate.

        Args:
            factor: raise only if the budget times this factor is still too small.

        Raises:
            InputError: the budget is too small; the message names the least that is enough.
        """
        if any(limit * factor < self._least[name] for name, limit in self._limits.items()):
            raise self.too_small()

    def too_small(self) -> InputError:
        """Return the error for a budget that does not cover comparing one candidate."""
        least = " and ".join(f"about {_round_up(self._least[name], name)} {name}" for name in self._limits)
        no_usage = (
            "; the server reports no usage, so each call counts as the most it can use: lower max_tokens to reduce that"
        )
        return too_small(self.task, self.budget, least, no_usage if self.ledger.unreported else "")

    def _limit(self, reserved_cells: float, per_cell: dict[str, float], least: dict[str, float]) -> Budget:
        """Return the budget without the cells reserved for later stages, but at least `least`."""
        # Leave room for one more call: a call is made only if the most that it can use still fits.
        limits = {
            name: max(limit - reserved_cells * per_cell[name] - self._largest_bound(name), least[name], limit * 0.01)
            for name, limit in self._limits.items()
        }
        return Budget(**{name: min(limit, self._limits[name]) for name, limit in limits.items()})

    def _one_candidate(self) -> dict[str, float]:
        """Return the usage after one candidate has been scored on the training examples."""
        used, mean, items = (
            self.ledger.total(self.ledger.logical),
            self._mean(len(self.task.train)),
            len(self.task.train),
        )
        return {name: getattr(used, name) + items * mean[name] + self._largest_bound(name) for name in self._limits}

    def _planned(self, per_cell: dict[str, float]) -> Reserves:
        cells = min(
            (limit / per_cell[name] for name, limit in self._limits.items() if per_cell[name]), default=math.inf
        )
        return before_search(cells, len(self.task.train), len(self.task.validation), len(self.task.test), self.tested)

    def _affordable_cells(self, per_cell: dict[str, float]) -> float:
        """Return how many cells the remaining budget covers."""
        used = self.ledger.total(self.ledger.logical)
        remaining = {
            name: limit - getattr(used, name) - self._largest_bound(name) for name, limit in self._limits.items()
        }
        return min((amount / per_cell[name] for name, amount in remaining.items() if per_cell[name]), default=math.inf)

    def _per_cell_at_start(self) -> dict[str, float]:
        """Return the expected usage of one cell of a search: episodes of better prompts may last as long as they can."""
        mean = self._mean(len(self.task.train))
        if self.task.environment is None:  # a program makes as many calls as with the seed prompt, more or less
            return _padded(mean, mean["calls"])
        return _padded(mean, most_rounds(self.task, self.task.train) or SAFETY_FACTOR * mean["calls"])

    def _per_cell(self, cells: int) -> dict[str, float]:
        """Return the expected usage of one cell after the search, which measured so many cells."""
        mean = self._mean(cells)
        if self.task.environment is None:
            return _padded(mean, mean["calls"])
        return _padded(mean, min(SAFETY_FACTOR * mean["calls"], most_rounds(self.task, self.task.train) or math.inf))

    def _mean(self, cells: int) -> dict[str, float]:
        """Return the mean calls, tokens and dollars of one cell: a call per role, or as many as an episode or a program took."""
        used, roles = self._measured
        calls = max(len(roles), 1.0)
        if self.task.takes_several_calls:
            calls = max(used.calls / max(cells, 1), 1.0)
        share = calls / max(used.calls, 1)
        if not used.calls:  # no usage yet: assume that each call uses the most that it can
            return {
                "calls": calls,
                "tokens": calls * self._largest_bound("tokens"),
                "dollars": calls * self._largest_bound("dollars"),
            }
        return {"calls": calls, "tokens": share * used.tokens, "dollars": share * used.dollars}

    @property
    def _measured(self) -> tuple[Spending, dict[str, Spending]]:
        roles = {role: spent for role, spent in self.ledger.logical.items() if role != "writer"}
        return self.ledger.total(roles), roles

    @property
    def _least(self) -> dict[str, float]:
        """The least budget that covers comparing one candidate, estimated from the calls so far."""
        mean = self._mean(len(self.task.train))
        sizes = len(self.task.train), len(self.task.validation), len(self.task.test)
        cells = least_cells(*sizes, self.test_replies, self.tested)
        written = self.ledger.logical.get("writer", Spending())
        return {name: cells * mean[name] + self._largest_bound(name) + getattr(written, name) for name in mean}

    def _largest_bound(self, name: str) -> float:
        """Return the most that any call, made or refused, can use, except the writer's."""
        bounds = [Bound(), *(bound for role, bound in self.ledger.largest_bound.items() if role != "writer")]
        return max(float(getattr(bound, name, 0.0)) for bound in bounds)

    @property
    def _limits(self) -> dict[str, float]:
        return {name: limit for name, limit in vars(self.budget).items() if limit is not None}

    def _sample(self, split: str, most: int) -> tuple[Example, ...]:
        """Return a random sample of a split, shuffled because data may be sorted and a race begins with the first examples."""
        examples: tuple[Example, ...] = getattr(self.task, split)
        if most < len(examples):
            self.cut[split] = (most, len(examples))
        else:
            self.cut.pop(split, None)
        order = named_generator(self.seed, f"sample of {split}").permutation(len(examples)).tolist()
        return tuple(examples[i] for i in order[:most])


def _padded(mean: dict[str, float], calls: float) -> dict[str, float]:
    """Return the mean usage of a cell, scaled to a number of calls, with a safety factor on tokens and dollars."""
    share = SAFETY_FACTOR * calls / mean["calls"]
    return {"calls": calls, "tokens": share * mean["tokens"], "dollars": share * mean["dollars"]}


def least_calls(task: Task, roles_per_cell: int, writer_calls: int, test_replies: int = 1, tested: int = 2) -> int:
    """Return a lower bound on the calls needed to compare one candidate; episodes may need more."""
    cells = least_cells(len(task.train), len(task.validation), len(task.test), test_replies, tested)
    return cells * roles_per_cell + writer_calls


def too_small(task: Task, budget: Budget, least: str, why: str = "") -> InputError:
    """Return the error for a budget that does not cover comparing one candidate."""
    parts = [f"{len(task.train)} training"]
    parts += [
        f"{min(BLOCK, len(examples))} {split}"
        for split, examples in (("validation", task.validation), ("test", task.test))
        if examples
    ]
    return InputError(
        f"the budget of {budget} is too small to compare even one candidate with the seed prompt: that takes {least} "
        f"({', '.join(parts)} examples for each prompt{why}): raise the budget, or use fewer examples"
    )


def _round_up(value: float, name: str) -> str:
    """Return a number rounded up to two significant digits, or to an integer for calls."""
    if name == "calls" or value <= 0:
        return f"{math.ceil(value):,}"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:,.6g}"
