"""Reads JSON that may be malformed: as values, or as dataclasses. Knows nothing of what they hold."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def json_value(text: str) -> Any:
    """Parse a JSON value; None if it is invalid or nested too deeply to parse."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None if the text is not one."""
    value = json_value(text)
    return value if isinstance(value, dict) else None


def read_value(kind: type[T], data: Any) -> T:
    """Return the dataclass or named tuple that JSON values describe.

    Raises:
        ValueError: a part is missing or has another type; the message names it.
    """
    from pydantic import ValidationError  # noqa: PLC0415  takes a tenth of a second

    try:
        value: T = _adapter(kind).validate_python(data)  # type: ignore[arg-type]  # mypy takes a class for its values
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or kind.__name__
        raise ValueError(f"{place}: {first['msg'].lower()}, not {first['input']!r:.60}") from None
    return value


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415  as above

    return TypeAdapter(kind)
