"""OpenAI's chat and text completions, and any compatible server. Formats requests and parses replies; `model` makes calls."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from promptopt.errors import InputError
from promptopt.models.hosted.bodies import Content, at, logprob, numbered, parse_content, response_of, text_of
from promptopt.models.hosted.dialect import LENGTH, LOGPROBS, NO_LOGPROBS, Dialect, Negotiation
from promptopt.models.hosted.fields import is_strict
from promptopt.models.hosted.model import HostedModel
from promptopt.models.hosted.services import OPENAI
from promptopt.models.usage import parse_count
from promptopt.parsing.thinking import split_thinking
from promptopt.prompt import as_dicts
from promptopt.replies import Failure, Response, Usage
from promptopt.tools import ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.tools import Exchange

_MAX_MASS = 1.01  # total probability of the most likely tokens, with rounding


class OpenAIModel(HostedModel):
    """A model at OpenAI, or at any compatible endpoint.

    Takes the arguments of `HostedModel`. The replicate is not sent as `seed`: servers treat seeds differently, and the memo
    distinguishes replicates without it.

    A request with labels also asks for the 20 most likely first tokens. If the reply is a label, the response has
    log-probabilities of the labels: each is summed over the tokens equal to the label up to case and white space. A label not
    among the 20 gets an upper bound: the smallest of the 20 or the remaining mass, whichever is less. If a label has several
    tokens, the reply is longer, or the server gives no log-probabilities, only the text counts, as a vote.
    """

    service = OPENAI
    reads_labels: Literal[True] = True

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        # OpenAI's newer chat models accept only the new name; other servers may accept only the old one.
        if self.endpoint == OPENAI.endpoint:
            self._negotiation = Negotiation(Dialect(length="max_completion_tokens"), self._warn_once)

    def check_request(self, request: Request) -> Request:
        """Return a request that the protocol supports.

        Raises:
            InputError: it has a top_k, or an option that the endpoint does not take.
        """
        if request.top_k:
            raise InputError(
                f"{self.name!r} at {self.endpoint} got top_k = {request.top_k}, which OpenAI's protocol "
                "does not support: omit top_k, or set top_p instead"
            )
        return super().check_request(request)

    def option_value(self, name: str, value: Any) -> Any:
        """Return the value of an option as the protocol writes it."""
        return response_format(value) if name == "response_format" else value

    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        # As extra body: the SDK spends more time validating typed messages than sending them.
        if "messages" in body:
            return await client.chat.completions.with_raw_response.create(model="", messages=[], extra_body=body)
        return await client.completions.with_raw_response.create(model="", prompt="", extra_body=body)

    def path(self, request: Request) -> str:
        """Return the URL path of a request."""
        return "/v1/completions" if isinstance(request.context, str) else "/v1/chat/completions"

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON body of a request in a dialect."""
        body: dict[str, Any] = {"model": self.name}
        plain = isinstance(request.context, str)
        if isinstance(request.context, str):
            body["prompt"] = request.context
        else:
            body["messages"] = as_dicts(request.context) + _exchanged(request.exchanges)
        if request.tools:
            body["tools"] = [tool.as_function() for tool in request.tools]
        body["temperature"] = request.temperature
        body[LENGTH if plain else dialect.length] = request.max_tokens
        if request.top_p != 1:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        if request.labels and not plain and LOGPROBS not in dialect.omitted:
            body |= {"logprobs": True, "top_logprobs": dialect.top_logprobs}
        return {name: value for name, value in body.items() if name not in dialect.omitted}

    def optional_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that may be omitted or renamed."""
        out = {name: body[name] for name in ("temperature", "top_p", "stop") if name in body}
        if "top_logprobs" in body:
            out[LOGPROBS] = body["top_logprobs"]
        if "messages" in body:
            out[LENGTH] = body.get(LENGTH, body.get("max_completion_tokens"))
        return out

    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        choice = at(body, "choices", 0)
        if choice is None:
            return Failure(f"{self.endpoint} sent a reply without choices")
        message, reason = at(choice, "message"), at(choice, "finish_reason")
        content = _content(choice, message)
        refusal = at(message, "refusal")
        if isinstance(refusal, str) and refusal:
            content, reason = Content(content.text or refusal, content.thinking), "refusal"
        calls = _tool_calls(at(message, "tool_calls")) if request.tools else ()
        response = response_of(content, _usage(at(body, "usage")), reason, calls)
        if isinstance(response, Failure) or not request.labels or message is None or _begins_with_thinking(response):
            return response
        likeliest = at(choice, "logprobs", "content", 0, "top_logprobs")
        if not likeliest:
            if response.finish_reason == "stop" and response.text:
                self._warn_once(NO_LOGPROBS)
            return response
        return replace(response, label_logprobs=label_logprobs(response.text, likeliest, request.labels))


def response_format(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol's response format for any JSON object or a schema, strict if the schema allows it."""
    if isinstance(value, str):
        return {"type": "json_object"}
    named = {"name": "reply", "schema": value}
    return {"type": "json_schema", "json_schema": named | ({"strict": True} if is_strict(value) else {})}


