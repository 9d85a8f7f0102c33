"""What tells a run from all others: one digest of everything that decides it. Knows nothing of how a run goes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from promptopt.task import Task

_FOLLOWS = ("layout", "notes")  # fields of a task that follow from the others
_DEEPEST = 32  # objects within objects; deeper ones, and those that hold themselves, count by their kind
_PLAIN = (str, int, float, bool, type(None))


def digest_of(decisive: Any) -> str:
    """Return SHA-256, in hex, of values; what is no JSON counts as `identity_of` describes it."""
    return hashlib.sha256(json.dumps(_plain(decisive, _DEEPEST)).encode()).hexdigest()


def task_identity(task: Task) -> dict[str, Any]:
    """Return all that tells a task from others, by the names of its fields.

    What has its default is left out, so that a field that a later version adds leaves the digests of old tasks as they are.
    """
    decisive = [f.name for f in fields(task) if f.name not in _FOLLOWS and not f.name.startswith("_")]
    held = {name: getattr(task, name) for name in decisive}
    defaults = {f.name: f.default for f in fields(task)}
    return {name: value for name, value in held.items() if value != defaults[name]}


def identity_of(thing: Any) -> Any:
    """Describe what is no JSON value, the same in every process.

    Functions and classes count by their names and, outside this package, by their source and what a closure holds; models
    by their fingerprint; dataclasses and other objects by their fields.
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
    """Return JSON values of which none is a dictionary: keys may be anything, and their order tells nothing."""
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
    held = getattr(thing, "__dict__", {})
    return {name: value for name, value in held.items() if isinstance(value, _PLAIN)}


def _code_identity(thing: Any) -> list[Any]:
    """Return what is known of a function, a method or a class."""
    owner = getattr(thing, "__self__", None)
    bound = [] if owner is None or inspect.ismodule(owner) else [owner]
    module = str(getattr(thing, "__module__", ""))
    if module.partition(".")[0] == "promptopt":
        return [module, thing.__qualname__, *bound]
    cells = getattr(thing, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, _PLAIN)]
    return [getattr(thing, "__qualname__", ""), _source(thing), held, *bound]


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # written in a shell, or in C
        return str(getattr(thing, "__module__", ""))
