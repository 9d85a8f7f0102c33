"""Servers that score given text over OpenAI's completions API: by `echo` with `logprobs`, or by vLLM's `prompt_logprobs`.

Log p(label | context) is the sum over the label's tokens in the concatenated text. `scored_texts` knows requests and replies,
`label_texts` the texts and which tokens are a label's; `model` makes the calls.
"""

from __future__ import annotations

import math
import os
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, PermanentModelError, TransientModelError
from promptopt.models.hosted.dispatch import dispatch
from promptopt.models.hosted.label_texts import LabelCall, PlainTexts, TokenizedTexts
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.hosted.scored_texts import METHODS, ScoredText, ScoringRequest, start_of
from promptopt.prompt import Message
from promptopt.replies import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.models.hosted.dialect import Dialect
    from promptopt.models.hosted.label_texts import LabelTexts
    from promptopt.models.hosted.scored_texts import ScoringMethod, Token
    from promptopt.prompt import Context
    from promptopt.replies import Reply

_PROBES: Mapping[bool, Context] = {  # for plain text and for chats: their last tokens do not merge with what follows
    False: "one, two, three, four, one, two, three, four, one, two, three,",
    True: (Message("user", "Reply with the word yes."),),
}
_TOLERANCE = 0.1  # between the log-probabilities of two passes over the same text; half-precision servers reach 0.05
_LOOKAHEAD = (
    64  # contexts sorted together; Ctrl-C waits for all of them, since every context that was pulled is answered
)


