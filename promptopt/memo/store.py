"""The interface of the memo's stores, and claims on work in progress. Knows nothing of folders or servers."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from promptopt.memo.format import Row

_CHECK_INTERVAL = 0.5  # seconds between checks for a stop requested by the user


class MemoStats(NamedTuple):
    """Contents of a memo.

    Args:
        location: folder, or server and database.
        entries: number of entries.
        bytes: their size.
        oldest: when the first entry was stored, in seconds since 1970; None if there is none.
        newest: when the last entry was stored, likewise.
    """

    location: str
    entries: int
    bytes: int
    oldest: float | None
    newest: float | None

    @property
    def place(self) -> str:
        """Former name of `location`."""
        warnings.warn("MemoStats.place is now MemoStats.location", DeprecationWarning, stacklevel=2)
        return self.location


class Flight(Protocol):
    """Another holder's work on some keys."""

    def wait(self, timeout: float) -> bool:
        """Block until the work is finished, for at most `timeout` seconds; return whether it is finished."""
        ...


@dataclass(frozen=True)
class Claim:
    """Who computes which keys.

    Args:
        mine: keys that this thread alone must compute and store.
        theirs: keys that others are computing.
        flights: the others' work on `theirs`.
    """

    mine: list[str]
    theirs: list[str]
    flights: Sequence[Flight]

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Block until `theirs` are finished, successfully or not.

        Leave the claim's context first: releasing your claim before waiting prevents deadlock.

        Args:
            check: called about twice a second; may raise to stop waiting.
        """
        for flight in self.flights:
            while not flight.wait(_CHECK_INTERVAL):
                check()


class ThreadClaims:
    """Claims among the threads of this process."""

    def __init__(self) -> None:
        self._flights: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Claim `keys`: those that no other thread is computing are ours until the context ends."""
        flight = threading.Event()
        with self._lock:
            wanted = dict.fromkeys(keys)
            theirs = {key: self._flights[key] for key in wanted if key in self._flights}
            mine = [key for key in wanted if key not in theirs]
            self._flights.update(dict.fromkeys(mine, flight))
        try:
            yield Claim(mine, list(theirs), tuple(dict.fromkeys(theirs.values())))
        finally:
            with self._lock:
                for key in mine:
                    del self._flights[key]
            flight.set()


class ReplyCache(Protocol):
    """The part of a memo that a run needs: JSON values by key, and claims on missing ones."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that exist, in the order of `keys`."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Store one value."""
        ...

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store all values or none."""
        ...

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Claim `keys`."""
        ...


class Store(Protocol):
    """Packed values by key, each with the time when it was stored. Bytes that are not an entry are returned as b"".

    All methods raise InputError if the store cannot be used; the message names the store and the fix.
    """

    location: str

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None if there is none."""
        ...

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that exist."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield all entries, sorted by time and key."""
        ...

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries: each batch atomically, and all batches together if the store supports it."""
        ...

    def delete_before(self, moment: float) -> int:
        """Delete the entries stored before `moment`, and return their number."""
        ...

    def stats(self) -> MemoStats:
        """Return how much is stored, and since when."""
        ...

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Claim `keys` among all users of this store."""
        ...

    def close(self) -> None:
        """Close connections; the next use opens a new one."""
        ...
