"""Keeps every reply of every model on disk, so that nothing is paid for or computed twice.

Keys are digests and values are JSON; knows nothing of models, requests or what a value means.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
import tomllib
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

import diskcache
import platformdirs

from promptopt.errors import InputError
from promptopt.memo_store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

_log = logging.getLogger(__name__)

_BROKEN = object()  # a value that cannot be read; no JSON value is this object
_PLAIN, _DEFLATED = b"\x00", b"\x01"
_DEFLATE_FROM = 1024  # bytes; below, a row shrinks by 0.3 KB and a hit takes a quarter longer
_END_OF_TIME = 2.0**63  # seconds; what is not below is no time, NaN and infinity included
_AGE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_encode_sorted = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


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
        head = _json([dict(fingerprint), operation], "the fingerprint", _encode_sorted)
        self._head = hashlib.sha256(_utf8(head[:-1] + ","))

    def __call__(self, body: Any, replicate: int = 0) -> str:
        """Return what `memo_key` returns for this fingerprint and operation."""
        digest = self._head.copy()
        digest.update(_utf8(_json([body, replicate], "the request", _encode_sorted)[1:]))
        return digest.hexdigest()


class MemoStats(NamedTuple):
    """What a memo holds: times are seconds since 1970, None where it is empty."""

    folder: Path
    entries: int
    bytes: int
    oldest: float | None
    newest: float | None


@dataclass(frozen=True)
class Claim:
    """Who computes what, among the threads of this process.

    Args:
        mine: keys that this thread computes and stores, and nobody else meanwhile.
        theirs: keys that other threads are computing.
        flights: set when the threads that hold `theirs` are finished.
    """

    mine: list[str]
    theirs: list[str]
    flights: tuple[threading.Event, ...]

    def wait(self) -> None:
        """Block until `theirs` are finished, successfully or not. Compute and store `mine` before.

        A claim waits for earlier ones only, so no two ever wait for each other.
        """
        for flight in self.flights:
            flight.wait()


class Memo:
    """JSON values by key, in one SQLite file that several threads and processes may use at once.

    What is stored stays until `prune` or until its folder is deleted. An entry survives the death of the process from
    the moment its `put` returns; a power cut may take the last ones, but never leaves half of one.

    Args:
        folder: where the file lies; made, for its user alone, where it is missing. None takes `default_folder()`.

    Raises:
        InputError: the folder cannot be made, or holds something that is no memo.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        chosen = default_folder() if folder is None else Path(folder)
        # diskcache expands variables on its own; done here first, so that both mean the same folder.
        self.folder = Path(os.path.expandvars(chosen.expanduser())).absolute()
        self._broken: set[str] = set()
        self._flights: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / diskcache.core.DBNAME).touch(mode=0o600)
            self._store = Store(self.folder)
        except OSError as error:
            raise InputError(
                f"the memo's folder {self.folder} cannot be used ({error}): "
                "name another one in PROMPTOPT_CACHE_DIR, or make this one writable"
            ) from error
        except sqlite3.Error as error:
            self._refuse(error)

    @property
    def corrupted(self) -> int:
        """Number of entries found broken since opening."""
        return len(self._broken)

    def get(self, key: str) -> Any | None:
        """Return the value, or None where there is none that can be read."""
        try:
            row = self._store.read_one(key)
        except sqlite3.Error as error:
            self._refuse(error)
        value = _BROKEN if row is None else self._value(key, *row)
        return None if value is _BROKEN else value

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that are there, in the order of `keys`."""
        try:
            found = {key: self._value(key, *row) for key, *row in self._store.read_many(keys)}
        except sqlite3.Error as error:
            self._refuse(error)
        return {key: found[key] for key in keys if found.get(key, _BROKEN) is not _BROKEN}

    def put(self, key: str, value: Any) -> None:
        """Store one value; it is on disk when this returns.

        Raises:
            InputError: it is no JSON: NaN and infinity are none.
        """
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store all values or, where that fails or the process dies, none.

        Raises:
            InputError: one of them is no JSON: NaN and infinity are none.
        """
        now = time.time()
        self._write([(key, now, _pack(value, f"the value of {key}")) for key, value in values.items()])

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Share out the work on `keys`: what no other thread is computing is ours until the context ends.

        Look for `mine` in the memo once more: a thread may have stored one before it was claimed here. Do not claim
        within a claim: then two threads, or one alone, could wait for ever.
        """
        flight = threading.Event()
        with self._lock:
            wanted = dict.fromkeys(keys)
            theirs = {key: self._flights[key] for key in wanted if key in self._flights}
            mine = [key for key in wanted if key not in theirs]
            self._flights.update(dict.fromkeys(mine, flight))
        try:
            yield Claim(mine, list(theirs), tuple(theirs.values()))
        finally:
            with self._lock:
                for key in mine:
                    del self._flights[key]
            flight.set()

    def stats(self) -> MemoStats:
        """Return how much is stored, in bytes on disk, and since when."""
        try:
            entries, oldest, newest = self._store.census()
        except sqlite3.Error as error:
            self._refuse(error)
        size = sum(file.stat().st_size for file in self.folder.glob(f"{diskcache.core.DBNAME}*"))
        return MemoStats(self.folder, entries, size, oldest, newest)

    def export(self, path: str | Path) -> int:
        """Write one line of JSON, {"key", "value", "stored"}, for each entry; return how many. Broken ones are left out.

        The file appears whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        path = Path(path)
        try:
            with _written_at_once(path) as file:
                return sum(file.write(line) > 0 for line in self._lines())
        except OSError as error:
            raise InputError(f"the export cannot be written to {path} ({error}): name another file") from error

    def import_(self, path: str | Path) -> int:
        """Add the entries of an exported file; return how many were new. What is there already stays as it is.

        All of them are added or, where a line is bad, none.

        Raises:
            InputError: the file cannot be read, or a line is not what `export` writes; names the line.
        """
        path = Path(path)
        added = 0

        def new_rows() -> Iterator[tuple[str, float, bytes]]:
            nonlocal added
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    row = _row_of(line, f"{path}, line {number}")
                    if row[0] not in self.get_many([row[0]]):
                        added += 1
                        yield row

        try:
            self._write(new_rows())
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
        try:
            return self._store.delete_before(time.time() - older_than_seconds)
        except sqlite3.Error as error:
            self._refuse(error)

    def close(self) -> None:
        """Close this thread's connection; the next use opens another."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, rows: Iterable[tuple[str, float, bytes]]) -> None:
        try:
            self._store.write(rows)
        except sqlite3.Error as error:
            self._refuse(error)

    def _value(self, key: str, mode: int, filename: str | None, data: Any) -> Any:
        """Return the value of a row, or `_BROKEN`, and count it."""
        try:
            packed: Any = self._store.disk.fetch(mode, filename, data, read=False)
            return _unpack(packed)
        except (ValueError, RecursionError, zlib.error) as error:
            if not self._broken:
                _log.warning(
                    "the memo in %s has a broken entry, %s (%s): it counts as missing", self.folder, key, error
                )
            self._broken.add(key)
            return _BROKEN

    def _lines(self) -> Iterator[bytes]:
        try:
            for stored, key, *row in self._store.rows():
                value = self._value(key, *row)
                if value is not _BROKEN:
                    yield _utf8(_encode({"key": key, "value": value, "stored": stored}) + "\n")
        except sqlite3.Error as error:
            self._refuse(error)

    def _refuse(self, error: sqlite3.Error) -> NoReturn:
        raise InputError(
            f"the memo in {self.folder} cannot be used ({error}): make room, make it writable, or move the folder away "
            "to start an empty one; PROMPTOPT_CACHE_DIR names another place"
        ) from error


def default_folder() -> Path:
    """Return where the memo lies unless told: PROMPTOPT_CACHE_DIR, else a checkout's cache/, else the user's cache folder."""
    named = os.environ.get("PROMPTOPT_CACHE_DIR")
    if named:
        return Path(named)
    here = Path.cwd()
    if (here / "cache").is_dir() and _is_checkout(here):
        return here / "cache"
    return platformdirs.user_cache_path("promptopt") / "memo"


def parse_age(text: str) -> float:
    """Return the seconds that an age such as 30d, 12h, 90m or 3600s stands for.

    Raises:
        InputError: it is no number with one of these units.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text.strip())
    if found is None:
        raise InputError(f"the age {text!r} is no number with a unit: write it like 30d, 12h, 90m or 3600s")
    return float(found[1]) * _AGE_UNITS[found[2]]


