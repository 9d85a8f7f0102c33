"""Imports the functions that a task file names, from Python files beside it or installed modules. Knows nothing of tasks."""

from __future__ import annotations

import hashlib
import importlib
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest

if TYPE_CHECKING:
    from pathlib import Path


def imported(name: str, folder: Path, *, key: str, instead: str) -> Any:
    """Return the callable that `module:function` names.

    Args:
        name: as written; the module is a file in the folder, or an installed one.
        folder: of the task file.
        key: of the task file, for messages.
        instead: what to write if the name is none, for messages.

    Raises:
        InputError: there is no such callable.
    """
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise InputError(f"{key} = {name!r} is not a function: give {instead}")
    known = vars(_import_module(module, folder, key))
    if not callable(known.get(function)):
        functions = [other for other, value in known.items() if callable(value) and not other.startswith("_")]
        raise InputError(
            f"{key} = {name!r}: {module} has no function {function!r}{nearest(function, functions)}; "
            f"functions: {', '.join(functions) or 'none'}"
        )
    return known[function]


def _import_module(module: str, folder: Path, key: str) -> ModuleType:
    """Import a module with `folder` on the import path, for this import only."""
    here = folder.resolve()
    sys.path.insert(0, str(here))
    importlib.invalidate_caches()
    try:
        return _load_file(here / f"{module}.py") or importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports is missing
        raise InputError(
            f"{key}: there is no module {module!r}; put {module}.py into {here}, or install its package"
        ) from error
    finally:
        sys.path.remove(str(here))


def _load_file(file: Path) -> ModuleType | None:
    """Load a file next to the task file under a unique module name, because two tasks may both have a `rewards.py`."""
    if not file.is_file():
        return None
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses look up their module there
    SourceFileLoader(name, str(file)).exec_module(module)
    return module
