"""What a run is about to need: the same run with simulated replies, counted and thrown away.

What the memo holds is answered from it, so that a run that was begun is followed to where it stopped; everything after
that is a simulation. No model is called. Knows nothing of how a run works.
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
from promptopt.strategies.registry import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from promptopt.evaluation.ledger import Budget
    from promptopt.models.base import Model, Price
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task

HEADS = ("stage", "role", "calls", "in the memo", "input", "output", "dollars")

_SAID = (
    "a simulation: replies that the memo does not hold are drawn at random, with half of the longest reply allowed "
    "(or a label's length) and a token for 4 bytes; calls are an estimate (to a factor of three where scores decide how "
    "long a search goes on, as in pruning), tokens and dollars a guess"
)
_EPISODES = (
    "an episode that the memo does not hold is taken to last as long as its instance allows, which is the most that it can: "
    "their calls are an upper bound, for so many prompts"
)
_EPISODES_UNBOUND = (
    "instances do not all give a `cap`: their episodes end where the environment ends them on senseless replies, which may "
    "be much too early"
)


class Need(NamedTuple):
    """What one role needs in one stage.

    Args:
        stage: "start", "search", "validation" or "test".
        role: "task", "writer" or "judge".
        asked: calls that are about to be made, and their tokens and dollars.
        known: calls that the memo answers, and what they cost when they were made.
    """

    stage: str
    role: str
    asked: Spending
    known: Spending


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run is about to need.

    Args:
        needs: by stage and role.
        prices: role -> dollars per million tokens, None where it is not known.
        strategy: its name and settings.
        budget: as given, in words.
        notes: what a reader should know beside the numbers.
    """

    needs: tuple[Need, ...]
    prices: dict[str, Price | None]
    strategy: dict[str, Any]
    budget: str
    notes: tuple[str, ...]

    @property
    def asked(self) -> Spending:
        """All that is about to be asked of models."""
        return sum((need.asked for need in self.needs), Spending())

    @property
    def known(self) -> Spending:
        """All that the memo answers."""
        return sum((need.known for need in self.needs), Spending())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table under `HEADS`, the sum last."""
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
    strategy: Strategy | str = "promptquine",
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    memo: Memo | Path | str | None = None,
) -> Estimate:
    """Say what `optimize` with the same arguments is about to need, without calling any model.

    Weights of local models are not loaded; a tokenizer may be. Nothing is written. No budget need be given.

    Raises:
        InputError: as `optimize`.
    """
    job = prepare(task, model, strategy, writer=writer, budget=budget, seed=seed, settings=settings)
    check(job)
    with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        caller = SimulatedCaller(Overlay(store), Ledger(), labels=job.task.labels)
        if job.task.environment is None:
            return _counted(job, caller, (_SAID,))
        bounded = most_rounds([*job.task.train, *job.task.validation, *job.task.test])
        caller.episodes = True
        make = longest_episodes(job.task.environment, caller)
        job = replace(job, task=replace(job.task, environment=make))
        expected = _counted(job, caller, (_SAID, _EPISODES if bounded else _EPISODES_UNBOUND))
        return replace(expected, notes=(*expected.notes, *caller.extrapolation_notes())) if bounded else expected


def _counted(job: Job, caller: SimulatedCaller, notes: tuple[str, ...]) -> Estimate:
    result = run_stages(job, caller)
    return Estimate(
        needs=tuple(Need(*place, asked, known) for place, (asked, known) in caller.needs.items()),
        prices=result.prices,
        strategy={"name": type(job.strategy).__name__, "settings": settings_of(job.strategy)},
        budget=str(job.budget),
        notes=(*notes, *result.notes),
    )
