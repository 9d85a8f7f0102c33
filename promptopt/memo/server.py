"""The memo on a server of Redis' kind, shared by processes and machines.

An entry is the string `promptopt:memo:KEY`: eight bytes of time, then what a folder holds. Who computes a key holds
`promptopt:lock:KEY`, which counts for as long as the holder's lease, `promptopt:lease:HOLDER`, is renewed. Knows nothing of
what the bytes mean.
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
from promptopt.memo.format import END_OF_TIME, checked
from promptopt.memo.store import Claim, MemoStats

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from promptopt.memo.format import Row

_log = logging.getLogger("promptopt.memo.memo")

_ENTRY, _LOCK, _LEASE = "promptopt:memo:", "promptopt:lock:", "promptopt:lease:"
_TIME = struct.Struct(">d")

_AT_ONCE = 1000  # keys a command: the server does nothing else meanwhile
_CONNECT_SECONDS = 5.0
_REPLY_SECONDS = 60.0  # a batch goes in as one transaction
_PATIENCE_SECONDS = 60.0  # without a connection; a server that is started again reads its log first
_PAUSES = (0.1, 5.0)  # seconds before the second try, and at most
_LEASE_SECONDS = 30.0  # after which others take over from a process that died
_LOCK_SECONDS = 7 * 86400  # after which the server forgets a lock that nobody asked for again
_POLL_SECONDS = (0.01, 0.25)  # between looks at another's lease

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

# KEYS: entries. ARGV: seconds since 1970. What has no time is as old as can be.
_DELETE_BEFORE = """
local deleted = 0
for _, key in ipairs(KEYS) do
    local head = redis.call('GETRANGE', key, 0, 7)
    if #head < 8 or struct.unpack('>d', head) < tonumber(ARGV[1]) then deleted = deleted + redis.call('UNLINK', key) end
