"""Loads a user's pool of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_prompt_pool(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """Return the prompts of a user's pool.

    Args:
        prompts: path of a file with one prompt per line or a JSON list of texts; or the texts; "" for none.

    Raises:
        InputError: the file cannot be read, or holds no prompts.
    """
    if not prompts:
        return ()
    texts: object = list(prompts)
    if isinstance(prompts, str):
        try:
            text = Path(prompts).read_text(encoding="utf-8")
            texts = (
                json.loads(text) if prompts.endswith(".json") else [line for line in text.splitlines() if line.strip()]
            )
        except (OSError, ValueError) as error:  # from UTF-8 or JSON
            raise InputError(
                f"cannot read the pool of prompts {prompts} ({error}): give a file with one prompt per line, or a JSON list"
            ) from error
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"the pool of prompts {prompts!r} must contain at least one text: give one prompt per line")
    return tuple(texts)
