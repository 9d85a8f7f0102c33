"""OpenAI's chat and text completions, and any server that speaks them. Knows requests and replies; calls are `hosted`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.models.hosted import HostedModel, Service, at, count, reply
from promptopt.scores import Failure, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.scores import Arrival, Finish, Response

_FINISHES: Mapping[str, Finish] = {"length": "length", "content_filter": "refusal"}


class OpenAIModel(HostedModel):
    """A model at OpenAI, or at any endpoint that speaks its protocol.

    Arguments as of `HostedModel`. The replicate is not sent as `seed`: servers differ in what they make of one, and the
    memo keeps replicates apart without it.
    """

    service = Service(
        sdk="openai",
        client="OpenAI",
        endpoint="https://api.openai.com/v1",
        endpoint_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
    )

    def generate(self, requests: Sequence[Request]) -> Iterator[Arrival]:
        """Yield each reply as `HostedModel.generate` does.

        Raises:
            FinalModelError: no later call can work either; the message says what to change.
            InputError: a request has a top_k, which the protocol does not know; nothing was sent.
        """
        for request in requests:
            if request.top_k:
                raise InputError(
                    f"{self.name!r} at {self.endpoint} is asked for top_k = {request.top_k}, which OpenAI's protocol "
                    "does not know: leave top_k out, or set top_p"
                )
        return super().generate(requests)

    def _send(self, client: Any, request: Request) -> Any:
        if isinstance(request.context, str):
            return client.completions.with_raw_response.create(**self._body(request), prompt=request.context)
        messages = [turn._asdict() for turn in request.context]
        return client.chat.completions.with_raw_response.create(**self._body(request), messages=messages)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "temperature": request.temperature}
        # OpenAI's newer chat models take the new name only, other servers may know the old one only.
        own = self.endpoint == self.service.endpoint and not isinstance(request.context, str)
        body["max_completion_tokens" if own else "max_tokens"] = request.max_tokens
        if request.top_p != 1:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        return body

    def _read(self, body: Mapping[str, Any]) -> Response | Failure:
        choice = at(body, "choices", 0)
        if choice is None:
            return Failure("the reply has no choices")
        message = at(choice, "message")
        text = at(choice, "text") if message is None else at(message, "content")
        finish = _FINISHES.get(str(at(choice, "finish_reason")), "stop")
        refusal = at(message, "refusal")
        if refusal:
            text, finish = text or refusal, "refusal"
        return reply(text, _usage(at(body, "usage")), finish)


def _usage(usage: Any) -> Usage:
    return Usage(
        input=count(at(usage, "prompt_tokens")),
        cached=count(at(usage, "prompt_tokens_details", "cached_tokens")),
        output=count(at(usage, "completion_tokens")),
    )
