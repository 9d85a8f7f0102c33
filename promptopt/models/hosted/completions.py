"""Servers that score a given text, over OpenAI's completions: by `echo` with `logprobs`, or by vLLM's `prompt_logprobs`.

Log p(label | context) is the sum over the label's own tokens in the text that context and label make. Knows requests
and replies; calls are `hosted`'s.
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

Way: TypeAlias = Literal["echo", "prompt_logprobs"]

_WAYS: tuple[Way, ...] = ("echo", "prompt_logprobs")
_FIELDS: Mapping[str, dict[str, Any]] = {
    "write": {"logprobs": 1},
    "echo": {"echo": True, "logprobs": 1},
    "prompt_logprobs": {"prompt_logprobs": 1},
}
_PROBES: Mapping[bool, Context] = {  # for a text and for a chat: their ends do not merge with what comes next
    False: "one, two, three, four, one, two, three, four, one, two, three,",
    True: (Message("user", "Reply with the word yes."),),
}
_CLOSE = 0.1  # how far two passes over the same text may differ in a log-probability; half-precision servers reach 0.05
_AHEAD = 64  # contexts put in order together: what was pulled is answered, so that Ctrl-C waits for all of them


class Token(NamedTuple):
    """A token of a scored text, None where the server gives no log-probability: the first."""

    text: str
    logprob: float | None


@dataclass(frozen=True, kw_only=True)
class _Asked(Request):
    """A text whose tokens' log-probabilities are wanted, and by what fields; one token is written, which some servers must."""

    how: str


@dataclass(frozen=True)
class _Scored(Response):
    """The tokens of a text, and after them `written` ones that the server counts as its own."""

    tokens: tuple[Token, ...] = ()
    written: int = 0

    def given(self, ending: str) -> tuple[Token, ...] | None:
        """Return the tokens of the given text, which ends so; None where the server did not give them.

        What was written is cut off by the server's count, or, where it counts a token that it does not list, not at all.
        """
        if len(self.tokens) <= self.written:
            return None
        for count in dict.fromkeys((self.written, 0)):
            tokens = self.tokens[: len(self.tokens) - count]
            if _shown(tokens).endswith(_plain(ending)):
                return tokens
        return None


@dataclass
class _Cell:
    """A context with its labels: a text each, asked one after the other; a retry asks only for those that are missing."""

    context: Context
    text: str
    labels: Sequence[str]
    space: str
    scored: dict[str, _Scored] = field(default_factory=dict)


