"""Writes files atomically, readable by their owner only. Knows nothing of their contents."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


def make_private_folder(folder: Path) -> None:
    """Create a folder and its parents if missing; a new folder is readable by its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def open_atomic(path: Path) -> Generator[IO[bytes]]:
    """Open a temporary file, readable by its owner only, that replaces `path` if the context succeeds and is deleted if not.

    Raises:
        OSError: it cannot be written; any previous file is unchanged.
    """
    descriptor, partial = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    r"""Write a text file atomically, readable by its owner only.

    Unpaired surrogates, which UTF-8 cannot encode, are written as escapes such as `\ud83d`, as in JSON.

    Raises:
        OSError: as `open_atomic`.
    """
    with open_atomic(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
