"""Detects misspelt slots in prompts: unknown field names, and the slot syntax of other tools.

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

_COMMON_FIELDS = ("input", "text", "sentence")
"""Common slot names in published prompts."""
_FORMAT = r":(?:[^{}\s]?[<>=^])?[+-]?#?0?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?"  # of Python's format()
_ALWAYS_SLOTS = (  # unambiguous: around a field name, this syntax can only be a slot; NAME is replaced by the field names
    r"(?P<command>\\[A-Za-z]+\*?)?\{\{\s*(?:[\w$]+\.)*NAME\s*(?:\|[^{}]*)?\}\}",  # {{text}}, {{ item.text | trim }}
    r"\$\{\s*NAME\s*\}",  # ${text}
    rf"\{{NAME(?:![rsa](?:{_FORMAT})?|{_FORMAT})\}}",  # {text!r}, {text:>10}
    r"\{NAME(?:\[[^\[\]{}]*\]|\.\w+(?:\(\))?)+\}",  # {text[0]}, {text.strip()}
    r"%\(NAME\)[sdr]",  # %(text)s
)
_POSSIBLE_SLOTS = (  # ambiguous: also tags and marks, so slots only if the text and its template have no other
    r"\{(?=\s|\w+\s)\s*NAME\s*\}",  # { text }
    r"\[\[\s*NAME\s*\]\]",
    r"<<\s*NAME\s*>>",
    r"(?<!<)<NAME>(?!>)",
    r"\$NAME\b",
    r"%NAME%",
)


def check_slots(text: str, fields: Sequence[str], where: str, template: str = "") -> None:
    """Refuse likely slots that would not be filled, and characters that no request can contain.

    `{word}` counts as a misspelt slot if it is similar to a field's name, a common slot name, or if the text has no valid
    slot at all; other braces are text. A field's name in the syntax of another tool, such as `{{text}}` or `<text>`, counts
    as a slot unless it has another meaning: the argument of a LaTeX command, or a tag or mark next to the slot itself or
    around it in the template.

    Args:
        text: a prompt or template.
        fields: of the task.
        where: name of the text, for messages.
        template: how examples are rendered if the text has no slot.

    Raises:
        InputError: the message names the slot, and the nearest field or the correct syntax.
    """
    fault = character_fault(text)
    if fault:
        raise InputError(f"{where} holds {fault}")
    slots = slot_names(text)
    own = {field for field in fields if f"{{{field}}}" in text}
    for written, name in _foreign_slots(text, tuple(fields), own, template):
        field = next((field for field in fields if field.casefold() == name.casefold()), fields[0])
        raise InputError(
            f"{where} has {written!r}, the slot syntax of another tool: write {{{field}}}; fields: {', '.join(fields)}"
        )
    for slot in slots:
        if slot not in fields and (not own or nearest(slot, fields) or slot in _COMMON_FIELDS):
            raise InputError(
                f"{where} has the slot {{{slot}}}, but the data has no such field{nearest(slot, fields)}; "
                f"fields: {', '.join(fields)}"
            )


def slot_names(text: str) -> list[str]:
    """Return the names in single braces, in order."""
    return re.findall(r"\{([A-Za-z_]\w*)\}", text)


def _foreign_slots(text: str, fields: tuple[str, ...], own: set[str], template: str) -> Iterator[tuple[str, str]]:
    """Yield (text of the slot, field name) of each slot in another tool's syntax."""
    always, possible = _patterns(fields if own else (*fields, *_COMMON_FIELDS))
    for match in always.finditer(text):
        if not match["command"]:  # \textbf{{text}} is bold text
            yield match[0], _name(match)
    for match in possible.finditer(text):
        name = _name(match)
        if name not in own and f"</{name}>" not in text and match[0] not in template:
            yield match[0], name


def _name(match: re.Match[str]) -> str:
    return next(value for key, value in match.groupdict().items() if key != "command" and value)


@lru_cache
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    either = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    always, possible = (
        "|".join(mark.replace("NAME", f"(?P<name{i}>{either})") for i, mark in enumerate(marks))
        for marks in (_ALWAYS_SLOTS, _POSSIBLE_SLOTS)
    )
    return re.compile(always, re.IGNORECASE), re.compile(possible, re.IGNORECASE)
