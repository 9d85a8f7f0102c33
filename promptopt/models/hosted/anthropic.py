"""Anthropic's messages, and any server that speaks them. Knows requests and replies; calls are `hosted`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt.errors import FinalModelError
from promptopt.models.hosted.bodies import at, reply, said
from promptopt.models.hosted.model import HostedModel, Service
from promptopt.models.usage import count
from promptopt.replies import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.models.base import Request
    from promptopt.models.hosted.dialect import Dialect
    from promptopt.replies import Failure, Response

_SAMPLING = {"temperature": 1, "top_p": 1, "top_k": 0}  # and the API's defaults: newer models refuse the fields
# Characters of a system prompt from which it is marked for the provider's cache: the least that any of its models
# caches is 1,024 tokens. What is written there costs a quarter more, what is read from there a tenth.
_CACHE_FROM = 4_000


class AnthropicModel(HostedModel):
    """A model at Anthropic, or at any endpoint that speaks its protocol.

    Arguments as of `HostedModel`; the base URL is the part before `/v1/messages`. A long system prompt, which all
    examples of one prompt share, is marked for the provider's cache.
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

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        # As extra body: newer SDKs have no arguments for the sampling, and typed messages take longer to look through
        # than to send.
        create = client.messages.with_raw_response.create
        return await create(model=self.name, max_tokens=body["max_tokens"], messages=[], extra_body=body)

    def path(self, request: Request) -> str:  # noqa: ARG002  as OpenAI's
        """Return where a request goes, behind the base URL's host."""
        return "/v1/messages"

    def written(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON of a request in a dialect.

        Raises:
            FinalModelError: it is plain text, which the protocol does not continue.
        """
        if isinstance(request.context, str):
            raise FinalModelError(
                f"{self.name!r} at {self.endpoint} continues no plain text: set the task's format to 'chat'"
            )
        system = "\n\n".join(turn.content for turn in request.context if turn.role == "system")
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": [turn._asdict() for turn in request.context if turn.role != "system"],
        }
        if len(system) >= _CACHE_FROM:
            body["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        elif system:
            body["system"] = system
        if request.stop and "stop" not in dialect.left_out:
            body["stop_sequences"] = list(request.stop)
        sampling = {name: value for name, default in _SAMPLING.items() if (value := vars(request)[name]) != default}
        return body | {name: value for name, value in sampling.items() if name not in dialect.left_out}

    def optional(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that a request may do without."""
        out = {name: body[name] for name in _SAMPLING if name in body}
        return out | ({"stop": body["stop_sequences"]} if "stop_sequences" in body else {})

    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:  # noqa: ARG002  as OpenAI's
        return reply(said(at(body, "content")), _usage(at(body, "usage")), at(body, "stop_reason"))


def _usage(usage: Any) -> Usage:
    """Add up the input, of which Anthropic counts apart what was read from its cache and what was written there."""
    fresh, cached, written = (
        count(at(usage, name)) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    output = count(at(usage, "output_tokens"))
    if not fresh and at(usage, "input_tokens") != 0:  # it may be 0 beside the others; missing, they are not the whole
        return Usage(output=output)
    return Usage(input=fresh + cached + written, cached=cached, output=output, written=written)
