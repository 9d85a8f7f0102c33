"""Texts between marks such as <prompt> and </prompt>, in one pass. Knows nothing of what they hold."""

from __future__ import annotations

from typing import NamedTuple


class Marked(NamedTuple):
    """A text, taken apart at its marks.

    Args:
        inside: the texts between an opening mark and the next closing one, in order.
        outside: what is left without them.
        is_open: whether an opening mark is left that is never closed.
    """

    inside: list[str]
    outside: str
    is_open: bool


def between(text: str, opening: str, closing: str) -> Marked:
    """Take `text` apart. Of opening marks in a row the last counts, as the others were only spoken of.

    The time is linear in the length of the text, whatever marks it holds.
    """
    inside, outside, position = list[str](), list[str](), 0
    while (start := text.find(opening, position)) >= 0 and (end := text.find(closing, start)) >= 0:
        outside.append(text[position:start])
        last = text.rfind(opening, start, end)
        inside.append(text[last + len(opening) : end])
        position = end + len(closing)
    outside.append(text[position:])
    return Marked(inside, "".join(outside), opening in outside[-1])
