"""Extracts texts between marks such as <prompt> and </prompt>, in one pass."""

from __future__ import annotations

from typing import NamedTuple


class Marked(NamedTuple):
    """A text split at its marks.

    Args:
        inside: the texts between an opening mark and the next closing one, in order.
        outside: the rest of the text.
        is_open: whether the last opening mark is never closed.
    """

    inside: list[str]
    outside: str
    is_open: bool


def between(text: str, opening: str, closing: str) -> Marked:
    """Split `text` at its marks. Of several opening marks in a row the last one counts; earlier ones are only mentions.

    Takes linear time in the length of the text.
    """
    inside, outside, position = list[str](), list[str](), 0
    while (start := text.find(opening, position)) >= 0 and (end := text.find(closing, start)) >= 0:
        outside.append(text[position:start])
        last = text.rfind(opening, start, end)
        inside.append(text[last + len(opening) : end])
        position = end + len(closing)
    outside.append(text[position:])
    return Marked(inside, "".join(outside), opening in outside[-1])
