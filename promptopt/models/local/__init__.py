"""Local language models: each distinct token is computed once, and logits only where they are used.

The package can be imported without the extra `local`, because the catalogue of models to fetch needs nothing of it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError

if TYPE_CHECKING:
    from promptopt.models.local.model import LocalModel as LocalModel


def check_installed() -> None:
    """Raise MissingExtraError if what the extra `local` brings is not installed."""
    if not all(map(find_spec, ("torch", "transformers", "tokenizers"))):
        raise MissingExtraError("a local model", "local")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load `LocalModel` when it is first used."""
        if name != "LocalModel":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        check_installed()
        from promptopt.models.local.model import LocalModel  # noqa: PLC0415

        return LocalModel
