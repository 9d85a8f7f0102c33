"""Stores every reply of every model, so that nothing is paid for or computed twice.

Keys are digests and values are JSON. Knows nothing of models or requests, or of what a value means.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import tomllib
import uuid
import warnings
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import platformdirs

from promptopt.errors import InputError, MemoError, MissingExtraError
from promptopt.memo.folder import open_folder
from promptopt.memo.format import check_key, encode_sorted, from_line, pack, to_json, to_line, unpack, utf8
from promptopt.utils.files import open_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from promptopt.memo.format import Row
    from promptopt.memo.store import Claim, MemoStats, Store

_log = logging.getLogger(__name__)

_BROKEN = object()  # marks an entry that cannot be decoded; no JSON value is this object
_IMPORT_CHUNK = 1000  # lines
_AGE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}


def memo_key(fingerprint: Mapping[str, Any], operation: str, body: Any, replicate: int = 0) -> str:
    """Return the key of one reply: SHA-256, in hex, of the canonical JSON of [fingerprint, operation, body, replicate].

    Args:
        fingerprint: everything that identifies the model.
        operation: kind of request, such as "generate".
        body: the full request, as JSON values.
        replicate: number of the sample.

    Raises:
        InputError: one of them is not JSON.
    """
    return KeyMaker(fingerprint, operation)(body, replicate)


class KeyMaker:
    """`memo_key` for many requests to one model: the common prefix is encoded and hashed once."""

    def __init__(self, fingerprint: Mapping[str, Any], operation: str) -> None:
        head = to_json([dict(fingerprint), operation], "the fingerprint", encode_sorted)
        self._head = hashlib.sha256(utf8(head[:-1] + ","))

    def __call__(self, body: Any, replicate: int = 0) -> str:
        """Return `memo_key` for this fingerprint and operation."""
        digest = self._head.copy()
        digest.update(utf8(to_json([body, replicate], "the request", encode_sorted)[1:]))
        return digest.hexdigest()


class Memo:
    """A key-value store of JSON values, safe for concurrent use by threads, processes and (on a server) machines.

    Entries stay until `prune`, or until the folder or database is deleted. An entry survives the death of the process
    from the moment its `put` returns. In a folder, a power failure may lose the last entries but never leaves a partial
    one. On a server, durability depends on the server's settings, which are checked when the memo is opened.

    Args:
        location: a folder for one SQLite file (created, readable by its owner only, if missing); or a server,
            `redis://[[user]:password@]host[:port][/db]`, with `rediss://` for TLS and `valkey://` as a synonym. None means
            `default_location()`.
        place: former name of `location`.

    Raises:
        InputError: the folder cannot be created, or the server evicts entries.
        MemoError: the folder's file is not a memo, or the server cannot be reached.
        MissingExtraError: the location is a server and the client library is not installed.
    """

    def __init__(self, location: str | Path | None = None, *, place: str | Path | None = None) -> None:
        if place is not None:
            warnings.warn("Memo(place=...) is now Memo(location=...)", DeprecationWarning, stacklevel=2)
            location = place
        self._store = _open_store(default_location() if location is None else location)
        self._broken: set[str] = set()

    @property
    def location(self) -> str:
        """The folder, or the server's address and database, without user and password."""
        return self._store.location

    @property
    def place(self) -> str:
        """Former name of `location`."""
        warnings.warn("Memo.place is now Memo.location", DeprecationWarning, stacklevel=2)
        return self.location

    @property
    def corrupted(self) -> int:
        """Number of corrupted entries found since opening."""
        return len(self._broken)

    def get(self, key: str) -> Any | None:
        """Return the value, or None if it is missing or cannot be decoded."""
        data = self._store.read_one(key)
        value = _BROKEN if data is None else self._value(key, data)
        return None if value is _BROKEN else value

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that exist, in the order of `keys`."""
        values = {key: self._value(key, data) for key, data in self._store.read_many(keys)}
        return {key: values[key] for key in keys if values.get(key, _BROKEN) is not _BROKEN}

    def put(self, key: str, value: Any) -> None:
        """Store one value; it is durable when this returns.

        Raises:
            InputError: the value is not JSON (NaN and infinity are not).
        """
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store all values, or none if that fails or the process dies.

        Raises:
            InputError: a value is not JSON (NaN and infinity are not).
            MemoError: the store cannot be written; the message names the file that the values were saved to.
        """
        now = time.time()
        rows = [(check_key(key), now, pack(key, value, f"the value of {key}")) for key, value in values.items()]
        try:
            self._store.write([rows])
        except MemoError as error:
            raise MemoError(f"{error}{_save_unstored(rows)}") from error

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Claim `keys`: those that nobody else is computing are ours until the context ends.

        In a folder, claims are shared by all processes of this machine; on a server, by all its clients. Look up `mine`
        again after claiming: somebody else may have stored a value just before. To prevent deadlock, never claim within
        a claim, and wait for others only after the context has ended.
        """
        return self._store.claim(keys)

    def stats(self) -> MemoStats:
        """Return how much is stored (bytes on disk or, for a server, in memory) and since when."""
        return self._store.stats()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that `export` writes."""
        for key, stored, data in self._store.rows():
            value = self._value(key, data)
            if value is not _BROKEN:
                yield to_line(key, value, stored)

    def export(self, path: str | Path) -> int:
        """Write one JSON line {"key", "value", "stored"} per entry and return their number. Corrupted entries are skipped.

        Lines are sorted by time and key, so equal memos give equal files. The file is written atomically.

        Raises:
            InputError: the file cannot be written.
        """
        return write_lines(Path(path), self.lines())

    def import_(self, path: str | Path) -> int:
        """Add the entries of an exported file; return how many were new. Existing entries are not changed.

        If a line is invalid, nothing is added. If the store fails midway, a folder adds nothing; a server keeps the
        entries written before the failure, and importing again adds the rest.

        Raises:
            InputError: the file cannot be read, or a line was not written by `export`; names the line.
        """
        path = Path(path)
        added = 0

        def new_rows() -> Iterator[list[Row]]:
            nonlocal added
            rows = _read_export(path)
            while chunk := list(islice(rows, _IMPORT_CHUNK)):
                new = {row[0]: row for row in reversed(chunk)}  # of repeated keys, the first line counts
                for existing in self.get_many(list(new)):
                    del new[existing]
                yield list(new.values())
                added += len(new)

        try:
            for _ in _read_export(path):  # validate every line before adding any
                pass
            self._store.write(new_rows())
        except OSError as error:
            raise InputError(f"the file {path} cannot be read ({error}): give a file written by export") from error
        return added

    def prune(self, older_than_seconds: float) -> int:
        """Delete the entries that are older than this, and return how many were deleted.

        Raises:
            InputError: the age is negative or not a number.
        """
        if not older_than_seconds >= 0:
            raise InputError(f"the age must be 0 seconds or more, not {older_than_seconds}")
        return self._store.delete_before(time.time() - older_than_seconds)

    def close(self) -> None:
        """Close this thread's connection, or idle connections to the server; the next use opens a new one."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _value(self, key: str, data: bytes) -> Any:
        """Return the value of an entry; if it is corrupted, count it and return `_BROKEN`."""
        try:
            return unpack(key, data)
        except ValueError as error:
            if not self._broken:
                _log.warning(
                    "the memo in %s has a corrupted entry, %s (%s): it is treated as missing", self.location, key, error
                )
            self._broken.add(key)
            return _BROKEN


def default_location() -> str:
    """Return the default location: PROMPTOPT_CACHE_DIR, else cache/ of a source checkout, else the user's cache folder."""
    from_environment = os.environ.get("PROMPTOPT_CACHE_DIR")
    if from_environment:
        return from_environment
    here = Path.cwd()
    if (here / "cache").is_dir() and _is_checkout(here):
        return str(here / "cache")
    return str(platformdirs.user_cache_path("promptopt") / "memo")


