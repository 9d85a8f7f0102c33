"""Completions: a checked call -> prompts in tokens -> replies of the scheduler -> the JSON of OpenAI's protocol."""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from promptopt.errors import InputError
from promptopt.models.base import Request
from promptopt.models.local.encoding import ToolChat
from promptopt.models.local.likeliest import Likeliest
from promptopt.models.local.served import TextTokens
from promptopt.models.local.tool_calls import with_tool_calls
from promptopt.replies import Failure, Response
from promptopt.serving.errors import ApiError
from promptopt.serving.parameters import TokenPrompt
from promptopt.serving.tools import ToolPrompt, calls_as_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.models.local.decoding import Written
    from promptopt.models.local.served import ServedModel
    from promptopt.models.local.token_scores import TokenScores
    from promptopt.serving.parameters import Call, Prompt
    from promptopt.serving.scheduler import Scheduler

_DEFAULT_TOKENS = 1024  # of a chat's reply without a limit: small models may never end
_LEAST = -9999.0  # OpenAI's log-probability of what is all but impossible; JSON has no infinity


class Choice(NamedTuple):
    """One reply to one prompt.

    Args:
        prompt: its tokens and their texts.
        response: text, finish reason and usage.
        reply: the tokens of the text, and theirs.
        likeliest: at each token of the reply, if the call wants it.
        scores: of the prompt, if the call wants them.
    """

    prompt: TextTokens
    response: Response
    reply: TextTokens
    likeliest: Sequence[Likeliest]
    scores: TokenScores | None


