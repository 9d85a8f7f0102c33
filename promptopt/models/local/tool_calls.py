"""Tools in chat templates, and the calls in a reply's text. Pure functions of values.

Templates take tools in OpenAI's form. Models write a call as JSON with the name and the arguments: between tags, as Qwen and
Hermes models do, or as the whole reply or each of its lines, as Llama models do.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from promptopt.tools import ToolCall
from promptopt.utils.json_values import json_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.replies import Response
    from promptopt.tools import Exchange, ToolSchema

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*(?:```)?\Z", re.DOTALL)


def exchanged(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Return the messages of exchanges as templates take them, with arguments as objects."""
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.values or {}}}
            for call in exchange.calls
        ]
        messages.append({"role": "assistant", "content": exchange.text, "tool_calls": calls})
        messages += [
            {"role": "tool", "name": call.name, "content": result}
            for call, result in zip(exchange.calls, exchange.results, strict=True)
        ]
    return messages


def with_tool_calls(reply: Response, tools: Sequence[ToolSchema]) -> Response:
    """Return a reply with the calls that its text holds moved from `text` to `tool_calls`; a truncated reply makes none."""
    if reply.finish_reason != "stop":
        return reply
    tagged = [_call(body) for body in _TAGGED.findall(reply.text)]
    calls = [call for call in tagged if call is not None]
    if calls:
        return replace(reply, text=_TAGGED.sub("", reply.text).strip(), tool_calls=tuple(calls))
    fenced = _FENCE.match(reply.text.strip())
    text, names = fenced[1] if fenced else reply.text, {tool.name for tool in tools}
    for parts in ([text], text.strip().splitlines()):
        calls = [call for part in parts if (call := _call(part)) is not None and call.name in names]
        if len(calls) == len(parts):
            return replace(reply, text="", tool_calls=tuple(calls))
    return reply


def _call(text: str) -> ToolCall | None:
    """Parse a call; None if the text is not one."""
    value = json_object(text.strip())
    name = (value or {}).get("name")
    if value is None or not isinstance(name, str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
