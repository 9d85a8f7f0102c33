"""Values read from files, kept until one of the files changes. Knows nothing of what they are."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")


class FileCache(Generic[T]):
    """Values by name.

    Args:
        most: number of values kept, the newest; None for all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._values: dict[str, tuple[object, T]] = {}
        self._lock = threading.Lock()

    def get(self, key: str, files: Sequence[Path | str], read: Callable[[], T]) -> T:
        """Return a value, which is read again if it is not kept or a file has changed. One value is read at a time.

        Args:
            key: name of the value.
            files: that the value depends on; they may be missing.
            read: reads the value.
        """
        state = tuple(map(_state, files))
        with self._lock:
            kept = self._values.get(key)
            if kept is None or kept[0] != state:
                kept = (state, read())
                self._values[key] = kept
                while self._most is not None and len(self._values) > self._most:
                    self._values.pop(next(iter(self._values)))
            return kept[1]


def _state(file: Path | str) -> tuple[int, int] | None:
    try:
        status = os.stat(file, follow_symlinks=False)  # noqa: PTH116  a list of 500 runs asks a thousand times
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
