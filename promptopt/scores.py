"""What comes back from models: responses, failures, and the scores that rewards make of them.

Pure values; knows nothing of how they were obtained.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.environment import Trajectory
    from promptopt.prompt import Example, Prompt

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Finish: TypeAlias = Literal["stop", "length", "refusal"]


class Usage(NamedTuple):
    """Tokens that one call took.

    Args:
        input: all of the input.
        cached: the part of it that was read from the provider's cache.
        output: the reply.
        written: the part of the input that was written to the provider's cache.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    written: int = 0

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Response:
    """One reply of a model.

    Args:
        text: the reply, or the likeliest label where labels were scored.
        label_logprobs: natural log p(label | context) in the order of `labels`, or None for plain text.
        usage: tokens taken.
        finish_reason: "stop" for a whole reply, "length" for one cut off, "refusal" for a declined one.
        trajectory: the episode that it stands for, in tasks with an environment; the text is then all of it, to read.
        labels: names of `label_logprobs`, in the order of the task's labels. Models leave it out: the caller, which asked
            for these labels, sets it, and memos do not hold it.
        thinking: what the model thought before it answered, where the server or the reply shows it; no reward reads it.
    """

    text: str
    label_logprobs: tuple[float, ...] | None = None
    usage: Usage = NO_USAGE
    finish_reason: Finish = "stop"
    trajectory: Trajectory | None = None
    labels: tuple[str, ...] = field(default=(), compare=False)
    thinking: str = ""

    def __reduce__(self) -> tuple[type[Response], tuple[Any, ...]]:
        """Travel between processes as the arguments that it is made of, which is faster than what slots get by default."""
        values = (
            self.text,
            self.label_logprobs,
            self.usage,
            self.finish_reason,
            self.trajectory,
            self.labels,
            self.thinking,
        )
        return Response, values

    def with_labels(self, labels: tuple[str, ...]) -> Response:
        """Return the response with the names of its log-probabilities, if it has any."""
        if self.label_logprobs is None:
            return self
        return replace(self, labels=labels)

    def logprobs_of(self, labels: Sequence[str]) -> tuple[float, ...] | None:
        """Return the log-probabilities of some labels by name, in the order given; None for plain text.

        A response that does not name its labels is taken to be in the order given.

        Raises:
            InputError: it has no log-probability of one of them.
        """
        if self.label_logprobs is None:
            return None
        names = self.labels or tuple(labels)
        if len(self.label_logprobs) != len(names):
            raise InputError(f"there are {len(self.label_logprobs)} log-probabilities for the labels {list(names)}")
        by_name = dict(zip(names, self.label_logprobs, strict=True))
        missing = [label for label in labels if label not in by_name]
        if missing:
            raise InputError(f"there is no log-probability of the label {missing[0]!r}, only of {list(names)}")
        return tuple(by_name[label] for label in labels)

    @property
    def speechless(self) -> bool:
        """Whether it was cut off before any text, as happens to models that think first."""
        return self.finish_reason == "length" and not self.text.strip()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads back; of an episode, the text alone."""
        return {
            "text": self.text,
            "label_logprobs": None if self.label_logprobs is None else list(self.label_logprobs),
            "usage": list(self.usage if self.usage.written else self.usage[:3]),
            "finish_reason": self.finish_reason,
            **({"thinking": self.thinking} if self.thinking else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Response:
        """Read back what `to_json` gave."""
        logprobs = data["label_logprobs"]
        return cls(
            data["text"],
            None if logprobs is None else tuple(logprobs),
            Usage(*data["usage"]),
            data["finish_reason"],
            thinking=data.get("thinking", ""),
        )


@dataclass(frozen=True)
class Failure:
    """A reply that never came, after all retries; data beside a NaN score, never a score, never memoised.

    Args:
        reason: for people.
        refused: whether the endpoint answers others, and refused this request for what it holds.
    """

    reason: str
    refused: bool = False


class Arrival(NamedTuple):
    """One finished call: which request it answers, and with what."""

    number: int
    reply: Response | Failure

    @property
    def share(self) -> float:
        """The share of the model's price that it cost."""
        return 1.0


@dataclass(frozen=True)
class Scores:
    """Rewards of P prompts on E examples with R replicates each, and the replies behind them.

    Args:
        prompts: [P].
        examples: [E].
        rewards: float64 [P, E, R]; NaN where the reply failed.
        replies: `[P][E][R]`.
        reasons: `[P][E][R]`; the reward's own words, "" where it gave none.
    """

    prompts: tuple[Prompt, ...]
    examples: tuple[Example, ...]
    rewards: Floats
    replies: Sequence[Sequence[Sequence[Response | Failure]]]
    reasons: Sequence[Sequence[Sequence[str]]]

    @property
    def per_example(self) -> Floats:
        """Mean over replicates that came back, [P, E]; NaN where none did."""
        return nanmean(self.rewards, axis=2)

    @property
    def mean(self) -> Floats:
        """Mean over examples of the mean over replicates, [P]; NaN where nothing came back."""
        return nanmean(self.per_example, axis=1)

    @property
    def standard_error(self) -> Floats:
        """Standard error of `mean`, clustered by example, [P]; NaN below two examples."""
        return standard_error(self.per_example)

    @property
    def failed(self) -> int:
        """Number of cells without a reply."""
        return int(np.isnan(self.rewards).sum())

    def rows(self, kept: Sequence[int]) -> Scores:
        """Return the scores of some of the prompts, in the order given."""
        return Scores(
            tuple(self.prompts[i] for i in kept),
            self.examples,
            self.rewards[list(kept)],
            [self.replies[i] for i in kept],
            [self.reasons[i] for i in kept],
        )

    def joined(self, other: Scores) -> Scores:
        """Return these scores followed by those of other prompts on the same examples."""
        return Scores(
            (*self.prompts, *other.prompts),
            self.examples,
            np.concatenate([self.rewards, other.rewards]),
            [*self.replies, *other.replies],
            [*self.reasons, *other.reasons],
        )

    def paired_difference(self, first: int, second: int) -> Floats:
        """Reward of prompt `first` less that of `second` on the examples that both have, [E' <= E].

        Only replicates that both have are compared, so a failure on one side takes the cell from both.
        """
        return paired_difference(self.rewards[first], self.rewards[second])


def nanmean(values: Floats, axis: int) -> Floats:
    """Mean over the entries that are numbers; NaN, without a warning, where there are none."""
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    out: Floats = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


def standard_error(per_example: Floats) -> Floats:
    """Standard error of the row means of [P, E], entries that are NaN left out, [P]."""
    count = (~np.isnan(per_example)).sum(axis=1)
    centred = per_example - nanmean(per_example, axis=1)[:, None]
    squares = np.nansum(centred**2, axis=1)
    out: Floats = np.full(len(per_example), np.nan)
    np.divide(squares, count * (count - 1), out=out, where=count > 1)
    return np.sqrt(out)


def paired_difference(first: Floats, second: Floats) -> Floats:
    """Difference of two [E, R] rewards, over the cells that both have, one number for each example that is left."""
    difference = nanmean(first - second, axis=1)
    return difference[~np.isnan(difference)]
