"""The one claim of a run, and the evidence behind it: what the two prompts did on each test item.

Plain values; knows nothing of how they were obtained.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.replies import Failure
from promptopt.statistics import Interval
from promptopt.utils.files import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.replies import Response
    from promptopt.scores import Scores

FILE = "test.jsonl"
"""Name of the outcomes' file in the folder of a run: one line of JSON an item."""

SAME = Interval(0.0, 0.0, 0.0)
"""The difference of a prompt to itself: none, whatever its replies were."""

_Z_SHOWN = 1.960 + 0.842  # normal quantiles of 97.5 % and 80 %: a two-sided test of 5 % with power 0.8
_FEWEST = 8  # items below which no difference is shown, however even


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One prompt's reply to one test item.

    Args:
        text: the reply; of an episode, all of it, to read; of a failure, "".
        reward: of the reply, None where it never came.
        reason: the reward's own words, or why the reply never came.
        finish: "stop", "length" or "refusal" as of a response, "failed" for a reply that never came.
        events: what happened in an episode, in order.
    """

    text: str
    reward: float | None
    reason: str = ""
    finish: str = "stop"
    events: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the two prompts did on one test item.

    Args:
        id: of the item.
        inputs: its fields.
        target: the right answer, or None.
        seed: the seed prompt's reply.
        chosen: the chosen prompt's reply.
    """

    id: str
    inputs: Mapping[str, str] = field(hash=False)
    target: str | None
    seed: Answer
    chosen: Answer

    @property
    def difference(self) -> float | None:
        """Reward of the chosen prompt less that of the seed prompt; None where one of them has none."""
        if self.seed.reward is None or self.chosen.reward is None:
            return None
        return self.chosen.reward - self.seed.reward


@dataclass(frozen=True, kw_only=True)
class ByLabels:
    """The same test with each answer chosen among the labels by log-probability, where the claim reads what is written.

    Args:
        seed: mean test reward of the seed prompt, with its 95 % interval.
        chosen: the same of the chosen prompt.
        seed_apart: the seed prompt's reward by choosing less that by its text, paired, with its 95 % interval.
        chosen_apart: the same of the chosen prompt.
    """

    seed: Interval
    chosen: Interval
    seed_apart: Interval
    chosen_apart: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The chosen prompt against the seed prompt, once, paired, on test items that no search saw.

    Args:
        seed: mean test reward of the seed prompt, with its 95 % interval.
        chosen: the same of the chosen prompt.
        difference: chosen less seed, paired, with its 95 % interval.
        examples: items that both have.
        spread: standard deviation of the paired differences; None in results of earlier versions.
        costs: dollars for a thousand such replies, by the seed prompt and by the chosen one; None where the price is not
            known. The judge's part is left out.
        read: "labels" where each answer was chosen among the labels by log-probability, "text" where it was written while
            the search chose among the labels, "" where the search read texts too.
        by_labels: beside "text", what choosing among the labels gives on the same items.
        outcomes: what both did on each item; a loaded result has none, they lie beside it in `test.jsonl`.
    """

    seed: Interval
    chosen: Interval
    difference: Interval
    examples: int
    spread: float | None = None
    costs: tuple[float, float] | None = None
    read: str = ""
    by_labels: ByLabels | None = None
    outcomes: tuple[Outcome, ...] = field(default=(), compare=False, repr=False)

    @property
    def items_wanted(self) -> int | None:
        """About how many more items would show the difference, four times in five, were it as large as it looks here.

        By the normal approximation, from the spread of the paired differences; None where no number would, the difference
        being no gain, or where the spread is not known.
        """
        gain = self.difference.estimate
        if self.spread is None or not gain > 0:
            return None
        return max(math.ceil((_Z_SHOWN * self.spread / gain) ** 2), _FEWEST, self.examples + 1) - self.examples

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """Read back what a result's JSON holds; results of earlier versions have neither costs, spread nor reading."""
        costs, labelled = data.get("costs"), data.get("by_labels")
        return cls(
            seed=_interval(data["seed"]),
            chosen=_interval(data["chosen"]),
            difference=_interval(data["difference"]),
            examples=data["examples"],
            spread=data.get("spread"),
            costs=None if costs is None else (costs[0], costs[1]),
            read=data.get("read", ""),
            by_labels=ByLabels(**{name: _interval(part) for name, part in labelled.items()}) if labelled else None,
        )


def outcomes(scores: Scores) -> tuple[Outcome, ...]:
    """Return the outcomes of scores of the seed prompt and of the chosen one, if it is another, with one reply each."""
    return tuple(
        Outcome(
            id=example.id,
            inputs=dict(example.inputs),
            target=example.target,
            seed=_answer(scores, 0, e),
            chosen=_answer(scores, -1, e),
        )
        for e, example in enumerate(scores.examples)
    )


def write_outcomes(found: Sequence[Outcome], path: Path) -> None:
    """Write the outcomes, one line each; the file is there whole or not at all."""
    lines = [json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n" for one in found]
    write_private(path, "".join(lines))


def read_outcomes(path: Path) -> tuple[Outcome, ...]:
    """Read what `write_outcomes` wrote; () where there is no such file, as in runs without a test.

    Raises:
        InputError: the file holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(_read(json.loads(line)) for line in lines if line)
    except FileNotFoundError:
        return ()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no test replies of a run ({error!r}): run again to write it anew") from error


def _answer(scores: Scores, prompt: int, example: int) -> Answer:
    reply: Response | Failure = scores.replies[prompt][example][0]
    reward, reason = float(scores.rewards[prompt, example, 0]), scores.reasons[prompt][example][0]
    shown = None if math.isnan(reward) else reward
    if isinstance(reply, Failure):
        return Answer(text="", reward=shown, reason=reason, finish="failed")
    events = tuple(event.name for event in reply.trajectory.events) if reply.trajectory else ()
    return Answer(text=reply.text, reward=shown, reason=reason, finish=reply.finish_reason, events=events)


def _read(data: dict[str, Any]) -> Outcome:
    seed, chosen = (
        Answer(**{**data[side], "events": tuple(data[side].get("events", ()))}) for side in ("seed", "chosen")
    )
    return Outcome(id=data["id"], inputs=dict(data["inputs"]), target=data["target"], seed=seed, chosen=chosen)


def _interval(values: list[float | None]) -> Interval:
    estimate, low, high = values
    return Interval(
        math.nan if estimate is None else estimate,
        -math.inf if low is None else low,
        math.inf if high is None else high,
    )
