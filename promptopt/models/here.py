"""Models that compute in this process: `local:NAME`, `local-clip:NAME`, `python:MODULE:ATTRIBUTE`."""

from __future__ import annotations

import importlib

from promptopt.errors import InputError
from promptopt.models.base import Model

HERE = ("local", "local-clip", "python")
"""Kinds that send no requests to an endpoint."""


def load_here(kind: str, name: str) -> Model:
    """Return a model that computes in this process; its weights are loaded when it is first asked.

    Raises:
        InputError: it is not there.
        MissingExtraError: the part that it needs is not installed.
    """
    if kind == "local":
        from promptopt.models.local import LocalModel  # noqa: PLC0415  loaded when used

        return LocalModel(name)
    if kind == "local-clip":
        from promptopt.models.local.clip import ClipModel  # noqa: PLC0415  loaded when used

        return ClipModel(name)
    return _from_module(name)


def _from_module(name: str) -> Model:
    module, _, attribute = name.partition(":")
    try:
        found = vars(importlib.import_module(module))[attribute]
    except ImportError as error:
        raise InputError(f"cannot import {module!r} for the model python:{name}: {error}") from error
    except KeyError:
        raise InputError(f"{module!r} has no {attribute!r}: write python:MODULE:ATTRIBUTE") from None
    if not isinstance(found, Model):
        raise InputError(
            f"python:{name} is a {type(found).__name__}, no model: it needs fingerprint, unit, price, generate"
        )
    return found