@dataclass(frozen=True)
class Completer:
    """Answers calls with one model.

    Args:
        name: of the model, in the scheduler and in replies.
        model: it.
        scheduler: computes.
    """

    name: str
    model: ServedModel
    scheduler: Scheduler

    async def answer(self, call: Call) -> dict[str, Any]:
        """Return the body of the reply to a call.

        Raises:
            ApiError: a prompt is too long or cannot be read, or the model fails.
        """
        prompts = [self._tokens(prompt) for prompt in call.prompts]
        limits = [self._limit(call, len(prompt.ids)) for prompt in prompts]
        if (call.echo or call.prompt_likeliest is not None) and not self.model.reads_texts:
            raise ApiError(f"{self.name} is an encoder-decoder model, which cannot score its input: ask for no echo")
        try:
            choices = await asyncio.gather(
                *(
                    self._choice(call, prompt, limit, number)
                    for prompt, limit in zip(prompts, limits, strict=True)
                    for number in range(call.count)
                )
            )
        except RuntimeError as error:
            raise ApiError(f"the model failed: {error}", status=500) from error
        return self._body(call, choices)

    def _tokens(self, prompt: Prompt) -> TextTokens:
        try:
            if isinstance(prompt, TokenPrompt):
                return self._given_tokens(prompt.ids)
            if isinstance(prompt, str) and (tokens := self.model.tokenize(prompt)).ids:
                return tokens
            chat = ToolChat(*prompt) if isinstance(prompt, ToolPrompt) else prompt
            return TextTokens(self.model.prompt(chat), ("",))
        except (InputError, TemplateError) as error:
            param = "tools" if isinstance(prompt, ToolPrompt) else "messages"
            raise ApiError(f"{self.name} cannot take these {param}: {error}", param=param) from error

    def _given_tokens(self, ids: tuple[int, ...]) -> TextTokens:
        if max(ids) >= self.model.vocabulary:
            raise ApiError(
                f"prompt has the token {max(ids)}, but {self.name} knows {self.model.vocabulary}", param="prompt"
            )
        return TextTokens(ids, _texts(self.model, ids))

    def _limit(self, call: Call, prompt_tokens: int) -> int:
        """Return the maximum number of tokens of a reply.

        Raises:
            ApiError: prompt and reply are longer than the model's context.
        """
        room = self.model.longest - prompt_tokens
        limit = min(room, _DEFAULT_TOKENS) if call.max_tokens is None else call.max_tokens
        if limit > room or (call.max_tokens is None and room < 1):
            raise ApiError(
                f"This model's maximum context length is {self.model.longest} tokens. However, you requested "
                f"{prompt_tokens + max(limit, 0)} tokens ({prompt_tokens} in the prompt, {max(limit, 0)} for the completion). "
                "Please reduce the length of either one.",
                param="messages" if call.chat else "prompt",
                code="context_length_exceeded",
            )
        return limit

    async def _choice(self, call: Call, prompt: TextTokens, limit: int, number: int) -> Choice:
        """Return one reply.

        Raises:
            ApiError: the model's predictions are no numbers.
        """
        request = Request(
            context="",
            max_tokens=limit,
            temperature=call.temperature,
            top_p=call.top_p,
            top_k=call.top_k,
            stop=call.stop,
            replicate=_replicate(call.seed, number),
        )
        wanted = [
            count for count in (call.likeliest if call.echo else None, call.prompt_likeliest) if count is not None
        ]
        scores = await self.scheduler.score(self.name, prompt.ids, max(1, *wanted)) if wanted else None
        if limit == 0:
            return Choice(prompt, Response("", finish_reason="length"), TextTokens((), ()), (), scores)
        if scores is not None and limit == 1 and call.temperature == 0:
            return self._known_choice(call, prompt, request, scores)
        written = await self.scheduler.write(self.name, prompt.ids, request, call.likeliest)
        return self._written_choice(call, prompt, written, scores)

    def _known_choice(self, call: Call, prompt: TextTokens, request: Request, scores: TokenScores) -> Choice:
        """Return the likeliest single token, which the prompt's scores have already."""
        token, logprob = int(scores.tokens[-1, 0]), float(scores.likeliest[-1, 0])
        response = self.model.one_token_reply(request, prompt.ids, token)
        if not response.usage.output:
            return Choice(prompt, response, TextTokens((), ()), (), scores)
        top = slice(0, call.likeliest or 0)
        likeliest = Likeliest(
            logprob, tuple(scores.tokens[-1, top].tolist()), tuple(scores.likeliest[-1, top].tolist())
        )
        return Choice(prompt, response, TextTokens((token,), (response.text,)), (likeliest,), scores)

    def _written_choice(self, call: Call, prompt: TextTokens, written: Written, scores: TokenScores | None) -> Choice:
        if isinstance(written.reply, Failure):
            raise ApiError(written.reply.reason, status=500)
        texts = _texts(self.model, written.tokens) if written.likeliest else ()
        count = _until(texts, len(written.reply.text))  # a stop string and what follows it are not shown
        reply = TextTokens(written.tokens[:count], texts[:count])
        tools = call.prompts[0].tools if isinstance(call.prompts[0], ToolPrompt) else ()
        response = with_tool_calls(written.reply, tools) if tools else written.reply
        return Choice(prompt, response, reply, written.likeliest[:count], scores)

    def _body(self, call: Call, choices: Sequence[Choice]) -> dict[str, Any]:
        prompt_tokens = sum(len(choice.prompt.ids) for choice in choices[:: call.count])
        reply_tokens = sum(choice.response.usage.output for choice in choices)
        form = self._chat_choice if call.chat else self._text_choice
        return {
            "id": f"{'chatcmpl' if call.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "chat.completion" if call.chat else "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": self.fingerprint,
            "choices": [{"index": index, **form(call, choice)} for index, choice in enumerate(choices)],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": reply_tokens,
                "total_tokens": prompt_tokens + reply_tokens,
            },
        }

    @property
    def fingerprint(self) -> str:
        """What determines the replies: weights, dtype, template."""
        parts = self.model.fingerprint
        return f"{str(parts['digest'])[:12]}-{parts['dtype']}-{parts['template']}"

    def _chat_choice(self, call: Call, choice: Choice) -> dict[str, Any]:
        entries = [
            self._entry(text, place.logprob)
            | {"top_logprobs": [self._entry(self.model.token_text(token), value) for token, value in _top(place)]}
            for text, place in zip(choice.reply.texts, choice.likeliest, strict=True)
        ]
        response = choice.response
        message: dict[str, Any] = {"role": "assistant", "content": response.text, "refusal": None}
        if response.tool_calls:
            message |= {"content": response.text or None, "tool_calls": calls_as_json(response.tool_calls)}
        return {
            "message": message,
            "logprobs": None if call.likeliest is None else {"content": entries, "refusal": None},
            "finish_reason": "tool_calls" if response.tool_calls else response.finish_reason,
        }

    def _entry(self, text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}

    def _text_choice(self, call: Call, choice: Choice) -> dict[str, Any]:
        text = ("".join(choice.prompt.texts) if call.echo else "") + choice.response.text
        out: dict[str, Any] = {"text": text, "finish_reason": choice.response.finish_reason, "logprobs": None}
        if call.likeliest is not None:
            out["logprobs"] = self._text_logprobs(call, choice)
        if call.prompt_likeliest is not None and choice.scores is not None:
            places = _prompt_places(choice.prompt.ids, choice.scores, call.prompt_likeliest)
            out["prompt_logprobs"] = [None, *(self._prompt_entry(token, place) for token, place in places)]
        return out

    def _text_logprobs(self, call: Call, choice: Choice) -> dict[str, Any]:
        texts, places = list(choice.reply.texts), list(choice.likeliest)
        first: list[Likeliest | None] = []
        if call.echo and choice.scores is not None:
            texts = [*choice.prompt.texts, *texts]
            first = [None]
            places = [
                *(place for _, place in _prompt_places(choice.prompt.ids, choice.scores, call.likeliest or 0)),
                *places,
            ]
        offsets = [0]
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        all_places = [*first, *places]
        tops = [
            place and {self.model.token_text(token): _finite(value) for token, value in reversed([*_top(place)])}
            for place in all_places
        ]
        return {
            "tokens": texts,
            "token_logprobs": [place and _finite(place.logprob) for place in all_places],
            "top_logprobs": tops,
            "text_offset": offsets[:-1],
        }

    def _prompt_entry(self, token: int, place: Likeliest) -> dict[str, Any]:
        """Return vLLM's entry: the token itself comes first."""
        values = {token: place.logprob, **dict(_top(place))}
        return {
            str(one): {"logprob": _finite(value), "decoded_token": self.model.token_text(one)}
            for one, value in values.items()
        }


