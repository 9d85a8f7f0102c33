"""Models that run in this process: `local:NAME`, `local-clip:NAME`, `python:MODULE:ATTRIBUTE`."""

from __future__ import annotations

import importlib

from promptopt.errors import InputError
from promptopt.models.base import Model

IN_PROCESS = ("local", "local-clip", "python")
"""Kinds of models that send no requests to an endpoint."""


def load_in_process(kind: str, name: str) -> Model:
    """Return a model that runs in this process; its weights are loaded at the first call.

    Raises:
        InputError: the model cannot be found.
        MissingExtraError: an optional dependency is not installed.
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
        model = vars(importlib.import_module(module))[attribute]
    except ImportError as error:
        raise InputError(f"cannot import {module!r} for the model python:{name}: {error}") from error
    except KeyError:
        raise InputError(f"{module!r} has no {attribute!r}: write python:MODULE:ATTRIBUTE") from None
    if not isinstance(model, Model):
        raise InputError(
            f"python:{name} is a {type(model).__name__}, not a model: it needs the attributes fingerprint, unit, price and generate"
        )
    return model
