"""The memo on a Redis-compatible server, shared by processes and machines.

An entry is the string `promptopt:memo:KEY`: eight bytes of time, then the value as in a folder. While a holder computes a
key it owns `promptopt:lock:KEY`, which is valid as long as the holder renews its lease `promptopt:lease:HOLDER`. Knows
nothing of what the bytes mean.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.retry import Retry

from promptopt.errors import InputError, MemoError
from promptopt.memo.format import END_OF_TIME, check_key
from promptopt.memo.store import Claim, MemoStats

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from promptopt.memo.format import Row

_log = logging.getLogger("promptopt.memo.memo")

_ENTRY, _LOCK, _LEASE = "promptopt:memo:", "promptopt:lock:", "promptopt:lease:"
_TIME = struct.Struct(">d")

_KEYS_PER_COMMAND = 1000  # the server is blocked while a command runs
_CONNECT_SECONDS = 5.0
_REPLY_SECONDS = 60.0  # long, because a batch is one transaction
_RETRY_SECONDS = 60.0  # long, because a restarted server first reads its log
_RETRY_DELAYS = (0.1, 5.0)  # seconds before the first retry, and at most
_LEASE_SECONDS = 30.0  # after this, others take over from a dead process
_LOCK_SECONDS = 7 * 86400  # after this, the server drops an abandoned lock
_POLL_SECONDS = (0.01, 0.25)  # first and longest interval between checks of another holder's lease

# KEYS: own lease, locks. ARGV: holder, lease in milliseconds, lock in milliseconds, prefix of leases.
# Returns for each lock the other holder, or "".
_CLAIM = """
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
local alive, holders = {[ARGV[1]] = false}, redis.call('MGET', unpack(KEYS, 2))
for i, holder in ipairs(holders) do
    if holder and alive[holder] == nil then
        alive[holder] = redis.call('EXISTS', ARGV[4] .. holder) == 1
    end
    if not (holder and alive[holder]) then
        redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[3])
        holders[i] = ''
    end
