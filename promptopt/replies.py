"""Replies of models: responses, and failures with their reasons."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import InputError
from promptopt.tools import ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.environment import Trajectory

Finish: TypeAlias = Literal["stop", "length", "refusal"]


class Usage(NamedTuple):
    """Token usage of one call.

    Args:
        input: all input tokens.
        cached: input tokens read from the provider's cache.
        output: output tokens.
        written: input tokens written to the provider's cache.
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


TOOL = "tool"
"""The role of a program's functions, and the beginning of their names in a trace."""


class Call(NamedTuple):
    """One call of a program: what was asked, and the reply.

    Args:
        name: of the prompt, or `tool:` and the function's name.
        inputs: (field, text) pairs that the prompt was filled with, or the arguments of the tool.
        reply: the text; of a tool, its result in JSON.
        tool_calls: the tools that the model called in this reply.
    """

    name: str
    inputs: tuple[tuple[str, str], ...]
    reply: str
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def said(self) -> str:
        """The text and the tool calls, one a line."""
        texts = [self.reply] if self.reply or not self.tool_calls else []
        return "\n".join([*texts, *(f"calls {call}" for call in self.tool_calls)])


@dataclass(frozen=True, slots=True)
class Response:
    """One reply of a model.

    Args:
        text: the reply, or the most likely label if labels were scored.
        label_logprobs: natural log p(label | context) in the order of `labels`, or None for plain text.
        usage: token usage.
        finish_reason: "stop" for a complete reply, "length" for a truncated one, "refusal" for a declined one.
        trajectory: the episode, in tasks with an environment; `text` is then its transcript.
        labels: names of `label_logprobs`, in the order of the task's labels. Models leave it empty and memos do not store
            it; the caller, which requested these labels, sets it.
        thinking: the model's reasoning before the answer, if the server or the reply contains it; rewards ignore it.
        trace: the calls of a program, in order; `text` is then what the program returned.
        tool_calls: the tools that the model called instead of, or beside, an answer.
    """

    text: str
    label_logprobs: tuple[float, ...] | None = None
    usage: Usage = NO_USAGE
    finish_reason: Finish = "stop"
    trajectory: Trajectory | None = None
    labels: tuple[str, ...] = field(default=(), compare=False)
    thinking: str = ""
    trace: tuple[Call, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()

    def __reduce__(self) -> tuple[type[Response], tuple[Any, ...]]:
        """Pickle as constructor arguments, which is faster than the default for slots."""
        values = (
            self.text,
            self.label_logprobs,
            self.usage,
            self.finish_reason,
            self.trajectory,
            self.labels,
            self.thinking,
            self.trace,
            self.tool_calls,
        )
        return Response, values

    def with_labels(self, labels: tuple[str, ...]) -> Response:
        """Return the response with the names of its log-probabilities, if it has any."""
        if self.label_logprobs is None:
            return self
        return replace(self, labels=labels)

    def logprobs_of(self, labels: Sequence[str]) -> tuple[float, ...] | None:
        """Return the log-probabilities of `labels`, in that order; None for plain text.

        If the response does not name its labels, its log-probabilities are assumed to be in the order of `labels`.

        Raises:
            InputError: the log-probability of a label is missing.
        """
        if self.label_logprobs is None:
            return None
        names = self.labels or tuple(labels)
        if len(self.label_logprobs) != len(names):
            raise InputError(
                f"the response has {len(self.label_logprobs)} log-probabilities for the labels {list(names)}"
            )
        by_name = dict(zip(names, self.label_logprobs, strict=True))
        missing = [label for label in labels if label not in by_name]
        if missing:
            raise InputError(f"the response has no log-probability of the label {missing[0]!r}, only of {list(names)}")
        return tuple(by_name[label] for label in labels)

    @property
    def truncated_before_text(self) -> bool:
        """Whether the token limit was reached before any text, as happens to models that think first."""
        return self.finish_reason == "length" and not self.text.strip()

    @property
    def speechless(self) -> bool:
        """Former name of `truncated_before_text`."""
        warnings.warn("Response.speechless is now Response.truncated_before_text", DeprecationWarning, stacklevel=2)
        return self.truncated_before_text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for `from_json`; of an episode, only the text."""
        return {
            "text": self.text,
            "label_logprobs": None if self.label_logprobs is None else list(self.label_logprobs),
            "usage": list(self.usage if self.usage.written else self.usage[:3]),
            "finish_reason": self.finish_reason,
            **({"thinking": self.thinking} if self.thinking else {}),
            **({"tool_calls": [list(call) for call in self.tool_calls]} if self.tool_calls else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Response:
        """Restore what `to_json` returned."""
        logprobs = data["label_logprobs"]
        return cls(
            data["text"],
            None if logprobs is None else tuple(logprobs),
            Usage(*data["usage"]),
            data["finish_reason"],
            thinking=data.get("thinking", ""),
            tool_calls=tuple(ToolCall(*call) for call in data.get("tool_calls", ())),
        )


@dataclass(frozen=True)
class Failure:
    """A reply that could not be obtained after all retries; its reward is NaN, and it is never stored in the memo.

    Args:
        reason: human-readable explanation.
        refused: whether the endpoint rejected this request because of its content, while it accepts others.
    """

    reason: str
    refused: bool = False


Reply: TypeAlias = Response | Failure


class Arrival(NamedTuple):
    """One finished call: the number of its request, and the reply."""

    number: int
    reply: Response | Failure

    @property
    def share(self) -> float:
        """The fraction of the model's list price that the call cost."""
        return 1.0
