"""The memo in a folder: diskcache with text keys and bytes values in one SQLite file, many rows in one transaction.

Never reads or writes pickles, and never evicts. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache
from diskcache.core import DBNAME, MODE_RAW, UNKNOWN

from promptopt.errors import InputError, MemoError
from promptopt.memo.format import check_key
from promptopt.memo.store import MemoStats, ThreadClaims

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from promptopt.memo.claims import FolderClaims
    from promptopt.memo.format import Row
    from promptopt.memo.store import Claim

_log = logging.getLogger("promptopt.memo.memo")

_KEYS_PER_QUERY = 500  # below the 999 variables of the oldest SQLite
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
_BUSY_SECONDS = 60.0  # between log messages while another process writes

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
    """Stores text keys and bytes values in the database itself, and never reads or writes pickles."""

    def put(self, key: Any) -> tuple[str, bool]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return check_key(key), True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001  # diskcache's signature
        if not raw or type(key) is not str:
            raise ValueError("the key is not text")
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
    """Return the value of a row, or b"" if the row was not stored by the memo."""
    return value if mode == MODE_RAW and filename is None and type(value) is bytes else b""


class FolderStore(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A diskcache with bulk reads and writes, and with transactions that end cleanly even if the disk is full.

    Args:
        folder: created, readable by its owner only, if missing.

    Raises:
        InputError: the folder cannot be created.
        MemoError: the file is not a memo, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self.folder = folder
        self.claims = _claims(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / DBNAME).touch(mode=0o600)
            super().__init__(
                self.location,
                timeout=_BUSY_SECONDS,  # pyright: ignore[reportArgumentType]  # declared int, but floats work
                disk=BytesOnly,
                eviction_policy="none",
                cull_limit=0,
                size_limit=2**62,
                statistics=0,
            )
        except OSError as error:
            raise InputError(
                f"the memo's folder {folder} cannot be used ({error}): "
                "make it writable, or set PROMPTOPT_CACHE_DIR to another one"
            ) from error
        except sqlite3.Error as error:
            self.close()
            self._raise_memo_error(error)

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        try:
            row = self._sql(_SELECT_ONE, (key,)).fetchone()
        except sqlite3.Error as error:
            self._raise_memo_error(error)
        return None if row is None else _bytes(*row)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        with self._memo_errors():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                chunk = keys[start : start + _KEYS_PER_QUERY]
                for key, *row in self._sql(_SELECT_MANY.format(",".join("?" * len(chunk))), chunk):
                    yield key, _bytes(*row)

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key."""
        with self._memo_errors():
            for stored, key, *row in self._sql(_SELECT_ALL):
                yield key, stored, _bytes(*row)

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries, all or none."""
        with self._memo_errors(), self._con as connection:
            self._begin(connection)
            for rows in batches:
                connection.executemany(_UPSERT, map(self._columns, rows))

    def delete_before(self, moment: float) -> int:
        """Delete the entries stored before `moment`, free the space, and return their number."""
        with self._memo_errors():
            with self._con as connection:
                self._begin(connection)
                deleted: int = connection.execute("DELETE FROM Cache WHERE store_time < ?", (moment,)).rowcount
            self._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def stats(self) -> MemoStats:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return how much is stored, in bytes on disk, and since when."""
        with self._memo_errors():
            count, oldest, newest = self._sql("SELECT COUNT(*), MIN(store_time), MAX(store_time) FROM Cache").fetchone()
        size = sum(file.stat().st_size for file in self.folder.glob(f"{DBNAME}*"))
        return MemoStats(self.location, count, size, oldest, newest)

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Claim `keys` among the processes of this machine that use this folder."""
        return self.claims.claim(keys)

    def _columns(self, row: Row) -> tuple[Any, ...]:
        key, raw = self.disk.put(row[0])
        return (key, raw, row[1], *self.disk.store(row[2], read=False))

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock; wait as long as another process holds it."""
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                _log.warning("still waiting for the memo in %s: another process is writing to it", self.location)
            else:
                return

    @contextmanager
    def _memo_errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._raise_memo_error(error)

    def _raise_memo_error(self, error: sqlite3.Error) -> NoReturn:
        _raise_memo_error(self.location, error)


