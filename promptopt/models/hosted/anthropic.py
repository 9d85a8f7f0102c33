"""Anthropic's messages API, and any compatible server. Formats requests and parses replies; `model` makes calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, PermanentModelError
from promptopt.images import encoded_content
from promptopt.models.hosted.bodies import at, numbered, parse_content, response_of
from promptopt.models.hosted.model import HostedModel
from promptopt.models.hosted.services import ANTHROPIC
from promptopt.models.usage import parse_count
from promptopt.prompt import ImageMessage
from promptopt.replies import Usage
from promptopt.tools import ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.images import Image
    from promptopt.models.base import Request
    from promptopt.models.hosted.dialect import Dialect
    from promptopt.prompt import Turn
    from promptopt.replies import Failure, Response
    from promptopt.tools import Exchange

_SAMPLING = {
    "temperature": 1,
    "top_p": 1,
    "top_k": 0,
}  # with the API's defaults, which are not sent: newer models reject these fields
# Minimum characters of a system prompt to mark it for the provider's cache: no model caches fewer than 1,024 tokens.
# Writing to the cache costs a quarter more than plain input; reading costs a tenth.
_MIN_CACHED_LENGTH = 4_000
_MIN_THINKING = 1_024  # anthropic 2.14, types/thinking_config_enabled_param.py


class AnthropicModel(HostedModel):
    """A model at Anthropic, or at any compatible endpoint.

    Takes the arguments of `HostedModel`; the base URL is the part before `/v1/messages`. A long system prompt, which all
    examples of one prompt share, is marked for the provider's cache.
    """

    service = ANTHROPIC

    def check_request(self, request: Request) -> Request:
        """Return a request that the protocol supports.

        Raises:
            InputError: it has an option that the endpoint does not take, or thinks longer than the reply may be.
        """
        super().check_request(request)
        budget = at(self.extra_fields(request), "thinking", "budget_tokens")
        if budget is None:
            return request
        if budget >= request.max_tokens:
            raise InputError(
                f"a thinking budget of {budget} tokens leaves no room for a reply of at most {request.max_tokens} tokens, which "
                "counts the thinking: raise the task's max_tokens"
            )
        if request.top_k or request.tools:
            problem = f"top_k = {request.top_k}" if request.top_k else "tools"
            raise InputError(f"{self.name!r} takes no {problem} together with a thinking budget: remove one of them")
        return request

    def option_value(self, name: str, value: Any) -> Any:
        """Return the value of an option as the protocol writes it.

        Raises:
            InputError: the thinking budget is too small.
        """
        if name == "response_format":
            return {"type": "json_schema", "schema": value}
        if name == "thinking_budget":
            if value < _MIN_THINKING:
                raise InputError(
                    f"Anthropic's protocol takes a thinking_budget of {_MIN_THINKING} or more, not {value}"
                )
            return {"type": "enabled", "budget_tokens": value}
        return value

    def _body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        body = super()._body(request, dialect)
        if at(body, "thinking", "type") in ("enabled", "adaptive"):  # models that think reject these fields
            body = {name: value for name, value in body.items() if name not in ("temperature", "top_k")}
        return body

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        # As extra body: newer SDKs have no sampling arguments, and validating typed messages takes longer than sending.
        # The model's name goes as an argument, because the clients for clouds move it into the URL.
        create = client.messages.with_raw_response.create
        fields = {name: value for name, value in body.items() if name != "model"}
        return await create(model=self.name, max_tokens=body["max_tokens"], messages=[], extra_body=fields)

    def path(self, request: Request) -> str:  # noqa: ARG002  the base class's signature
        """Return the URL path of a request."""
        return "/v1/messages"

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON body of a request in a dialect.

        Raises:
            PermanentModelError: the context is plain text, which the protocol cannot continue.
        """
        if isinstance(request.context, str):
            raise PermanentModelError(
                f"{self.name!r} at {self.endpoint} cannot continue plain text: set the task's format to 'chat'"
            )
        system = "\n\n".join(turn.content for turn in request.context if turn.role == "system")
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": [_message(turn) for turn in request.context if turn.role != "system"]
            + _exchanged(request.exchanges),
        }
        if request.tools:
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": json.loads(tool.parameters)}
                for tool in request.tools
            ]
        if len(system) >= _MIN_CACHED_LENGTH:
            body["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        elif system:
            body["system"] = system
        if request.stop and "stop" not in dialect.omitted:
            body["stop_sequences"] = list(request.stop)
        sampling = {name: value for name, default in _SAMPLING.items() if (value := vars(request)[name]) != default}
        return body | {name: value for name, value in sampling.items() if name not in dialect.omitted}

    def optional_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that may be omitted."""
        out = {name: body[name] for name in _SAMPLING if name in body}
        return out | ({"stop": body["stop_sequences"]} if "stop_sequences" in body else {})

    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        content = at(body, "content")
        calls = _tool_calls(content) if request.tools else ()
        return response_of(parse_content(content), _usage(at(body, "usage")), at(body, "stop_reason"), calls)


def _message(turn: Turn) -> dict[str, Any]:
    if not isinstance(turn, ImageMessage):
        return turn._asdict()
    return {"role": turn.role, "content": [_part(part) for part in turn.parts]}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    media_type, data = encoded_content(part)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _exchanged(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Return the messages of exchanges."""
    messages: list[dict[str, Any]] = []
    for exchange, ids in numbered(exchanges):
        content: list[dict[str, Any]] = [{"type": "text", "text": exchange.text}] if exchange.text.strip() else []
        content += [
            {"type": "tool_use", "id": id_, "name": call.name, "input": call.values or {}}
            for id_, call in zip(ids, exchange.calls, strict=True)
        ]
        results = [
            {"type": "tool_result", "tool_use_id": id_, "content": result}
            for id_, result in zip(ids, exchange.results, strict=True)
        ]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return messages


def _tool_calls(content: Any) -> tuple[ToolCall, ...]:
    parts = [part for part in content if at(part, "type") == "tool_use"] if isinstance(content, list) else []
    named = [(at(part, "name"), at(part, "input")) for part in parts]
    return tuple(
        ToolCall(name, json.dumps(given or {}, ensure_ascii=False)) for name, given in named if isinstance(name, str)
    )


def _usage(usage: Any) -> Usage:
    """Return the total usage: Anthropic reports cache reads and cache writes separately from other input."""
    fresh, cached, written = (
        parse_count(at(usage, name))
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    output = parse_count(at(usage, "output_tokens"))
    if not fresh and at(usage, "input_tokens") != 0:  # 0 is valid; if it is missing, the sum would be incomplete
        return Usage(output=output)
    return Usage(input=fresh + cached + written, cached=cached, output=output, written=written)
