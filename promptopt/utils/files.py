"""Writing a file whole or not at all, for its owner's eyes only. Knows nothing of what it says."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it; one that is made here can be read by its owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Give a file, readable by its owner alone, that takes the name `path` when the context ends well, and else vanishes.

    Raises:
        OSError: it cannot be written; nothing is left of it, and what was there before is still there.
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
    r"""Write a file that only its owner can read: whole, or not at all.

    Halves of surrogate pairs, which UTF-8 lacks, are written as escapes such as `\ud83d`, as in JSON.

    Raises:
        OSError: as `open_atomic`.
    """
    with open_atomic(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