end
return holders
"""

# KEYS: own lease, locks. ARGV: holder.
_RELEASE = """
local ours = {KEYS[1]}
for i, holder in ipairs(#KEYS > 1 and redis.call('MGET', unpack(KEYS, 2)) or {}) do
    if holder == ARGV[1] then ours[#ours + 1] = KEYS[i + 1] end
end
redis.call('UNLINK', unpack(ours))
"""

# KEYS: entries. ARGV: seconds since 1970. Entries without a time are deleted too.
_DELETE_BEFORE = """
local deleted = 0
for _, key in ipairs(KEYS) do
    local head = redis.call('GETRANGE', key, 0, 7)
    if #head < 8 or struct.unpack('>d', head) < tonumber(ARGV[1]) then deleted = deleted + redis.call('UNLINK', key) end
end
return deleted
"""


class RedisStore:
    """Entries on one server: Redis 6 or later, or a compatible one.

    Commands are idempotent, so a command that fails to connect is retried for up to a minute.

    Args:
        url: of the server, in the form that redis-py accepts.
        location: the same without user and password.

    Raises:
        InputError: the server evicts entries.
        MemoError: it cannot be reached or used.
    """

    def __init__(self, url: str, location: str) -> None:
        self.location = location
        self._client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0),  # retries are in _execute, which logs them
        )
        self._claim = self._client.register_script(_CLAIM)
        self._release = self._client.register_script(_RELEASE)
        self._delete_before = self._client.register_script(_DELETE_BEFORE)
        self._leases = _Leases(self._client, location)
        self._check_settings()

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        data = self._execute(self._client.mget, [_ENTRY + key])[0]
        return None if data is None else data[_TIME.size :]

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        for chunk in _chunks(keys):
            names = [_ENTRY + key for key in chunk]
            for key, data in zip(chunk, self._execute(self._client.mget, names), strict=True):
                if data is not None:
                    yield key, data[_TIME.size :]

    def rows(self) -> Iterator[Row]:
        """Yield all entries, sorted by time and key; all keys are held in memory meanwhile."""
        keys = sorted((stored, key) for key, stored, _ in self._entry_headers() if stored is not None)
        for chunk in _chunks(keys):
            stored = {key: moment for moment, key in chunk}
            for key, data in self.read_many(list(stored)):
                yield key, stored[key], data

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries; each batch is written atomically."""
        written = 0
        for rows in batches:
            entries = [(_ENTRY + check_key(key), _TIME.pack(stored) + data) for key, stored, data in rows]
            try:
                self._execute(self._set, entries)
            except MemoError as error:
                if written:
                    raise MemoError(
                        f"{error}; the first {written:,} entries were stored: run it again to add the rest"
                    ) from error
                raise
            written += len(rows)

    def delete_before(self, moment: float) -> int:
        """Delete the entries stored before `moment`, and return their number."""
        return sum(self._execute(self._delete_before, names, [repr(moment)]) for names in self._scan_names() if names)

    def stats(self) -> MemoStats:
        """Return how much is stored (bytes of keys and values) and since when."""
        entries = size = 0
        oldest, newest = END_OF_TIME, -1.0
        for key, stored, length in self._entry_headers():
            entries += 1
            size += len(_ENTRY) + len(key) + length
            if stored is not None:
                oldest, newest = min(oldest, stored), max(newest, stored)
        return MemoStats(self.location, entries, size, *((oldest, newest) if newest >= 0 else (None, None)))

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Claim `keys` among all clients of this server."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            yield Claim([], [], ())
            return
        mine: list[str] = []
        theirs: dict[str, str] = {}
        holder = self._leases.begin()
        try:
            for chunk in _chunks(wanted):
                for key, other in zip(chunk, self._claim_keys(chunk, holder), strict=True):
                    if other:
                        theirs[key] = other.decode()
                    else:
                        mine.append(key)
            flights = tuple(_RemoteClaim(self, other) for other in dict.fromkeys(theirs.values()))
            yield Claim(mine, list(theirs), flights)
        finally:
            self._leases.end(holder)
            self._release_keys(mine, holder)

    def holds(self, holder: str) -> bool:
        """Return whether the holder of a claim is still working."""
        return bool(self._execute(self._client.exists, _LEASE + holder))

    def close(self) -> None:
        """Close idle connections; the next use opens a new one."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _set(self, entries: Sequence[tuple[str, bytes]]) -> None:
        with self._client.pipeline(transaction=True) as transaction:
            for chunk in _chunks(entries):
                transaction.mset(dict(chunk))
            transaction.execute()

    def _claim_keys(self, keys: Sequence[str], holder: str) -> list[bytes]:
        names = [_LEASE + holder, *(_LOCK + check_key(key) for key in keys)]
        settings: list[Any] = [holder, int(_LEASE_SECONDS * 1000), _LOCK_SECONDS * 1000, _LEASE]
        holders: list[bytes] = self._execute(self._claim, names, settings)
        return holders

    def _release_keys(self, keys: Sequence[str], holder: str) -> None:
        """Release the locks and the lease of a holder; if that fails, the lease expires by itself."""
        try:
            for chunk in [*_chunks(keys)] or [[]]:
                self._release([_LEASE + holder, *(_LOCK + key for key in chunk)], [holder])
        except RedisError as error:
            _log.warning(
                "the memo at %s: a claim could not be released, so others wait up to %g s longer (%s)",
                self.location,
                _LEASE_SECONDS,
                error,
            )

    def _scan_names(self) -> Iterator[list[str]]:
        """Yield the names of all entries in batches, each name once."""
        yielded: set[bytes] = set()
        server_run, cursor = self._execute(self._info).get("run_id"), 0
        while True:
            cursor, names = self._execute(self._client.scan, cursor, f"{_ENTRY}*", _KEYS_PER_COMMAND, "STRING")
            new_names = dict.fromkeys(name for name in names if name not in yielded and name.isascii())
            yielded.update(new_names)
            yield [name.decode() for name in new_names]
            if not cursor:
                break
        if self._execute(self._info).get("run_id") != server_run:
            raise MemoError(f"the memo at {self.location} was restarted while it was being read: try again")

    def _entry_headers(self) -> Iterator[tuple[str, float | None, int]]:
        """Yield (key, time stored or None, length in bytes) of each entry."""
        for names in self._scan_names():
            for name, head, length in zip(names, *self._execute(self._measure, names), strict=True):
                stored = _TIME.unpack(head)[0] if len(head) == _TIME.size else -1.0
                yield name.removeprefix(_ENTRY), stored if 0 <= stored < END_OF_TIME else None, length

    def _measure(self, names: Sequence[str]) -> tuple[list[bytes], list[int]]:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.getrange(name, 0, _TIME.size - 1)
            for name in names:
                pipeline.strlen(name)
            results = pipeline.execute()
        return results[: len(names)], results[len(names) :]

    def _info(self) -> dict[str, Any]:
        """Return the server's state and settings; hosted servers may refuse to report them."""
        info: dict[str, Any] = {}
        for command in (self._client.info, lambda: self._client.config_get("appendfsync")):
            with suppress(ResponseError):
                info |= command()
        return info

    def _check_settings(self) -> None:
        """Refuse a server that evicts entries, and warn about one that may lose them."""
        info = self._execute(self._info, retry_seconds=0.0)
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if info.get("maxmemory") and policy.startswith("allkeys"):
            raise InputError(
                f"the memo at {self.location} evicts entries when its memory is full (maxmemory-policy {policy}), so replies "
                "would be paid for twice: set maxmemory-policy to noeviction"
            )
        if not info.get("aof_enabled", 1):
            _log.warning(
                "the memo at %s keeps no append-only file: entries since the last snapshot are lost when the server stops; "
                "set appendonly to yes",
                self.location,
            )
        elif info.get("appendfsync") == "no":
            _log.warning(
                "the memo at %s lets the operating system decide when to write to disk: set appendfsync to everysec or always",
                self.location,
            )

    def _execute(self, command: Callable[..., Any], *arguments: Any, retry_seconds: float | None = None) -> Any:
        """Run a command and return its result; retry for a limited time while there is no connection."""
        end = time.monotonic() + (_RETRY_SECONDS if retry_seconds is None else retry_seconds)
        pause = _RETRY_DELAYS[0]
        while True:
            try:
                return command(*arguments)
            except (AuthenticationError, AuthorizationError) as error:
                self._raise_memo_error(error, "check the user and password in its URL")
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() + pause > end:
                    self._raise_memo_error(error, "start the server or fix the connection, then run again")
                if pause == _RETRY_DELAYS[0]:
                    _log.warning("still waiting for the memo at %s (%s)", self.location, error)
                time.sleep(pause)
                pause = min(2 * pause, _RETRY_DELAYS[1])
            except RedisError as error:
                self._raise_memo_error(error, "free memory or change its settings, then run again")

    def _raise_memo_error(self, error: RedisError, fix: str) -> NoReturn:
        reason = str(error).rpartition(" of pipeline caused error: ")[2]  # drops the command, which holds the data
        raise MemoError(f"the memo at {self.location} cannot be used ({reason}): {fix}") from error


@dataclass(frozen=True)
class _RemoteClaim:
    """Another holder's work on some keys, on any machine."""

    store: RedisStore
    holder: str

    def wait(self, timeout: float) -> bool:
        """Block until the lease has ended, for at most `timeout` seconds; return whether it has ended."""
        end, pause = time.monotonic() + timeout, _POLL_SECONDS[0]
        while self.store.holds(self.holder):
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS[1])
        return True


class _Leases:
    """The leases of this process, renewed by one thread as long as there are any."""

    def __init__(self, client: Any, location: str) -> None:
        self._client = client
        self._location = location
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._renewing = False

    def begin(self) -> str:
        """Return the name of a new holder; its first claim creates the lease."""
        holder = uuid.uuid4().hex
        with self._lock:
            self._held.add(holder)
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._renew, name="promptopt leases", daemon=True).start()
        return holder

    def end(self, holder: str) -> None:
        """Stop renewing this holder's lease."""
        with self._lock:
            self._held.remove(holder)

    def _renew(self) -> None:
        while True:
            time.sleep(_LEASE_SECONDS / 3)
            with self._lock:  # no lease can end meanwhile, so an ended lease is never renewed
                if not self._held:
                    self._renewing = False
                    return
                try:
                    with self._client.pipeline(transaction=False) as pipeline:
                        for holder in self._held:
                            pipeline.set(_LEASE + holder, "", px=int(_LEASE_SECONDS * 1000))
                        pipeline.execute()
                except RedisError as error:
                    _log.warning("the memo at %s: a lease could not be renewed (%s)", self._location, error)


def _chunks(items: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(items), _KEYS_PER_COMMAND):
        yield items[start : start + _KEYS_PER_COMMAND]
