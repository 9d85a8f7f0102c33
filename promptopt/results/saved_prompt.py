"""Read a prompt from a file or folder: text, JSON that a run or `promptopt export` wrote, or a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from promptopt.data.rows import read_text
from promptopt.errors import InputError
from promptopt.prompt import Prompt
from promptopt.results.portable import PortablePrompt, is_portable
from promptopt.results.result import FILE, Result

_SHOWN = 60  # characters of a path that is none


def read_prompt(path: Path | str) -> Prompt:
    """Read a prompt.

    Args:
        path: a text file, which is the prompt without its last line breaks; a JSON file with a result or a prompt, as a run or
            `promptopt export --as json` writes them; or a run's folder, which gives its chosen prompt.

    Raises:
        InputError: there is no such file, or it holds no prompt.
    """
    file = Path(path)
    try:
        is_folder = file.is_dir()
    except OSError as error:  # a text is no path
        raise InputError(
            f"{str(path)[:_SHOWN]!r} is no path ({error.strerror}): give a file or a run's folder"
        ) from error
    if is_folder or file.name == FILE:
        return Result.load(file).prompt
    text = read_text(file)
    if is_portable(text):
        return PortablePrompt.load(file).prompt
    if file.suffix.lower() != ".json":
        return Prompt(text.replace("\r\n", "\n").rstrip("\n"))
    try:
        return _from_json(json.loads(text))
    except ValueError as error:
        raise InputError(f"{path} holds no prompt ({error}): give a text file, a run's folder or its {FILE}") from error


def _from_json(data: Any) -> Prompt:
    """Return the prompt in the JSON values of a result or of a prompt."""
    if not isinstance(data, dict):
        raise ValueError(f"an object is needed, not {type(data).__name__}")  # noqa: TRY004  the caller's error
    if "seed_prompt" in data:
        return Result.from_json(data).prompt
    if "bias" in data:
        raise ValueError("a predictor has a label bias beside its prompt, which is not compared")
    return Prompt.from_json(data)
