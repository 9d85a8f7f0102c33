"""JSON in replies: strict parsing, checks against a JSON schema, and comparison field by field.

Pure functions of values. The validator is of the package jsonschema, loaded when a schema is first used.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_FAULTS = 3  # in the message on one reply
_MAX_LENGTH = 200  # characters of one fault: validators quote the whole value
_TOP = "the reply"


class Difference(NamedTuple):
    """What two JSON values have in common, leaf by leaf.

    Args:
        f1: harmonic mean of precision and recall over the leaves.
        words: the fields that differ, in words; "" if none does.
    """

    f1: float
    words: str


def parse_json(text: str) -> Any:
    """Return the JSON value that a text is.

    Raises:
        ValueError: the text is not JSON, or has more than one value; the message says where.
    """
    stripped = text.strip()
    if stripped.startswith("```"):
        raise ValueError("it begins with ```: reply with the JSON alone")
    try:
        return json.loads(stripped, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def schema_faults(value: Any, schema: str) -> str:
    """Return what a schema objects to in a value, in the validator's words; "" if it is valid.

    Args:
        value: a JSON value.
        schema: in JSON.

    Raises:
        InputError: the schema is invalid, or refers to another document.
        MissingExtraError: jsonschema is not installed.
    """
    validator = _validator(schema)
    from referencing.exceptions import Unresolvable  # noqa: PLC0415  comes with jsonschema

    try:
        faults = sorted(validator.iter_errors(value), key=lambda fault: [str(step) for step in fault.absolute_path])
    except Unresolvable as error:
        raise InputError(f"the JSON schema refers to {error.ref!r}, which is not in it: put it into $defs") from None
    except RecursionError:
        return f"{_TOP}: it is nested too deeply"
    return "; ".join(f"{_path(fault.absolute_path)}: {fault.message[:_MAX_LENGTH]}" for fault in faults[:_MAX_FAULTS])


def check_schema(schema: str) -> None:
    """Check a JSON schema.

    Raises:
        InputError: it is invalid.
        MissingExtraError: jsonschema is not installed.
    """
    _validator(schema)


@lru_cache
def _validator(schema: str) -> Any:
    try:
        from jsonschema import SchemaError  # noqa: PLC0415  loaded when used
        from jsonschema.validators import validator_for  # noqa: PLC0415  as above
        from referencing import Registry  # noqa: PLC0415  as above
    except ImportError as error:
        raise MissingExtraError("a reward by a JSON schema", "json") from error
    value = json.loads(schema)
    kind = validator_for(value)
    try:
        kind.check_schema(value)
    except SchemaError as error:
        raise InputError(
            f"the JSON schema is invalid at {_path(error.absolute_path, '/')}: {error.message[:_MAX_LENGTH]}"
        ) from None
    # A registry of its own: the default one downloads the documents that a schema refers to.
    return kind(value, format_checker=kind.FORMAT_CHECKER, registry=Registry())


def _path(steps: Any, top: str = _TOP) -> str:
    return ".".join(map(str, steps)) or top


def compare_fields(said: Any, target: Any) -> Difference:
    """Return how far two JSON values agree: objects by key, lists item by item in their order.

    Texts are compared without letter case and white space at their ends, numbers by value. Equal values without any leaf agree.
    """
    ours, theirs = dict(_leaves(said)), dict(_leaves(target))
    common = sum(path in ours and _same(ours[path], value) for path, value in theirs.items())
    total = len(ours) + len(theirs)
    return Difference(2 * common / total if total else 1.0, "; ".join(_differences(ours, theirs)))


def _leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) of each text, number, truth value, null and empty container; a reply may be nested deeper than calls may be."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, inner = waiting.pop()
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        nested = [((*path, str(key)), each) for key, each in items]
        waiting += reversed(nested)
        if not nested:
            yield path, inner


def _differences(ours: dict[tuple[str, ...], Any], theirs: dict[tuple[str, ...], Any]) -> Iterator[str]:
    for path, value in theirs.items():
        if path not in ours:
            yield f"{_path(path)}: missing, wanted {_short(value)}"
        elif not _same(ours[path], value):
            yield f"{_path(path)}: said {_short(ours[path])}, wanted {_short(value)}"
    for path, value in ours.items():
        if path not in theirs:
            yield f"{_path(path)}: said {_short(value)}, wanted nothing"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return a.strip().casefold() == b.strip().casefold()
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:_MAX_LENGTH]
