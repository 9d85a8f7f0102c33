"""OpenAI's chat and text completions, and any server that speaks them. Knows requests and replies; calls are `hosted`'s."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from promptopt.errors import InputError
from promptopt.models.hosted import HostedModel, Service, at, reply, unsupported
from promptopt.scores import Failure, Response, Usage
from promptopt.usage import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.scores import Arrival, Finish

_FINISHES: Mapping[str, Finish] = {"length": "length", "content_filter": "refusal"}
_LIKELIEST = 20  # tokens whose log-probabilities the protocol gives at most
_LOGPROBS = ("logprobs", "top_logprobs")
_NO_LOGPROBS = "gives no log-probabilities: labels are read from the text, as votes"


class OpenAIModel(HostedModel):
    """A model at OpenAI, or at any endpoint that speaks its protocol.

    Arguments as of `HostedModel`. The replicate is not sent as `seed`: servers differ in what they make of one, and the
    memo keeps replicates apart without it.

    A request with labels also asks for the 20 likeliest first tokens. The reply is its text; where that text is a label, the
    response also has log-probabilities of the labels: each the sum over the tokens that are the label but for case and
    blanks. A label outside the 20 gets an upper bound, the least of them or what they leave, whichever is less. Where a
    label is of several tokens, or the reply is longer, or the server gives none, the text alone counts, as a vote.
    """

    service = Service(
        sdk="openai",
        client="OpenAI",
        endpoint="https://api.openai.com/v1",
        endpoint_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
    )
    reads_labels: Literal[True] = True

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._refused: set[str] = set()  # fields that the model does not take
        # OpenAI's newer chat models take the new name only, other servers may know the old one only.
        self._new_length = self.endpoint == self.service.endpoint

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each reply as `HostedModel.generate` does.

        Raises:
            FinalModelError: no later call can work either; the message says what to change.
            PassingModelError: the endpoint answers nothing any more.
            InputError: a request has a top_k, which the protocol does not know; it was not sent.
        """
        return super().generate(map(self._possible, requests))

    def _possible(self, request: Request) -> Request:
        if request.top_k:
            raise InputError(
                f"{self.name!r} at {self.endpoint} is asked for top_k = {request.top_k}, which OpenAI's protocol "
                "does not know: leave top_k out, or set top_p"
            )
        return request

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        # As extra body, for the SDK takes longer to look through typed messages than to send them.
        if "messages" in body:
            return await client.chat.completions.with_raw_response.create(model="", messages=[], extra_body=body)
        return await client.completions.with_raw_response.create(model="", prompt="", extra_body=body)

    def path(self, request: Request) -> str:
        """Return where a request goes, behind the base URL's host."""
        return "/v1/completions" if isinstance(request.context, str) else "/v1/chat/completions"

    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent for a request."""
        plain = isinstance(request.context, str)
        body: dict[str, Any] = {"model": self.name}
        if isinstance(request.context, str):
            body["prompt"] = request.context
        else:
            body["messages"] = [turn._asdict() for turn in request.context]
        body["temperature"] = request.temperature
        body["max_completion_tokens" if self._new_length and not plain else "max_tokens"] = request.max_tokens
        if request.top_p != 1:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        if request.labels and not plain:
            body |= {"logprobs": True, "top_logprobs": _LIKELIEST}
        return {name: value for name, value in body.items() if name not in self._refused}

    def _adapt(self, error: Mapping[str, Any]) -> None:
        named = unsupported(error)
        if "max_completion_tokens" in named:
            self._new_length = True
            self._say_once("takes max_completion_tokens in place of max_tokens")
        elif "logprobs" in named:
            self._refused.update(_LOGPROBS)
            self._say_once(_NO_LOGPROBS)
        elif "temperature" in named:
            self._refused.add("temperature")
            self._say_once("takes no temperature: its own holds, and replies vary from call to call")

    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        choice = at(body, "choices", 0)
        if choice is None:
            return Failure(f"{self.endpoint} sent a reply that has no choices")
        message = at(choice, "message")
        text = at(choice, "text") if message is None else at(message, "content")
        finish = _FINISHES.get(str(at(choice, "finish_reason")), "stop")
        refusal = at(message, "refusal")
        if refusal:
            text, finish = text or refusal, "refusal"
        read = reply(text, _usage(at(body, "usage")), finish)
        if isinstance(read, Failure) or not request.labels or message is None:
            return read
        likeliest = at(choice, "logprobs", "content", 0, "top_logprobs")
        if not likeliest:
            if read.finish_reason == "stop" and read.text:
                self._say_once(_NO_LOGPROBS)
            return read
        return replace(read, label_logprobs=label_logprobs(read.text, likeliest, request.labels))


class _Token(NamedTuple):
    text: str
    logprob: float


def label_logprobs(text: str, likeliest: Any, labels: Sequence[str]) -> tuple[float, ...] | None:
    """Return log p(label) in the order of the labels, or None where the reply is no label or its first tokens do not say it.

    What users get is the reply: first tokens of a reply that says something else are no answer, whatever they favour.

    Args:
        text: the reply.
        likeliest: first tokens as the protocol gives them, [{"token", "logprob"}, ...].
        labels: what they are compared with, case and blanks aside.
    """
    tokens = [
        _Token(_plain(at(entry, "token")), float(at(entry, "logprob")))
        for entry in likeliest
        if isinstance(at(entry, "token"), str) and isinstance(at(entry, "logprob"), int | float)
    ]
    wanted = [_plain(label) for label in labels]
    said = {_plain(text), _plain(text).rstrip(".!")}
    if not said & set(wanted) or not set(wanted) & {token.text for token in tokens}:
        return None
    rest = 1 - math.fsum(math.exp(token.logprob) for token in tokens)
    bound = min(*(token.logprob for token in tokens), math.log(max(rest, 1e-12)))
    out = []
    for label in wanted:
        mass = math.fsum(math.exp(token.logprob) for token in tokens if token.text == label)
        if not mass and any(token.text and label.startswith(token.text) for token in tokens):
            return None  # the label has several tokens, of which this may be the first
        out.append(math.log(mass) if mass else bound)
    return tuple(out)


def _plain(text: str) -> str:
    return text.strip().casefold()


def _usage(usage: Any) -> Usage:
    """Read the usage of a reply; tokens of a thought that are counted beside it, or in the total alone, are output."""
    read, written, total = (count(at(usage, name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    thought = count(at(usage, "completion_tokens_details", "reasoning_tokens"))
    output = written + thought if thought > written else written
    if output and not read:
        read = max(total - output, 0)
    cached = count(at(usage, "prompt_tokens_details", "cached_tokens"))
    return Usage(input=read, cached=cached if read else 0, output=max(output, total - read))
