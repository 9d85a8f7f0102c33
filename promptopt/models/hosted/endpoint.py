"""What all calls to one address share: how many may be in flight, cool-downs, and when the address counts as down.

Knows nothing of HTTP: an attempt at a call returns a reply or raises the kind of failure.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from promptopt.errors import TransientModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from promptopt.errors import ModelError

_log = logging.getLogger(__name__)

_LONG_WAIT = 5.0  # seconds; longer ones are logged
_INITIAL_WINDOW = 8  # concurrent calls until the first replies


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a call is tried again, and after what waits.

    Args:
        tries: maximum attempts at one request that end in server errors, timeouts, lost connections or malformed replies.
        waits: maximum times that one request may be rate-limited; these do not count as tries.
        refusals: consecutive requests refused for their content before a probe checks whether the endpoint accepts any.
        backoff: seconds before the second try; doubles with each try. 0 tries again at once.
        longest_backoff: seconds; upper limit of that.
        longest_wait: seconds; a longer wait that the endpoint asks for ends the run, which can be resumed later.
    """

    tries: int = 4
    waits: int = 10
    refusals: int = 3
    backoff: float = 0.5
    longest_backoff: float = 60.0
    longest_wait: float = 300.0

    def pause(self, count: int, jitter: float) -> float:
        """Return the seconds to wait after the `count`-th failure in a row."""
        return min(self.backoff * 2.0 ** (count - 1), self.longest_backoff) * jitter


PATIENCE = Patience()
"""The default."""


class AttemptError(Exception):
    """An attempt failed; a retry may succeed.

    Args:
        reason: human-readable.
        status: HTTP status of the answer, or None.
        wait: seconds that the endpoint asks to wait, or None.
        overloaded: whether it failed because there were too many calls.
        timed_out: whether there was no answer within the timeout.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        wait: float | None = None,
        overloaded: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.status, self.wait, self.overloaded = reason, status, wait, overloaded
        self.timed_out = timed_out


class RefusedError(Exception):
    """The endpoint refuses this request because of its content; a retry would be refused too.

    Args:
        reason: human-readable.
        if_general: the error to raise if other requests are refused too.
    """

    def __init__(self, reason: str, if_general: ModelError) -> None:
        super().__init__(reason)
        self.reason, self.if_general = reason, if_general


@dataclass
class Endpoint:
    """State shared by all calls to one address: the concurrency window, cool-downs, and recent outcomes.

    Changed only in the event loop's thread. The window grows by one with each reply until the endpoint first reports
    overload, then by one per window of replies; it halves at each overload.
    """

    name: str
    window: float = _INITIAL_WINDOW
    replies: int = 0
    _in_flight: int = 0
    _closed_until: float = 0.0  # loop time
    _last_halved: float = -1.0  # loop time
    _overloads: int = 0  # consecutive
    _given_up: int = 0  # consecutive requests that used up their tries
    _attempts: int = 0  # at those requests
    _refused: int = 0  # consecutive requests that were refused for their content
    _said_timeout: bool = False
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _queue: deque[asyncio.Future[None]] = field(default_factory=deque)

    @asynccontextmanager
    async def slot(self, limit: int) -> AsyncIterator[float]:
        """Hold one of `limit` slots, after any cool-down; enter with the loop time."""
        started = await self._acquire(limit)
        try:
            yield started
        finally:
            self._release()

    async def _acquire(self, limit: int) -> float:
        loop = asyncio.get_running_loop()
        while True:
            wait = self._closed_until - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self._in_flight < min(limit, int(self.window)):
                self._in_flight += 1
                return loop.time()
            else:
                turn = loop.create_future()
                self._queue.append(turn)
                await turn

    def _release(self) -> None:
        """Free a slot and wake the next waiting calls."""
        self._in_flight -= 1
        for _ in range(max(int(self.window) - self._in_flight, 1)):
            if self._queue:
                self._queue.popleft().set_result(None)

    def record_reply(self, limit: int) -> None:
        """Record a reply, and widen the window up to `limit`."""
        self.replies += 1
        self._overloads = self._given_up = self._attempts = self._refused = 0
        if self.window < limit:
            self.window += 1 if self._last_halved < 0 else 1 / self.window

    def record_failure(self, error: AttemptError, started: float, patience: Patience, jitter: float) -> None:
        """Record a failed attempt that started at loop time `started`, and cool down if the endpoint asks for it.

        Raises:
            TransientModelError: the requested wait is longer than `patience` allows.
        """
        if error.timed_out and not self._said_timeout:  # an attempt is silent for a minute: say why, once
            self._said_timeout = True
            _log.info("%s; such calls are retried. If the server is slow, raise the timeout (--timeout)", error.reason)
        now = asyncio.get_running_loop().time()
        wait = error.wait or 0.0
        if wait > patience.longest_wait:
            raise TransientModelError(
                f"{self.name} asks to wait {wait:,.0f} s: run again after that", status=error.status, endpoint=self.name
            )
        if error.overloaded and started > self._last_halved:  # halve once for all calls that were in flight together
            self.window = max(self.window / 2, 1.0)
            self._last_halved = now
            self._overloads += 1
        if error.overloaded and error.wait is None:
            wait = patience.pause(self._overloads, jitter)
        if wait >= _LONG_WAIT and now + wait > self._closed_until + _LONG_WAIT:
            _log.info("%s: %s; waiting %.0f s before the next call", self.name, error.reason, wait)
        self._closed_until = max(self._closed_until, now + wait)

    def give_up(self, error: AttemptError, attempts: int, replies_before: int) -> TransientModelError | None:
        """Record a request that used up its tries, the last with `error`.

        Returns:
            The error to raise if the endpoint is down. That is suspected from the second consecutive such request on, if no
            other request was answered since its first failed try. Else None.
        """
        self._given_up += 1
        self._attempts += attempts
        if self._given_up == 1 or self.replies != replies_before:
            return None
        return TransientModelError(
            f"{self.name} does not answer ({error.reason}; {self._attempts} attempts at {self._given_up} requests): run again "
            "when it is up",
            status=error.status,
            endpoint=self.name,
        )

    def record_refusal(self, error: RefusedError, patience: Patience) -> ModelError | None:
        """Record a refused request; return the error to raise if all are refused, after several in a row, else None."""
        self._refused += 1
        return error.if_general if self._refused >= patience.refusals else None

    @property
    def in_doubt(self) -> bool:
        """Whether no request was answered since the last failures."""
        return self._given_up + self._refused > 0


def endpoint(name: str) -> Endpoint:
    """Return the state of an address in this process, shared by all models there."""
    return endpoint_of(name, os.getpid())


@cache
def endpoint_of(name: str, process: int) -> Endpoint:  # noqa: ARG001  a forked process has its own calls in flight
    """Return the state of an address in a process."""
    return Endpoint(name)
