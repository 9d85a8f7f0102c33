"""A prompt as a row of tokens that a search may take away and put back.

Masks always index the original row, and slots such as `{input}` are never taken. Knows nothing of models or scores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from promptopt.prompt import Layout, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Tokens:
    """A prompt cut into tokens.

    Args:
        pieces: [T] strings; joined they are the prompt's text.
        frozen: [T] tokens that are always kept: the slots.
    """

    pieces: tuple[str, ...]
    frozen: Mask

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def prunable(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Indices of the tokens that may be taken away."""
        return np.flatnonzero(~self.frozen)

    def full(self) -> Mask:
        """Return the mask that keeps everything, [T]."""
        return np.ones(len(self), dtype=np.bool_)

    def prompt(self, mask: Mask) -> Prompt:
        """Return the prompt of the kept tokens."""
        kept = mask | self.frozen
        return Prompt("".join(piece for piece, keep in zip(self.pieces, kept, strict=True) if keep))


def cut(prompt: Prompt, layout: Layout, pieces: Callable[[str], Sequence[str]]) -> Tokens:
    """Cut a prompt, its demonstrations written out, into tokens; slots become one frozen token each.

    Args:
        prompt: what to cut.
        layout: whose slots are frozen.
        pieces: cuts text into strings that join to it again: a model's tokenizer, or `words`.
    """
    parts = layout.split(layout.flatten(prompt).text)
    cutting = [([part] if i % 2 else list(pieces(part)) if part else [], bool(i % 2)) for i, part in enumerate(parts)]
    row = [(piece, frozen) for group, frozen in cutting for piece in group]
    return Tokens(tuple(piece for piece, _ in row), np.array([frozen for _, frozen in row], dtype=np.bool_))


def words(text: str) -> list[str]:
    """Cut text into words and punctuation marks, each with the white space before it."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+$", text)
