"""Requests as JSON -> checked values. What would change the reply and is not supported is refused, never ignored.

Knows nothing of models.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.prompt import Message
from promptopt.serving.errors import ApiError
from promptopt.serving.tools import ToolPrompt, content_text, exchange, tool_schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.tools import Exchange


class TokenPrompt(NamedTuple):
    """The tokens of a text."""

    ids: tuple[int, ...]


Prompt: TypeAlias = str | tuple[Message, ...] | TokenPrompt | ToolPrompt

Role: TypeAlias = Literal["system", "user", "assistant"]

MAX_LIKELIEST = 20
MAX_CHOICES = 128
_COMPLETION_TOKENS = 16  # OpenAI's default for texts
_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields that no reply depends on.
_HARMLESS = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
)
# Fields that are accepted only with values that change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
}
_COMMON = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "max_tokens",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "logprobs",
)
_CHAT = (*_COMMON, "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice")
_TEXT = (*_COMMON, "prompt", "echo", "best_of", "prompt_logprobs")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked request.

    Args:
        prompts: one or more.
        chat: whether it came as a chat.
        max_tokens: of each reply; None for as many as the server gives by default.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        top_k: 0 for all tokens.
        stop: a reply ends before the first of these.
        count: replies to each prompt.
        seed: of the replies' random numbers; None for others each time.
        likeliest: how many likeliest tokens to show at each token; None for no log-probabilities.
        echo: whether the prompt comes before its reply.
        prompt_likeliest: the same as `likeliest`, for the prompt's tokens in vLLM's form.
        stream: whether the reply is sent as events.
        stream_usage: whether the last event has the usage.
    """

    prompts: tuple[Prompt, ...]
    chat: bool
    max_tokens: int | None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    count: int = 1
    seed: int | None = None
    likeliest: int | None = None
    echo: bool = False
    prompt_likeliest: int | None = None
    stream: bool = False
    stream_usage: bool = False


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a request that are not null.

    Raises:
        ApiError: the body is no JSON object.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ApiError(f"the body is no valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(f"the body is JSON, but no object: {str(fields)[:60]!r}")
    return {name: value for name, value in fields.items() if value is not None}


def chat_call(fields: Mapping[str, Any]) -> Call:
    """Return a chat completion's values.

    Raises:
        ApiError: a field is unknown, wrong, or not supported.
    """
    read = _Fields(fields, _CHAT)
    wants = read.flag("logprobs")
    if not wants and "top_logprobs" in fields:
        raise ApiError("top_logprobs needs logprobs: set logprobs to true", param="top_logprobs")
    limits = [read.number(name, 1) for name in ("max_completion_tokens", "max_tokens") if name in fields]
    return Call(
        prompts=(_chat(fields),),
        chat=True,
        max_tokens=min(limits) if limits else None,
        likeliest=read.number("top_logprobs", 0, MAX_LIKELIEST, default=0) if wants else None,
        **read.sampling(),
    )


def text_call(fields: Mapping[str, Any]) -> Call:
    """Return a text completion's values.

    Raises:
        ApiError: a field is unknown, wrong, or not supported.
    """
    read = _Fields(fields, _TEXT)
    sampling = read.sampling()
    if fields.get("best_of", sampling["count"]) != sampling["count"]:
        raise ApiError("best_of is not supported: omit it, or choose among n replies yourself", param="best_of")
    return Call(
        prompts=_prompts(fields.get("prompt")),
        chat=False,
        max_tokens=read.number("max_tokens", 0, default=_COMPLETION_TOKENS),
        likeliest=read.number("logprobs", 0, MAX_LIKELIEST) if "logprobs" in fields else None,
        echo=read.flag("echo"),
        prompt_likeliest=read.number("prompt_logprobs", 0, MAX_LIKELIEST) if "prompt_logprobs" in fields else None,
        **sampling,
    )


class _Fields:
    """The fields of a request, read by type.

    Args:
        fields: their values.
        known: names that the endpoint supports.
    """

    def __init__(self, fields: Mapping[str, Any], known: Sequence[str]) -> None:
        self._fields = fields
        for name, value in fields.items():
            if name in _NEUTRAL:
                _check_neutral(name, value)
            elif name not in known and name not in _HARMLESS:
                raise ApiError(
                    f"the field {name!r} is not supported: omit it", param=name, code="unsupported_parameter"
                )

    def sampling(self) -> dict[str, Any]:
        """Return the values that both kinds of completions have, by their names in `Call`."""
        stream, options = self.flag("stream"), self._fields.get("stream_options", {})
        if "stream_options" in self._fields and (not stream or not isinstance(options, dict)):
            raise ApiError("stream_options is an object, for requests with stream = true", param="stream_options")
        return {
            "temperature": self.decimal("temperature", 0.0, 2.0),
            "top_p": self._top_p(),
            "top_k": max(0, self.number("top_k", -1, default=0)),
            "stop": self._stop(),
            "count": self.number("n", 1, MAX_CHOICES, default=1),
            "seed": self.number("seed", -(2**63)) if "seed" in self._fields else None,
            "stream": stream,
            "stream_usage": bool(options.get("include_usage")),
        }

    def flag(self, name: str) -> bool:
        """Return true or false; false by default."""
        value = self._fields.get(name, False)
        if not isinstance(value, bool):
            raise ApiError(f"{name} is {value!r}, but must be true or false", param=name)
        return value

    def number(self, name: str, least: int, most: int = 2**64, *, default: int = 0) -> int:
        """Return a whole number within bounds."""
        value = self._fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"from {least} to {most}" if most < 2**64 else f"of {least} or more"
            raise ApiError(f"{name} is {value!r}, but must be a whole number {bounds}", param=name)
        return value

    def decimal(self, name: str, least: float, most: float) -> float:
        """Return a number within bounds; 1 by default."""
        value = self._fields.get(name, 1.0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not least <= value <= most:
            raise ApiError(f"{name} is {value!r}, but must be a number from {least} to {most}", param=name)
        return float(value)

    def _top_p(self) -> float:
        value = self.decimal("top_p", 0.0, 1.0)
        return value or math.ulp(0.0)  # of 0, OpenAI takes the likeliest token

    def _stop(self) -> tuple[str, ...]:
        value = self._fields.get("stop", [])
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ApiError(f"stop is {value!r}, but must be a text or a list of texts, none empty", param="stop")
        return tuple(stops)


def _check_neutral(name: str, value: Any) -> None:
    neutral = _NEUTRAL[name]
    if value not in neutral or isinstance(value, bool) != isinstance(neutral[0], bool):
        allowed = " or ".join(json.dumps(choice) for choice in neutral)
        raise ApiError(
            f"{name} = {json.dumps(value)[:80]} is not supported: omit it, or set it to {allowed}",
            param=name,
            code="unsupported_parameter",
        )


def _chat(fields: Mapping[str, Any]) -> tuple[Message, ...] | ToolPrompt:
    """Return a chat; with tools or their results, what a template for tools needs."""
    turns, tools = tuple(_turns(fields.get("messages"))), tool_schemas(fields)
    messages = tuple(turn for turn in turns if isinstance(turn, Message))
    return ToolPrompt(turns, tools) if tools or len(messages) < len(turns) else messages


def _turns(messages: Any) -> Iterator[Message | Exchange]:
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a list of one message or more", param="messages")
    named = ((f"messages[{index}]", message) for index, message in enumerate(messages))
    for name, message in named:
        if isinstance(message, dict) and message.get("role") == "assistant" and message.get("tool_calls"):
            yield exchange(name, message, content_text(name, message.get("content") or ""), named)
        else:
            yield _message(name, message)


def _message(name: str, message: Any) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(f"{name} needs a role of {', '.join(_ROLES)}, not {role!r}", param="messages")
    used = [key for key in ("tool_calls", "function_call", "name") if message.get(key)]
    if used:
        raise ApiError(f"{name}.{used[0]} is not supported: omit it", param="messages", code="unsupported_parameter")
    return Message(_ROLES[role], content_text(name, message.get("content")))


def _prompts(prompt: Any) -> tuple[Prompt, ...]:
    several = isinstance(prompt, list) and prompt and not all(isinstance(token, int) for token in prompt)
    prompts = prompt if several else [prompt]
    return tuple(_prompt(one) for one in prompts)


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        return TokenPrompt(tuple(prompt))
    raise ApiError(
        f"prompt is {str(prompt)[:60]!r}, but must be a text, a list of tokens, or a list of such", param="prompt"
    )
