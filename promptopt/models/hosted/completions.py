"""Servers that score given text over OpenAI's completions API: by `echo` with `logprobs`, or by vLLM's `prompt_logprobs`.

Log p(label | context) is the sum over the label's tokens in the concatenated text. This module knows requests and replies;
`hosted.model` makes the calls.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import FinalModelError, InputError, PassingModelError
from promptopt.models.base import Request
from promptopt.models.hosted.bodies import at, logprob
from promptopt.models.hosted.dispatch import dispatch
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.prompt import Message
from promptopt.replies import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.hosted.dialect import Dialect
    from promptopt.prompt import Context

ScoringMethod: TypeAlias = Literal["echo", "prompt_logprobs"]

_METHODS: tuple[ScoringMethod, ...] = ("echo", "prompt_logprobs")
_FIELDS: Mapping[str, dict[str, Any]] = {
    "write": {"logprobs": 1},
    "echo": {"echo": True, "logprobs": 1},
    "prompt_logprobs": {"prompt_logprobs": 1},
}
_PROBES: Mapping[bool, Context] = {  # for plain text and for chats: their last tokens do not merge with what follows
    False: "one, two, three, four, one, two, three, four, one, two, three,",
    True: (Message("user", "Reply with the word yes."),),
}
_TOLERANCE = 0.1  # between the log-probabilities of two passes over the same text; half-precision servers reach 0.05
_LOOKAHEAD = (
    64  # contexts sorted together; Ctrl-C waits for all of them, since every context that was pulled is answered
)


class Token(NamedTuple):
    """A token of a scored text; the log-probability of the first token may be None."""

    text: str
    logprob: float | None


@dataclass(frozen=True, kw_only=True)
class _ScoringRequest(Request):
    """A request to score a text by a method; it also generates one token, because some servers cannot generate none."""

    method: str


@dataclass(frozen=True)
class _ScoredText(Response):
    """The tokens of a scored text, followed by `generated` tokens that the server generated."""

    tokens: tuple[Token, ...] = ()
    generated: int = 0

    def prompt_tokens(self, ending: str) -> tuple[Token, ...] | None:
        """Return the tokens of the given text, which ends with `ending`; None if the server did not return them.

        Drops the generated tokens by the server's count. Some servers count a token that they do not list: then drops none.
        """
        if len(self.tokens) <= self.generated:
            return None
        for count in dict.fromkeys((self.generated, 0)):
            tokens = self.tokens[: len(self.tokens) - count]
            if _comparable_text(tokens).endswith(_ascii_only(ending)):
                return tokens
        return None


@dataclass
class _LabelCall:
    """A context and its labels, scored one label after the other; a retry scores only the labels that are missing."""

    context: Context
    text: str
    labels: Sequence[str]
    space: str
    scored: dict[str, _ScoredText] = field(default_factory=dict)


class CompletionsModel(OpenAIModel):
    """A model on a server that scores given text, for tasks of format "completion"; labels may have any number of tokens.

    Takes the arguments of `HostedModel`; the base URL is required. A label follows the text after a space, as in a local
    model. Each label takes one call, and usage is the sum over the labels. Contexts are sent in sorted order, so that
    servers with a prefix cache compute less.

    Before the first label is scored, two or three small calls, which count toward no budget, check that the server can
    score: it generates a token, and must then give that token the same log-probability as when generating it. Text is
    generated as in `OpenAIModel`.
    """

    _tokenizer_hint = ""

    def __init__(self, name: str, **settings: Any) -> None:
        if not settings.get("base_url") and not os.environ.get(self.service.endpoint_variable):
            raise InputError(
                f"completions:{name} needs a base URL: give one (--base-url http://localhost:8000/v1), or set "
                f"{self.service.endpoint_variable}"
            )
        super().__init__(name, **settings)
        self.fingerprint = {**self.fingerprint, "provider": "completions"}
        self._methods: dict[bool, ScoringMethod] = {}  # by whether contexts are chats

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | context), normalized over the whole vocabulary.

        Raises:
            FinalModelError: the server cannot score such contexts; the message suggests alternatives.
            PassingModelError: the endpoint has stopped responding.
        """
        remaining = iter(contexts)
        first = next(remaining, None)
        if first is None:
            return
        self.scoring_method(chat=not isinstance(first, str))
        numbers: list[int] = []

        def calls() -> Iterator[_LabelCall]:
            for number, call in self._sorted_calls(chain([first], remaining), labels):
                numbers.append(number)
                yield call

        concurrency = self._concurrency
        for arrival in dispatch(self.endpoint, calls(), self._score, lambda: concurrency, self._probe_scoring):
            yield Arrival(numbers[arrival.number], arrival.reply)

    def scoring_method(self, *, chat: bool = False) -> ScoringMethod:
        """Return how the server scores texts or chats; probes the server the first time.

        Raises:
            FinalModelError: the server does not score text, or scores it wrongly; the message suggests alternatives.
            PassingModelError: the server does not respond.
        """
        if chat not in self._methods:
            self._methods[chat] = self._find_method(self._text(_PROBES[chat]))
        return self._methods[chat]

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON body of a request in a dialect."""
        return super().format_body(request, dialect) | (
            _FIELDS[request.method] if isinstance(request, _ScoringRequest) else {}
        )

    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        response = super()._parse(body, request)
        if isinstance(response, Failure) or not isinstance(request, _ScoringRequest):
            return response
        choice = at(body, "choices", 0)
        if request.method == "prompt_logprobs":
            return _ScoredText("", usage=response.usage, tokens=_prompt_tokens(at(choice, "prompt_logprobs")))
        texts, logprobs = at(choice, "logprobs", "tokens"), at(choice, "logprobs", "token_logprobs")
        if not isinstance(texts, list) or not isinstance(logprobs, list):
            return _ScoredText("", usage=response.usage)
        tokens = tuple(Token(str(text), logprob(value)) for text, value in zip(texts, logprobs, strict=False))
        return _ScoredText("", usage=response.usage, tokens=tokens, generated=response.usage.output)

    def _text(self, context: Context) -> str:
        """Return the text that the server continues."""
        if isinstance(context, str):
            return context
        raise FinalModelError(
            f"completions:{self.name} scores labels only after plain text, but the task uses chats: set the task's format to "
            "'completion', give the model's tokenizer (--tokenizer), which has the chat template, or use "
            f"openai:{self.name}, which reads labels from its replies"
        )

    def _label_lengths(self, call: _LabelCall, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        """Return how many tokens at the end of each row are the label's, or None if the token texts do not show it."""
        starts = [_start(row, call.space + label) for row, label in zip(rows, call.labels, strict=True)]
        known_starts = [start for start in starts if start is not None]
        if len(known_starts) < len(rows):
            return None
        split = min(known_starts)
        while split and len({tuple(token.text for token in row[:split]) for row in rows}) > 1:
            split -= 1  # a label changed the tokenization of the context itself
        return [len(row) - split for row in rows]

    def _sorted_calls(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[tuple[int, _LabelCall]]:
        """Yield numbered calls, sorted by text within chunks of contexts so that shared prefixes are adjacent."""
        numbered = enumerate(contexts)
        while chunk := list(islice(numbered, _LOOKAHEAD)):
            calls = [(number, self._label_call(context, labels)) for number, context in chunk]
            yield from sorted(calls, key=lambda pair: pair[1].text)

    def _label_call(self, context: Context, labels: Sequence[str]) -> _LabelCall:
        text = self._text(context)
        return _LabelCall(context, text, labels, " " if context == text and text and not text[-1].isspace() else "")

    async def _probe_scoring(self, call: _LabelCall) -> Response | Failure:
        method = self.scoring_method(chat=not isinstance(call.context, str))
        return await self._probe(_ScoringRequest(context=call.text, max_tokens=1, method=method))

    async def _score(self, call: _LabelCall) -> Response | Failure:
        method = self.scoring_method(chat=not isinstance(call.context, str))
        for label in call.labels:
            if label not in call.scored:
                reply = await self._answer(
                    _ScoringRequest(context=call.text + call.space + label, max_tokens=1, method=method)
                )
                if not isinstance(reply, _ScoredText):
                    return reply
                call.scored[label] = reply
        return self._combine(call)

    def _combine(self, call: _LabelCall) -> Response | Failure:
        """Return the label log-probabilities from the scored texts."""
        scored = [call.scored[label] for label in call.labels]
        rows = [text.prompt_tokens(call.space + label) for text, label in zip(scored, call.labels, strict=True)]
        complete_rows = [row for row in rows if row is not None]
        lengths = self._label_lengths(call, complete_rows) if len(complete_rows) == len(rows) else None
        if lengths is None:
            raise FinalModelError(
                f"the tokens that {self.endpoint} returns do not spell the labels {', '.join(map(repr, call.labels))}: "
                f"give the server's tokenizer (--tokenizer), so that the labels' tokens can be counted{self._tokenizer_hint}"
            )
        logprobs = []
        for row, length in zip(complete_rows, lengths, strict=True):
            values = [token.logprob for token in row[len(row) - length :]]
            if None in values:
                return Failure(
                    f"{self.endpoint} gives no log-probability for the first token of a text: use a prompt that is not empty"
                )
            logprobs.append(math.fsum(value for value in values if value is not None))
        likeliest = call.labels[max(range(len(logprobs)), key=logprobs.__getitem__)]
        return Response(likeliest, tuple(logprobs), _total_usage([text.usage for text in scored]))

    def _find_method(self, text: str) -> ScoringMethod:
        generated = self._ask(text, "write").tokens[:1]
        reason = "neither echo with logprobs nor prompt_logprobs works"
        for method in _METHODS if generated and generated[0].logprob is not None else ():
            (token,) = generated
            try:
                row = self._ask(text + token.text, method).prompt_tokens(token.text)
            except FinalModelError:  # the server does not accept these fields
                continue
            start = None if row is None else _start(row, token.text)
            if row is None or start is None:
                continue
            rescored = math.fsum(math.nan if scored.logprob is None else scored.logprob for scored in row[start:])
            if abs(rescored - (token.logprob or 0.0)) <= _TOLERANCE:
                return method
            reason = (
                f"it generated {token.text!r} with log-probability {token.logprob:.2f}, but {method} scores it {rescored:.2f}; "
                "llama-cpp-python does so with models that have no start token: serve it with --kv_overrides "
                "tokenizer.ggml.add_bos_token=bool:true"
            )
        raise FinalModelError(
            f"{self.endpoint} does not score given text ({reason}): use openai:{self.name}, which reads labels from its "
            "replies, or another server"
        )

    def _ask(self, text: str, method: str) -> _ScoredText:
        request = _ScoringRequest(context=text, max_tokens=1, method=method)
        reply = next(dispatch(self.endpoint, [request], self._answer, lambda: 1)).reply
        if not isinstance(reply, _ScoredText):
            reason = reply.reason if isinstance(reply, Failure) else f"{self.endpoint} returned no choices"
            refused = isinstance(reply, Failure) and reply.refused
            raise FinalModelError(reason) if refused else PassingModelError(reason)
        return reply


class TokenizedCompletionsModel(CompletionsModel):
    """A model on a server that scores given text, with its tokenizer available locally: also scores chats and prunes tokens.

    Chats are formatted by the local tokenizer's template, and a label begins the reply, as in a local model. The server's
    tokenizer must be the same; its chat template need not be.

    Args:
        name: the server's name of the model.
        tokenizer: a folder, a hub name or a GGUF file; needs the extra `local`.
        settings: arguments of `CompletionsModel`.
    """

    def __init__(self, name: str, *, tokenizer: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        from promptopt.models.local.encoding import Encoder, pieces  # noqa: PLC0415  the extra, loaded when used
        from promptopt.models.local.loading import Files  # noqa: PLC0415

        self._tokenizer_hint = f"; {tokenizer} seems to be a different one"
        self._tokenizer = Files(tokenizer).tokenizer
        self._encoder = Encoder(tokenizer, self._tokenizer)
        self._pieces = partial(pieces, self._tokenizer)
        template = hashlib.sha256(str(self._tokenizer.chat_template or "").encode()).hexdigest()[:16]
        self.fingerprint = {**self.fingerprint, "template": template}

    def pieces(self, text: str) -> list[str]:
        """Split `text` into the substrings of its tokens; tokens that share a character stay together."""
        return self._pieces(text)

    def _text(self, context: Context) -> str:
        text = self._encoder.text(context)
        if isinstance(context, str):
            return text
        bos = self._tokenizer.bos_token or ""
        adds_bos = bos and self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return text.removeprefix(bos) if adds_bos else text  # the server adds it too

    def _label_lengths(self, call: _LabelCall, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        queries = self._encoder.queries([call.context], [call.labels])
        lengths = [len(query.wanted) for query in queries]
        triples = zip(rows, lengths, call.labels, strict=True)
        matches = (
            _comparable_text(row[len(row) - length :]).endswith(_ascii_only(label)) for row, length, label in triples
        )
        return lengths if all(matches) else None


def _start(row: Sequence[Token], ending: str) -> int | None:
    """Return the index of the first token that overlaps the ending, None if the last tokens do not contain it."""
    text = ""
    for index in range(len(row) - 1, -1, -1):
        text = row[index].text + text
        if len(text) >= len(ending):
            return index if text.endswith(ending) else None
    return None


def _total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the total usage; the input counts as unreported if one call did not report it."""
    total = Usage(*(sum(counts) for counts in zip(*usages, strict=True)))
    return total if all(usage.input for usage in usages) else Usage(output=total.output)


def _prompt_tokens(positions: Any) -> tuple[Token, ...]:
    """Read vLLM's [None, {token id: {"logprob", "decoded_token"}}, ...], where the text's own token comes first in each dict."""
    out = []
    for position in positions if isinstance(positions, list) else ():
        actual = next(iter(position.values()), None) if isinstance(position, dict) else None
        out.append(Token(str(at(actual, "decoded_token") or ""), logprob(at(actual, "logprob"))))
    return tuple(out)


def _comparable_text(tokens: Sequence[Token]) -> str:
    return _ascii_only("".join(token.text for token in tokens))


def _ascii_only(text: str) -> str:
    """Keep ASCII non-space characters: the only ones that every server reproduces in the texts of tokens."""
    return "".join(letter for letter in text if letter.isascii() and not letter.isspace())
