"""A buffer between quick steps and a slow store: many rows, one transaction. Knows nothing of what is written."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_APART_SECONDS = 1.0  # between writes of few rows; a transaction takes milliseconds, however few they are
_MOST = 100  # buffered rows; larger transactions cost no less per row


class Buffer(Generic[T]):
    """Rows to be written together.

    `add` writes them if the last write was at least a second ago, or if there are 100 of them. A killed process therefore
    loses fewer than 100 rows, all added within a second of its last write.

    Args:
        write: takes the buffered rows in order, and stores all or none.
    """

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        self._write = write
        self._rows: list[T] = []
        self._last_write = -math.inf

    def add(self, rows: Iterable[T]) -> None:
        """Buffer rows, and write if it is time to."""
        self._rows.extend(rows)
        if len(self._rows) >= _MOST or time.monotonic() >= self._last_write + _APART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows; if that fails, they are dropped."""
        rows, self._rows = self._rows, []
        if rows:
            self._write(rows)
            self._last_write = time.monotonic()
