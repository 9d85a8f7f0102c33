"""A prompt as a row of tokens that a search may take away and put back.

Masks always index the original row, and slots such as `{input}` are never taken. Knows nothing of models or scores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Message, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Layout, Turn

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Tokens:
    """A prompt cut into tokens.

    Args:
        pieces: [T] strings; those of one section joined are its text.
        frozen: [T] tokens that are always kept: the slots.
        whole: the prompt itself, which is the result of the mask that keeps everything.
        section: [T] number of the message that a token is in; all 0 in a completion, which is one text.
        layout: how the prompt becomes messages.
        roles: of the messages; () in a completion.
    """

    pieces: tuple[str, ...]
    frozen: Mask
    whole: Prompt
    section: tuple[int, ...]
    layout: Layout
    roles: tuple[Role, ...] = ()

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
        """Return the prompt of the kept tokens: turns of a chat stay turns, and one without text is left out.

        A demonstration goes whole where nothing is left of one of its two sides.
        """
        kept = mask | self.frozen
        if kept.all():
            return self.whole
        texts = [""] * max(len(self.roles), 1)
        for piece, number, keep in zip(self.pieces, self.section, kept, strict=True):
            texts[number] += piece if keep else ""
        *before, query = texts
        turns = _with_text([Message(role, text) for role, text in zip(self.roles, before, strict=False)])
        instruction = turns[0].content if turns and turns[0].role == "system" else ""
        if self.layout.prompt_role == "system":
            return Prompt(instruction, turns=turns[bool(instruction) + len(self.layout.turns) :])
        if query == self.layout.template and instruction and not self.layout.has_slot(instruction):
            return Prompt(instruction, turns=turns[1:])
        return Prompt(query, turns=turns)


def tokenize(prompt: Prompt, layout: Layout, pieces: Callable[[str], Sequence[str]]) -> Tokens:
    """Split a prompt and its written-out demonstrations into tokens; each slot becomes one frozen token.

    Args:
        prompt: the prompt to split.
        layout: defines the slots.
        pieces: splits a text into strings that concatenate to it: a model's tokenizer, or `words`.

    Raises:
        InputError: the demonstrations depend on the example, or have images.
    """
    if layout.images and prompt.demonstrations is not None:
        raise InputError(
            "the prompt's demonstrations have images, which are no tokens: use a strategy that keeps demonstrations whole, such as "
            "hillclimb, or no demonstrations"
        )
    *before, query = sections(prompt, layout)
    with_slots = [len(before)]
    fixed: list[int] = []
    if layout.prompt_role == "system":  # all but the prompt and its own turns are the task's, and stay as they are
        first = int(layout.fills_instruction(before))
        with_slots, fixed = [0][:first], [*range(first, first + len(layout.turns)), len(before)]
    rows: list[tuple[str, bool, int]] = []
    for number, turn in enumerate((*before, query)):
        parts = layout.split(turn.content) if number in with_slots else [turn.content]
        for i, part in enumerate(parts):
            whole = number in fixed or bool(i % 2)
            rows += [(piece, whole, number) for piece in ([part] if whole else pieces(part) if part else ())]
    return Tokens(
        tuple(piece for piece, _, _ in rows),
        np.array([frozen for _, frozen, _ in rows], dtype=np.bool_),
        prompt,
        tuple(number for _, _, number in rows),
        layout,
        tuple(turn.role for turn in (*before, query)) if layout.format == "chat" else (),
    )


def sections(prompt: Prompt, layout: Layout) -> tuple[Turn, ...]:
    """Return what is sent, the last one with its slots: the turns of a chat, or the one text of a completion.

    Raises:
        InputError: the demonstrations depend on the example.
    """
    shown = prompt.demonstrations
    if layout.format != "chat" or (shown is not None and shown.nearest is not None):
        return (Message("user", layout.flatten(prompt).text),)
    return layout.messages(prompt, shown.items if shown else ())


def _with_text(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns that have text; of a demonstration both or none."""
    empty = {i for i, turn in enumerate(turns) if not turn.content.strip()}
    pairs = [i for i in range(len(turns) - 1) if (turns[i].role, turns[i + 1].role) == ("user", "assistant")]
    gone = empty.union(*({i, i + 1} for i in pairs if {i, i + 1} & empty))
    return tuple(turn for i, turn in enumerate(turns) if i not in gone)


def words(text: str) -> list[str]:
    """Cut text into words and punctuation marks, each with the white space before it."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+$", text)
