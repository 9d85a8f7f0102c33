"""From contexts and what may follow them to token sequences, always as if tokenised together, so that no seam is wrong.

What neighbours start with is tokenised once, where that gives the tokens of the whole (`seams`). Knows nothing of
networks.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.models.local.seams import has_seams, shared_starts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from promptopt.prompt import Context

Ids = tuple[int, ...]

BREAK = 2**31
"""In a sequence for an encoder-decoder network: before it the encoder's tokens, in its place the decoder's first one."""


_TOGETHER = 512  # texts given to the tokenizer at once: what it returns takes some 200 bytes a token


class Query(NamedTuple):
    """How likely an ending is after a context, in tokens.

    Args:
        context: its index.
        ending: its index.
        sequence: what is run: context and ending less the last token.
        wanted: the ending's tokens; each is read one place before its own, the last at the sequence's end.
    """

    context: int
    ending: int
    sequence: Ids
    wanted: Ids


class Encoder:
    """Tokenises for one model.

    Args:
        name: the model's, for messages.
        tokenizer: a fast one, which tells where tokens begin.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name = name
        self._tokenizer = tokenizer

    def prompts(self, contexts: Sequence[Context]) -> list[Ids]:
        """Return the tokens of contexts that replies follow."""
        alone = [("",)] * len(contexts)
        return [head + tails[0].ids or (self._start,) for head, tails in self._encode(contexts, alone)]

    def queries(self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]) -> list[Query]:
        """Return a query for every context and each of its endings, [contexts][endings of each].

        An ending's tokens are those that reach past the context's end. After a text to be continued an ending follows a
        space, after a chat it begins the reply.
        """
        out: list[Query] = []
        cuts: dict[tuple[bool, tuple[_Encoded, ...]], list[tuple[Ids, Ids]]] = {}
        for index, (head, tails) in enumerate(self._encode(contexts, endings)):
            key = (not head, tails)
            if key not in cuts:
                cuts[key] = list(self._cut(tails, alone=not head))
            before, sequence = None, head
            for ending, (body, wanted) in enumerate(cuts[key]):
                if body is not before:  # labels of one token are read after the same sequence
                    before, sequence = body, head + body
                out.append(Query(index, ending, sequence, wanted))
        return out

    @property
    def _start(self) -> int:
        """The token that texts start with."""
        start = self._tokenizer.bos_token_id
        return int(self._tokenizer.eos_token_id if start is None else start)

    @cached_property
    def _has_seams(self) -> bool:
        return has_seams(self._tokenizer)

    def _encode(
        self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]
    ) -> list[tuple[Ids, tuple[_Encoded, ...]]]:
        """Return the tokens of each context with each of its endings: the start that they share, and what comes after."""
        starts = [self.text(context) for context in contexts]
        heads = shared_starts(starts) if self._has_seams else [0] * len(starts)
        rests: dict[tuple[str | bool, ...], tuple[_Part, ...]] = {}  # the same after many heads
        rows: list[tuple[_Part, tuple[str | bool, ...]]] = []
        first = _Part("", 0, special=False)
        for context, start, head, some in zip(contexts, starts, heads, endings, strict=True):
            chat = isinstance(context, tuple)  # a chat template writes its own special tokens
            if len(first.text) != head or not start.startswith(first.text):
                first = _Part(start[:head], head, special=bool(head) and not chat)
            key: tuple[str | bool, ...] = (start[head:], chat, not head, *some)
            if key not in rests:
                texts = (_join(start, ending, chat=chat)[head:] for ending in some)
                rests[key] = tuple(_Part(text, len(start) - head, special=not (chat or head)) for text in texts)
            rows.append((first, key))
        parts = dict.fromkeys(chain(dict.fromkeys(first for first, _ in rows), *rests.values()))
        found = self._read(parts)
        tails = {key: tuple(found[part] for part in rest) for key, rest in rests.items()}
        return [(found[first].ids, tails[key]) for first, key in rows]

    def _read(self, parts: Iterable[_Part]) -> dict[_Part, _Encoded]:
        out = {part: _Encoded((), 0) for part in parts}
        for special in (True, False):
            kind = [part for part in parts if part.special is special and (part.text or special)]
            for first in range(0, len(kind), _TOGETHER):
                chosen = kind[first : first + _TOGETHER]
                texts = [part.text for part in chosen]
                read = self._tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
                for part, ids, offsets in zip(chosen, read["input_ids"], read["offset_mapping"], strict=True):
                    past = next((n for n, (_, end) in enumerate(offsets) if end > part.past), len(ids))
                    out[part] = _Encoded(tuple(ids), past)
        return out

    def text(self, context: Context) -> str:
        """Return a context as the text that is tokenised; a chat is written out by the tokenizer's template.

        Raises:
            InputError: a chat, and there is no template.
        """
        if isinstance(context, str):
            return context
        if not self._tokenizer.chat_template:
            raise InputError(f"{self.name} has no chat template: set the task's format to 'completion'")
        turns = [message._asdict() for message in context]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _cut(self, tails: Sequence[_Encoded], *, alone: bool) -> Iterator[tuple[Ids, Ids]]:
        """Cut a context's endings off at one place for all, the first token past its end: yield (all but the last, endings).

        Args:
            tails: what comes after the shared start.
            alone: whether there is no such start.
        """
        rows = [item.ids for item in tails]
        cut = min((item.past for item in tails), default=0)
        while cut and len({row[:cut] for row in rows}) > 1:  # an ending changed how the context itself is cut
            cut -= 1
        if alone and cut == 0:  # nothing to condition on: start from the token that texts start with
            rows, cut = [(self._start, *row) for row in rows], 1
        bodies: dict[Ids, Ids] = {}
        yield from ((bodies.setdefault(row[:-1], row[:-1]), row[cut:]) for row in rows)


def pieces(tokenizer: Any, text: str) -> list[str]:
    """Cut `text` into the strings that its tokens cover; tokens that share a character stay together."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = sorted({end for _, end in offsets if 0 < end < len(text)})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)] if text else []


class PairEncoder:
    """Tokenises for an encoder-decoder network, whose encoder reads the context and whose decoder starts anew.

    Arguments as of `Encoder`.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self._contexts = Encoder(name, tokenizer)
        self._tokenizer = tokenizer

    def prompts(self, contexts: Sequence[Context]) -> list[Ids]:
        """Return the tokens of contexts that replies follow."""
        return [(*ids, BREAK) for ids in self._contexts.prompts(contexts)]

    def queries(self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]) -> list[Query]:
        """Return a query for every context and each of its endings, [contexts][endings of each].

        An ending is tokenised on its own, without the special tokens that texts begin or end with.
        """
        distinct = dict.fromkeys(ending for some in endings for ending in some)
        ids = {ending: tuple(self._tokenizer(ending, add_special_tokens=False)["input_ids"]) for ending in distinct}
        return [
            Query(context, number, (*prompt, *ids[ending][:-1]), ids[ending])
            for context, (prompt, some) in enumerate(zip(self.prompts(contexts), endings, strict=True))
            for number, ending in enumerate(some)
        ]


class _Part(NamedTuple):
    """A text to tokenise.

    Args:
        text: itself.
        past: where in it the context ends.
        special: whether with the tokens that texts begin with.
    """

    text: str
    past: int
    special: bool


class _Encoded(NamedTuple):
    """Tokens of a part.

    Args:
        ids: all of them.
        past: index of the first that reaches past the context's end.
    """

    ids: Ids
    past: int


def _join(start: str, ending: str, *, chat: bool) -> str:
    space = "" if chat or not ending or not start or start[-1].isspace() else " "
    return start + space + ending
