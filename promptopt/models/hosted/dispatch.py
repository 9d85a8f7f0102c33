"""Dispatches all calls to hosted endpoints: concurrency, waits, retries, and when to give up.

Asynchronous inside, on one event loop in its own thread (so that it works in a notebook with a running loop); synchronous
outside. Knows nothing of HTTP: an attempt returns a reply or raises the kind of failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from queue import SimpleQueue
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from promptopt.errors import ModelError, PassingModelError, PromptoptError
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

Job = TypeVar("Job")
Reply: TypeAlias = Response | Failure

TRIES = 4
"""Maximum attempts at one request that end in server errors, timeouts, lost connections or malformed replies."""
WAITS = 10
"""Maximum times that one request may be rate-limited; these do not count as tries."""
REFUSALS = 3
"""Consecutive requests refused for their content before a probe checks whether the endpoint accepts any request."""
LONGEST_WAIT = 300.0
"""Seconds; a longer requested wait ends the run, which can be resumed later."""

_FIRST_WAIT = 0.5  # seconds before the second try; doubles with each try
_LONGEST_BACKOFF = 60.0
_INITIAL_WINDOW = 8  # concurrent calls until the first replies


class AttemptError(Exception):
    """An attempt failed; a retry may succeed.

    Args:
        reason: human-readable.
        wait: seconds that the endpoint asks to wait, or None.
        overloaded: whether it failed because there were too many calls.
    """

    def __init__(self, reason: str, *, wait: float | None = None, overloaded: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.overloaded = reason, wait, overloaded


class RefusedError(Exception):
    """The endpoint refuses this request because of its content; a retry would be refused too.

    Args:
        reason: human-readable.
        if_general: the error to raise if other requests are refused too.
    """

    def __init__(self, reason: str, if_general: ModelError) -> None:
        super().__init__(reason)
        self.reason, self.if_general = reason, if_general


class _DroppedError(Exception):
    """The dispatch ended before the call was made."""


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
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _queue: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def acquire(self, limit: int) -> float:
        """Wait for one of `limit` slots and for the end of a cool-down; return the loop time."""
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

    def release(self) -> None:
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

    def record_failure(self, error: AttemptError, started: float, jitter: float) -> None:
        """Record a failed attempt that started at loop time `started`, and cool down if the endpoint asks for it.

        Raises:
            PassingModelError: the requested wait is longer than `LONGEST_WAIT`.
        """
        now = asyncio.get_running_loop().time()
        wait = error.wait or 0.0
        if wait > LONGEST_WAIT:
            raise PassingModelError(f"{self.name} asks to wait {wait:,.0f} s: run again after that")
        if error.overloaded and started > self._last_halved:  # halve once for all calls that were in flight together
            self.window = max(self.window / 2, 1.0)
            self._last_halved = now
            self._overloads += 1
        if error.overloaded and error.wait is None:
            wait = _backoff(self._overloads, jitter)
        self._closed_until = max(self._closed_until, now + wait)

    def give_up(self, reason: str, attempts: int, replies_before: int) -> PassingModelError | None:
        """Record a request that used up its tries.

        Returns:
            The error to raise if the endpoint is down. That is suspected from the second consecutive such request on, if no
            other request was answered since its first failed try. Else None.
        """
        self._given_up += 1
        self._attempts += attempts
        if self._given_up == 1 or self.replies != replies_before:
            return None
        return PassingModelError(
            f"{self.name} does not answer ({reason}; {self._attempts} attempts at {self._given_up} requests): run again when "
            "it is up"
        )

    def record_refusal(self, error: RefusedError) -> ModelError | None:
        """Record a refused request; return the error to raise if all are refused, after `REFUSALS` in a row, else None."""
        self._refused += 1
        return error.if_general if self._refused >= REFUSALS else None

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


def call_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process on which all calls run."""
    return _loop_of(os.getpid())


class _Call(NamedTuple):
    number: int
    job: Any
    attempt: Callable[[], Awaitable[Reply]]


class _Done(NamedTuple):
    number: int
    result: Reply | BaseException