def _prompt_places(ids: Sequence[int], scores: TokenScores, count: int) -> Iterator[tuple[int, Likeliest]]:
    """Yield each token of a prompt but the first, and what was likeliest in its place."""
    tokens, values = scores.tokens[:, :count].tolist(), scores.likeliest[:, :count].tolist()
    for index in range(1, len(ids)):
        logprob = float(scores.logprobs[index])
        yield ids[index], Likeliest(logprob, tuple(tokens[index - 1]), tuple(values[index - 1]))


def _top(place: Likeliest) -> Iterator[tuple[int, float]]:
    return zip(place.tokens, place.logprobs, strict=True)


def _texts(model: ServedModel, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return what each token adds to the text; a character of several tokens is the last one's."""
    texts, done = [], ""
    for stop in range(1, len(tokens) + 1):
        text = model.reply_text(tokens[:stop])
        if text.endswith("\ufffd") and stop < len(tokens):
            text = done
        texts.append(text[len(done) :])
        done = text
    return tuple(texts)


def _until(texts: Sequence[str], length: int) -> int:
    """Return how many texts begin within the first `length` characters, or are empty there."""
    done = 0
    for count, text in enumerate(texts):
        if done >= length and text:
            return count
        done += len(text)
    return len(texts)


def _replicate(seed: int | None, number: int) -> int:
    """Return the index of a sample: decided by the seed if there is one."""
    if seed is None:
        return secrets.randbits(63)
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8]) >> 1


def _finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold.

    Raises:
        ApiError: it is no number.
    """
    if math.isnan(logprob):
        raise ApiError("the model's predictions are not numbers (NaN): use a wider dtype", status=500)
    return max(logprob, _LEAST)
