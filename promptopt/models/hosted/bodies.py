"""What the JSON of a reply says: its text, the thoughts beside it, why it ended, log-probabilities. Pure functions of values.

Servers differ in how they write these; none of that is known elsewhere. Nothing here trusts a value to be of its type.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.replies import Finish, Usage

_ENDS: Mapping[Finish, str] = {
    "stop": "stop end_turn eos eos_token stop_sequence stop_token stop_word stop_str end_token end_of_text end_of_turn eot "
    "eot_id complete completed done end ended finish finished stopped natural normal success",
    "length": "length max_length max_tokens max_token max_output_tokens max_completion_tokens max_new_tokens model_length "
    "model_context_window_exceeded context_window_exceeded context_length_exceeded context_length token_limit "
    "token_limit_reached tokens_limit output_limit length_limit limit truncated incomplete",
    "refusal": "refusal refused content_filter content_filtered contentfilter safety image_safety recitation blocklist "
    "prohibited_content spii sensitive guardrail guardrails guardrail_intervened moderation moderated flagged blocked "
    "content_policy content_policy_violation policy_violation",
}
_FINISHES: Mapping[str, Finish] = {name: finish for finish, names in _ENDS.items() for name in names.split()}
_TOOLS = ("tool_calls", "tool_call", "tool_use", "function_call")
_THOUGHTS = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "reasoning_text",
    "redacted_thinking",
    "thought",
    "summary_text",
)
_TEXTS = ("text", "output_text", "refusal")
_DEEPEST = 4  # lists within lists, in a content
_LEAST_LOGPROB = -1e6
_ROUNDING = 1e-3  # above 0, of a log-probability in half precision


class Said(NamedTuple):
    """What a message holds.

    Args:
        text: the answer; None where there is none, not even an empty one.
        thinking: the thoughts beside it.
    """

    text: str | None
    thinking: str = ""


def said(content: object) -> Said:
    """Read a message's content: a text, or parts of which some are text, some thoughts, and others neither."""
    if isinstance(content, str) or content is None:
        return Said(content)
    texts: list[str] = []
    thoughts: list[str] = []
    for each in content if isinstance(content, list) else [content]:
        kind = str(at(each, "type") or "text").casefold()
        if kind in _THOUGHTS or at(each, "thought") is True:
            thoughts.append(words(each))
        elif kind in _TEXTS and isinstance(each, str | dict) and (isinstance(each, str) or _holds_text(each)):
            texts.append(words(each))
    return Said("".join(texts) if texts else None, "\n".join(filter(None, thoughts)))


def words(value: object, depth: int = _DEEPEST) -> str:
    """Return the text of a part, wherever in it that stands; "" where there is none."""
    if isinstance(value, str) or not depth:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "".join(words(each, depth - 1) for each in value)
    inner = (at(value, name) for name in ("text", "thinking", "reasoning", "summary", "content", "refusal", "value"))
    return words(next((each for each in inner if each is not None), ""), depth - 1)


def _holds_text(part: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get(name), str | list | dict) for name in ("text", "content", "refusal", "value"))


def reply(message: Said, usage: Usage, reason: object) -> Response | Failure:
    """Return the response that a message is, or why it is none.

    A reply is whole, cut off at its length, or a refusal; an end that is none of these is a failure of the server's, and
    so is a message without any text, unless it was refused or cut off while thinking. A server that names no end is taken
    at its word if there is text.

    Args:
        message: what was said.
        usage: tokens taken.
        reason: the finish reason as the server spelled it, None where it gave none.
    """
    name = _spelled(reason)
    finish = _FINISHES.get(name)
    if not name or name in _TOOLS:
        finish = "stop" if message.text and message.text.strip() else None
    if finish is None:
        if not name and message.text is None:
            return Failure(_no_text(message))
        shown = repr(str(reason)[:40]) if name else "no finish reason and no text"
        return Failure(f"the reply ended with {shown}: it is not a whole reply")
    if message.text is None and finish == "stop":
        return Failure(_no_text(message))
    return Response(message.text or "", usage=usage, finish_reason=finish, thinking=message.thinking)


def _no_text(message: Said) -> str:
    return "the reply holds no text" + (", only thoughts" if message.thinking else "")


def _spelled(reason: object) -> str:
    """Return a finish reason in one spelling: `FinishReason.MAX_TOKENS`, `max-tokens` and `maxTokens` are `max_tokens`."""
    if reason is None:
        return ""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(reason)[:100])
    plain = re.sub(r"[^a-z]+", "_", parted.casefold()).strip("_")
    plain = re.sub(r"^(finish|stop)_reason_", "", plain)
    return "" if plain in ("none", "null", "unspecified") else plain


def logprob(value: object) -> float | None:
    """Return a natural log-probability, or None for what can be none: not finite, above 0, or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST_LOGPROB < value <= _ROUNDING:
        return None
    return min(float(value), 0.0)


def at(value: Any, *path: str | int) -> Any:
    """Return what stands at `path` in JSON values, or None where the path leads nowhere."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def json_value(text: str) -> Any:
    """Return the JSON value that a text is, or None; so for what no JSON reader can hold, such as 100,000 brackets."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is, or None."""
    value = json_value(text)
    return value if isinstance(value, dict) else None


def beginning(text: str) -> str:
    """Return the beginning of a text, to show."""
    return repr(" ".join(text[:1000].split())[:100])
