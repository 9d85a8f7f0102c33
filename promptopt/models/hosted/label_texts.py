"""How a context and a label become one text, and which of the text's tokens are the label's: by token texts, or a tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from promptopt.errors import PermanentModelError
from promptopt.models.hosted.scored_texts import spells, start_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.hosted.scored_texts import ScoredText, Token
    from promptopt.prompt import Context


@dataclass
class LabelCall:
    """A context and its labels, scored one label after the other; a retry scores only the labels that are missing.

    Args:
        context: the context.
        text: the text that the server continues.
        labels: the labels.
        space: what stands between the text and a label.
        scored: the scored texts so far, by label.
    """

    context: Context
    text: str
    labels: Sequence[str]
    space: str
    scored: dict[str, ScoredText] = field(default_factory=dict)


class LabelTexts(Protocol):
    """How contexts become texts."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What of it determines scores."""
        ...

    @property
    def hint(self) -> str:
        """What may be wrong if the labels' tokens cannot be told."""
        ...

    def text(self, context: Context) -> str:
        """Return the text that the server continues."""
        ...

    def label_lengths(self, call: LabelCall, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        """Return how many tokens at the end of each label's row are the label's, or None if that cannot be told."""
        ...


@dataclass(frozen=True)
class PlainTexts:
    """Plain texts alone; where a label starts is read from the texts of the tokens.

    Args:
        name: of the model, for messages.
    """

    name: str
    hint: str = ""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Nothing: the server's tokenizer belongs to its model."""
        return {}

    def text(self, context: Context) -> str:
        """Return the context.

        Raises:
            PermanentModelError: it is a chat.
        """
        if isinstance(context, str):
            return context
        raise PermanentModelError(
            f"completions:{self.name} scores labels only after plain text, but the task uses chats: set the task's format to "
            "'completion', give the model's tokenizer (--tokenizer), which has the chat template, or use "
            f"openai:{self.name}, which reads labels from its replies"
        )

    def label_lengths(self, call: LabelCall, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        """Return the lengths from the first token on that differs between labels or overlaps one."""
        starts = [start_of(call.space + label, row) for row, label in zip(rows, call.labels, strict=True)]
        known_starts = [start for start in starts if start is not None]
        if len(known_starts) < len(rows):
            return None
        split = min(known_starts)
        while split and len({tuple(token.text for token in row[:split]) for row in rows}) > 1:
            split -= 1  # a label changed the tokenization of the context itself
        return [len(row) - split for row in rows]


class TokenizedTexts:
    """Texts and chats, by a local tokenizer, which also counts the labels' tokens.

    Args:
        tokenizer: a folder, a hub name or a GGUF file; needs the extra `local`.
    """

    def __init__(self, tokenizer: str) -> None:
        from promptopt.models.local import check_installed  # noqa: PLC0415  the extra, loaded when used

        check_installed()
        from promptopt.models.local.encoding import Encoder, pieces  # noqa: PLC0415
        from promptopt.models.local.loading import Files  # noqa: PLC0415

        self.hint = f"; {tokenizer} seems to be a different one"
        self._tokenizer = Files(tokenizer).tokenizer
        self._encoder = Encoder(tokenizer, self._tokenizer)
        self.pieces = partial(pieces, self._tokenizer)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """A digest of the chat template."""
        template = str(self._tokenizer.chat_template or "").encode()
        return {"template": hashlib.sha256(template).hexdigest()[:16]}

    def text(self, context: Context) -> str:
        """Return a text, or a chat in the tokenizer's template without the start token that the server adds."""
        text = self._encoder.text(context)
        if isinstance(context, str):
            return text
        bos = self._tokenizer.bos_token or ""
        adds_bos = bos and self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return text.removeprefix(bos) if adds_bos else text

    def label_lengths(self, call: LabelCall, rows: Sequence[Sequence[Token]]) -> list[int] | None:
        """Return the labels' lengths in tokens, None if the server's tokens do not spell the labels there."""
        lengths = [len(query.wanted) for query in self._encoder.queries([call.context], [call.labels])]
        endings = [row[len(row) - length :] for row, length in zip(rows, lengths, strict=True)]
        return lengths if all(map(spells, endings, call.labels)) else None
