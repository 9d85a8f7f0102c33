"""The memo in a folder: diskcache with text keys and bytes values in one SQLite file, many rows in one transaction.

Never a pickle, neither written nor read, and nothing is ever evicted. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache
from diskcache.core import DBNAME, MODE_RAW, UNKNOWN

from promptopt.errors import InputError, MemoError
from promptopt.memo.format import checked
from promptopt.memo.store import Flights, MemoStats

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from promptopt.memo.format import Row
    from promptopt.memo.store import Claim

_log = logging.getLogger("promptopt.memo.memo")

_KEYS_A_QUERY = 500  # below the 999 variables of the oldest SQLite
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
_BUSY_SECONDS = 60.0  # between two lines in the log while another process writes

_SELECT_ONE = "SELECT mode, filename, value FROM Cache WHERE raw = 1 AND key = ?"
_SELECT_MANY = "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key IN ({})"
_SELECT_ALL = """
    SELECT store_time, key, mode, filename, value FROM Cache WHERE raw = 1 AND typeof(key) = 'text'
    ORDER BY store_time, key
"""
_UPSERT = """
    INSERT INTO Cache(key, raw, store_time, size, mode, filename, value) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT(key, raw) DO UPDATE SET store_time = excluded.store_time, expire_time = NULL,
        size = excluded.size, mode = excluded.mode, filename = excluded.filename, value = excluded.value
"""


class BytesOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys and bytes values, in the database itself; never a pickle, neither written nor read."""

    def put(self, key: Any) -> tuple[str, bool]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return checked(key), True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001  # diskcache's signature
        if not raw or type(key) is not str:
            raise ValueError("its key is no text")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, None, bytes]:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002, FBT001  # diskcache's signature
        if read or type(value) is not bytes:
            raise InputError(f"a value of the memo must be bytes, not {type(value).__name__}: use Memo.put")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:  # noqa: FBT001  # diskcache's signature
        if read:
            raise ValueError("the memo reads no files")
        return _bytes(mode, filename, value)


def _bytes(mode: int, filename: str | None, value: Any) -> bytes:
    """Return the value of a row that the memo stored, and b"" of any other."""
    return value if mode == MODE_RAW and filename is None and type(value) is bytes else b""