class ReadOnlyStore:
    """The entries of a folder that can be read but not written.

    Args:
        folder: contains the file of a `FolderStore`.

    Raises:
        MemoError: it cannot be read either.
    """

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self.folder = folder
        self.claims = ThreadClaims()
        self._lock = threading.Lock()
        name = (folder / DBNAME).resolve().as_uri()
        # A file with a write-ahead log needs a writable index of the log; without one, read the file alone.
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
                _raise_memo_error(self.location, error)
            else:
                return
        _raise_memo_error(self.location, failed)

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        return dict(self.read_many([key])).get(key)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            chunk = keys[start : start + _KEYS_PER_QUERY]
            for key, *row in self._query(_SELECT_MANY.format(",".join("?" * len(chunk))), chunk):
                yield key, _bytes(*row)

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key."""
        for stored, key, *row in self._query(_SELECT_ALL):
            yield key, stored, _bytes(*row)

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Refuse to write.

        Raises:
            MemoError: there is something to write.
        """
        if any(len(rows) for rows in batches):
            raise MemoError(
                f"the memo in {self.location} is read-only: make it writable, or choose another with --memo"
            )

    def delete_before(self, moment: float) -> int:  # noqa: ARG002  the store interface
        """Refuse to delete.

        Raises:
            MemoError: always.
        """
        raise MemoError(f"the memo in {self.location} is read-only: nothing was deleted")

    def stats(self) -> MemoStats:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return how much is stored, in bytes on disk, and since when."""
        ((count, oldest, newest),) = self._query("SELECT COUNT(*), MIN(store_time), MAX(store_time) FROM Cache")
        size = sum(file.stat().st_size for file in self.folder.glob(f"{DBNAME}*"))
        return MemoStats(self.location, count, size, oldest, newest)

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys` among the threads of this process."""
        return self.claims.claim(keys)

    def close(self) -> None:
        """Do nothing: other threads may be reading, so the file stays open as long as the store exists."""

    def _query(self, statement: str, values: Sequence[str] = ()) -> list[Any]:
        try:
            return self._rows(statement, values)
        except sqlite3.Error as error:
            _raise_memo_error(self.location, error)

    def _rows(self, statement: str, values: Sequence[str] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def open_folder(folder: Path) -> FolderStore | ReadOnlyStore:
    """Return the store of a folder, read-only if an existing file cannot be written.

    Raises:
        InputError: the folder cannot be created.
        MemoError: the file is not a memo.
    """
    try:
        return FolderStore(folder)
    except InputError as error:
        if not _is_unwritable(error.__cause__) or not (folder / DBNAME).is_file():
            raise
        store = ReadOnlyStore(folder)
        _log.warning("the memo in %s can be read but not written: new replies cannot be kept", store.location)
        return store


def _claims(folder: Path) -> FolderClaims | ThreadClaims:
    if find_spec("fcntl") is None:  # Windows
        return ThreadClaims()
    from promptopt.memo.claims import FolderClaims  # noqa: PLC0415  needs fcntl

    return FolderClaims(folder)


def _is_unwritable(cause: BaseException | None) -> bool:
    """Whether a store failed to open because its disk or file is not writable (rather than busy or damaged)."""
    return isinstance(cause, OSError) or getattr(cause, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def _raise_memo_error(location: str, error: sqlite3.Error) -> NoReturn:
    fix = "free disk space, make it writable"
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        fix = "recover the readable entries with `promptopt memo salvage FILE`"
    raise MemoError(
        f"the memo in {location} cannot be used ({error}): {fix}, or move the folder away to start with an empty memo; "
        "PROMPTOPT_CACHE_DIR sets another location"
    ) from error
