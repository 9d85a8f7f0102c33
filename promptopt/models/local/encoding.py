"""Tokenizes contexts together with the endings that may follow them, as whole texts, so that token boundaries are right.

Prefixes shared by neighbours are tokenized once if that gives the same tokens (`seams`). Knows nothing of networks.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.models.local.seams import has_seams, shared_starts
from promptopt.models.local.tool_calls import exchanged
from promptopt.prompt import ImageMessage, as_dicts
from promptopt.tools import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from promptopt.models.base import Request
    from promptopt.prompt import Context, Turn
    from promptopt.tools import ToolSchema

Ids = tuple[int, ...]

BREAK = 2**31
"""Separator in sequences for encoder-decoder networks: follows the encoder's tokens and marks the decoder's first."""


_CHUNK = 512  # texts per tokenizer call, which returns about 200 bytes per token


class ToolChat(NamedTuple):
    """A chat with tools: its turns in order, the calls with their results among them."""

    turns: tuple[Turn | Exchange, ...]
    tools: tuple[ToolSchema, ...]


class Query(NamedTuple):
    """A context and an ending to score, in tokens.

    Args:
        context: index of the context.
        ending: index of the ending.
        sequence: tokens to run: context and ending without the last token.
        wanted: the ending's tokens; each is scored at the preceding position, the last at the end of `sequence`.
    """

    context: int
    ending: int
    sequence: Ids
    wanted: Ids


def conversation(request: Request) -> Context | ToolChat:
    """Return what a request gives to a model to read.

    Raises:
        InputError: it has tools but is no chat.
    """
    if not request.tools:
        return request.context
    if isinstance(request.context, str):
        raise InputError("tools need chats: set the task's format to 'chat'")
    return ToolChat((*request.context, *request.exchanges), request.tools)


class Encoder:
    """Tokenizes for one model.

    Args:
        name: of the model, for messages.
        tokenizer: a fast one, which provides token offsets.
        seams: `has_seams`, or what remembers its answer.
    """

    def __init__(self, name: str, tokenizer: Any, seams: Callable[[Any], bool] = has_seams) -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._seams = seams

    def prompts(self, contexts: Sequence[Context | ToolChat]) -> list[Ids]:
        """Return the tokens of contexts, ready for a reply."""
        no_endings = [("",)] * len(contexts)
        return [head + tails[0].ids or (self._start,) for head, tails in self._encode(contexts, no_endings)]

    def queries(self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]) -> list[Query]:
        """Return a query for every context and each of its endings, [contexts][endings of each].

        An ending's tokens are those that extend past the context's end. An ending follows plain text after a space; after a
        chat it begins the reply.
        """
        out: list[Query] = []
        splits: dict[tuple[bool, tuple[_Encoded, ...]], list[tuple[Ids, Ids]]] = {}
        for index, (head, tails) in enumerate(self._encode(contexts, endings)):
            key = (not head, tails)
            if key not in splits:
                splits[key] = list(self._split_endings(tails, no_head=not head))
            previous, sequence = None, head
            for ending, (body, wanted) in enumerate(splits[key]):
                if body is not previous:  # labels of one token share one sequence object
                    previous, sequence = body, head + body
                out.append(Query(index, ending, sequence, wanted))
        return out

    @property
    def _start(self) -> int:
        """The token that begins texts."""
        start = self._tokenizer.bos_token_id
        return int(self._tokenizer.eos_token_id if start is None else start)

    @cached_property
    def _has_seams(self) -> bool:
        return self._seams(self._tokenizer)

    def _encode(
        self, contexts: Sequence[Context | ToolChat], endings: Sequence[Sequence[str]]
    ) -> list[tuple[Ids, tuple[_Encoded, ...]]]:
        """Return for each context the tokens of its shared head, and of the tails with each ending."""
        texts = [self.text(context) for context in contexts]
        head_lengths = shared_starts(texts) if self._has_seams else [0] * len(texts)
        tail_parts: dict[tuple[str | bool, ...], tuple[_Part, ...]] = {}  # many heads have the same tails
        rows: list[tuple[_Part, tuple[str | bool, ...]]] = []
        head = _Part("", 0, special=False)
        for context, text, length, own_endings in zip(contexts, texts, head_lengths, endings, strict=True):
            chat = isinstance(context, tuple)  # a chat template writes its own special tokens
            if len(head.text) != length or not text.startswith(head.text):
                head = _Part(text[:length], length, special=bool(length) and not chat)
            key: tuple[str | bool, ...] = (text[length:], chat, not length, *own_endings)
            if key not in tail_parts:
                tail_texts = (_join(text, ending, chat=chat)[length:] for ending in own_endings)
                tail_parts[key] = tuple(
                    _Part(tail, len(text) - length, special=not (chat or length)) for tail in tail_texts
                )
            rows.append((head, key))
        parts = dict.fromkeys(chain(dict.fromkeys(head for head, _ in rows), *tail_parts.values()))
        encoded = self._tokenize(parts)
        tails = {key: tuple(encoded[part] for part in own_parts) for key, own_parts in tail_parts.items()}
        return [(encoded[head].ids, tails[key]) for head, key in rows]

    def _tokenize(self, parts: Iterable[_Part]) -> dict[_Part, _Encoded]:
        out = {part: _Encoded((), 0) for part in parts}
        for special in (True, False):
            same_kind = [part for part in parts if part.special is special and (part.text or special)]
            for start in range(0, len(same_kind), _CHUNK):
                chunk = same_kind[start : start + _CHUNK]
                texts = [part.text for part in chunk]
                tokenized = self._tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
                for part, ids, offsets in zip(chunk, tokenized["input_ids"], tokenized["offset_mapping"], strict=True):
                    first_ending = next((n for n, (_, end) in enumerate(offsets) if end > part.context_end), len(ids))
                    out[part] = _Encoded(tuple(ids), first_ending)
        return out

    def text(self, context: Context | ToolChat) -> str:
        """Return a context as text; a chat is formatted with the tokenizer's template.

        Raises:
            InputError: the context is a chat, but the tokenizer has no template, or has tools, but the template none, or an image.
        """
        if isinstance(context, str):
            return context
        if not self._tokenizer.chat_template:
            raise InputError(f"{self.name} has no chat template: set the task's format to 'completion'")
        settings: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
        if not isinstance(context, ToolChat):
            return str(self._tokenizer.apply_chat_template(self._dicts(context), **settings))
        if "tools" not in str(self._tokenizer.chat_template):
            raise InputError(
                f"the chat template of {self.name} takes no tools: use a model that was trained to call tools, or let the program "
                "read calls from the text"
            )
        turns = list(chain.from_iterable(self._turn(turn) for turn in context.turns))
        tools = [tool.as_function() for tool in context.tools]
        return str(self._tokenizer.apply_chat_template(turns, tools=tools, **settings))

    def _turn(self, turn: Turn | Exchange) -> list[dict[str, Any]]:
        return exchanged([turn]) if isinstance(turn, Exchange) else self._dicts([turn])

    def _dicts(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        if any(isinstance(turn, ImageMessage) for turn in turns):
            raise InputError(
                f"{self.name} reads texts, and a message holds an image: use a hosted chat model that sees images"
            )
        return as_dicts(tuple(turns))

    def _split_endings(self, tails: Sequence[_Encoded], *, no_head: bool) -> Iterator[tuple[Ids, Ids]]:
        """Split tails where the endings begin, at the same token for all: yield (tokens without the last, ending tokens).

        Args:
            tails: tokens after the shared head, one entry per ending.
            no_head: whether there is no shared head.
        """
        rows = [tail.ids for tail in tails]
        split = min((tail.first_ending for tail in tails), default=0)
        while split and len({row[:split] for row in rows}) > 1:  # an ending changed the context's own tokens
            split -= 1
        if no_head and split == 0:  # nothing to condition on: add the token that begins texts
            rows, split = [(self._start, *row) for row in rows], 1
        bodies: dict[Ids, Ids] = {}
        yield from ((bodies.setdefault(row[:-1], row[:-1]), row[split:]) for row in rows)


def pieces(tokenizer: Any, text: str) -> list[str]:
    """Split `text` into the substrings of its tokens; tokens that share a character stay together."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = sorted({end for _, end in offsets if 0 < end < len(text)})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)] if text else []