def public_location(location: str) -> str:
    """Return a location that is safe to show: a server's address and database without user and password.

    Raises:
        InputError: it is a URL that does not name a supported server.
    """
    scheme, sign, _ = location.partition("://")
    if not sign:
        return location
    with suppress(ValueError):
        url = urlsplit(location)
        host, database = url.hostname or "localhost", parse_qs(url.query).get("db", [url.path.strip("/") or "0"])
        # An unescaped character of the password ended the host part early.
        password_leaks = url.fragment or "@" in url.path + url.query
        if scheme in _SCHEMES and not password_leaks:
            return f"{scheme}://{f'[{host}]' if ':' in host else host}:{url.port or 6379}/{int(database[0])}"
    raise InputError(
        "the memo's URL cannot be used: write redis://[[user]:password@]host[:port][/db], rediss://... or "
        "valkey://..., with %XX for special characters in user and password; or name a folder"
    )


def _open_store(location: str | Path) -> Store:
    if isinstance(location, str) and "://" in location:
        name = public_location(location)
        try:
            from promptopt.memo.server import RedisStore  # noqa: PLC0415  redis is an optional dependency
        except ModuleNotFoundError as error:
            raise MissingExtraError("a memo on a server", "scale") from error
        scheme, _, rest = location.partition("://")
        return RedisStore(f"{_SCHEMES[scheme]}://{rest}", name)
    return open_folder(folder_path(location))


def folder_path(location: str | Path) -> Path:
    """Return the folder of a location, with variables and `~` expanded."""
    # diskcache would expand variables itself; expanding them here ensures that both use the same folder.
    return Path(os.path.expandvars(Path(location).expanduser())).absolute()


def parse_age(text: str) -> float:
    """Return the number of seconds in an age such as 30d, 12h, 90m or 3600s.

    Raises:
        InputError: it is not a number with one of these units.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text.strip())
    if match is None:
        raise InputError(f"the age {text!r} is not a number with a unit: write it like 30d, 12h, 90m or 3600s")
    return float(match[1]) * _AGE_UNITS[match[2]]


def _read_export(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield from_line(line, f"{path}, line {number}")


def _save_unstored(rows: Sequence[Row]) -> str:
    """Save rows that could not be stored to a file, and return the end of the error message that says so."""
    path = platformdirs.user_cache_path("promptopt") / "unstored" / f"{uuid.uuid4().hex}.jsonl"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_atomic(path) as file:
            file.writelines(to_line(key, unpack(key, data), stored) for key, stored, data in rows)
    except OSError as error:
        return f"; the unstored entries ({len(rows)}) are lost because {path} cannot be written either ({error})"
    return f"; the unstored entries ({len(rows)}) were saved to {path}: add them with `promptopt memo import`"


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or unreadable
        return False
    match project:
        case {"project": {"name": "promptopt-toolkit"}}:
            return True
    return False


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines to a file atomically, and return their number.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with open_atomic(path) as file:
            return sum(file.write(line) > 0 for line in lines)
    except OSError as error:
        raise InputError(f"the export cannot be written to {path} ({error}): choose another file") from error