end
return deleted
"""


class RedisStore:
    """Entries on one server, Redis from 6 on or what speaks its protocol.

    A command that finds no connection is tried again for a minute, since all of them may be repeated.

    Args:
        url: of the server, as redis-py takes it.
        place: the same without user and password.

    Raises:
        InputError: the server evicts entries.
        MemoError: it cannot be reached or used.
    """

    def __init__(self, url: str, place: str) -> None:
        self.place = place
        self._client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0),  # ours, below, says that it waits
        )
        self._claim = self._client.register_script(_CLAIM)
        self._release = self._client.register_script(_RELEASE)
        self._delete_before = self._client.register_script(_DELETE_BEFORE)
        self._leases = _Leases(self._client, place)
        self._look_at_settings()

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        data = self._ask(self._client.mget, [_ENTRY + key])[0]
        return None if data is None else data[_TIME.size :]

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        for chunk in _chunks(keys):
            names = [_ENTRY + key for key in chunk]
            for key, data in zip(chunk, self._ask(self._client.mget, names), strict=True):
                if data is not None:
                    yield key, data[_TIME.size :]

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key; their keys are held in memory meanwhile."""
        keys = sorted((stored, key) for key, stored, _ in self._heads() if stored is not None)
        for chunk in _chunks(keys):
            stored = {key: moment for moment, key in chunk}
            for key, data in self.read_many(list(stored)):
                yield key, stored[key], data

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries: of each batch all or none."""
        done = 0
        for rows in batches:
            entries = [(_ENTRY + checked(key), _TIME.pack(stored) + data) for key, stored, data in rows]
            try:
                self._ask(self._set, entries)
            except MemoError as error:
                if done:
                    raise MemoError(f"{error}; the first {done:,} entries are stored, again adds the rest") from error
                raise
            done += len(rows)

    def delete_before(self, moment: float) -> int:
        """Delete what was stored before `moment`, and return how many that were."""
        return sum(self._ask(self._delete_before, names, [repr(moment)]) for names in self._names() if names)

    def census(self) -> MemoStats:
        """Return how much is stored, in bytes of keys and values, and since when."""
        entries = size = 0
        oldest, newest = END_OF_TIME, -1.0
        for key, stored, length in self._heads():
            entries += 1
            size += len(_ENTRY) + len(key) + length
            if stored is not None:
                oldest, newest = min(oldest, stored), max(newest, stored)
        return MemoStats(self.place, entries, size, *((oldest, newest) if newest >= 0 else (None, None)))

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Share out the work on `keys` among all who use this server."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            yield Claim([], [], ())
            return
        mine: list[str] = []
        theirs: dict[str, str] = {}
        holder = self._leases.begin()
        try:
            for chunk in _chunks(wanted):
                for key, other in zip(chunk, self._take(chunk, holder), strict=True):
                    if other:
                        theirs[key] = other.decode()
                    else:
                        mine.append(key)
            flights = tuple(_Flight(self, other) for other in dict.fromkeys(theirs.values()))
            yield Claim(mine, list(theirs), flights)
        finally:
            self._leases.end(holder)
            self._give_back(mine, holder)

    def holds(self, holder: str) -> bool:
        """Return whether the one who claimed something is still at work."""
        return bool(self._ask(self._client.exists, _LEASE + holder))

    def close(self) -> None:
        """Close the connections that no thread is using; the next use opens another."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _set(self, entries: Sequence[tuple[str, bytes]]) -> None:
        with self._client.pipeline(transaction=True) as transaction:
            for chunk in _chunks(entries):
                transaction.mset(dict(chunk))
            transaction.execute()

    def _take(self, keys: Sequence[str], holder: str) -> list[bytes]:
        names = [_LEASE + holder, *(_LOCK + checked(key) for key in keys)]
        settings: list[Any] = [holder, int(_LEASE_SECONDS * 1000), _LOCK_SECONDS * 1000, _LEASE]
        holders: list[bytes] = self._ask(self._claim, names, settings)
        return holders

    def _give_back(self, keys: Sequence[str], holder: str) -> None:
        """Release what a holder holds; where that fails, its lease ends by itself."""
        try:
            for chunk in [*_chunks(keys)] or [[]]:
                self._release([_LEASE + holder, *(_LOCK + key for key in chunk)], [holder])
        except RedisError as error:
            _log.warning("the memo at %s: others wait up to %g s more (%s)", self.place, _LEASE_SECONDS, error)

    def _names(self) -> Iterator[list[str]]:
        """Yield the names of all entries, each once."""
        seen: set[bytes] = set()
        run, cursor = self._ask(self._info).get("run_id"), 0
        while True:
            cursor, found = self._ask(self._client.scan, cursor, f"{_ENTRY}*", _AT_ONCE, "STRING")
            fresh = dict.fromkeys(name for name in found if name not in seen and name.isascii())
            seen.update(fresh)
            yield [name.decode() for name in fresh]
            if not cursor:
                break
        if self._ask(self._info).get("run_id") != run:
            raise MemoError(f"the memo at {self.place} was started again while it was read: do it again")

    def _heads(self) -> Iterator[tuple[str, float | None, int]]:
        """Yield the key of each entry, when it was stored, if it says so, and its length."""
        for names in self._names():
            for name, head, length in zip(names, *self._ask(self._measure, names), strict=True):
                stored = _TIME.unpack(head)[0] if len(head) == _TIME.size else -1.0
                yield name.removeprefix(_ENTRY), stored if 0 <= stored < END_OF_TIME else None, length

    def _measure(self, names: Sequence[str]) -> tuple[list[bytes], list[int]]:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.getrange(name, 0, _TIME.size - 1)
            for name in names:
                pipeline.strlen(name)
            found = pipeline.execute()
        return found[: len(names)], found[len(names) :]

    def _info(self) -> dict[str, Any]:
        """Return what the server says of itself; hosted ones may not."""
        found: dict[str, Any] = {}
        for command in (self._client.info, lambda: self._client.config_get("appendfsync")):
            with suppress(ResponseError):
                found |= command()
        return found

    def _look_at_settings(self) -> None:
        """Refuse a server that evicts entries; warn of one that may lose them."""
        info = self._ask(self._info, patience=0.0)
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if info.get("maxmemory") and policy.startswith("allkeys"):
            raise InputError(
                f"the memo at {self.place} evicts entries when its memory is full (maxmemory-policy {policy}), and what was "
                "paid for would be paid for again: set maxmemory-policy to noeviction"
            )
        if not info.get("aof_enabled", 1):
            _log.warning(
                "the memo at %s keeps no log: what was stored since its last snapshot is lost when it ends; set appendonly "
                "to yes",
                self.place,
            )
        elif info.get("appendfsync") == "no":
            _log.warning(
                "the memo at %s leaves it to its system when entries are on disk: set appendfsync to everysec or always",
                self.place,
            )

    def _ask(self, command: Callable[..., Any], *given: Any, patience: float | None = None) -> Any:
        """Return what a command returns; where there is no connection, try again until it has been so for a minute."""
        end = time.monotonic() + (_PATIENCE_SECONDS if patience is None else patience)
        pause = _PAUSES[0]
        while True:
            try:
                return command(*given)
            except (AuthenticationError, AuthorizationError) as error:
                self._refuse(error, "check user and password in its URL")
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() + pause > end:
                    self._refuse(error, "start it, or mend the way to it, then run again")
                if pause == _PAUSES[0]:
                    _log.warning("still waiting for the memo at %s (%s)", self.place, error)
                time.sleep(pause)
                pause = min(2 * pause, _PAUSES[1])
            except RedisError as error:
                self._refuse(error, "make room, or change its settings, then run again")

    def _refuse(self, error: RedisError, mend: str) -> NoReturn:
        reason = str(error).rpartition(" of pipeline caused error: ")[2]  # before it stands what was to be stored
        raise MemoError(f"the memo at {self.place} cannot be used ({reason}): {mend}") from error


@dataclass(frozen=True)
class _Flight:
    """Another's work on some keys, wherever it runs."""

    store: RedisStore
    holder: str

    def wait(self, timeout: float) -> bool:
        """Block until its lease ended, at most so many seconds; return whether it has."""
        end, pause = time.monotonic() + timeout, _POLL_SECONDS[0]
        while self.store.holds(self.holder):
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS[1])
        return True


class _Leases:
    """The leases of this process, renewed by one thread while there are any."""

    def __init__(self, client: Any, place: str) -> None:
        self._client = client
        self._place = place
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._renewing = False

    def begin(self) -> str:
        """Return the name of a new holder; his first claim makes the lease."""
        holder = uuid.uuid4().hex
        with self._lock:
            self._held.add(holder)
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._renew, name="promptopt leases", daemon=True).start()
        return holder

    def end(self, holder: str) -> None:
        """Renew this holder's lease no longer."""
        with self._lock:
            self._held.remove(holder)

    def _renew(self) -> None:
        while True:
            time.sleep(_LEASE_SECONDS / 3)
            with self._lock:  # while it is held no lease ends, so that none is renewed after its end
                if not self._held:
                    self._renewing = False
                    return
                try:
                    with self._client.pipeline(transaction=False) as pipeline:
                        for holder in self._held:
                            pipeline.set(_LEASE + holder, "", px=int(_LEASE_SECONDS * 1000))
                        pipeline.execute()
                except RedisError as error:
                    _log.warning("the memo at %s: a lease could not be renewed (%s)", self._place, error)


def _chunks(items: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
