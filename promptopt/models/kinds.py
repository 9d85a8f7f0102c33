"""The kinds of models, as in `KIND:NAME`: what each is, what it takes, and how it is made.

The one table of them. Adapters and their dependencies (provider SDKs, torch) are imported only when a model is made.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.models.base import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


class Kind(NamedTuple):
    """A kind of model.

    Args:
        about: what it is, in one line.
        make: returns the model of a name, with the settings of `load_model` that its kind takes; nothing is called yet.
        hosted: whether it sends requests to an endpoint, and so takes its URL, a price, limits and extra fields. Others run
            in this process, and can be replicated.
        tokenizer: whether it takes a tokenizer.
        recorded: whether its fingerprint holds kind and name, so that the model can be loaded again from a result.
    """

    about: str
    make: Callable[..., Model]
    hosted: bool = False
    tokenizer: bool = False
    recorded: bool = True


def _local(name: str) -> Model:
    from promptopt.models.local import LocalModel  # noqa: PLC0415  loaded when used

    return LocalModel(name)


def _clip(name: str) -> Model:
    from promptopt.models.local.clip import ClipModel  # noqa: PLC0415  loaded when used

    return ClipModel(name)


def _openai(name: str, **settings: Any) -> Model:
    from promptopt.models.hosted.openai import OpenAIModel  # noqa: PLC0415  loaded when used

    return OpenAIModel(name, **settings)


def _named(service: str) -> Callable[..., Model]:
    """Return what makes models of a server or provider that speaks OpenAI's protocol."""

    def make(name: str, **settings: Any) -> Model:
        from promptopt.models.hosted.openai import OpenAIModel  # noqa: PLC0415  loaded when used
        from promptopt.models.hosted.services import NAMED  # noqa: PLC0415  loaded when used

        return OpenAIModel(name, service=NAMED[service], **settings)

    return make


def _cloud(model_class: str) -> Callable[..., Model]:
    """Return what makes models of a cloud, by the name of their class."""

    def make(name: str, **settings: Any) -> Model:
        clouds = importlib.import_module("promptopt.models.hosted.clouds")  # loaded when used
        model: Model = getattr(clouds, model_class)(name, **settings)
        return model

    return make


def _completions(name: str, *, tokenizer: str | None = None, **settings: Any) -> Model:
    from promptopt.models.hosted.completions import CompletionsModel, TokenizedCompletionsModel  # noqa: PLC0415  loaded when used

    if tokenizer:
        return TokenizedCompletionsModel(name, tokenizer=tokenizer, **settings)
    return CompletionsModel(name, **settings)


def _anthropic(name: str, **settings: Any) -> Model:
    from promptopt.models.hosted.anthropic import AnthropicModel  # noqa: PLC0415  loaded when used

    return AnthropicModel(name, **settings)


def _from_module(name: str) -> Model:
    module, _, attribute = name.partition(":")
    here = Path.cwd()
    try:
        model = vars(_import_from(module, here))[attribute]
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"cannot import {module!r} for the model python:{name}: {error}") from error
        raise InputError(
            f"python:{name}: there is no module {module!r}; put {module.replace('.', '/')}.py into {here}, or install its package"
        ) from error
    except ImportError as error:
        raise InputError(f"cannot import {module!r} for the model python:{name}: {error}") from error
    except KeyError:
        raise InputError(f"{module!r} has no {attribute!r}: write python:MODULE:ATTRIBUTE") from None
    if not isinstance(model, Model):
        raise InputError(
            f"python:{name} is a {type(model).__name__}, not a model: it needs the attributes fingerprint, unit, price and generate"
        )
    return model


def _import_from(module: str, folder: Path) -> ModuleType:
    """Import a module that is installed or else in `folder`, which is on the import path for this import only."""
    sys.path.append(str(folder))  # last: a file here cannot replace an installed module
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(str(folder))]


KINDS = {
    "local": Kind("a transformers model: a known name (smollm2), a hub name, a folder, or a GGUF file", _local),
    "local-clip": Kind("a CLIP model of transformers, for tasks with captions: a hub name or a folder", _clip),
    "openai": Kind("OpenAI's chat completions, or any server that speaks them (--base-url)", _openai, hosted=True),
    "completions": Kind(
        "a server that scores given texts, such as vLLM: log-probabilities of all labels (--base-url)",
        _completions,
        hosted=True,
        tokenizer=True,
    ),
    "anthropic": Kind("Anthropic's messages, or any server that speaks them (--base-url)", _anthropic, hosted=True),
    "azure": Kind(
        "an OpenAI deployment at Azure (--base-url https://RESOURCE.openai.azure.com)",
        _cloud("AzureModel"),
        hosted=True,
    ),
    "bedrock": Kind("a Claude model at Amazon Bedrock", _cloud("BedrockModel"), hosted=True),
    "vertex": Kind("a Claude model at Google's Vertex AI", _cloud("VertexModel"), hosted=True),
    "gemini": Kind("Google's Gemini by its OpenAI-compatible address", _named("gemini"), hosted=True),
    "groq": Kind("Groq", _named("groq"), hosted=True),
    "lmstudio": Kind("an LM Studio server on this machine", _named("lmstudio"), hosted=True),
    "mistral": Kind("Mistral", _named("mistral"), hosted=True),
    "ollama": Kind("an Ollama server on this machine", _named("ollama"), hosted=True),
    "openrouter": Kind("OpenRouter, one address for many providers", _named("openrouter"), hosted=True),
    "vllm": Kind("a vLLM server on this machine; labels by log-probability: completions:", _named("vllm"), hosted=True),
    "python": Kind("a model of your own: MODULE:ATTRIBUTE", _from_module, recorded=False),
}
HOSTED = tuple(name for name, kind in KINDS.items() if kind.hosted)
IN_PROCESS = tuple(name for name, kind in KINDS.items() if not kind.hosted)


def load_in_process(kind: str, name: str) -> Model:
    """Return a model that runs in this process; its weights are loaded at the first call.

    Args:
        kind: one of `IN_PROCESS`.
        name: of the model.

    Raises:
        InputError: the model cannot be found.
        MissingExtraError: an optional dependency is not installed.
    """
    return KINDS[kind].make(name)
