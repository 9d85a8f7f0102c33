"""Estimate what a run will need, by running it with simulated replies.

Replies in the memo are used, so an interrupted run is followed to where it stopped; all later replies are simulated. No
model is called. Knows nothing of how a run works.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.evaluation.ledger import Ledger, Spending
from promptopt.evaluation.rollouts import most_rounds
from promptopt.memo.memo import Memo
from promptopt.optimization.api import run_stages
from promptopt.optimization.job import Job, prepare
from promptopt.optimization.preflight import check
from promptopt.optimization.simulation import Overlay, SimulatedCaller, longest_episodes
from promptopt.statistics import detectable_difference, examples_to_detect
from promptopt.statistics.power import DIFFERING, POWER
from promptopt.strategies.auto import AUTO
from promptopt.strategies.registry import description_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.evaluation.ledger import Budget
    from promptopt.models.base import Model, Price
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task

HEADS = ("stage", "role", "calls", "in the memo", "input", "output", "dollars")

_SIMULATION_NOTE = (
    "simulated: replies that are not in the memo are drawn at random, half as long as max_tokens allows (or as long as a label), "
    "at 4 bytes per token; calls are an estimate (within a factor of three if scores decide when the search ends, as in pruning), "
    "tokens and dollars are rough guesses"
)
_BOUNDED_EPISODES_NOTE = (
    "episodes that are not in the memo are assumed to take all rounds that their instance or max_rounds allows, so their "
    "calls are an upper bound for this number of prompts"
)
_UNBOUNDED_EPISODES_NOTE = (
    "some instances give no `cap`, and the task no max_rounds: their episodes are assumed to end when the environment ends them after "
    "senseless replies, which may be much too early"
)


class Need(NamedTuple):
    """What one role needs in one stage.

    Args:
        stage: "start", "search", "validation" or "test".
        role: "task", "writer" or "judge".
        asked: calls that will be made, and their tokens and dollars.
        known: calls answered from the memo, and what they cost originally.
    """

    stage: str
    role: str
    asked: Spending
    known: Spending


class Power(NamedTuple):
    """What the test can show.

    Args:
        examples: test examples that the budget pays for.
        detectable: the smallest improvement that shows with a probability of `POWER`, for rewards of 0 and 1; None if there is none.
        more_to_halve: test examples more that would halve it; None if unknown.
    """

    examples: int
    detectable: float | None
    more_to_halve: int | None

    @classmethod
    def of(cls, examples: int) -> Power:
        """Return what a test on so many examples can show."""
        smallest = detectable_difference(examples) if examples else None
        enough = None if smallest is None else examples_to_detect(smallest / 2)
        return cls(examples, smallest, None if enough is None else enough - examples)

    @property
    def note(self) -> str:
        """The same in words."""
        if self.detectable is None:
            return f"{self.examples} test examples are too few to show any difference"
        more = "" if self.more_to_halve is None else f"; {self.more_to_halve:,} more test examples would halve it"
        where = (
            f"if prompts differ on {DIFFERING:.0%} of the examples"
            if self.detectable <= DIFFERING
            else "if no example gets worse"
        )
        return (
            f"{self.examples:,} test examples: the smallest improvement that shows with a probability of {POWER:.0%} is "
            f"{self.detectable:.3f} (for rewards of 0 and 1, {where}){more}"
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will need.

    Args:
        needs: by stage and role.
        prices: role -> dollars per million tokens; None if unknown.
        strategy: name and settings of the strategy.
        budget: the budget, as text.
        power: what the test can show.
        least_calls: the calls below which not even one candidate can be compared with the seed prompt.
        notes: assumptions and caveats.
    """

    needs: tuple[Need, ...]
    prices: dict[str, Price | None]
    strategy: dict[str, Any]
    budget: str
    power: Power
    least_calls: int
    notes: tuple[str, ...]

    @property
    def asked(self) -> Spending:
        """Total usage of the calls that will be made."""
        return sum((need.asked for need in self.needs), Spending())

    @property
    def known(self) -> Spending:
        """Total usage of the calls answered from the memo."""
        return sum((need.known for need in self.needs), Spending())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table rows under `HEADS`, with the total last."""
        rows = [self._row(*need) for need in self.needs]
        return [*rows, self._row("all", "", self.asked, self.known)]

    def _row(self, stage: str, role: str, asked: Spending, known: Spending) -> tuple[str, ...]:
        roles = [role] if role else [need.role for need in self.needs]
        dollars = "price unknown" if any(self.prices.get(r, ()) is None for r in roles) else f"{asked.dollars:.4f}"
        counts = (asked.calls, known.calls, asked.input_tokens, asked.output_tokens)
        return (stage, role, *(f"{count:,}" for count in counts), dollars)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "needs": [
                {"stage": need.stage, "role": need.role, "asked": vars(need.asked), "known": vars(need.known)}
                for need in self.needs
            ],
            "asked": vars(self.asked),
            "known": vars(self.known),
            "prices": {role: None if price is None else list(price) for role, price in self.prices.items()},
            "strategy": self.strategy,
            "budget": self.budget,
            "power": self.power._asdict(),
            "least_calls": self.least_calls,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        table = [HEADS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
        lines += ["", f"strategy: {self.strategy['name']} {self.strategy['settings']}", f"budget: {self.budget}"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def estimate(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str = AUTO,
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    objectives: Sequence[str] | str | None = None,
    prefer: str | None = None,
    memo: Memo | Path | str | None = None,
) -> Estimate:
    """Estimate what `optimize` with the same arguments will need, without calling any model.

    Weights of local models are not loaded, but a tokenizer may be. Nothing is written. A budget is optional.

    Raises:
        InputError: as `optimize`.
    """
    job = prepare(
        task,
        model,
        strategy,
        writer=writer,
        budget=budget,
        seed=seed,
        settings=settings,
        objectives=objectives,
        prefer=prefer,
    )
    check(job)
    with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        caller = SimulatedCaller(Overlay(store), Ledger(), labels=job.task.labels)
        if job.task.environment is None:
            return _estimate_job(job, caller, (_SIMULATION_NOTE,))
        bounded = most_rounds(job.task, [*job.task.train, *job.task.validation, *job.task.test])
        caller.episodes = True
        make = longest_episodes(job.task.environment, caller, job.task.max_rounds)
        job = replace(job, task=replace(job.task, environment=make))
        episode_note = _BOUNDED_EPISODES_NOTE if bounded else _UNBOUNDED_EPISODES_NOTE
        expected = _estimate_job(job, caller, (_SIMULATION_NOTE, episode_note))
        return replace(expected, notes=(*expected.notes, *caller.extrapolation_notes())) if bounded else expected


def _estimate_job(job: Job, caller: SimulatedCaller, notes: tuple[str, ...]) -> Estimate:
    result = run_stages(job, caller)
    power = Power.of(result.test.examples if result.test else 0)
    return Estimate(
        needs=tuple(Need(*stage_and_role, *usage) for stage_and_role, usage in caller.needs.items()),
        prices=result.prices,
        strategy=description_of(job.strategy),
        budget=str(job.budget),
        power=power,
        least_calls=job.least_calls,
        notes=(
            f"comparing even one candidate with the seed prompt takes {job.least_calls:,} calls or more",
            *([power.note] if power.examples else []),
            *(
                [f"{result.test.items}: if those of a group are alike, less shows than with as many independent items"]
                if result.test and result.test.groups
                else []
            ),
            *notes,
            *result.notes,
        ),
    )
