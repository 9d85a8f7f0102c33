"""Identifies Python functions across processes by a digest of their code. Knows nothing of models or memos.

The digest covers the bytecode rather than the source, which may have been edited since it was loaded and is missing in a
shell. So comments and line numbers do not count, and another version of Python gives another digest.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import re
import sys
import sysconfig
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_CONTAINERS = (list, tuple, set, frozenset, dict, re.Pattern, partial, staticmethod, classmethod, property)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_LOADS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_CLASS_INTERNALS = {"__dict__", "__weakref__", "__doc__", "__annotations__", "__annotate_func__"}


class _UnknownIdentityError(Exception):
    """A function depends on something that cannot be compared across processes."""


def code_digest(*functions: Any) -> str | None:
    """Return a SHA-256 digest, in hex, of everything that determines the behavior of functions or classes.

    Covers their bytecode, defaults, closures, and the globals that they read, recursively through the user's own functions,
    classes and modules. The standard library and installed packages count by name and version. Files, environment variables and
    state that changes later are not covered.

    Returns:
        The digest, or None if something cannot be compared: an instance of a class, a function of the user's own extension
        module, or a name that is not defined yet.
    """
    describer = _Describer()
    try:
        parts = [sys.implementation.cache_tag or "", *map(describer.describe, functions)]
    except (_UnknownIdentityError, RecursionError):
        return None
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


class _Describer:
    """Describes values by strings that are equal for equal values in every process."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}  # by id; functions and classes may be recursive
        self._names: set[str] = set()  # attributes of modules that the current function may read

    def describe(self, value: Any) -> str:
        """Return the description of a value.

        Raises:
            _UnknownIdentityError: the value cannot be compared across processes.
        """
        kind = type(value)
        if kind in _PLAIN or isinstance(value, PurePath):
            return f"{kind.__name__} {value!r}"
        if isinstance(value, FunctionType | type):
            if id(value) in self._seen:
                return f"seen {self._seen[id(value)]}"
            self._seen[id(value)] = len(self._seen)
        return f"{kind.__name__} {self._parts(value)}"

    def _parts(self, value: Any) -> list[str]:
        if isinstance(value, ModuleType | type | FunctionType | BuiltinFunctionType):
            module = value.__name__ if isinstance(value, ModuleType) else value.__module__ or ""
            version = _library_version(module)
            if version is not None:
                return [module, getattr(value, "__qualname__", ""), version]
        if isinstance(value, ModuleType):
            return self._module(value)
        if isinstance(value, type):
            attributes = {name: part for name, part in vars(value).items() if name not in _CLASS_INTERNALS}
            return [self.describe(value.__bases__), self.describe(attributes)]
        if isinstance(value, FunctionType):
            return self._function(value)
        return self._container(value)

    def _container(self, value: Any) -> list[str]:
        if type(value) not in _CONTAINERS:  # subclasses may behave in any way
            raise _UnknownIdentityError
        match value:
            case list() | tuple():
                parts = [*value]
            case set() | frozenset():
                return sorted(_Describer().describe(item) for item in value)
            case dict():
                parts = [part for item in value.items() for part in item]
            case re.Pattern():
                parts = [value.pattern, value.flags]
            case partial():
                parts = [value.func, value.args, value.keywords, vars(value)]
            case staticmethod() | classmethod():
                parts = [value.__func__]
            case _:  # a property
                parts = [value.fget, value.fset, value.fdel]
        return [self.describe(part) for part in parts]

    def _module(self, module: ModuleType) -> list[str]:
        attributes = vars(module)
        names = sorted(self._names & attributes.keys())
        if not names:
            raise _UnknownIdentityError
        return [module.__name__, *(f"{name}: {self.describe(attributes[name])}" for name in names)]

    def _function(self, function: FunctionType) -> list[str]:
        codes = [*_nested(function.__code__)]
        outer_names, self._names = self._names, {name for code in codes for name in _attributes(code)}
        values = [function.__defaults__, function.__kwdefaults__, vars(function)]
        try:
            values += [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # an unbound variable
            raise _UnknownIdentityError from None
        values += [_global(name, function.__globals__) for code in codes for name in _globals_read(code)]
        values += [constant for code in codes for constant in code.co_consts if not isinstance(constant, CodeType)]
        out = [function.__module__, function.__qualname__, *map(_instructions, codes), *map(self.describe, values)]
        self._names = outer_names
        return out


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _instructions(code: CodeType) -> str:
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    return repr((code.co_code, code.co_exceptiontable, code.co_flags, names, arguments))


def _attributes(code: CodeType) -> Iterator[str]:
    """Yield names of attributes that code may read, by `module.name` or `getattr(module, "name")`."""
    yield from code.co_names
    yield from (constant for constant in code.co_consts if isinstance(constant, str))


def _globals_read(code: CodeType) -> Iterable[str]:
    """Return the names of the globals that code reads, in order.

    Raises:
        _UnknownIdentityError: the code imports a module that may be the user's own.
    """
    instructions = [*dis.get_instructions(code)]
    for instruction in instructions:
        if instruction.opname == "IMPORT_NAME" and _library_version(str(instruction.argval)) is None:
            raise _UnknownIdentityError
    return dict.fromkeys(str(instruction.argval) for instruction in instructions if instruction.opname in _LOADS_GLOBAL)


def _global(name: str, namespace: dict[str, Any]) -> Any:
    if name in namespace:
        return namespace[name]
    if name in vars(builtins):
        return vars(builtins)[name]
    raise _UnknownIdentityError


def _library_version(name: str) -> str | None:
    """Return the version of a module's library, or None if the module is the user's own or has no version."""
    top = name.partition(".")[0]
    if top in sys.builtin_module_names:
        return "built in"
    module = sys.modules.get(top)
    if module is None:
        return "standard library" if top in sys.stdlib_module_names else None
    file = str(vars(module).get("__file__") or "")
    version = vars(module).get("__version__")
    if top == __name__.partition(".")[0] or file.startswith(_INSTALLED):
        return version if isinstance(version, str) else None
    return "standard library" if top in sys.stdlib_module_names and (not file or file.startswith(_STANDARD)) else None