def _json(value: Any, what: str, encode: Callable[[Any], str] = _encode) -> str:
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}): "
            "give text, finite numbers, true, false, None, and lists and dicts of these"
        ) from error


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # models do send halves of surrogate pairs


def _pack(value: Any, what: str) -> bytes:
    """Return a flag byte and the JSON, deflated where that is shorter."""
    plain = _utf8(_json(value, what))
    if len(plain) < _DEFLATE_FROM:
        return _PLAIN + plain
    # Small tables: the usual ones take 50 microseconds to set up, the compressing of a reply itself takes 5.
    deflater = zlib.compressobj(level=1, wbits=12, memLevel=4)
    deflated = deflater.compress(plain) + deflater.flush()
    return _DEFLATED + deflated if len(deflated) < len(plain) else _PLAIN + plain


def _unpack(data: bytes) -> Any:
    flag, payload = data[:1], data[1:]
    if flag == _DEFLATED:
        payload = zlib.decompress(payload)
    elif flag != _PLAIN:
        raise ValueError(f"it starts with {flag!r}")
    return _decode(payload.decode("utf-8", "surrogatepass"))


def _row_of(line: bytes, where: str) -> tuple[str, float, bytes]:
    """Read one line of an export as (key, stored, packed value)."""
    try:
        entry = _decode(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}): mend or remove the line") from error
    match entry:
        case {"key": str(key), "value": value, "stored": int() | float() as stored} if (
            key.isascii() and not isinstance(stored, bool) and 0 <= stored < _END_OF_TIME
        ):
            return key, float(stored), _pack(value, f"the value in {where}")
    raise InputError(f'{where} is no entry of a memo: it must have a "key" (text), a "value" and "stored" (seconds)')


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none there, or none that can be read
        return False
    match project:
        case {"project": {"name": "promptopt-toolkit"}}:
            return True
    return False


@contextmanager
def _written_at_once(path: Path) -> Generator[IO[bytes]]:
    """Give a file that takes the name `path` when the context ends well, and else vanishes."""
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115  # closed below, renamed after
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    finally:
        Path(file.name).unlink(missing_ok=True)
