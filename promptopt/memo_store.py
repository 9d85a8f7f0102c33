"""diskcache as the memo wants it: text keys and bytes values in one SQLite file, many rows in one transaction.

Never a pickle, neither written nor read, and nothing is ever evicted. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import diskcache
from diskcache.core import MODE_RAW, UNKNOWN

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger("promptopt.memo")

_KEYS_A_QUERY = 500  # below the 999 variables of the oldest SQLite
_BUSY_SECONDS = 60.0  # between two lines in the log while another process writes

_SELECT_ONE = "SELECT mode, filename, value FROM Cache WHERE raw = 1 AND key = ?"
_SELECT_MANY = "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key IN ({})"
_SELECT_ALL = """
    SELECT store_time, key, mode, filename, value FROM Cache WHERE raw = 1 AND typeof(key) = 'text' ORDER BY rowid
"""
_UPSERT = """
    INSERT INTO Cache(key, raw, store_time, size, mode, filename, value) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT(key, raw) DO UPDATE SET store_time = excluded.store_time, expire_time = NULL,
        size = excluded.size, mode = excluded.mode, filename = excluded.filename, value = excluded.value
"""


class BytesOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys and bytes values, in the database itself; never a pickle, neither written nor read."""

    def put(self, key: Any) -> tuple[str, bool]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if type(key) is not str or not key.isascii():
            raise InputError(f"a key of the memo must be ASCII text, not {key!r}: take it from memo_key")
        return key, True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001  # diskcache's signature
        if not raw or type(key) is not str:
            raise ValueError("its key is no text")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, None, bytes]:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002, FBT001  # diskcache's signature
        if read or type(value) is not bytes:
            raise InputError(f"a value of the memo must be bytes, not {type(value).__name__}: use Memo.put")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:  # noqa: FBT001  # diskcache's signature
        if read or mode != MODE_RAW or filename is not None or type(value) is not bytes:
            raise ValueError("it was not stored by the memo")
        return value


class Store(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache, with many rows at once, and with transactions that end even where the disk is full."""

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(
                str(folder),
                timeout=_BUSY_SECONDS,  # pyright: ignore[reportArgumentType]  # seconds, of any kind
                disk=BytesOnly,
                eviction_policy="none",
                cull_limit=0,
                size_limit=2**62,
                statistics=0,
            )
        except sqlite3.Error:
            self.close()
            raise

    def read_one(self, key: str) -> tuple[Any, ...] | None:
        """Return (mode, filename, value) of the row of `key`."""
        row: tuple[Any, ...] | None = self._sql(_SELECT_ONE, (key,)).fetchone()
        return row

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (key, mode, filename, value) of the rows of `keys` that are there."""
        for start in range(0, len(keys), _KEYS_A_QUERY):
            chunk = keys[start : start + _KEYS_A_QUERY]
            yield from self._sql(_SELECT_MANY.format(",".join("?" * len(chunk))), chunk)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield (stored, key, mode, filename, value) of all rows, in the order in which they came."""
        yield from self._sql(_SELECT_ALL)

    def write(self, rows: Iterable[tuple[str, float, bytes]]) -> None:
        """Insert or overwrite rows of (key, stored, value), all or none."""
        with self._con as connection:
            self._begin(connection)
            connection.executemany(_UPSERT, map(self._columns, rows))

    def delete_before(self, moment: float) -> int:
        """Delete what was stored before `moment`, give the room back, and return the number of rows."""
        with self._con as connection:
            self._begin(connection)
            deleted: int = connection.execute("DELETE FROM Cache WHERE store_time < ?", (moment,)).rowcount
        self._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def census(self) -> tuple[int, float | None, float | None]:
        """Return the number of rows, and when the first and the last were stored."""
        entries, oldest, newest = self._sql("SELECT COUNT(*), MIN(store_time), MAX(store_time) FROM Cache").fetchone()
        return entries, oldest, newest

    def _columns(self, row: tuple[str, float, bytes]) -> tuple[Any, ...]:
        key, raw = self.disk.put(row[0])
        return (key, raw, row[1], *self.disk.store(row[2], read=False))

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock, however long another process holds it."""
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                _log.warning("still waiting for the memo in %s: another process is writing to it", self.directory)
            else:
                return
