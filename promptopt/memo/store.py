"""What every store of the memo can do, and who computes what meanwhile. Knows nothing of folders or servers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from promptopt.memo.format import Row

_GLANCE = 0.5  # seconds between two looks at whether the user asked to end


class MemoStats(NamedTuple):
    """What a memo holds: its place, entries, bytes, and in seconds since 1970 when the first and the last were stored."""

    place: str
    entries: int
    bytes: int
    oldest: float | None
    newest: float | None


class Flight(Protocol):
    """Somebody else's work on some keys."""

    def wait(self, timeout: float) -> bool:
        """Block until it is finished, at most so many seconds; return whether it is."""
        ...


@dataclass(frozen=True)
class Claim:
    """Who computes what.

    Args:
        mine: keys that this thread computes and stores, and nobody else meanwhile.
        theirs: keys that others are computing.
        flights: the work of those who hold `theirs`.
    """

    mine: list[str]
    theirs: list[str]
    flights: Sequence[Flight]

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Block until `theirs` are finished, successfully or not.

        Leave the claim's context before: who waits holds nothing, so that no two ever wait for each other.

        Args:
            check: called about twice a second; may raise to end the waiting.
        """
        for flight in self.flights:
            while not flight.wait(_GLANCE):
                check()


class Flights:
    """Claims among the threads of this process."""

    def __init__(self) -> None:
        self._flights: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Share out the work on `keys`: what no other thread is computing is ours until the context ends."""
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
    """What a run needs of a memo: JSON values by key, and shared claims on the work for those that are missing."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that are there, in the order of `keys`."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep one value."""
        ...

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Keep all values or none."""
        ...

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys`."""
        ...


class Store(Protocol):
    """Packed values by key, each with the time when it was stored. Bytes that are no entry are given as b"".

    All methods raise InputError, which names the store and the mend, where it cannot be used.
    """

    place: str

    def read_one(self, key: str) -> bytes | None:
        """Return the packed value, or None where there is none."""
        ...

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the packed values that are there."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield all entries, by time and key."""
        ...

    def write(self, batches: Iterable[Sequence[Row]]) -> None:
        """Insert or overwrite entries: of each batch all or none, and of all of them where the store can."""
        ...

    def delete_before(self, moment: float) -> int:
        """Delete what was stored before `moment`, and return how many that were."""
        ...

    def census(self) -> MemoStats:
        """Return how much is stored, and since when."""
        ...

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work on `keys` among all who share it here."""
        ...

    def close(self) -> None:
        """Give back connections; the next use opens another."""
        ...
