"""Values of a run as JSON files, alone or in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from promptopt.errors import InputError
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def write_json(data: dict[str, Any], path: Path | str) -> None:
    """Write JSON values to a file, atomically."""
    target = Path(path)
    make_private_folder(target.parent)
    write_private(target, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False))


def folder_of(run: Path | str) -> Path:
    """Return the folder of a run, given the folder itself or a file in it."""
    path = Path(run)
    return path if path.is_dir() else path.parent


def read_json(path: Path | str, name: str, from_json: Callable[[Any], T], *, what: str, advice: str) -> T:
    """Read a value from its file, or from the file called `name` in a run's folder.

    Args:
        path: the file or the folder.
        name: of the file in a folder.
        from_json: makes the value; raises ValueError if the data is none.
        what: the value's name in an error.
        advice: what to give instead of a path that cannot be read.

    Raises:
        InputError: the file cannot be read, or holds no such value.
    """
    try:
        file = Path(path) / name if Path(path).is_dir() else Path(path)
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}): {advice}") from error
    except ValueError as error:  # from JSON, UTF-8 or `from_json`
        raise InputError(f"{path} is not a saved {what}: {error}") from error
