"""Successive halving over strategies under one budget (Jamieson and Talwalkar 2016).

A run with a larger budget repeats the calls of the smaller one from the memo, so continuing a strategy only costs its new
calls. Strategies are ranked on training and validation examples. Only the last one is run on the test examples, once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget
from promptopt.sweep.single_run import total_spending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.evaluation.ledger import Spending
    from promptopt.results.result import Result
    from promptopt.sweep.plan import Plan, TaskModelPair
    from promptopt.sweep.single_run import CallUsage, RunOutcome, RunSpec

# Share of the budget for eliminated strategies. With it, the total is at most 1.6 times the cost of the winner.
_ELIMINATION_SHARE = 0.3


class Rung(NamedTuple):
    """One round of successive halving.

    Args:
        arms: number of strategies.
        budget: budget of each strategy.
    """

    arms: int
    budget: Budget


def rungs(budget: Budget, strategies: int) -> list[Rung]:
    """Return all rounds but the last, in which one strategy gets the remaining budget.

    Budgets double as the number of strategies halves. Eliminated strategies use 0.3 of the total. Even if no call were
    repeated, at most three quarters would be used before the last round.

    Args:
        budget: total budget of the portfolio.
        strategies: initial number of strategies.
    """
    counts = [strategies]
    while counts[-1] > 2:  # noqa: PLR2004  a round of two leaves one
        counts.append((counts[-1] + 1) // 2)
    steps = [1.0, *(2.0 ** (r - 1) for r in range(1, len(counts)))]  # budget that each round adds per strategy
    eliminated = sum(count * step for count, step in zip(counts, steps, strict=True)) - sum(steps)
    return [Rung(count, _scaled(budget, _ELIMINATION_SHARE * 2.0**r / eliminated)) for r, count in enumerate(counts)]


def check_rungs(plan: Plan, where: str) -> None:
    """Check that the first round can compare at least one candidate.

    Raises:
        InputError: the budget is too small.
    """
    rounds = rungs(plan.spec.budget, len(plan.spec.strategy))
    calls = rounds[0].budget.calls
    for pair in plan.pairs if calls is not None else ():
        run_specs = plan.run_specs(pair, rounds[0].budget, plan.spec.seeds[0], 0)
        min_calls = max(run_spec.job(plan.tasks[pair.task]).least_calls for run_spec in run_specs)
        if calls is not None and calls < min_calls:
            wanted = math.ceil((plan.spec.budget.calls or 0) * min_calls / max(calls, 1))
            raise InputError(
                f"{where}: budget = {str(plan.spec.budget)!r} gives each strategy {calls:g} calls in the first of "
                f"{len(rounds)} rounds, but comparing one candidate on {pair.task!r} takes at least {min_calls}: set "
                f"budget = '{wanted} calls' or more, or use fewer [[strategy]] tables"
            )


@dataclass
class Portfolio:
    """The competition of strategies on one task, model and seed.

    Args:
        plan: plan of the sweep.
        pair: task and model.
        seed: random seed of the runs.
        active: indices of the strategies still competing.
        spent: usage of every distinct call so far.
        rounds: results of each round, as JSON values.
        winner: the final run, once known.
        reason: why the portfolio failed, or "".
    """

    plan: Plan
    pair: TaskModelPair
    seed: int
    active: list[int]
    spent: dict[str, CallUsage] = field(default_factory=dict)
    rounds: list[list[dict[str, object]]] = field(default_factory=list)
    winner: RunSpec | None = None
    reason: str = ""

    def run_specs(self, number: int, rung: Rung) -> list[RunSpec]:
        """Return the runs of a round; none if the portfolio has failed."""
        if self.reason:
            return []
        run_specs = self.plan.run_specs(self.pair, rung.budget, self.seed, number)
        return [run_specs[i] for i in self.active]

    def finish_round(
        self, run_specs: Sequence[RunSpec], outcome_of: Callable[[RunSpec], RunOutcome], keep: int
    ) -> None:
        """Rank the strategies of a round and keep the best.

        Args:
            run_specs: runs of the round, in the order of `active`.
            outcome_of: returns the outcome of a run.
            keep: number of strategies to keep.
        """
        outcomes = [outcome_of(run_spec) for run_spec in run_specs]
        self.reason = self.reason or "; ".join(
            f"{run_spec.strategy.label}: {outcome.reason}"
            for run_spec, outcome in zip(run_specs, outcomes, strict=True)
            if outcome.reason
        )
        if self.reason:  # ranking only the others would score the failure as worst
            return
        for outcome in outcomes:
            self.spent |= outcome.calls.usage
        scores = [_ranking_score(outcome.result) for outcome in outcomes]
        order = sorted(range(len(run_specs)), key=lambda i: (-scores[i], i))
        kept = sorted(order[:keep])
        self.rounds.append(
            [
                {
                    "strategy": run_spec.strategy.label,
                    "run": run_spec.name,
                    "budget": str(run_spec.budget),
                    "reward": None if scores[i] == -math.inf else scores[i],
                    "goes_on": i in kept,
                }
                for i, run_spec in enumerate(run_specs)
            ]
        )
        self.active = [self.active[i] for i in kept]
        if keep == 1:
            self._plan_final_run(outcomes[kept[0]])

    @property
    def used(self) -> Spending:
        """Total usage of all rounds; each distinct call counts once."""
        return total_spending(self.spent.values())

    def _plan_final_run(self, best: RunOutcome) -> None:
        """Plan the final run. Its budget is the remaining one plus the calls that it repeats, which are already paid for."""
        used, repeated = self.used, total_spending(best.calls.repeatable.values())
        limits = {name: limit for name, limit in asdict(self.plan.spec.budget).items() if limit is not None}
        remaining = {name: limit - getattr(used, name) + getattr(repeated, name) for name, limit in limits.items()}
        self.winner = self.plan.run_spec(self.pair, Budget(**remaining), self.seed, self.active[0])


def _ranking_score(result: Result | None) -> float:
    """Return the mean reward of the chosen prompt over training cells and validation examples, for ranking strategies.

    Selection within a run uses the same score. A prompt that was never scored ranks last.
    """
    record = None if result is None else result.chosen_record
    if record is None or record.reward is None:
        return -math.inf
    validation = 0.0 if record.validation is None else record.validation * record.validated
    return (record.reward * record.cells + validation) / (record.cells + record.validated)


def _scaled(budget: Budget, share: float) -> Budget:
    """Return a share of a budget, with calls and tokens rounded down."""
    limits = {name: limit * share for name, limit in asdict(budget).items() if limit is not None}
    return Budget(**{name: limit if name == "dollars" else float(math.floor(limit)) for name, limit in limits.items()})
