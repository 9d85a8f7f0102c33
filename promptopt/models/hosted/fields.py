"""What is sent beside a formatted request: fields of the body, and headers. Pure functions of values; knows no endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIN_SECRET_LENGTH = 8  # shorter ones are placeholders for servers that need no key
FROM_ENVIRONMENT = "env:"
"""Begins a header's value that is the name of an environment variable with the secret value."""

_RESERVED_FIELDS = {  # and what sets them
    **dict.fromkeys(("model", "messages", "prompt", "system"), "the model and the prompts"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"), "the task"),
    **dict.fromkeys(("stop", "stop_sequences", "logprobs", "top_logprobs", "echo"), "the task"),
    "api_key": "the environment, because results repeat extra_body",
    **dict.fromkeys(("stream", "n"), "promptopt, which reads one complete reply per request"),
}
_RESERVED_HEADERS = {
    **dict.fromkeys(("authorization", "x-api-key", "api-key"), "the API key"),
    **dict.fromkeys(("host", "content-type", "content-length", "content-encoding"), "the HTTP client"),
    **dict.fromkeys(("accept", "accept-encoding", "transfer-encoding", "connection"), "the HTTP client"),
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_DIGEST_LENGTH = 16  # hex digits, too few to tell a long secret from others with the same digest


@runtime_checkable
class Secret(Protocol):
    """A text that does not print itself, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


class Headers(NamedTuple):
    """Further headers of every request.

    Args:
        values: name -> value, as sent.
        fingerprint: name -> what a model's fingerprint says of it: a digest of a value, and of a secret only that it is one.
    """

    values: dict[str, str]
    fingerprint: dict[str, str]


def checked_headers(headers: Mapping[str, str | Secret]) -> Headers:
    """Return further headers with their values.

    A secret, or the value of an environment variable (`env:NAME`), is a credential: a new one does not change replies, so it
    is not part of the fingerprint. Other values are, as a digest.

    Raises:
        InputError: a header is reserved, cannot be sent, or its environment variable is not set.
    """
    values: dict[str, str] = {}
    fingerprint: dict[str, str] = {}
    for name, given in headers.items():
        lower = name.lower()
        if lower in _RESERVED_HEADERS:
            raise InputError(f"the header {name!r} is set by {_RESERVED_HEADERS[lower]}: remove it")
        value, secret = _header_value(name, given)
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InputError(
                f"the header {name!r} cannot be sent: its name or value is empty or has a character that no header may hold"
            )
        values[lower] = value
        digest = hashlib.sha256(f"{lower}: {value}".encode()).hexdigest()[:_DIGEST_LENGTH]
        fingerprint[lower] = "secret" if secret else f"sha256:{digest}"
    return Headers(values, dict(sorted(fingerprint.items())))


def _header_value(name: str, given: str | Secret) -> tuple[str, bool]:
    """Return the value of a header, and whether it is secret."""
    if isinstance(given, Secret):
        return given.get_secret_value(), True
    if not isinstance(given, str):
        raise InputError(f"the header {name!r} must have a text as its value, not {type(given).__name__}")
    if not given.startswith(FROM_ENVIRONMENT):
        return given, False
    variable = given.removeprefix(FROM_ENVIRONMENT)
    if not os.environ.get(variable):
        raise InputError(f"the header {name!r} takes its value from {variable}, which is not set: set it")
    return os.environ[variable].strip(), True


def checked_extra_body(fields: Mapping[str, Any], secrets: Sequence[str], name: str = "extra_body") -> dict[str, Any]:
    """Return additional request fields after a JSON round trip.

    Args:
        fields: of the request's body.
        secrets: the API key, and the values of headers.
        name: of the argument, for messages.

    Raises:
        InputError: a field is not JSON, is reserved, or holds the key or a header's value.
    """
    for field in fields:
        if field in _RESERVED_FIELDS:
            raise InputError(f"{name} cannot set {field!r}, which is set by {_RESERVED_FIELDS[field]}: remove it")
    try:
        checked: dict[str, Any] = json.loads(json.dumps(dict(fields), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a JSON object: {error}") from None
    written = json.dumps(checked)
    if any(len(secret) >= MIN_SECRET_LENGTH and secret in written for secret in secrets):
        raise InputError(f"{name} holds the API key or the value of a header, and results repeat {name}: remove it")
    return checked


def merged(first: Mapping[str, Any], second: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the fields of both, tables within them joined.

    Raises:
        InputError: both set a field, to different values.
    """
    out = dict(first)
    for name, value in second.items():
        known = out.get(name, value)
        if isinstance(known, dict) and isinstance(value, dict):
            out[name] = merged(known, value, f"{path}{name}.")
        elif known != value:
            raise InputError(
                f"{path}{name} is set twice, to {known!r} and to {value!r}: set it once, on the model or in the task's [request]"
            )
        else:
            out[name] = value
    return out


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return a value under a path of fields with dots between them."""
    for name in reversed(path.split(".")):
        value = {name: value}
    fields: dict[str, Any] = value
    return fields


def is_strict(schema: Any) -> bool:
    """Whether strict structured outputs accept a schema: every object lists all its properties as required and allows no others."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties", {})
    if (schema.get("type") == "object" or properties) and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties)
    ):
        return False
    return all(map(is_strict, [*schema.values()]))


def masked(text: str, key: str, headers: Iterable[str]) -> str:
    """Return a text without secrets.

    Args:
        text: may quote them.
        key: each word with its start or end is masked: servers quote keys as `sk-ab***yz`.
        headers: values, which are masked where they are quoted whole.
    """
    for value in headers:
        text = text.replace(value, "***") if len(value) >= MIN_SECRET_LENGTH else text
    if len(key) < MIN_SECRET_LENGTH:
        return text
    fragments = (key[:4], key[-4:])
    return re.sub(r"\S+", lambda word: "***" if any(each in word[0] for each in fragments) else word[0], text)
