"""The outcome of moving a prompt to other models. As a value, as a table and as JSON.

Knows nothing of how it was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from promptopt.results.outcomes import Comparison
    from promptopt.results.result import Result
    from promptopt.statistics import Interval

HEADS = ("model\nprompt", "reward", "over old prompt", "over old model", "tokens\n$ / 1,000")
"""Column headings of `Migration.rows`: 95 % intervals are below their estimates, tokens and dollars those of replies with their prompts."""

OLD = "old prompt"


class Measured(NamedTuple):
    """One prompt on one model: test results.

    Args:
        model: name of the model.
        prompt: name of the prompt.
        reward: mean test reward with its 95 % interval.
        over_prompt: that minus the old prompt's reward on the same model, paired; None for the old prompt.
        over_model: that minus what the old prompt earned on the old model in its run's test, paired; None if the run has no test, or
            none of its items is in this one.
        items: number of test examples.
        dollars: mean price of a thousand replies, without the judge; None if unknown.
        tokens: mean tokens of a reply and its prompt; None if not reported.
    """

    model: str
    prompt: str
    reward: Interval
    over_prompt: Interval | None
    over_model: Interval | None
    items: int
    dollars: float | None
    tokens: float | None


@dataclass(frozen=True, kw_only=True)
class Move:
    """The old prompt and the old run's best candidates on a new model.

    Args:
        model: name of the model.
        result: of the run on it, whose seed prompt is the old prompt.
        over_model: the rewards of the old and of the chosen prompt on it, minus those of the old prompt on the old model, paired.
    """

    model: str
    result: Result
    over_model: tuple[Interval, Interval] | None = None

    @property
    def chosen(self) -> str:
        """Name of the chosen prompt."""
        record = self.result.chosen_record
        return OLD if self.result.kept else f"candidate {record.number}" if record else "chosen prompt"

    @property
    def headline(self) -> str:
        """What to do, in one sentence."""
        result, test = self.result, self.result.test
        if not result.finished:
            return f"{self.model}: unfinished ({result.unfinished})."
        if result.kept:
            return f"{self.model}: no candidate did better, so the old prompt was kept."
        if test is None:
            return f"{self.model}: {self.chosen} was chosen, but not tested."
        gain, low, high = test.difference
        span = f"{gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, {test.items}"
        if result.improved:
            return f"{self.model}: {self.chosen} is better than the old prompt ({span})."
        return f"{self.model}: {self.chosen} was chosen, but is not shown to be better than the old prompt ({span})."

    @property
    def measured(self) -> list[Measured]:
        """The test results of the old prompt and of the chosen one, if it is another."""
        test = self.result.test
        if test is None:
            return []
        sides = [(0, OLD, test.seed, None)]
        sides += [] if self.result.kept else [(1, self.chosen, test.chosen, test.difference)]  # type: ignore[list-item]
        return [
            Measured(
                model=self.model,
                prompt=prompt,
                reward=reward,
                over_prompt=gain,
                over_model=self.over_model and self.over_model[side],
                items=test.examples,
                dollars=test.costs and test.costs[side],
                tokens=test.tokens and test.tokens[side],
            )
            for side, prompt, reward, gain in sides
        ]


@dataclass(frozen=True, kw_only=True)
class Migration:
    """The outcome of `migrate`.

    Args:
        task: the task's name.
        old_model: name of the model of the old run.
        recorded: the test of the old run, whose chosen prompt is the old prompt; None if it has none.
        moves: one for each new model, in the order given. If one is unfinished, those after it are missing.
        models: number of new models that were asked for.
        candidates: number of the old run's candidates that were measured again.
        notes: remarks on the numbers.
    """

    task: str
    old_model: str
    recorded: Comparison | None
    moves: tuple[Move, ...]
    models: int
    candidates: int
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether each new model has its result."""
        return len(self.moves) == self.models and all(move.result.finished for move in self.moves)

    @property
    def headline(self) -> str:
        """What to do, in one sentence for each model."""
        return "\n".join(move.headline for move in self.moves)

    @property
    def measured(self) -> list[Measured]:
        """Each measured pair of prompt and model: the old run's record first."""
        return [*self._old, *(row for move in self.moves for row in move.measured)]

    @property
    def _old(self) -> list[Measured]:
        test = self.recorded
        if test is None:
            return []
        costs, tokens = test.costs and test.costs[-1], test.tokens and test.tokens[-1]
        return [Measured(f"{self.old_model} (recorded)", OLD, test.chosen, None, None, test.examples, costs, tokens)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, as rows under `HEADS`; cells have two lines."""
        return [
            (
                f"{row.model}\n{row.prompt}",
                f"{row.reward.estimate:.3f} of {row.items}\n{row.reward.low:.3f} to {row.reward.high:.3f}",
                _gain(row.over_prompt),
                _gain(row.over_model),
                f"{_shown(row.tokens, ',.0f')}\n{_shown(row.dollars, '.4f')}",
            )
            for row in self.measured
        ]

    @property
    def all_notes(self) -> list[str]:
        """The notes of all runs, each once."""
        noted = [f"{move.model}: {note}" for move in self.moves for note in move.result.notes]
        return list(dict.fromkeys([*self.notes, *noted]))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinities become null."""
        return {
            "task": self.task,
            "old_model": self.old_model,
            "candidates": self.candidates,
            "finished": self.finished,
            "headline": self.headline,
            "measured": [{name: _plain(value) for name, value in row._asdict().items()} for row in self.measured],
            "moves": [
                {"model": move.model, "run_dir": move.result.run_dir, "prompt": move.result.prompt.to_json()}
                for move in self.moves
            ],
            "notes": self.all_notes,
        }

    def __str__(self) -> str:
        table = [[" ".join(cell.split("\n")) for cell in row] for row in (HEADS, *self.rows())]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return printable("\n".join([*lines, "", self.headline, *(f"note: {note}" for note in self.all_notes)]))


def _gain(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.3f}\n{interval.low:+.3f} to {interval.high:+.3f}"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
