"""Options of a request beside prompt and sampling: reply format, reasoning, seed, token biases, further fields.

The names are the package's own; a hosted model translates them into its endpoint's fields. Knows nothing of endpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest

if TYPE_CHECKING:
    from pathlib import Path

JSON = "json"
"""The response format of any JSON object; a JSON schema is the other one."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Options that are sent with a request; those that are not set are not sent.

    Args:
        response_format: "json" for a JSON object, or a JSON schema that the reply must match.
        reasoning_effort: how much a reasoning model thinks, as the endpoint names it, such as "low".
        thinking_budget: maximum tokens of thinking, which count toward `max_tokens`.
        seed: of the endpoint's sampling.
        logit_bias: token number -> bias, as the endpoint defines both.
        extra: further fields of the request's body, under the endpoint's names.

    Raises:
        InputError: an option has a wrong type.
    """

    response_format: str | Mapping[str, Any] | None = field(default=None, hash=False)
    reasoning_effort: str | None = None
    thinking_budget: int | None = None
    seed: int | None = None
    logit_bias: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __post_init__(self) -> None:
        if self.response_format not in (None, JSON) and not isinstance(self.response_format, Mapping):
            raise InputError(f"response_format must be 'json' or a JSON schema, not {self.response_format!r}")
        if self.reasoning_effort is not None and not (isinstance(self.reasoning_effort, str) and self.reasoning_effort):
            raise InputError(f"reasoning_effort must be a word such as 'low', not {self.reasoning_effort!r}")
        for name, least in (("thinking_budget", 1), ("seed", -math.inf)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise InputError(f"{name} must be a whole number{', 1 or more' * (least == 1)}, not {value!r}")
        for name in ("logit_bias", "extra"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name} must be a table of names and values, not {getattr(self, name)!r}")
        invalid = next((bias for bias in self.logit_bias.values() if not _is_number(bias)), None)
        if invalid is not None:
            raise InputError(f"logit_bias must map token numbers to numbers, not to {invalid!r}")
        self._copy_as_json()

    def _copy_as_json(self) -> None:
        """Replace tables by copies that later changes of the originals do not reach."""
        for name in ("response_format", "logit_bias", "extra"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                try:
                    object.__setattr__(self, name, json.loads(json.dumps(dict(value), allow_nan=False)))
                except (TypeError, ValueError) as error:
                    raise InputError(f"{name} must be a JSON object: {error}") from None

    def named(self) -> dict[str, Any]:
        """Return the options that are set, by name, without `extra`."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "extra"}
        return {name: value for name, value in values.items() if value is not None and value != {}}

    def to_json(self) -> dict[str, Any]:
        """Return the options that are set, as the arguments of another `RequestOptions`."""
        return self.named() | ({"extra": self.extra} if self.extra else {})

    def __bool__(self) -> bool:
        return bool(self.to_json())


NO_OPTIONS = RequestOptions()


def read_options(values: Mapping[str, Any], where: str, folder: Path) -> RequestOptions:
    """Return the options of a table in a file.

    Args:
        values: option -> value; a response format may be the name of a file with a JSON schema.
        where: name of the table, for messages.
        folder: base of relative paths.

    Raises:
        InputError: there is no such option, its value has a wrong type, or the schema cannot be read.
    """
    names = [each.name for each in fields(RequestOptions)]
    if "headers" in values:
        raise InputError(f"{where} has headers, which belong to the endpoint: set them on the model")
    unknown = next((name for name in values if name not in names), None)
    if unknown is not None:
        raise InputError(
            f"{where} has the unknown option {unknown!r}{nearest(unknown, names)}; the options: {', '.join(names)}. Fields "
            "of the endpoint's own go into extra"
        )
    response_format = values.get("response_format")
    if isinstance(response_format, str) and response_format.endswith(".json"):
        values = {**values, "response_format": read_schema(folder / response_format)}
    try:
        return RequestOptions(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def read_schema(file: Path) -> dict[str, Any]:
    """Return the JSON schema in a file.

    Raises:
        InputError: the file cannot be read, or holds no JSON object.
    """
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the JSON schema {file} ({error}): correct the path or the file") from None
    if not isinstance(schema, dict):
        raise InputError(
            f"{file} does not hold a JSON schema, which is an object such as {{'type': 'object'}}: correct it"
        )
    return schema


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
