"""Successive halving over strategies under one budget (Jamieson and Talwalkar 2016): the better half goes on, by replay.

A run with a larger budget makes the calls of the smaller one again, from the memo, so that going on costs only what is
new. What goes on is decided on training and validation items; the one that is left meets the test items, once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget
from promptopt.sweep.cells import added

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.results.result import Result
    from promptopt.sweep.cells import Cell, Ran, Use
    from promptopt.sweep.plan import Place, Plan

_SEARCHING = (
    0.3  # of the whole budget, that those who drop out may use; what is left makes at most 1.6 times the winner's
)


class Rung(NamedTuple):
    """One round of the halving.

    Args:
        arms: strategies in it.
        budget: of each.
    """

    arms: int
    budget: Budget


def rungs(budget: Budget, strategies: int) -> list[Rung]:
    """Return the rounds before the last, in which one strategy goes on with all that is left.

    Budgets double and strategies halve. What those use that drop out comes to 0.3 of the whole, and no more than three
    quarters could be used before the last round even if nothing were repeated.

    Args:
        budget: of the whole portfolio.
        strategies: at the start.
    """
    counts = [strategies]
    while counts[-1] > 2:  # noqa: PLR2004  of two, one drops out
        counts.append((counts[-1] + 1) // 2)
    steps = [1.0, *(2.0 ** (r - 1) for r in range(1, len(counts)))]  # what each round adds to a strategy's budget
    dropped = sum(count * step for count, step in zip(counts, steps, strict=True)) - sum(steps)
    return [Rung(count, _scaled(budget, _SEARCHING * 2.0**r / dropped)) for r, count in enumerate(counts)]


def check_rungs(plan: Plan, where: str) -> None:
    """Refuse a budget whose first round does not pay for comparing one candidate.

    Raises:
        InputError: it does not.
    """
    rounds = rungs(plan.spec.budget, len(plan.spec.strategy))
    calls = rounds[0].budget.calls
    for place in plan.places if calls is not None else ():
        cells = plan.cells(place, rounds[0].budget, plan.spec.seeds[0], 0)
        least = max(cell.job(plan.tasks[place.task]).least_calls for cell in cells)
        if calls is not None and calls < least:
            wanted = math.ceil((plan.spec.budget.calls or 0) * least / max(calls, 1))
            raise InputError(
                f"{where}: budget = {str(plan.spec.budget)!r} gives each strategy {calls:g} calls in the first of "
                f"{len(rounds)} rounds, and to compare one candidate on {place.task!r} takes {least} at least: give "
                f"budget = '{wanted} calls' or more, or fewer [[strategy]]"
            )


@dataclass
class Portfolio:
    """The strategies of one task, model and seed, while they compete.

    Args:
        plan: of the sweep.
        place: task and model.
        seed: of the runs.
        alive: numbers of the strategies that are in.
        spent: every call so far, once.
        rounds: what each round showed, for the record.
        winner: the last cell, once it is known.
        reason: why it cannot go on, or "".
    """

    plan: Plan
    place: Place
    seed: int
    alive: list[int]
    spent: dict[str, Use] = field(default_factory=dict)
    rounds: list[list[dict[str, object]]] = field(default_factory=list)
    winner: Cell | None = None
    reason: str = ""

    def cells(self, number: int, rung: Rung) -> list[Cell]:
        """Return the runs of a round; none once it cannot go on."""
        if self.reason:
            return []
        every = self.plan.cells(self.place, rung.budget, self.seed, number)
        return [every[i] for i in self.alive]

    def take(self, cells: Sequence[Cell], ran: Callable[[Cell], Ran], left: int) -> None:
        """Look at a round, and keep the better ones.

        Args:
            cells: of the round, in the order of `alive`.
            ran: what came of each.
            left: how many go on.
        """
        seen = [ran(cell) for cell in cells]
        self.reason = self.reason or "; ".join(
            f"{cell.strategy.label}: {one.reason}" for cell, one in zip(cells, seen, strict=True) if one.reason
        )
        if self.reason:  # to rank the others alone would make a failure a score
            return
        for one in seen:
            self.spent |= one.calls.uses
        marks = [_mark(one.result) for one in seen]
        order = sorted(range(len(cells)), key=lambda i: (-marks[i], i))
        kept = sorted(order[:left])
        self.rounds.append(
            [
                {
                    "strategy": cell.strategy.label,
                    "run": cell.name,
                    "budget": str(cell.budget),
                    "reward": None if marks[i] == -math.inf else marks[i],
                    "goes_on": i in kept,
                }
                for i, cell in enumerate(cells)
            ]
        )
        self.alive = [self.alive[i] for i in kept]
        if left == 1:
            self._end(seen[kept[0]])

    @property
    def used(self) -> Spending:
        """What all rounds came to, each call once."""
        return added(self.spent.values())

    def _end(self, best: Ran) -> None:
        """Give the last one all that is left, and what it will not pay again."""
        used, again = self.used, added(best.calls.repeated.values())
        limits = {name: limit for name, limit in asdict(self.plan.spec.budget).items() if limit is not None}
        left = {name: limit - getattr(used, name) + getattr(again, name) for name, limit in limits.items()}
        self.winner = self.plan.cell(self.place, Budget(**left), self.seed, self.alive[0])


def _mark(result: Result | None) -> float:
    """Return what a strategy is ranked by: the reward of its prompt on training and validation items, each counting alike.

    The harness chooses by the same within a run. A prompt that was never scored ranks last.
    """
    record = None if result is None else result.chosen_record
    if record is None or record.reward is None:
        return -math.inf
    validation = 0.0 if record.validation is None else record.validation * record.validated
    return (record.reward * record.cells + validation) / (record.cells + record.validated)


def _scaled(budget: Budget, share: float) -> Budget:
    """Return a share of a budget, of calls and tokens whole ones."""
    limits = {name: limit * share for name, limit in asdict(budget).items() if limit is not None}
    return Budget(**{name: limit if name == "dollars" else float(math.floor(limit)) for name, limit in limits.items()})
