"""Slots that look meant: those that name no field, and those that are written as other tools write them.

Pure functions of texts and field names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from promptopt.errors import InputError, nearest
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_USUAL = ("input", "text", "sentence")
"""Names of slots in other people's prompts."""

_FORMAT = r":(?:[^{}\s]?[<>=^])?[+-]?#?0?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?"  # of Python's format()
_CERTAIN = (  # nobody writes these around the name of a field but as a slot; NAME stands for the names
    r"(?P<command>\\[A-Za-z]+\*?)?\{\{\s*(?:[\w$]+\.)*NAME\s*(?:\|[^{}]*)?\}\}",  # {{text}}, {{ item.text | trim }}
    r"\$\{\s*NAME\s*\}",  # ${text}
    rf"\{{NAME(?:![rsa](?:{_FORMAT})?|{_FORMAT})\}}",  # {text!r}, {text:>10}
    r"\{NAME(?:\[[^\[\]{}]*\]|\.\w+(?:\(\))?)+\}",  # {text[0]}, {text.strip()}
    r"%\(NAME\)[sdr]",  # %(text)s
)
_LIKELY = (  # a mark or a tag too: meant as a slot where the text and its template have no other
    r"\{(?=\s|\w+\s)\s*NAME\s*\}",  # { text }
    r"\[\[\s*NAME\s*\]\]",
    r"<<\s*NAME\s*>>",
    r"(?<!<)<NAME>(?!>)",
    r"\$NAME\b",
    r"%NAME%",
)


def check_slots(text: str, fields: Sequence[str], where: str, template: str = "") -> None:
    """Refuse a slot that looks meant but would not be filled in, and characters that no request can hold.

    `{word}` is taken for a slip where it is close to a field's name, a common slot name, or the text has no slot of
    the task at all; other braces are text. A field's name in another tool's marks, such as `{{text}}` or `<text>`, is one
    unless the marks have another meaning: a LaTeX command's argument, or a tag or mark beside the slot itself or around it
    in the template.

    Args:
        text: of a prompt or template.
        fields: of the task.
        where: what to call the text in messages.
        template: by which items are shown where the text has no slot.

    Raises:
        InputError: names the slot, and the nearest field or the way to write it.
    """
    fault = character_fault(text)
    if fault:
        raise InputError(f"{where} holds {fault}")
    slots = re.findall(r"\{([A-Za-z_]\w*)\}", text)
    own = {field for field in fields if f"{{{field}}}" in text}
    for written, name in _slips(text, tuple(fields), own, template):
        field = next((field for field in fields if field.casefold() == name.casefold()), fields[0])
        raise InputError(
            f"{where} has {written!r}, as other tools write slots: write {{{field}}}; fields: {', '.join(fields)}"
        )
    for slot in slots:
        if slot not in fields and (not own or nearest(slot, fields) or slot in _USUAL):
            raise InputError(
                f"{where} has the slot {{{slot}}}, for which the data has no field{nearest(slot, fields)}; "
                f"fields: {', '.join(fields)}"
            )


def _slips(text: str, fields: tuple[str, ...], own: set[str], template: str) -> Iterator[tuple[str, str]]:
    """Yield each slot in another tool's marks: as it is written, and the name in it."""
    certain, likely = _patterns(fields if own else (*fields, *_USUAL))
    for found in certain.finditer(text):
        if not found["command"]:  # \textbf{{text}} is bold text
            yield found[0], _name(found)
    for found in likely.finditer(text):
        name = _name(found)
        if name not in own and f"</{name}>" not in text and found[0] not in template:
            yield found[0], name


def _name(found: re.Match[str]) -> str:
    return next(value for key, value in found.groupdict().items() if key != "command" and value)


@lru_cache
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    either = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    certain, likely = (
        "|".join(mark.replace("NAME", f"(?P<name{i}>{either})") for i, mark in enumerate(marks))
        for marks in (_CERTAIN, _LIKELY)
    )
    return re.compile(certain, re.IGNORECASE), re.compile(likely, re.IGNORECASE)
