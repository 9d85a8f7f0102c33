"""Parses the JSON of a reply: text, thinking, finish reason, log-probabilities. Pure functions of values.

Servers differ in how they encode these; only this module knows how. Nothing here trusts a value to have the right type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.replies import Finish, Usage
    from promptopt.tools import Exchange, ToolCall

_FINISH_NAMES: Mapping[Finish, str] = {
    "stop": "stop end_turn eos eos_token stop_sequence stop_token stop_word stop_str end_token end_of_text end_of_turn eot "
    "eot_id complete completed done end ended finish finished stopped natural normal success",
    "length": "length max_length max_tokens max_token max_output_tokens max_completion_tokens max_new_tokens model_length "
    "model_context_window_exceeded context_window_exceeded context_length_exceeded context_length token_limit "
    "token_limit_reached tokens_limit output_limit length_limit limit truncated incomplete",
    "refusal": "refusal refused content_filter content_filtered contentfilter safety image_safety recitation blocklist "
    "prohibited_content spii sensitive guardrail guardrails guardrail_intervened moderation moderated flagged blocked "
    "content_policy content_policy_violation policy_violation",
}
_FINISHES: Mapping[str, Finish] = {name: finish for finish, names in _FINISH_NAMES.items() for name in names.split()}
_TOOL_CALLS = ("tool_calls", "tool_call", "tool_use", "function_call")
_THINKING_TYPES = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "reasoning_text",
    "redacted_thinking",
    "thought",
    "summary_text",
)
_TEXT_TYPES = ("text", "output_text", "refusal")
_MAX_DEPTH = 4  # of nested content
_MIN_LOGPROB = -1e6
_ROUNDING = 1e-3  # how far a log-probability in half precision may be above 0


class Content(NamedTuple):
    """The content of a message.

    Args:
        text: the answer; None if there is no text at all, not even an empty one.
        thinking: the thinking besides the answer.
    """

    text: str | None
    thinking: str = ""


def parse_content(content: object) -> Content:
    """Parse a message's content: a text, or a list of parts with text, thinking and others."""
    if isinstance(content, str) or content is None:
        return Content(content)
    texts: list[str] = []
    thinking: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        kind = str(at(part, "type") or "text").casefold()
        if kind in _THINKING_TYPES or at(part, "thought") is True:
            thinking.append(text_of(part))
        elif kind in _TEXT_TYPES and isinstance(part, str | dict) and (isinstance(part, str) or _has_text(part)):
            texts.append(text_of(part))
    return Content("".join(texts) if texts else None, "\n".join(filter(None, thinking)))


def text_of(value: object, depth: int = _MAX_DEPTH) -> str:
    """Return the text of a part, however nested; "" if there is none."""
    if isinstance(value, str) or not depth:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "".join(text_of(element, depth - 1) for element in value)
    inner = (at(value, name) for name in ("text", "thinking", "reasoning", "summary", "content", "refusal", "value"))
    return text_of(next((field for field in inner if field is not None), ""), depth - 1)


def _has_text(part: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get(name), str | list | dict) for name in ("text", "content", "refusal", "value"))


def response_of(message: Content, usage: Usage, reason: object, calls: tuple[ToolCall, ...] = ()) -> Response | Failure:
    """Return a message as a response, or as a failure.

    A reply is complete, truncated at its length limit, or a refusal. Any other finish reason is a failure, and so is a
    message without text, unless it was refused, truncated while thinking, or calls tools that it was offered. Without a finish reason, a
    reply with text counts as complete.

    Args:
        message: the parsed content.
        usage: tokens used.
        reason: the server's finish reason, or None.
        calls: the tools that it calls, if it was offered any.
    """
    name = _normalized(reason)
    finish = _FINISHES.get(name)
    if calls and (not name or name in _TOOL_CALLS or finish == "stop"):
        return Response(message.text or "", usage=usage, thinking=message.thinking, tool_calls=calls)
    if not name or name in _TOOL_CALLS:
        finish = "stop" if message.text and message.text.strip() else None
    if finish is None:
        if not name and message.text is None:
            return Failure(_no_text(message))
        ending = repr(str(reason)[:40]) if name else "no finish reason and no text"
        return Failure(f"the reply ended with {ending}: it is incomplete")
    if message.text is None and finish == "stop":
        return Failure(_no_text(message))
    return Response(message.text or "", usage=usage, finish_reason=finish, thinking=message.thinking)


def _no_text(message: Content) -> str:
    return "the reply has no text" + (", only thinking" if message.thinking else "")


def _normalized(reason: object) -> str:
    """Normalize a finish reason: `FinishReason.MAX_TOKENS`, `max-tokens` and `maxTokens` become `max_tokens`."""
    if reason is None:
        return ""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(reason)[:100])
    plain = re.sub(r"[^a-z]+", "_", separated.casefold()).strip("_")
    plain = re.sub(r"^(finish|stop)_reason_", "", plain)
    return "" if plain in ("none", "null", "unspecified") else plain


def logprob(value: object) -> float | None:
    """Return a natural log-probability, or None for an invalid one: not finite, above 0, or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _MIN_LOGPROB < value <= _ROUNDING:
        return None
    return min(float(value), 0.0)


def at(value: Any, *path: str | int) -> Any:
    """Return the value at `path` in nested JSON, or None if there is none."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def numbered(exchanges: Sequence[Exchange]) -> Iterator[tuple[Exchange, list[str]]]:
    """Yield each exchange with the ids of its calls: their numbers in the conversation, in the form that the strictest server takes."""
    number = 0
    for exchange in exchanges:
        yield exchange, [f"call{number + i:05}" for i in range(len(exchange.calls))]
        number += len(exchange.calls)


def excerpt(text: str) -> str:
    """Return the beginning of a text, quoted for messages."""
    return repr(" ".join(text[:1000].split())[:100])