def _content(choice: Any, message: Any) -> Content:
    """Return the content of a choice; servers put its thinking into separate fields or among the content parts."""
    if message is None:
        return parse_content(at(choice, "text"))
    content = parse_content(at(message, "content"))
    separate_thinking = next(
        filter(None, (text_of(at(message, name)) for name in ("reasoning_content", "reasoning", "thinking"))), ""
    )
    return Content(content.text, "\n".join(filter(None, (separate_thinking, content.thinking))))


def _exchanged(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Return the messages of exchanges."""
    messages: list[dict[str, Any]] = []
    for exchange, ids in numbered(exchanges):
        calls = [
            {"id": id_, "type": "function", "function": {"name": call.name, "arguments": _valid(call)}}
            for id_, call in zip(ids, exchange.calls, strict=True)
        ]
        messages.append({"role": "assistant", "content": exchange.text or None, "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": id_, "content": result}
            for id_, result in zip(ids, exchange.results, strict=True)
        ]
    return messages


def _valid(call: ToolCall) -> str:
    """Return the arguments of an earlier call; servers reject a conversation with invalid ones."""
    return "{}" if call.values is None else call.arguments


def _tool_calls(calls: Any) -> tuple[ToolCall, ...]:
    """Parse the tool calls of a message; some servers send the arguments as an object."""
    out = []
    for call in calls if isinstance(calls, list) else ():
        name, arguments = at(call, "function", "name"), at(call, "function", "arguments")
        if isinstance(name, str) and name:
            out.append(ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments or {})))
    return tuple(out)


def _begins_with_thinking(response: Response) -> bool:
    """Whether the first tokens belong to thinking rather than to the answer."""
    return bool(response.thinking) or split_thinking(response.text).answer is not response.text


class _Token(NamedTuple):
    text: str
    logprob: float


def _tokens(likeliest: Any, labels: Sequence[str]) -> list[_Token] | None:
    """Parse the most likely first tokens; None if a label's log-probability is invalid."""
    out = []
    for entry in likeliest if isinstance(likeliest, list) else ():
        text, raw_value = at(entry, "token"), at(entry, "logprob")
        if not isinstance(text, str):
            continue
        value = logprob(raw_value)
        if value is not None:
            out.append(_Token(_plain(text), value))
        elif raw_value != -math.inf and _plain(text) in labels:  # minus infinity is valid: an impossible token
            return None
    return out


def label_logprobs(text: str, likeliest: Any, labels: Sequence[str]) -> tuple[float, ...] | None:
    """Return log p(label) in the order of the labels, or None if the reply is not a label or its first tokens do not tell.

    Users get the reply: if it is not a label, the distribution of its first token is not an answer.

    Args:
        text: the reply.
        likeliest: most likely first tokens as in the protocol, [{"token", "logprob"}, ...].
        labels: compared without case and surrounding white space.
    """
    plain_labels = [_plain(label) for label in labels]
    tokens = _tokens(likeliest, plain_labels)
    answers = {_plain(text), _plain(text).rstrip(".!")}
    if not tokens or not answers & set(plain_labels) or not set(plain_labels) & {token.text for token in tokens}:
        return None
    remaining_mass = 1 - math.fsum(math.exp(token.logprob) for token in tokens)
    if remaining_mass < 1 - _MAX_MASS:
        return None
    bound = min(*(token.logprob for token in tokens), math.log(max(remaining_mass, 1e-12)))
    out = []
    for label in plain_labels:
        mass = math.fsum(math.exp(token.logprob) for token in tokens if token.text == label)
        if not mass and any(token.text and label.startswith(token.text) for token in tokens):
            return None  # this may be the first of several tokens of the label
        out.append(math.log(mass) if mass else bound)
    return tuple(out)


def _plain(text: str) -> str:
    return text.strip().casefold()


def _usage(usage: Any) -> Usage:
    """Parse the usage of a reply; thinking tokens that are counted separately, or only in the total, parse_count as output."""
    prompt, completion, total = (
        parse_count(at(usage, name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    thinking = parse_count(at(usage, "completion_tokens_details", "reasoning_tokens"))
    output = completion + thinking if thinking > completion else completion
    if output and not prompt:
        prompt = max(total - output, 0)
    cached = parse_count(at(usage, "prompt_tokens_details", "cached_tokens"))
    return Usage(input=prompt, cached=cached if prompt else 0, output=max(output, total - prompt))