class CompletionsModel(OpenAIModel):
    """A model on a server that scores given texts, for tasks of format "completion": labels of any number of tokens.

    Arguments as of `HostedModel`; the base URL is needed. A label follows a text after a space, as in a local model. One
    cell takes a call for each label, and its usage is the sum. Contexts are asked in the order of their texts, so that a
    server that keeps the start of its last ones reads less.

    Before the first label is scored, two small calls or three, which no account counts, find out whether the server can:
    it writes a token, and must then score that token as it did when writing it. Text is written as by `OpenAIModel`.
    """

    _counted_by = ""

    def __init__(self, name: str, **settings: Any) -> None:
        if not settings.get("base_url") and not os.environ.get(self.service.endpoint_variable):
            raise InputError(
                f"completions:{name} has no server: give its base URL (--base-url http://localhost:8000/v1), or set "
                f"{self.service.endpoint_variable}"
            )
        super().__init__(name, **settings)
        self.fingerprint = {**self.fingerprint, "provider": "completions"}
        self._ways: dict[bool, Way] = {}  # by whether contexts are chats

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | context), normalised over the whole vocabulary.

        Raises:
            FinalModelError: the server cannot score such contexts; the message says what can.
            PassingModelError: the endpoint answers nothing any more.
        """
        waiting = iter(contexts)
        first = next(waiting, None)
        if first is None:
            return
        self.way(chat=not isinstance(first, str))
        numbers: list[int] = []

        def cells() -> Iterator[_Cell]:
            for number, cell in self._in_order(chain([first], waiting), labels):
                numbers.append(number)
                yield cell

        most = self._concurrency
        for arrival in dispatch(self.endpoint, cells(), self._score, lambda: most, self._probe_cell):
            yield Arrival(numbers[arrival.number], arrival.reply)

    def way(self, *, chat: bool = False) -> Way:
        """Return how the server scores texts, or chats; asked the first time.

        Raises:
            FinalModelError: it does not, or not rightly; the message says what can.
            PassingModelError: it does not answer.
        """
        if chat not in self._ways:
            self._ways[chat] = self._find(self._text(_PROBES[chat]))
        return self._ways[chat]

    def written(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON of a request in a dialect."""
        return super().written(request, dialect) | (_FIELDS[request.how] if isinstance(request, _Asked) else {})

    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        read = super()._read(body, request)
        if isinstance(read, Failure) or not isinstance(request, _Asked):
            return read
        choice = at(body, "choices", 0)
        if request.how == "prompt_logprobs":
            return _Scored("", usage=read.usage, tokens=_prompt_tokens(at(choice, "prompt_logprobs")))
        texts, logprobs = at(choice, "logprobs", "tokens"), at(choice, "logprobs", "token_logprobs")
        if not isinstance(texts, list) or not isinstance(logprobs, list):
            return _Scored("", usage=read.usage)
        tokens = tuple(Token(str(text), logprob(value)) for text, value in zip(texts, logprobs, strict=False))
        return _Scored("", usage=read.usage, tokens=tokens, written=read.usage.output)

    def _text(self, context: Context) -> str:
        """Return the text that the server is to continue."""
        if isinstance(context, str):
            return context
        raise FinalModelError(
            f"completions:{self.name} scores labels after a text, and the task has chats: set the task's format to "
            "'completion', name the model's tokenizer (--tokenizer), which knows how it writes chats, or take "
            f"openai:{self.name}, whose labels are read from the reply as votes"
        )

    def _lengths(self, cell: _Cell, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        """Return how many of each row's last tokens are the label's, or None where the tokens' texts do not say it."""
        starts = [_start(row, cell.space + label) for row, label in zip(rows, cell.labels, strict=True)]
        found = [start for start in starts if start is not None]
        if len(found) < len(rows):
            return None
        cut = min(found)
        while cut and len({tuple(token.text for token in row[:cut]) for row in rows}) > 1:
            cut -= 1  # a label changed how the context itself is cut
        return [len(row) - cut for row in rows]

    def _in_order(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[tuple[int, _Cell]]:
        """Yield numbered cells so that texts with a common start follow each other, some at a time."""
        numbered = enumerate(contexts)
        while some := list(islice(numbered, _AHEAD)):
            cells = [(number, self._cell(context, labels)) for number, context in some]
            yield from sorted(cells, key=lambda pair: pair[1].text)

    def _cell(self, context: Context, labels: Sequence[str]) -> _Cell:
        text = self._text(context)
        return _Cell(context, text, labels, " " if context == text and text and not text[-1].isspace() else "")

    async def _probe_cell(self, cell: _Cell) -> Response | Failure:
        how = self.way(chat=not isinstance(cell.context, str))
        return await self._probe(_Asked(context=cell.text, max_tokens=1, how=how))

    async def _score(self, cell: _Cell) -> Response | Failure:
        how = self.way(chat=not isinstance(cell.context, str))
        for label in cell.labels:
            if label not in cell.scored:
                reply = await self._answer(_Asked(context=cell.text + cell.space + label, max_tokens=1, how=how))
                if not isinstance(reply, _Scored):
                    return reply
                cell.scored[label] = reply
        return self._together(cell)

    def _together(self, cell: _Cell) -> Response | Failure:
        """Put a cell's scored texts together."""
        scored = [cell.scored[label] for label in cell.labels]
        rows = [one.given(cell.space + label) for one, label in zip(scored, cell.labels, strict=True)]
        whole = [row for row in rows if row is not None]
        lengths = self._lengths(cell, whole) if len(whole) == len(rows) else None
        if lengths is None:
            raise FinalModelError(
                f"the tokens that {self.endpoint} gives do not join to the labels {', '.join(map(repr, cell.labels))}: "
                f"name the server's tokenizer (--tokenizer), by which they can be counted{self._counted_by}"
            )
        logprobs = []
        for row, length in zip(whole, lengths, strict=True):
            values = [token.logprob for token in row[len(row) - length :]]
            if None in values:
                return Failure(f"{self.endpoint} gives no log-probability of a text's first token: give it a context")
            logprobs.append(math.fsum(value for value in values if value is not None))
        likeliest = cell.labels[max(range(len(logprobs)), key=logprobs.__getitem__)]
        return Response(likeliest, tuple(logprobs), _added([one.usage for one in scored]))

    def _find(self, text: str) -> Way:
        wrote = self._ask(text, "write").tokens[:1]
        why = "neither echo with logprobs nor prompt_logprobs"
        for way in _WAYS if wrote and wrote[0].logprob is not None else ():
            (token,) = wrote
            try:
                row = self._ask(text + token.text, way).given(token.text)
            except FinalModelError:  # it does not take such fields
                continue
            start = None if row is None else _start(row, token.text)
            if row is None or start is None:
                continue
            again = math.fsum(math.nan if one.logprob is None else one.logprob for one in row[start:])
            if abs(again - (token.logprob or 0.0)) <= _CLOSE:
                return way
            why = (
                f"it wrote {token.text!r} with log-probability {token.logprob:.2f}, and by {way} scores it {again:.2f}; so "
                "does llama-cpp-python with models without a start token: serve it with --kv_overrides "
                "tokenizer.ggml.add_bos_token=bool:true"
            )
        raise FinalModelError(
            f"{self.endpoint} does not score given texts ({why}): take openai:{self.name}, whose labels are read from the "
            "reply as votes, or another server"
        )

    def _ask(self, text: str, how: str) -> _Scored:
        request = _Asked(context=text, max_tokens=1, how=how)
        reply = next(dispatch(self.endpoint, [request], self._answer, lambda: 1)).reply
        if not isinstance(reply, _Scored):
            reason = reply.reason if isinstance(reply, Failure) else f"{self.endpoint} gave no choices"
            refused = isinstance(reply, Failure) and reply.refused
            raise FinalModelError(reason) if refused else PassingModelError(reason)
        return reply


class TokenizedCompletionsModel(CompletionsModel):
    """A model on a server that scores given texts, and whose tokenizer is here: for chats too, and its own tokens are pruned.

    Chats are written out by the tokenizer's template, and a label begins the reply, as in a local model. Whether the
    server's template is the same decides nothing; its tokenizer must be.

    Args:
        name: the server's name of the model.
        tokenizer: a folder, a hub name or a GGUF file; needs the extra `local`.
        settings: as of `CompletionsModel`.
    """

    def __init__(self, name: str, *, tokenizer: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        from promptopt.models.local.encoding import Encoder, pieces  # noqa: PLC0415  the extra, loaded when used
        from promptopt.models.local.loading import Files  # noqa: PLC0415

        self._counted_by = f", which {tokenizer} seems not to be"
        self._tokenizer = Files(tokenizer).tokenizer
        self._encoder = Encoder(tokenizer, self._tokenizer)
        self._cut = partial(pieces, self._tokenizer)
        template = hashlib.sha256(str(self._tokenizer.chat_template or "").encode()).hexdigest()[:16]
        self.fingerprint = {**self.fingerprint, "template": template}

    def pieces(self, text: str) -> list[str]:
        """Cut `text` into the strings that its tokens cover; tokens that share a character stay together."""
        return self._cut(text)

    def _text(self, context: Context) -> str:
        text = self._encoder.text(context)
        if isinstance(context, str):
            return text
        start = self._tokenizer.bos_token or ""
        adds = start and self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return text.removeprefix(start) if adds else text  # the server puts it there too

    def _lengths(self, cell: _Cell, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        queries = self._encoder.queries([cell.context], [cell.labels])
        lengths = [len(query.wanted) for query in queries]
        ends = zip(rows, lengths, cell.labels, strict=True)
        shown = (_shown(row[len(row) - length :]).endswith(_plain(label)) for row, length, label in ends)
        return lengths if all(shown) else None


def _start(row: Sequence[Token], ending: str) -> int | None:
    """Return the index of the first token that reaches into the ending, None where the last tokens do not make it up."""
    text = ""
    for index in range(len(row) - 1, -1, -1):
        text = row[index].text + text
        if len(text) >= len(ending):
            return index if text.endswith(ending) else None
    return None


def _added(usages: Sequence[Usage]) -> Usage:
    """Return the sum, without the input where a server left it out of one of them."""
    together = Usage(*(sum(counts) for counts in zip(*usages, strict=True)))
    return together if all(usage.input for usage in usages) else Usage(output=together.output)


def _prompt_tokens(positions: Any) -> tuple[Token, ...]:
    """Read vLLM's [None, {token id: {"logprob", "decoded_token"}}, ...], in which a text's own token comes first."""
    out = []
    for position in positions if isinstance(positions, list) else ():
        own = next(iter(position.values()), None) if isinstance(position, dict) else None
        out.append(Token(str(at(own, "decoded_token") or ""), logprob(at(own, "logprob"))))
    return tuple(out)


def _shown(tokens: Sequence[Token]) -> str:
    return _plain("".join(token.text for token in tokens))


def _plain(text: str) -> str:
    """Return what tokens show of a text whatever becomes of blanks, and of characters of which they are parts."""
    return "".join(letter for letter in text if letter.isascii() and not letter.isspace())
