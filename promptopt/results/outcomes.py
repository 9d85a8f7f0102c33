"""The test of a run: the comparison of seed and chosen prompt, and both replies to each test example.

Plain values; knows nothing of how they were obtained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping  # noqa: TC003  read when a result is loaded
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.replies import Call, Failure
from promptopt.results.front import FrontTest  # noqa: TC001  read when a result is loaded
from promptopt.statistics import Interval
from promptopt.utils.files import write_private
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.replies import Response
    from promptopt.scores import Scores

FILE = "test.jsonl"
"""Name of the outcomes file in the run's folder: one line of JSON per example."""

SAME = Interval(0.0, 0.0, 0.0)
"""The difference between a prompt and itself."""

_NOT_FINITE = (math.nan, -math.inf, math.inf)  # estimate and bounds of an interval that knows none
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
        trace: the calls of a program, in order.
    """

    text: str
    reward: float | None
    reason: str = ""
    finish: str = "stop"
    events: tuple[str, ...] = ()
    trace: tuple[Call, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; a trace only if there is one."""
        values = asdict(self)
        trace = [_written_call(call) for call in self.trace]
        return values | {"trace": trace} if trace else {name: values[name] for name in values if name != "trace"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Both prompts' replies to one test example.

    Args:
        id: id of the example.
        inputs: its input fields.
        target: the right answer, or None.
        seed: the seed prompt's reply.
        chosen: the chosen prompt's reply.
        group: of the example, or None.
    """

    id: str
    inputs: Mapping[str, str] = field(hash=False)
    target: str | None
    seed: Answer
    chosen: Answer
    group: str | None = None

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
class PredictorTest:
    """The test of the predictor, on the same examples as that of the chosen prompt.

    Args:
        reward: mean test reward of the predictor's prompt with its label bias, with its 95 % interval.
        over_seed: that minus the reward of the seed prompt, paired, with its 95 % interval.
        over_prompt: that minus the reward of the chosen prompt alone, paired, with its 95 % interval.
    """

    reward: Interval
    over_seed: Interval
    over_prompt: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One paired comparison of chosen and seed prompt, on test examples that the search never used.

    Args:
        seed: mean test reward of the seed prompt, with its 95 % interval.
        chosen: the same for the chosen prompt.
        difference: chosen minus seed, paired, with its 95 % interval.
        examples: number of examples with replies to both prompts.
        spread: standard deviation of the paired differences, or that of as many independent examples with the same standard error if
            examples have groups; None in results of earlier versions.
        costs: dollars per thousand replies, for the seed prompt and the chosen prompt, without the judge; None if the price is
            unknown.
        tokens: mean tokens of a reply and its prompt, likewise; None if they are not reported, and in results of earlier versions.
        read: how answers were read: "labels" if chosen among the labels by log-probability; "text" if the model wrote them
            although the search chose among the labels; "" if search and test both read text.
        by_labels: if `read` is "text", the result of choosing among the labels on the same examples.
        groups: number of groups of these examples; None if they have none. Intervals are then those of groups.
        predictor: the test of the predictor, if the run kept one.
        front: the test of each point of the front, in a run with several objectives.
        outcomes: both replies to each example; () in a loaded result, whose outcomes are in `test.jsonl`.
    """

    seed: Interval
    chosen: Interval
    difference: Interval
    examples: int
    spread: float | None = None
    costs: tuple[float, float] | None = None
    tokens: tuple[float, float] | None = None
    read: str = ""
    by_labels: ByLabels | None = None
    groups: int | None = None
    predictor: PredictorTest | None = None
    front: tuple[FrontTest, ...] = ()
    outcomes: tuple[Outcome, ...] = field(default=(), compare=False, repr=False)

    @property
    def items(self) -> str:
        """The number of test items, and of their groups, in words."""
        return f"{self.examples} test items" + ("" if self.groups is None else f" in {self.groups} groups")

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


def with_infinities(test: Any) -> Any:
    """Return the JSON values of a comparison with the numbers of its intervals that JSON cannot hold, saved as null."""
    if isinstance(test, dict):
        return {name: with_infinities(part) for name, part in test.items()}
    if isinstance(test, list) and len(test) == len(_NOT_FINITE):
        return [other if number is None else number for number, other in zip(test, _NOT_FINITE, strict=True)]
    return test


def outcomes(scores: Scores) -> tuple[Outcome, ...]:
    """Return the outcomes from scores of the seed prompt and the chosen prompt, with one reply each."""
    return tuple(
        Outcome(
            id=example.id,
            inputs=dict(example.inputs),
            target=example.target,
            seed=answer_of(scores, 0, e),
            chosen=answer_of(scores, -1, e),
            group=example.group,
        )
        for e, example in enumerate(scores.examples)
    )


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the outcomes, one line each, atomically."""
    lines = [json.dumps(_line(o), ensure_ascii=False, allow_nan=False) + "\n" for o in outcomes]
    write_private(path, "".join(lines))


def _line(outcome: Outcome) -> dict[str, Any]:
    """Return JSON values; a group only if the example has one."""
    values = {**asdict(outcome), "seed": outcome.seed.to_json(), "chosen": outcome.chosen.to_json()}
    return values if outcome.group is not None else {name: values[name] for name in values if name != "group"}


def read_outcomes(path: Path) -> tuple[Outcome, ...]:
    """Return the outcomes that `write_outcomes` wrote; () if there is no file, as in runs without a test.

    Raises:
        InputError: the file does not hold outcomes.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(read_value(Outcome, _with_traces(json.loads(line))) for line in lines if line)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not hold the test replies of a run ({error!r}): run again to rewrite it"
        ) from error


def read_trace(calls: Any) -> tuple[Call, ...]:
    """Return a trace from JSON values as `Answer.to_json` has them; () for None.

    Raises:
        ValueError: they are no trace.
    """
    line = _with_traces({"seed": {"text": "", "reward": None, "trace": calls or []}})
    return read_value(Answer, line["seed"]).trace


def _written_call(call: Call) -> dict[str, Any]:
    """Return JSON values; tool calls only if there are any."""
    values = {**call._asdict(), "inputs": dict(call.inputs)}
    return values if call.tool_calls else {name: values[name] for name in values if name != "tool_calls"}


def _with_traces(line: Any) -> Any:
    """Return the JSON values of an outcome with the inputs of calls as pairs."""
    answers = [line.get(side) for side in ("seed", "chosen")] if isinstance(line, dict) else []
    traces = [answer.get("trace") for answer in answers if isinstance(answer, dict)]
    for call in (call for trace in traces if isinstance(trace, list) for call in trace):
        if isinstance(call, dict) and isinstance(call.get("inputs"), dict):
            call["inputs"] = list(call["inputs"].items())
    return line


def answer_of(scores: Scores, prompt: int, example: int, replicate: int = 0) -> Answer:
    """Return the answer in one cell of scores."""
    reply: Response | Failure = scores.replies[prompt][example][replicate]
    reward, reason = float(scores.rewards[prompt, example, replicate]), scores.reasons[prompt][example][replicate]
    known_reward = None if math.isnan(reward) else reward
    if isinstance(reply, Failure):
        return Answer(text="", reward=known_reward, reason=reason, finish="failed")
    events = tuple(event.name for event in reply.trajectory.events) if reply.trajectory else ()
    return Answer(
        text=reply.text,
        reward=known_reward,
        reason=reason,
        finish=reply.finish_reason,
        events=events,
        trace=reply.trace,
    )
