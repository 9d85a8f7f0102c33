"""The identity of a run: one digest of everything that determines it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.strategies.registry import IDENTITIES

if TYPE_CHECKING:
    from promptopt.task import Task

_DERIVED = ("layout", "notes")  # fields of a task that are derived from the others
_PLACES = ("image_folder",)  # where files are: references to them hold their digests
_MAX_DEPTH = 32  # of nested objects; deeper or recursive ones are identified by type only
_PLAIN = (str, int, float, bool, type(None))


def digest_of(values: Any) -> str:
    """Return the SHA-256 of values, in hex. Values that are not JSON are described by `identity_of`."""
    return hashlib.sha256(json.dumps(_plain(values, _MAX_DEPTH)).encode()).hexdigest()


def task_identity(task: Task) -> dict[str, Any]:
    """Return everything that distinguishes a task from others, by field name.

    Fields with their default value are left out, so that fields added later do not change the digests of existing tasks.
    """
    left_out = (*_DERIVED, *_PLACES)
    names = [f.name for f in fields(task) if f.name not in left_out and not f.name.startswith("_")]
    values = {name: getattr(task, name) for name in names}
    defaults = {f.name: f.default for f in fields(task)}
    return {name: value for name, value in values.items() if value != defaults[name]}


def identity_of(thing: Any) -> Any:
    """Describe an object that is not a JSON value, identically in every process.

    Models are described by their fingerprint. Functions and classes are described by name and, outside this package, also
    by source and closure values. Dataclasses and other objects are described by their fields.
    """
    fingerprint = None if isinstance(thing, type) else getattr(thing, "fingerprint", None)
    if isinstance(fingerprint, Mapping):
        return dict(fingerprint)
    if isinstance(thing, functools.partial):
        return ["partial", thing.func, thing.args, thing.keywords]
    if isinstance(thing, type) or inspect.isroutine(thing):
        return _code_identity(thing)
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if isinstance(thing, np.ndarray | np.generic):
        return thing.tolist()
    return [_code_identity(type(thing)), _fields(thing)]


def _plain(thing: Any, depth: int) -> Any:
    """Return JSON values without dictionaries, which become sorted pairs: keys may have any type and order is ignored."""
    if isinstance(thing, _PLAIN):
        return thing
    if not depth:
        return type(thing).__qualname__
    if isinstance(thing, list | tuple):
        return [_plain(item, depth - 1) for item in thing]
    if isinstance(thing, Mapping):
        pairs = [[_plain(key, depth - 1), _plain(value, depth - 1)] for key, value in thing.items()]
        return sorted(pairs, key=json.dumps)
    return _plain(identity_of(thing), depth - 1)


def _fields(thing: Any) -> dict[str, Any]:
    if is_dataclass(thing):
        return {f.name: getattr(thing, f.name) for f in fields(thing)}
    attributes = getattr(thing, "__dict__", {})
    return {name: value for name, value in attributes.items() if isinstance(value, _PLAIN)}


def _code_identity(thing: Any) -> list[Any]:
    """Describe a function, a method or a class."""
    owner = getattr(thing, "__self__", None)
    bound = [] if owner is None or inspect.ismodule(owner) else [owner]
    if isinstance(thing, type) and thing in IDENTITIES:
        return [*IDENTITIES[thing].rpartition(".")[::2]]
    module = str(getattr(thing, "__module__", ""))
    if module.partition(".")[0] == "promptopt":
        return [module, thing.__qualname__, *bound]
    cells = getattr(thing, "__closure__", None) or ()
    captured = [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, _PLAIN)]
    return [getattr(thing, "__qualname__", ""), _source(thing), captured, *bound]


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # defined interactively, or in C
        return str(getattr(thing, "__module__", ""))
