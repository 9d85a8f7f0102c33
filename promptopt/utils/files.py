"""Writing a file whole or not at all, for its owner's eyes only. Knows nothing of what it says."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it; one that is made here can be read by its owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    r"""Write a file that its owner alone can read: whole, or not at all.

    Halves of surrogate pairs, which UTF-8 lacks, are written as escapes such as `\ud83d`, as in JSON.

    Raises:
        OSError: it cannot be written; nothing is left of it, and what was there before is still there.
    """
    descriptor, partial = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
