"""Keeps every reply of every model, so that nothing is paid for or computed twice.

Keys are digests and values are JSON; knows nothing of models, requests or what a value means.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import tomllib
import uuid
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import platformdirs

from promptopt.errors import InputError, MemoError, MissingExtraError
from promptopt.memo.folder import open_folder
from promptopt.memo.format import checked, encode_sorted, from_line, pack, to_json, to_line, unpack, utf8
from promptopt.utils.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from promptopt.memo.format import Row
    from promptopt.memo.store import Claim, MemoStats, Store

_log = logging.getLogger(__name__)

_BROKEN = object()  # a value that cannot be read; no JSON value is this object
_IMPORTED_AT_ONCE = 1000  # lines
_AGE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}


def memo_key(fingerprint: Mapping[str, Any], operation: str, body: Any, replicate: int = 0) -> str:
    """Return the name of one reply: SHA-256, in hex, of the canonical JSON of [fingerprint, operation, body, replicate].

    Args:
        fingerprint: all that says which model answers.
        operation: what is asked of it, such as "generate".
        body: the full request, as JSON values.
        replicate: number of the sample.

    Raises:
        InputError: one of them is no JSON.
    """
    return KeyMaker(fingerprint, operation)(body, replicate)


class KeyMaker:
    """`memo_key` for many requests of one model: what they share is written and hashed once."""

    def __init__(self, fingerprint: Mapping[str, Any], operation: str) -> None:
        head = to_json([dict(fingerprint), operation], "the fingerprint", encode_sorted)
        self._head = hashlib.sha256(utf8(head[:-1] + ","))

    def __call__(self, body: Any, replicate: int = 0) -> str:
        """Return what `memo_key` returns for this fingerprint and operation."""
        digest = self._head.copy()
        digest.update(utf8(to_json([body, replicate], "the request", encode_sorted)[1:]))
        return digest.hexdigest()


class Memo:
    """JSON values by key, which several threads, processes and, on a server, machines may use at once.

    What is stored stays until `prune`, or until its folder or database is deleted. An entry survives the death of the
    process from the moment its `put` returns. In a folder a power cut may take the last ones, but never leaves half of
    one; on a server that hangs on its settings, which are looked at when it is opened.

    Args:
        place: a folder, where one SQLite file lies (made, for its user alone, where it is missing); or a server,
            `redis://[[user]:password@]host[:port][/db]`, with `rediss://` over TLS and `valkey://` as other names. None takes
            `default_place()`.

    Raises:
        InputError: the folder cannot be made; the server evicts entries.
        MemoError: the folder holds something that is no memo, the server cannot be reached.
        MissingExtraError: a server is named, and its client is not installed.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        self._store = _opened(default_place() if place is None else place)
        self._broken: set[str] = set()

    @property
    def place(self) -> str:
        """The folder, or the server's address and database, without user and password."""
        return self._store.place

    @property
    def corrupted(self) -> int:
        """Number of entries found broken since opening."""
        return len(self._broken)

    def get(self, key: str) -> Any | None:
        """Return the value, or None where there is none that can be read."""
        data = self._store.read_one(key)
        value = _BROKEN if data is None else self._value(key, data)
        return None if value is _BROKEN else value

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that are there, in the order of `keys`."""
        found = {key: self._value(key, data) for key, data in self._store.read_many(keys)}
        return {key: found[key] for key in keys if found.get(key, _BROKEN) is not _BROKEN}

    def put(self, key: str, value: Any) -> None:
        """Store one value; it is kept when this returns.

        Raises:
            InputError: it is no JSON: NaN and infinity are none.
        """
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store all values or, where that fails or the process dies, none.

        Raises:
            InputError: one of them is no JSON: NaN and infinity are none.
            MemoError: the store cannot be written; they are in a file that the message names.
        """
        now = time.time()
        rows = [(checked(key), now, pack(key, value, f"the value of {key}")) for key, value in values.items()]
        try:
            self._store.write([rows])
        except MemoError as error:
            raise MemoError(f"{error}{_kept_aside(rows)}") from error

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys`: what nobody else is computing is ours until the context ends.

        In a folder among the threads of this process; on a server among all who use it. Look for `mine` in the memo once
        more: somebody may have stored one before it was claimed here. Do not claim within a claim, and wait for others
        after its context only: then no two can wait for each other.
        """
        return self._store.claim(keys)

    def stats(self) -> MemoStats:
        """Return how much is stored, in bytes on disk or, of a server, in memory, and since when."""
        return self._store.census()

    def lines(self) -> Iterator[bytes]:
        """Yield what `export` writes, line by line."""
        for key, stored, data in self._store.rows():
            value = self._value(key, data)
            if value is not _BROKEN:
                yield to_line(key, value, stored)

    def export(self, path: str | Path) -> int:
        """Write one line of JSON, {"key", "value", "stored"}, for each entry; return how many. Broken ones are left out.

        The lines are ordered by time and key, so that equal memos give equal files. The file appears whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        return write_lines(Path(path), self.lines())

    def import_(self, path: str | Path) -> int:
        """Add the entries of an exported file; return how many were new. What is there already stays as it is.

        Where a line is bad none is added. Where the store fails on the way, none is in a folder; on a server those
        before it are, as the message says, and importing again adds the rest.

        Raises:
            InputError: the file cannot be read, or a line is not what `export` writes; names the line.
        """
        path = Path(path)
        added = 0

        def new_rows() -> Iterator[list[Row]]:
            nonlocal added
            rows = _rows_of(path)
            while chunk := list(islice(rows, _IMPORTED_AT_ONCE)):
                first = {row[0]: row for row in reversed(chunk)}
                for known in self.get_many(list(first)):
                    del first[known]
                yield list(first.values())
                added += len(first)

        try:
            for _ in _rows_of(path):  # each line is looked at before one is added
                pass
            self._store.write(new_rows())
        except OSError as error:
            raise InputError(f"the file {path} cannot be read ({error}): name one written by export") from error
        return added

    def prune(self, older_than_seconds: float) -> int:
        """Delete what was stored longer ago than this; return how many entries that were.

        Raises:
            InputError: the age is below 0 or no number.
        """
        if not older_than_seconds >= 0:
            raise InputError(f"the age must be 0 seconds or more, not {older_than_seconds}")
        return self._store.delete_before(time.time() - older_than_seconds)

    def close(self) -> None:
        """Close this thread's connection, or those to the server that nobody uses; the next use opens another."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _value(self, key: str, data: bytes) -> Any:
        """Return the value of an entry, or `_BROKEN`, and count it."""
        try:
            return unpack(key, data)
        except ValueError as error:
            if not self._broken:
                _log.warning("the memo in %s has a broken entry, %s (%s): it counts as missing", self.place, key, error)
            self._broken.add(key)
            return _BROKEN


def default_place() -> str:
    """Return where the memo lies unless told: PROMPTOPT_CACHE_DIR, else a checkout's cache/, else the user's cache folder."""
    named = os.environ.get("PROMPTOPT_CACHE_DIR")
    if named:
        return named
    here = Path.cwd()
    if (here / "cache").is_dir() and _is_checkout(here):
        return str(here / "cache")
    return str(platformdirs.user_cache_path("promptopt") / "memo")


def place_name(place: str) -> str:
    """Return a place as it may be shown: of a server the address and database, without user and password.

    Raises:
        InputError: it is a URL, but of no server that a memo can be on.
    """
    scheme, sign, _ = place.partition("://")
    if not sign:
        return place
    with suppress(ValueError):
        found = urlsplit(place)
        host, database = found.hostname or "localhost", parse_qs(found.query).get("db", [found.path.strip("/") or "0"])
        cut = found.fragment or "@" in found.path + found.query  # at a character of the password
        if scheme in _SCHEMES and not cut:
            return f"{scheme}://{f'[{host}]' if ':' in host else host}:{found.port or 6379}/{int(database[0])}"
    raise InputError(
        "the memo's URL cannot be used: write redis://[[user]:password@]host[:port][/db], rediss://... or "
        "valkey://..., with %XX for special characters in user and password; or name a folder"
    )


def _opened(place: str | Path) -> Store:
    if isinstance(place, str) and "://" in place:
        name = place_name(place)
        try:
            from promptopt.memo.server import RedisStore  # noqa: PLC0415  only where it is used
        except ModuleNotFoundError as error:
            raise MissingExtraError("a memo on a server", "scale") from error
        scheme, _, rest = place.partition("://")
        return RedisStore(f"{_SCHEMES[scheme]}://{rest}", name)
    return open_folder(folder_at(place))


def folder_at(place: str | Path) -> Path:
    """Return the folder that a place names."""
    # diskcache expands variables on its own; done here first, so that both mean the same folder.
    return Path(os.path.expandvars(Path(place).expanduser())).absolute()


def parse_age(text: str) -> float:
    """Return the seconds that an age such as 30d, 12h, 90m or 3600s stands for.

    Raises:
        InputError: it is no number with one of these units.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text.strip())
    if found is None:
        raise InputError(f"the age {text!r} is no number with a unit: write it like 30d, 12h, 90m or 3600s")
    return float(found[1]) * _AGE_UNITS[found[2]]


def _rows_of(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield from_line(line, f"{path}, line {number}")


def _kept_aside(rows: Sequence[Row]) -> str:
    """Write what the store did not take to a file of its own; return what to say of it."""
    path = platformdirs.user_cache_path("promptopt") / "unstored" / f"{uuid.uuid4().hex}.jsonl"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.writelines(to_line(key, unpack(key, data), stored) for key, stored, data in rows)
    except OSError as error:
        return f"; what it did not take (entries: {len(rows)}) is lost, for {path} cannot be written either ({error})"
    return f"; what it did not take (entries: {len(rows)}) is in {path}: `promptopt memo import` adds it"


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none there, or none that can be read
        return False
    match project:
        case {"project": {"name": "promptopt-toolkit"}}:
            return True
    return False


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines to a file, whole or not at all; return how many.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with whole_file(path) as file:
            return sum(file.write(line) > 0 for line in lines)
    except OSError as error:
        raise InputError(f"the export cannot be written to {path} ({error}): name another file") from error
