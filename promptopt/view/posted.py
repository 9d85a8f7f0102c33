"""Reads what a form sends."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

from promptopt.errors import InputError
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from starlette.requests import Request

_MOST_BYTES = 1_000_000
_MOST_FIELDS = 2_000


class Fields:
    """The fields of a form.

    Args:
        values: name -> values, in order.
    """

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """Return a field's text, "" if it was not sent. Lines end with a line feed."""
        return next(iter(self.texts(name)), "")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return all values of a field, such as those of ticked boxes."""
        return tuple(value.replace("\r\n", "\n") for value in self._values.get(name, ()))


async def read_fields(request: Request) -> Fields:
    """Return the fields of a posted form.

    Raises:
        HTTPException: the form is too large (413).
        InputError: it is no form, or a text holds a character that cannot be used.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"The form holds more than {_MOST_BYTES:,} bytes: shorten its texts.")
    try:
        values = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one
        raise InputError(f"the form cannot be read ({error}): open its page again and send it from there") from error
    for name, texts in values.items():
        fault = next(filter(None, map(character_fault, texts)), "")
        if fault:
            raise InputError(f"the field {name!r} contains {fault}")
    return Fields(values)
