"""Local language models: each distinct token is computed once, and logits only where they are used."""

from promptopt.errors import MissingExtraError

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise MissingExtraError("a local model", "local") from error

from promptopt.models.local.model import LocalModel

__all__ = ["LocalModel"]
