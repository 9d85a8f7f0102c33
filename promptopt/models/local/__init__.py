"""Local causal language models: every distinct token computed once, log-probabilities where they are read."""

from promptopt.errors import MissingExtraError

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise MissingExtraError("a local model", "local") from error

from promptopt.models.local.model import LocalModel

__all__ = ["LocalModel"]