@dataclass
class _Dispatch:
    """The calls of one `dispatch`."""

    shared: Endpoint
    limit: int
    probe: Callable[[Any], Awaitable[Reply]] | None = None
    done: SimpleQueue[list[_Done]] = field(default_factory=SimpleQueue)
    ended: bool = False
    _undelivered: list[_Done] = field(default_factory=list)

    def start(self, calls: Sequence[_Call]) -> None:
        """Start calls; runs in the event loop's thread."""
        running = asyncio.get_running_loop()
        for call in calls:
            task = running.create_task(self._run(call))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _run(self, call: _Call) -> None:
        try:
            result: Reply | BaseException = await self._answer(call)
        except BaseException as error:  # noqa: BLE001  raised in the caller's thread
            result = error
            self.ended = True
        if not self._undelivered:  # results of the same loop iteration are delivered together: waking a thread is slow
            asyncio.get_running_loop().call_soon(self._deliver)
        self._undelivered.append(_Done(call.number, result))

    def _deliver(self) -> None:
        self.done.put(self._undelivered)
        self._undelivered = []

    async def _answer(self, call: _Call) -> Reply:
        shared, tries, waits, replies_before = self.shared, 0, 0, 0
        while True:
            started = await shared.acquire(self.limit)
            try:
                if self.ended:
                    raise _DroppedError
                reply = await _attempt_safely(call)
            except RefusedError as error:
                return await self._resolve_failure(
                    call, Failure(error.reason, refused=True), shared.record_refusal(error)
                )
            except AttemptError as error:
                if not tries + waits:
                    replies_before = shared.replies
                tries, waits = tries + (not error.overloaded), waits + error.overloaded
                jitter = float(named_generator(call.number, f"wait {tries + waits}").uniform(0.5, 1.0))
                shared.record_failure(error, started, jitter)
                if tries == TRIES or waits == WAITS:
                    failure = Failure(f"{error.reason}, {tries + waits} times")
                    return await self._resolve_failure(
                        call, failure, shared.give_up(error.reason, tries + waits, replies_before)
                    )
                pause = 0.0 if error.overloaded or error.wait is not None else _backoff(tries, jitter)
            else:
                shared.record_reply(self.limit)
                return reply
            finally:
                shared.release()
            await asyncio.sleep(pause)

    async def _resolve_failure(self, call: _Call, failure: Failure, verdict: ModelError | None) -> Failure:
        """Return the failure of one request, after checking that the endpoint answers others.

        Raises:
            ModelError: the verdict; the endpoint answers no request.
        """
        if verdict is None:
            return failure
        if self.probe is None:
            raise verdict
        async with self.shared.probing:  # requests that fail meanwhile wait and share the result
            if self.ended:
                raise _DroppedError
            if self.shared.in_doubt:
                try:
                    await _attempt_safely(call._replace(attempt=partial(self.probe, call.job)))
                except (RefusedError, AttemptError):
                    raise verdict from None
                self.shared.record_reply(self.limit)
        return failure


async def _attempt_safely(call: _Call) -> Reply:
    """Make an attempt; turn unexpected exceptions into `AttemptError`, because no single reply may end a run.

    The message gives only the location: the exception's own message may quote the server or the key.
    """
    try:
        return await call.attempt()
    except (AttemptError, RefusedError, PromptoptError):
        raise
    except Exception as error:  # noqa: BLE001  see above
        frame = extract_tb(error.__traceback__)[-1]
        location = f"{frame.filename.rpartition(os.sep)[2]}:{frame.lineno}"
        raise AttemptError(f"the reply caused an unexpected {type(error).__name__} ({location})") from None


def dispatch(
    name: str,
    jobs: Iterable[Job],
    attempt: Callable[[Job], Awaitable[Reply]],
    limit: Callable[[], int],
    probe: Callable[[Job], Awaitable[Reply]] | None = None,
) -> Iterator[Arrival]:
    """Yield each job's reply as soon as it arrives, numbered by the jobs' order.

    A job is pulled, in the caller's thread, when a slot is free; every pulled job is answered. Nothing more is sent after
    `jobs` ends. Closing the iterator cancels the jobs that were not sent yet.

    Args:
        name: of the endpoint, such as its address.
        jobs: arguments of `attempt`.
        attempt: makes one call; raises AttemptError if a retry may help, RefusedError if this job is refused for its
            content, a ModelError if no call can succeed.
        limit: returns the current maximum of concurrent calls.
        probe: makes a harmless call of the same kind; used after consecutive failures to tell faulty jobs from an endpoint
            that answers nothing. Without it the endpoint is blamed.

    Raises:
        ModelError: raised by `attempt`; raised after the calls in flight have finished.
        PassingModelError: the endpoint has stopped responding, or asks for a long wait.
    """
    shared, numbered_jobs, event_loop = endpoint(name), enumerate(jobs), call_loop()
    batch = _Dispatch(shared, limit(), probe)
    in_flight, exhausted = 0, False
    error: BaseException | None = None
    arrived: list[_Done] = []
    try:
        while True:
            batch.limit = limit()
            calls: list[_Call] = []
            room = 0 if exhausted or error or batch.ended else min(batch.limit, int(shared.window)) - in_flight
            try:
                for number, job in islice(numbered_jobs, max(room, 0)):
                    calls.append(_Call(number, job, partial(attempt, job)))
            except PromptoptError as job_error:  # raised after the calls in flight, which are paid for
                error = job_error
            exhausted = exhausted or len(calls) < room
            in_flight += len(calls)
            if calls:
                event_loop.call_soon_threadsafe(batch.start, calls)
            for number, result in arrived:
                if isinstance(result, BaseException):
                    error = error or result
                else:
                    yield Arrival(number, result)
            if not in_flight:
                break
            arrived = batch.done.get()
            in_flight -= len(arrived)
    finally:
        batch.ended = True
    if error is not None:
        raise error


_tasks: set[asyncio.Task[None]] = set()  # the event loop holds tasks only weakly


@cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:  # a forked process does not inherit the thread
    event_loop = asyncio.new_event_loop()
    threading.Thread(target=event_loop.run_forever, name=f"promptopt calls {process}", daemon=True).start()
    return event_loop


def _backoff(count: int, jitter: float) -> float:
    return min(_FIRST_WAIT * 2.0 ** (count - 1), _LONGEST_BACKOFF) * jitter
