"""Chats with tools: JSON of OpenAI's protocol -> checked values, and a model's calls -> JSON.

Knows nothing of models: how a template shows tools, and how calls are read from a reply, is theirs.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.serving.errors import ApiError
from promptopt.tools import Exchange, ToolCall, ToolSchema, check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.prompt import Message


class ToolPrompt(NamedTuple):
    """A chat with tools.

    Args:
        turns: messages, and the model's calls with their results, in order.
        tools: which the model may call now; () if it may call none.
    """

    turns: tuple[Message | Exchange, ...]
    tools: tuple[ToolSchema, ...]


def tool_schemas(fields: Mapping[str, Any]) -> tuple[ToolSchema, ...]:
    """Return the tools that a request allows its model to call.

    Raises:
        ApiError: a tool cannot be read, or `tool_choice` demands a call.
    """
    tools, choice = fields.get("tools", []), fields.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ApiError(
            f"tool_choice = {json.dumps(choice)[:80]} is not supported, because nothing forces this model to call a tool: omit it, "
            'or set it to "auto" or "none"',
            param="tool_choice",
            code="unsupported_parameter",
        )
    if not isinstance(tools, list):
        raise ApiError("tools must be a list of functions", param="tools")
    schemas = tuple(_schema(f"tools[{index}]", tool) for index, tool in enumerate(tools))
    return () if choice == "none" else schemas


def _schema(where: str, tool: Any) -> ToolSchema:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(f'{where} must be {{"type": "function", "function": {{"name": ...}}}}', param="tools")
    if function.get("strict"):
        raise ApiError(
            f"{where}.function.strict is not supported, because nothing forces arguments to fit the schema: omit it",
            param="tools",
            code="unsupported_parameter",
        )
    parameters, description = function.get("parameters") or {}, function.get("description") or ""
    if not isinstance(parameters, dict) or not isinstance(description, str):
        raise ApiError(f"{where} needs a text as description and a JSON schema as parameters", param="tools")
    try:
        check_name(function["name"])
    except InputError as error:
        raise ApiError(f"{where}: {error}", param="tools") from None
    return ToolSchema(function["name"], description, json.dumps(parameters, ensure_ascii=False))


def exchange(where: str, message: Mapping[str, Any], text: str, later: Iterator[tuple[str, Any]]) -> Exchange:
    """Return the calls of an assistant's message together with their results, which are taken from the messages after it.

    Args:
        where: names the message in errors.
        message: has `tool_calls`.
        text: its content.
        later: names and messages after it.

    Raises:
        ApiError: a call cannot be read, or the messages after it are not the results of all its calls.
    """
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise ApiError(f"{where}.tool_calls must be a list", param="messages")
    made: dict[str, ToolCall] = {}
    for index, call in enumerate(calls):
        identity, parsed = _call(f"{where}.tool_calls[{index}]", call)
        made[identity] = parsed
    results: dict[str, str] = {}
    for _ in calls:
        name, answer = next(later, (where, None))
        identity, content = _result(name, answer, made)
        results[identity] = content
    if len(results) < len(calls):
        raise ApiError(f"{where}: each of its tool_calls needs an id and a result of its own", param="messages")
    return Exchange(text, tuple(made.values()), tuple(results[identity] for identity in made))


def _call(where: str, call: Any) -> tuple[str, ToolCall]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str):
        raise ApiError(f"{where} needs an id and a function", param="messages")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise ApiError(f"{where}.function needs a name, and arguments as JSON in a text", param="messages")
    return call["id"], ToolCall(name, arguments)


def _result(where: str, message: Any, made: Mapping[str, ToolCall]) -> tuple[str, str]:
    is_result = isinstance(message, dict) and message.get("role") == "tool" and message.get("tool_call_id") in made
    if not is_result:
        raise ApiError(
            f"{where}: after tool_calls, a message of role 'tool' must answer each, with its id as tool_call_id",
            param="messages",
        )
    return message["tool_call_id"], content_text(where, message.get("content"))


def content_text(name: str, content: Any) -> str:
    """Return the text of a message's content.

    Raises:
        ApiError: it holds something else than texts.
    """
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    found = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(parts):
        raise ApiError(f"{name}.content must be a text, or a list of parts of type 'text'", param="messages")
    return "".join(texts)


def calls_as_json(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Return a reply's calls as OpenAI's protocol has them, with ids of their own."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]
