"""From contexts and what may follow them to token sequences, always tokenised together, so that no seam is wrong.

Knows nothing of networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        return [item.ids or (self._start,) for item in self._encode(contexts, [""] * len(contexts))]

    def queries(self, contexts: Sequence[Context], endings: Sequence[Sequence[str]]) -> list[Query]:
        """Return a query for every context and each of its endings, [contexts][endings of each].

        An ending's tokens are those that reach past the context's end. After a text to be continued an ending follows a
        space, after a chat it begins the reply.
        """
        flat = [(context, ending) for context, some in zip(contexts, endings, strict=True) for ending in some]
        encoded = self._encode([context for context, _ in flat], [ending for _, ending in flat])
        out: list[Query] = []
        for index, some in enumerate(endings):
            out.extend(self._cut(index, encoded[len(out) : len(out) + len(some)]))
        return out

    @property
    def _start(self) -> int:
        """The token that texts start with."""
        start = self._tokenizer.bos_token_id
        return int(self._tokenizer.eos_token_id if start is None else start)

    def _encode(self, contexts: Sequence[Context], endings: Sequence[str]) -> list[_Encoded]:
        out: dict[int, _Encoded] = {}
        for chat in (True, False):
            kind = [i for i, context in enumerate(contexts) if isinstance(context, tuple) is chat]
            for first in range(0, len(kind), _TOGETHER):
                chosen = kind[first : first + _TOGETHER]
                starts = [self._text(contexts[i]) for i in chosen]
                joined = [_join(start, endings[i], chat=chat) for start, i in zip(starts, chosen, strict=True)]
                # A chat template writes its own special tokens.
                read = self._tokenizer(joined, add_special_tokens=not chat, return_offsets_mapping=True)
                tokens = zip(read["input_ids"], read["offset_mapping"], strict=True)
                for i, start, (ids, offsets) in zip(chosen, starts, tokens, strict=True):
                    past = next((n for n, (_, end) in enumerate(offsets) if end > len(start)), len(ids))
                    out[i] = _Encoded(tuple(ids), past)
        return [out[i] for i in range(len(contexts))]

    def _text(self, context: Context) -> str:
        if isinstance(context, str):
            return context
        if not self._tokenizer.chat_template:
            raise InputError(f"{self.name} has no chat template: set the task's format to 'completion'")
        turns = [message._asdict() for message in context]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _cut(self, context: int, encoded: Sequence[_Encoded]) -> Iterator[Query]:
        """Cut a context's endings off at one place for all: the first token past its end."""
        rows = [item.ids for item in encoded]
        cut = min(item.past for item in encoded)
        while cut and len({row[:cut] for row in rows}) > 1:  # an ending changed how the context itself is cut
            cut -= 1
        if cut == 0:  # nothing to condition on: start from the token that texts start with
            rows, cut = [(self._start, *row) for row in rows], 1
        for ending, row in enumerate(rows):
            yield Query(context, ending, row[:-1], row[cut:])


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


class _Encoded(NamedTuple):
    """Tokens of a context with its ending.

    Args:
        ids: all of them.
        past: index of the first that reaches past the context's end.
    """

    ids: Ids
    past: int


def _join(start: str, ending: str, *, chat: bool) -> str:
    space = "" if chat or not ending or not start or start[-1].isspace() else " "
    return start + space + ending
