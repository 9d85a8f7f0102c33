"""OpenAI's chat and text completions, and any server that speaks them. Knows requests and replies; calls are `hosted`'s."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from promptopt.errors import InputError
from promptopt.models.hosted.bodies import Said, at, logprob, reply, said, words
from promptopt.models.hosted.dialect import LENGTH, LOGPROBS, NO_LOGPROBS, Dialect, Negotiation
from promptopt.models.hosted.model import HostedModel, Service
from promptopt.models.usage import count
from promptopt.parsing.thinking import split_thinking
from promptopt.replies import Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.replies import Arrival

_MOST_MASS = 1.01  # of the likeliest tokens' probabilities, rounded


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
        # OpenAI's newer chat models take the new name only, other servers may know the old one only.
        if self.endpoint == self.service.endpoint:
            self._negotiation = Negotiation(Dialect(length="max_completion_tokens"), self._say_once)

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

    def written(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON of a request in a dialect."""
        body: dict[str, Any] = {"model": self.name}
        plain = isinstance(request.context, str)
        if isinstance(request.context, str):
            body["prompt"] = request.context
        else:
            body["messages"] = [turn._asdict() for turn in request.context]
        body["temperature"] = request.temperature
        body[LENGTH if plain else dialect.length] = request.max_tokens
        if request.top_p != 1:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        if request.labels and not plain and LOGPROBS not in dialect.left_out:
            body |= {"logprobs": True, "top_logprobs": dialect.likeliest}
        return {name: value for name, value in body.items() if name not in dialect.left_out}

    def optional(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that a request may do without, or whose name may differ."""
        out = {name: body[name] for name in ("temperature", "top_p", "stop") if name in body}
        if "top_logprobs" in body:
            out[LOGPROBS] = body["top_logprobs"]
        if "messages" in body:
            out[LENGTH] = body.get(LENGTH, body.get("max_completion_tokens"))
        return out

    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        choice = at(body, "choices", 0)
        if choice is None:
            return Failure(f"{self.endpoint} sent a reply that has no choices")
        message, reason = at(choice, "message"), at(choice, "finish_reason")
        found = _said(choice, message)
        refusal = at(message, "refusal")
        if isinstance(refusal, str) and refusal:
            found, reason = Said(found.text or refusal, found.thinking), "refusal"
        read = reply(found, _usage(at(body, "usage")), reason)
        if isinstance(read, Failure) or not request.labels or message is None or _thinks(read):
            return read
        likeliest = at(choice, "logprobs", "content", 0, "top_logprobs")
        if not likeliest:
            if read.finish_reason == "stop" and read.text:
                self._say_once(NO_LOGPROBS)
            return read
        return replace(read, label_logprobs=label_logprobs(read.text, likeliest, request.labels))


def _said(choice: Any, message: Any) -> Said:
    """Return what a choice says, its thoughts beside the text as servers name them, or among the parts of the content."""
    if message is None:
        return said(at(choice, "text"))
    found = said(at(message, "content"))
    beside = next(
        filter(None, (words(at(message, name)) for name in ("reasoning_content", "reasoning", "thinking"))), ""
    )
    return Said(found.text, "\n".join(filter(None, (beside, found.thinking))))


def _thinks(read: Response) -> bool:
    """Whether the first tokens are those of a thought."""
    return bool(read.thinking) or split_thinking(read.text).answer is not read.text


class _Token(NamedTuple):
    text: str
    logprob: float


def _tokens(likeliest: Any, wanted: Sequence[str]) -> list[_Token] | None:
    """Read the likeliest first tokens, None where what is given for a label can be no log-probability."""
    out = []
    for entry in likeliest if isinstance(likeliest, list) else ():
        text, given = at(entry, "token"), at(entry, "logprob")
        if not isinstance(text, str):
            continue
        value = logprob(given)
        if value is not None:
            out.append(_Token(_plain(text), value))
        elif given != -math.inf and _plain(text) in wanted:  # minus infinity is that of a token that cannot come
            return None
    return out


def label_logprobs(text: str, likeliest: Any, labels: Sequence[str]) -> tuple[float, ...] | None:
    """Return log p(label) in the order of the labels, or None where the reply is no label or its first tokens do not say it.

    What users get is the reply: first tokens of a reply that says something else are no answer, whatever they favour.

    Args:
        text: the reply.
        likeliest: first tokens as the protocol gives them, [{"token", "logprob"}, ...].
        labels: what they are compared with, case and blanks aside.
    """
    wanted = [_plain(label) for label in labels]
    tokens = _tokens(likeliest, wanted)
    answer = {_plain(text), _plain(text).rstrip(".!")}
    if not tokens or not answer & set(wanted) or not set(wanted) & {token.text for token in tokens}:
        return None
    rest = 1 - math.fsum(math.exp(token.logprob) for token in tokens)
    if rest < 1 - _MOST_MASS:
        return None
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
