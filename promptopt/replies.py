"""What comes back from models: responses, and failures with their reasons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.environment import Trajectory

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
