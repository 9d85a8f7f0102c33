"""Tools that a model may call: how they are described to it, what it calls, and what the tools return.

Values and pure functions; knows nothing of models or programs.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.utils.json_values import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PARAMETERS = "promptopt_parameters"
"""Attribute of a function with the JSON schema of its arguments."""

_ADVICE = "@promptopt.tool(version='1', parameters={...}) with a JSON schema"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # allowed by both protocols
_TYPES: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class ToolSchema(NamedTuple):
    """How a tool is described to a model.

    Args:
        name: up to 64 letters, digits, - or _.
        description: says what it does and when to use it.
        parameters: JSON schema of its arguments, an object, in JSON.
    """

    name: str
    description: str
    parameters: str

    def as_function(self) -> dict[str, Any]:
        """Return it as OpenAI's protocol and chat templates describe a tool."""
        function = {"name": self.name, "description": self.description, "parameters": json.loads(self.parameters)}
        return {"type": "function", "function": function}


class ToolCall(NamedTuple):
    """A call of a tool that a model asks for.

    Args:
        name: of the tool.
        arguments: an object in JSON, as the model wrote it; may be invalid.
    """

    name: str
    arguments: str

    @property
    def values(self) -> dict[str, Any] | None:
        """The arguments by name; None if they are no JSON object."""
        return json_object(self.arguments)

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.name} {self.arguments}"


class Exchange(NamedTuple):
    """One turn of a model that calls tools, and what they returned.

    Args:
        text: what the model wrote beside its calls.
        calls: the tools that it called.
        results: [calls], what each returned.
    """

    text: str
    calls: tuple[ToolCall, ...]
    results: tuple[str, ...]


def tool_schema(function: Callable[..., Any], description: str | None = None) -> ToolSchema:
    """Return the description of a function: its name, its docstring, and its arguments by their types.

    Args:
        function: arguments are texts, numbers, booleans, lists, dicts, or `Literal`s; or `promptopt.tool(parameters=)` describes them.
        description: in place of the docstring.

    Raises:
        InputError: its name or arguments cannot be described.
    """
    name = function.__name__
    check_name(name)
    given: Mapping[str, Any] | None = getattr(function, PARAMETERS, None)
    parameters = _signature_schema(function) if given is None else given
    words = (inspect.getdoc(function) or "") if description is None else description
    return ToolSchema(name, words, json.dumps(parameters, ensure_ascii=False, sort_keys=True))


def check_name(name: str) -> None:
    """Check that both protocols allow a tool of this name.

    Raises:
        InputError: they do not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"a model cannot call a tool named {name!r}: give it a name of up to 64 letters, digits, - or _"
        )


def _signature_schema(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise InputError(
            f"the types of the tool {function.__name__!r} cannot be read ({error}): import them, or give {_ADVICE}"
        ) from None
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(
                f"the argument {name!r} of the tool {function.__name__!r} has no name to call it by: give {_ADVICE}"
            )
        try:
            properties[name] = _type_schema(hints[name]) if name in hints else {}
        except KeyError:
            raise InputError(
                f"the argument {name!r} of the tool {function.__name__!r} has the type {hints[name]}: take a text, a number, a "
                f"boolean, a list or a dict, or give {_ADVICE}"
            ) from None
        if parameter.default is parameter.empty:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _type_schema(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_type_schema(one) for one in arguments]}
    if origin is list:
        return {"type": "array", "items": _type_schema(arguments[0])}
    return {} if kind is Any else {"type": _TYPES[origin or kind]}


def parse_arguments(call: ToolCall, schema: ToolSchema) -> dict[str, Any] | str:
    """Return the arguments of a call, or what is wrong with them, for the model to read."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as error:
        return f"error: the arguments are not JSON ({error})"
    if not isinstance(arguments, dict):
        return "error: the arguments must be a JSON object"
    parameters = json.loads(schema.parameters)
    properties = parameters.get("properties", {})
    missing = [name for name in parameters.get("required", ()) if name not in arguments]
    if missing:
        return f"error: the argument {missing[0]!r} is missing"
    unknown = [name for name in arguments if name not in properties]
    if unknown and parameters.get("additionalProperties") is not True:
        return f"error: there is no argument {unknown[0]!r}; the arguments are: {', '.join(properties) or 'none'}"
    wrong = [name for name in arguments if name in properties and not _fits(arguments[name], properties[name])]
    if wrong:
        return f"error: the argument {wrong[0]!r} must be {json.dumps(properties[wrong[0]])}"
    return arguments


def _fits(value: Any, schema: Any) -> bool:
    """Whether a value has the type that a schema names; other constraints are the tool's own to check."""
    if not isinstance(schema, dict):
        return True
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(_fits(value, one) for one in schema["anyOf"])
    kind = schema.get("type")
    allowed = [kind] if isinstance(kind, str) else kind
    if not isinstance(allowed, list):
        return True
    if isinstance(value, bool):
        return "boolean" in allowed
    return any(isinstance(value, _PYTHON_TYPES.get(one, object)) for one in allowed)
