"""Locks that end with their process: whether a file is being written by a living one. Knows nothing of its contents."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

_RECENT = 60.0  # seconds since the last write, after which a file counts as left, where there are no locks


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed or its process ends; False if another process has it.

    A reader's look takes the lock for an instant, so it is tried again.
    """
    if fcntl is None:
        return True
    for _ in range(20):
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of a file; without locks, whether it was written a short time ago.

    Raises:
        OSError: the file cannot be opened.
    """
    if fcntl is None:
        return time.time() - path.stat().st_mtime < _RECENT
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
