"""Imports what users name as `module:name`: rewards, programs, strategies and callbacks of their own."""

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


def import_named(name: str, folder: Path, *, key: str, instead: str) -> Any:
    """Return the callable called `module:name`; see `import_value`."""
    value = import_value(name, folder, key=key, instead=instead)
    if not callable(value):
        raise InputError(f"{key} = {name!r} is not a function but {type(value).__name__}: give {instead}")
    return value


def import_value(name: str, folder: Path, *, key: str, instead: str) -> Any:
    """Return what is called `module:name`.

    Args:
        name: module and name; the module is a file in `folder`, or installed.
        folder: folder of the file that names it.
        key: key or option that names it, for messages.
        instead: what may be given, for messages.

    Raises:
        InputError: there is no such module or name.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise InputError(f"{key} = {name!r} is not a function: give {instead}")
    known = vars(_import_module(module, folder, key))
    if attribute not in known:
        public = [other for other in known if not other.startswith("_")]
        functions = [other for other in public if callable(known[other])]
        raise InputError(
            f"{key} = {name!r}: {module} has no {attribute!r}{nearest(attribute, public)}; "
            f"functions: {', '.join(functions) or 'none'}"
        )
    return known[attribute]


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
    """Load a file under a unique module name, because two tasks may both have a `rewards.py`."""
    if not file.is_file():
        return None
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses look up their module there
    SourceFileLoader(name, str(file)).exec_module(module)
    return module