class PairEncoder:
    """Tokenizes for an encoder-decoder network: the encoder reads the context, the decoder generates the ending.

    Takes the arguments of `Encoder`.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self._contexts = Encoder(name, tokenizer)
        self._tokenizer = tokenizer

    def prompts(self, contexts: Sequence[Context | ToolChat]) -> list[Ids]:
        """Return the tokens of contexts, ready for a reply."""
        return [(*ids, BREAK) for ids in self._contexts.prompts(contexts)]

    def queries(self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]) -> list[Query]:
        """Return a query for every context and each of its endings, [contexts][endings of each].

        Endings are tokenized separately, without special tokens.
        """
        distinct = dict.fromkeys(ending for own_endings in endings for ending in own_endings)
        ids = {ending: tuple(self._tokenizer(ending, add_special_tokens=False)["input_ids"]) for ending in distinct}
        return [
            Query(context, number, (*prompt, *ids[ending][:-1]), ids[ending])
            for context, (prompt, own_endings) in enumerate(zip(self.prompts(contexts), endings, strict=True))
            for number, ending in enumerate(own_endings)
        ]


class _Part(NamedTuple):
    """A text to tokenize.

    Args:
        text: the text.
        context_end: character offset where the context ends.
        special: whether to add special tokens.
    """

    text: str
    context_end: int
    special: bool


class _Encoded(NamedTuple):
    """The tokens of a part.

    Args:
        ids: token ids.
        first_ending: index of the first token that extends past the context's end.
    """

    ids: Ids
    first_ending: int


def _join(context: str, ending: str, *, chat: bool) -> str:
    space = "" if chat or not ending or not context or context[-1].isspace() else " "
    return context + space + ending
