"""Anthropic's messages, and any server that speaks them. Knows requests and replies; calls are `hosted`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt.errors import FinalModelError
from promptopt.models.hosted import HostedModel, Service, at, count, reply
from promptopt.scores import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.models.base import Request
    from promptopt.scores import Failure, Finish, Response

_FINISHES: Mapping[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicModel(HostedModel):
    """A model at Anthropic, or at any endpoint that speaks its protocol.

    Arguments as of `HostedModel`; the base URL is the part before `/v1/messages`.
    """

    service = Service(
        sdk="anthropic",
        client="Anthropic",
        endpoint="https://api.anthropic.com",
        endpoint_variable="ANTHROPIC_BASE_URL",
        key_variable="ANTHROPIC_API_KEY",
        # The API's next version, which newer SDKs ask for, refuses a temperature to every model.
        headers={"anthropic-version": "2023-06-01"},
    )

    def _send(self, client: Any, request: Request) -> Any:
        if isinstance(request.context, str):
            raise FinalModelError(
                f"{self.name!r} at {self.endpoint} continues no plain text: set the task's format to 'chat'"
            )
        system = [turn.content for turn in request.context if turn.role == "system"]
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": [turn._asdict() for turn in request.context if turn.role != "system"],
        }
        if system:
            body["system"] = "\n\n".join(system)
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        sampling = _sampling(request)
        if sampling:
            body["extra_body"] = sampling  # newer SDKs have no arguments for them
        return client.messages.with_raw_response.create(**body)

    def _read(self, body: Mapping[str, Any]) -> Response | Failure:
        blocks = at(body, "content")
        shown = (
            [at(block, "text") for block in blocks if at(block, "type") == "text"] if isinstance(blocks, list) else []
        )
        text = "".join(shown) if shown and all(isinstance(part, str) for part in shown) else None
        return reply(text, _usage(at(body, "usage")), _FINISHES.get(str(at(body, "stop_reason")), "stop"))


def _sampling(request: Request) -> dict[str, float]:
    """Return the settings that are not the API's defaults: newer models refuse the fields."""
    settings = {"temperature": (request.temperature, 1), "top_p": (request.top_p, 1), "top_k": (request.top_k, 0)}
    return {name: value for name, (value, default) in settings.items() if value != default}


def _usage(usage: Any) -> Usage:
    """Add up the input, of which Anthropic counts apart what was read from its cache and what was written there."""
    cached = count(at(usage, "cache_read_input_tokens"))
    written = count(at(usage, "cache_creation_input_tokens"))
    return Usage(
        input=count(at(usage, "input_tokens")) + cached + written,
        cached=cached,
        output=count(at(usage, "output_tokens")),
    )