class FolderStore(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache, with many rows at once, and with transactions that end even where the disk is full.

    Args:
        folder: made, for its user alone, where it is missing.

    Raises:
        InputError: the folder cannot be made.
        MemoError: it holds something that is no memo, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self.folder = folder
        self.claims = Flights()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / DBNAME).touch(mode=0o600)
            super().__init__(
                self.place,
                timeout=_BUSY_SECONDS,  # pyright: ignore[reportArgumentType]  # seconds, of any kind
                disk=BytesOnly,
                eviction_policy="none",
                cull_limit=0,
                size_limit=2**62,
                statistics=0,
            )
        except OSError as error:
            raise InputError(
                f"the memo's folder {folder} cannot be used ({error}): "
                "name another one in PROMPTOPT_CACHE_DIR, or make this one writable"
            ) from error
        except sqlite3.Error as error:
            self.close()
            self._refuse(error)

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        try:
            row = self._sql(_SELECT_ONE, (key,)).fetchone()
        except sqlite3.Error as error:
            self._refuse(error)
        return None if row is None else _bytes(*row)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        with self._refused():
            for start in range(0, len(keys), _KEYS_A_QUERY):
                chunk = keys[start : start + _KEYS_A_QUERY]
                for key, *row in self._sql(_SELECT_MANY.format(",".join("?" * len(chunk))), chunk):
                    yield key, _bytes(*row)

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key."""
        with self._refused():
            for stored, key, *row in self._sql(_SELECT_ALL):
                yield key, stored, _bytes(*row)

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries, all or none."""
        with self._refused(), self._con as connection:
            self._begin(connection)
            for rows in batches:
                connection.executemany(_UPSERT, map(self._columns, rows))

    def delete_before(self, moment: float) -> int:
        """Delete what was stored before `moment`, give the room back, and return the number of rows."""
        with self._refused():
            with self._con as connection:
                self._begin(connection)
                deleted: int = connection.execute("DELETE FROM Cache WHERE store_time < ?", (moment,)).rowcount
            self._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def census(self) -> MemoStats:
        """Return how much is stored, in bytes on disk, and since when."""
        with self._refused():
            found = self._sql("SELECT COUNT(*), MIN(store_time), MAX(store_time) FROM Cache").fetchone()
        size = sum(file.stat().st_size for file in self.folder.glob(f"{DBNAME}*"))
        return MemoStats(self.place, found[0], size, *found[1:])

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys` among the threads of this process."""
        return self.claims.claim(keys)

    def _columns(self, row: Row) -> tuple[Any, ...]:
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
                _log.warning("still waiting for the memo in %s: another process is writing to it", self.place)
            else:
                return

    @contextmanager
    def _refused(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._refuse(error)

    def _refuse(self, error: sqlite3.Error) -> NoReturn:
        _refuse(self.place, error)


class ReadOnlyStore:
    """A folder's entries where its file can be read and not written: what they answer is answered, and nothing is added.

    Args:
        folder: holds the file of a `FolderStore`.

    Raises:
        MemoError: it cannot be read either.
    """

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self.folder = folder
        self.claims = Flights()
        self._lock = threading.Lock()
        name = (folder / DBNAME).resolve().as_uri()
        # A file beside a log can only be read with the log's index, which must be written: without it the file alone.
        for mode in ("mode=ro", "mode=ro&immutable=1"):
            self._connection = sqlite3.connect(
                f"{name}?{mode}", uri=True, check_same_thread=False, isolation_level=None
            )
            try:
                self._rows("SELECT COUNT(*) FROM Cache")
            except sqlite3.OperationalError as error:
                self._connection.close()
                failed = error
            except sqlite3.Error as error:
                self._connection.close()
                _refuse(self.place, error)
            else:
                return
        _refuse(self.place, failed)

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        return dict(self.read_many([key])).get(key)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        for start in range(0, len(keys), _KEYS_A_QUERY):
            chunk = keys[start : start + _KEYS_A_QUERY]
            for key, *row in self._asked(_SELECT_MANY.format(",".join("?" * len(chunk))), chunk):
                yield key, _bytes(*row)

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key."""
        for stored, key, *row in self._asked(_SELECT_ALL):
            yield key, stored, _bytes(*row)

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Refuse to write.

        Raises:
            MemoError: always, but where there is nothing to write.
        """
        if any(len(rows) for rows in batches):
            raise MemoError(f"the memo in {self.place} is read-only: make it writable, or name another with --memo")

    def delete_before(self, moment: float) -> int:  # noqa: ARG002  as of other stores
        """Refuse to delete.

        Raises:
            MemoError: always.
        """
        raise MemoError(f"the memo in {self.place} is read-only: nothing was deleted")

    def census(self) -> MemoStats:
        """Return how much is stored, in bytes on disk, and since when."""
        ((count, oldest, newest),) = self._asked("SELECT COUNT(*), MIN(store_time), MAX(store_time) FROM Cache")
        size = sum(file.stat().st_size for file in self.folder.glob(f"{DBNAME}*"))
        return MemoStats(self.place, count, size, oldest, newest)

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys` among the threads of this process."""
        return self.claims.claim(keys)

    def close(self) -> None:
        """Do nothing: the file stays open until the store is forgotten, for others may be reading."""

    def _asked(self, statement: str, values: Sequence[str] = ()) -> list[Any]:
        try:
            return self._rows(statement, values)
        except sqlite3.Error as error:
            _refuse(self.place, error)

    def _rows(self, statement: str, values: Sequence[str] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def open_folder(folder: Path) -> FolderStore | ReadOnlyStore:
    """Return the store of a folder; where there is one that cannot be written, what can be read of it.

    Raises:
        InputError: the folder cannot be made.
        MemoError: it holds something that is no memo.
    """
    try:
        return FolderStore(folder)
    except InputError as error:
        if not _is_unwritable(error.__cause__) or not (folder / DBNAME).is_file():
            raise
        store = ReadOnlyStore(folder)
        _log.warning("the memo in %s can be read but not written: new replies cannot be kept", store.place)
        return store


def _is_unwritable(cause: BaseException | None) -> bool:
    """Whether a store failed to open because its disk or file takes no writes; a busy or damaged one is another matter."""
    return isinstance(cause, OSError) or getattr(cause, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def _refuse(place: str, error: sqlite3.Error) -> NoReturn:
    fix = "make room, make it writable"
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        fix = "`promptopt memo salvage FILE` writes what can still be read to a file"
    raise MemoError(
        f"the memo in {place} cannot be used ({error}): {fix}, or move the folder away to start an empty one; "
        "PROMPTOPT_CACHE_DIR names another place"
    ) from error
