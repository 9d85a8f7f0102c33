"""Local language models: each distinct token is computed once, and logits only where they are used."""

from importlib.util import find_spec

from promptopt.errors import MissingExtraError

if not all(map(find_spec, ("torch", "transformers", "tokenizers"))):
    raise MissingExtraError("a local model", "local")

from promptopt.models.local.model import LocalModel

__all__ = ["LocalModel"]