class CompletionsModel(OpenAIModel):
    """A model on a server that scores given text, for tasks of format "completion"; labels may have any number of tokens.

    Takes the arguments of `HostedModel`; the base URL is required. A label follows the text after a space, as in a local
    model. Each label takes one call, and usage is the sum over the labels. Contexts are sent in sorted order, so that
    servers with a prefix cache compute less.

    Before the first label is scored, two or three small calls, which count toward no budget, check that the server can
    score: it generates a token, and must then give that token the same log-probability as when generating it. Text is
    generated as in `OpenAIModel`.

    Args:
        name: the server's name of the model.
        texts: how contexts become texts; by default, only plain texts are scored.
        settings: arguments of `HostedModel`.
    """

    def __init__(self, name: str, *, texts: LabelTexts | None = None, **settings: Any) -> None:
        if not settings.get("base_url") and not os.environ.get(self.service.endpoint_variable):
            raise InputError(
                f"completions:{name} needs a base URL: give one (--base-url http://localhost:8000/v1), or set "
                f"{self.service.endpoint_variable}"
            )
        super().__init__(name, **settings)
        self.max_image_bytes = 0  # only texts are scored
        self._texts = texts or PlainTexts(name)
        self.fingerprint = {**self.fingerprint, "provider": "completions", **self._texts.fingerprint}
        self._methods: dict[bool, ScoringMethod] = {}  # by whether contexts are chats

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | context), normalized over the whole vocabulary.

        Raises:
            PermanentModelError: the server cannot score such contexts; the message suggests alternatives.
            TransientModelError: the endpoint has stopped responding.
        """
        remaining = iter(contexts)
        first = next(remaining, None)
        if first is None:
            return
        self.scoring_method(chat=not isinstance(first, str))
        numbers: list[int] = []

        def calls() -> Iterator[LabelCall]:
            for number, call in self._sorted_calls(chain([first], remaining), labels):
                numbers.append(number)
                yield call

        limit = self._concurrency
        for arrival in dispatch(
            self.endpoint, calls(), self._score, lambda: limit, self._probe_scoring, patience=self._patience
        ):
            yield Arrival(numbers[arrival.number], arrival.reply)

    def scoring_method(self, *, chat: bool = False) -> ScoringMethod:
        """Return how the server scores texts or chats; probes the server the first time.

        Raises:
            PermanentModelError: the server does not score text, or scores it wrongly; the message suggests alternatives.
            TransientModelError: the server does not respond.
        """
        if chat not in self._methods:
            self._methods[chat] = self._find_method(self._texts.text(_PROBES[chat]))
        return self._methods[chat]

    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON body of a request in a dialect."""
        body = super().format_body(request, dialect)
        return body | request.fields if isinstance(request, ScoringRequest) else body

    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        response = super()._parse(body, request)
        if isinstance(response, Failure) or not isinstance(request, ScoringRequest):
            return response
        return ScoredText.read(body, request.method, response.usage)

    def _sorted_calls(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[tuple[int, LabelCall]]:
        """Yield numbered calls, sorted by text within chunks of contexts so that shared prefixes are adjacent."""
        numbered = enumerate(contexts)
        while chunk := list(islice(numbered, _LOOKAHEAD)):
            calls = [(number, self._label_call(context, labels)) for number, context in chunk]
            yield from sorted(calls, key=lambda pair: pair[1].text)

    def _label_call(self, context: Context, labels: Sequence[str]) -> LabelCall:
        text = self._texts.text(context)
        return LabelCall(context, text, labels, " " if context == text and text and not text[-1].isspace() else "")

    async def _probe_scoring(self, call: LabelCall) -> Response | Failure:
        method = self.scoring_method(chat=not isinstance(call.context, str))
        return await self._probe(ScoringRequest(context=call.text, method=method))

    async def _score(self, call: LabelCall) -> Response | Failure:
        method = self.scoring_method(chat=not isinstance(call.context, str))
        for label in call.labels:
            if label not in call.scored:
                reply = await self._answer(ScoringRequest(context=call.text + call.space + label, method=method))
                if not isinstance(reply, ScoredText):
                    return reply
                call.scored[label] = reply
        return self._combine(call)

    def _combine(self, call: LabelCall) -> Reply:
        """Return the label log-probabilities from the scored texts."""
        endings = self._label_tokens(call)
        if any(token.logprob is None for tokens in endings for token in tokens):
            return Failure(
                f"{self.endpoint} gives no log-probability for the first token of a text: use a prompt that is not empty"
            )
        logprobs = tuple(map(_total_logprob, endings))
        likeliest = call.labels[max(range(len(logprobs)), key=logprobs.__getitem__)]
        return Response(likeliest, logprobs, _total_usage([call.scored[label].usage for label in call.labels]))

    def _label_tokens(self, call: LabelCall) -> list[Sequence[Token]]:
        """Return the tokens of each label.

        Raises:
            PermanentModelError: they cannot be told from the context's.
        """
        rows = [call.scored[label].prompt_tokens(call.space + label) for label in call.labels]
        complete_rows = [row for row in rows if row is not None]
        lengths = self._texts.label_lengths(call, complete_rows) if len(complete_rows) == len(rows) else None
        if lengths is None:
            raise PermanentModelError(
                f"the tokens that {self.endpoint} returns do not spell the labels {', '.join(map(repr, call.labels))}: "
                f"give the server's tokenizer (--tokenizer), so that the labels' tokens can be counted{self._texts.hint}",
                endpoint=self.endpoint,
            )
        return [row[len(row) - length :] for row, length in zip(complete_rows, lengths, strict=True)]

    def _find_method(self, text: str) -> ScoringMethod:
        """Return the first method that scores a generated token as when it was generated."""
        generated = self._ask(text, "write").tokens[:1]
        reason = "neither echo with logprobs nor prompt_logprobs works"
        for method in METHODS if generated and generated[0].logprob is not None else ():
            (token,) = generated
            rescored = self._rescored(text, token, method)
            if rescored is None:
                continue
            if abs(rescored - (token.logprob or 0.0)) <= _TOLERANCE:
                return method
            reason = (
                f"it generated {token.text!r} with log-probability {token.logprob:.2f}, but {method} scores it {rescored:.2f}; "
                "llama-cpp-python does so with models that have no start token: serve it with --kv_overrides "
                "tokenizer.ggml.add_bos_token=bool:true"
            )
        raise PermanentModelError(
            f"{self.endpoint} does not score given text ({reason}): use openai:{self.name}, which reads labels from its "
            "replies, or another server",
            endpoint=self.endpoint,
        )

    def _rescored(self, text: str, token: Token, method: ScoringMethod) -> float | None:
        """Return the log-probability of a token after a text, NaN if a part has none, None if the server does not score it."""
        try:
            row = self._ask(text + token.text, method).prompt_tokens(token.text)
        except PermanentModelError:  # the server does not accept these fields
            return None
        start = None if row is None else start_of(token.text, row)
        return None if row is None or start is None else _total_logprob(row[start:])

    def _ask(self, text: str, method: str) -> ScoredText:
        request = ScoringRequest(context=text, method=method)
        reply = next(dispatch(self.endpoint, [request], self._answer, lambda: 1, patience=self._patience)).reply
        if not isinstance(reply, ScoredText):
            reason = reply.reason if isinstance(reply, Failure) else f"{self.endpoint} returned no choices"
            refused = isinstance(reply, Failure) and reply.refused
            error = PermanentModelError if refused else TransientModelError
            raise error(reason, endpoint=self.endpoint)
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
        texts = TokenizedTexts(tokenizer)
        super().__init__(name, texts=texts, **settings)
        self._pieces = texts.pieces

    def pieces(self, text: str) -> list[str]:
        """Split `text` into the substrings of its tokens; tokens that share a character stay together."""
        return self._pieces(text)


def _total_logprob(tokens: Sequence[Token]) -> float:
    """Return the log-probability of all tokens together; NaN if one has none."""
    return math.fsum(math.nan if token.logprob is None else token.logprob for token in tokens)


def _total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the total usage; the input counts as unreported if one call did not report it."""
    total = Usage(*(sum(counts) for counts in zip(*usages, strict=True)))
    return total if all(usage.input for usage in usages) else Usage(output=total.output)
