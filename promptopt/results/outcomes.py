"""The test of a run: the comparison of seed and chosen prompt, and both replies to each test example.

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
"""Name of the outcomes file in the run's folder: one line of JSON per example."""

SAME = Interval(0.0, 0.0, 0.0)
"""The difference between a prompt and itself."""

_Z_POWER = 1.960 + 0.842  # normal quantiles of 97.5 % and 80 %: two-sided 5 % test with power 0.8
_MIN_EXAMPLES = 8  # fewer examples never confirm a difference


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One prompt's reply to one test example.

    Args:
        text: the reply; for an episode its transcript, for a failure "".
        reward: reward of the reply, None for a failure.
        reason: the reward's explanation, or why the call failed.
        finish: "stop", "length" or "refusal" as in a response, "failed" for a failure.
        events: events of an episode, in order.
    """

    text: str
    reward: float | None
    reason: str = ""
    finish: str = "stop"
    events: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Both prompts' replies to one test example.

    Args:
        id: id of the example.
        inputs: its input fields.
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
        """Reward of the chosen prompt minus that of the seed prompt; None if either is missing."""
        if self.seed.reward is None or self.chosen.reward is None:
            return None
        return self.chosen.reward - self.seed.reward


@dataclass(frozen=True, kw_only=True)
class ByLabels:
    """The test repeated with each answer chosen among the labels by log-probability, when the main test reads text.

    Args:
        seed: mean test reward of the seed prompt, with its 95 % interval.
        chosen: the same for the chosen prompt.
        seed_apart: the seed prompt's reward by labels minus its reward by text, paired, with its 95 % interval.
        chosen_apart: the same for the chosen prompt.
    """

    seed: Interval
    chosen: Interval
    seed_apart: Interval
    chosen_apart: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One paired comparison of chosen and seed prompt, on test examples that the search never used.

    Args:
        seed: mean test reward of the seed prompt, with its 95 % interval.
        chosen: the same for the chosen prompt.
        difference: chosen minus seed, paired, with its 95 % interval.
        examples: number of examples with replies to both prompts.
        spread: standard deviation of the paired differences; None in results of earlier versions.
        costs: dollars per thousand replies, for the seed prompt and the chosen prompt, without the judge; None if the price is
            unknown.
        read: how answers were read: "labels" if chosen among the labels by log-probability; "text" if the model wrote them
            although the search chose among the labels; "" if search and test both read text.
        by_labels: if `read` is "text", the result of choosing among the labels on the same examples.
        outcomes: both replies to each example; () in a loaded result, whose outcomes are in `test.jsonl`.
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
        """About how many more test examples would confirm the difference with power 0.8, if it is as large as measured.

        Normal approximation from the spread of the paired differences. None if the difference is not a gain, or if the spread
        is unknown.
        """
        gain = self.difference.estimate
        if self.spread is None or not gain > 0:
            return None
        return max(math.ceil((_Z_POWER * self.spread / gain) ** 2), _MIN_EXAMPLES, self.examples + 1) - self.examples

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """Return the comparison in a result's JSON. Results of earlier versions lack costs, spread and `read`."""
        costs, by_labels = data.get("costs"), data.get("by_labels")
        return cls(
            seed=_interval(data["seed"]),
            chosen=_interval(data["chosen"]),
            difference=_interval(data["difference"]),
            examples=data["examples"],
            spread=data.get("spread"),
            costs=None if costs is None else (costs[0], costs[1]),
            read=data.get("read", ""),
            by_labels=ByLabels(**{name: _interval(part) for name, part in by_labels.items()}) if by_labels else None,
        )


def outcomes(scores: Scores) -> tuple[Outcome, ...]:
    """Return the outcomes from scores of the seed prompt and, if different, the chosen prompt, with one reply each."""
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


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the outcomes, one line each, atomically."""
    lines = [json.dumps(asdict(outcome), ensure_ascii=False, allow_nan=False) + "\n" for outcome in outcomes]
    write_private(path, "".join(lines))


def read_outcomes(path: Path) -> tuple[Outcome, ...]:
    """Return the outcomes that `write_outcomes` wrote; () if there is no file, as in runs without a test.

    Raises:
        InputError: the file does not hold outcomes.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(_read(json.loads(line)) for line in lines if line)
    except FileNotFoundError:
        return ()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not hold the test replies of a run ({error!r}): run again to rewrite it"
        ) from error


def _answer(scores: Scores, prompt: int, example: int) -> Answer:
    reply: Response | Failure = scores.replies[prompt][example][0]
    reward, reason = float(scores.rewards[prompt, example, 0]), scores.reasons[prompt][example][0]
    known_reward = None if math.isnan(reward) else reward
    if isinstance(reply, Failure):
        return Answer(text="", reward=known_reward, reason=reason, finish="failed")
    events = tuple(event.name for event in reply.trajectory.events) if reply.trajectory else ()
    return Answer(text=reply.text, reward=known_reward, reason=reason, finish=reply.finish_reason, events=events)


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
