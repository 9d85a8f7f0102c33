"""Makes all calls to hosted endpoints: pulls jobs while there is room, retries what fails, and tells when to give up.

Asynchronous inside, on one event loop in its own thread (so that it works in a notebook with a running loop); synchronous
outside. Knows nothing of HTTP: an attempt returns a reply or raises the kind of failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from queue import SimpleQueue
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from promptopt.errors import ModelError, PromptoptError
from promptopt.models.hosted.endpoint import PATIENCE, AttemptError, Endpoint, Patience, RefusedError, endpoint
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from promptopt.replies import Reply

Job = TypeVar("Job")


def dispatch(
    name: str,
    jobs: Iterable[Job],
    attempt: Callable[[Job], Awaitable[Reply]],
    limit: Callable[[], int],
    probe: Callable[[Job], Awaitable[Reply]] | None = None,
    *,
    patience: Patience = PATIENCE,
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
        patience: how often a call is tried again.

    Raises:
        ModelError: raised by `attempt`; raised after the calls in flight have finished.
        TransientModelError: the endpoint has stopped responding, or asks for a long wait.
    """
    calls = _Calls(endpoint(name), limit(), patience, probe)
    supply = _Supply(enumerate(jobs), attempt)
    in_flight = 0
    error: BaseException | None = None
    arrived: list[_Done] = []
    try:
        while True:
            calls.limit = limit()
            pulled = [] if error or calls.ended else supply.pull(calls.room(in_flight))
            in_flight += len(pulled)
            if pulled:
                call_loop().call_soon_threadsafe(calls.start, pulled)
            for number, result in arrived:
                if isinstance(result, BaseException):
                    error = error or result
                else:
                    yield Arrival(number, result)
            if not in_flight:
                break
            arrived = calls.done.get()
            in_flight -= len(arrived)
    finally:
        calls.ended = True
    error = supply.error or error
    if error is not None:
        raise error


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
class _Supply:
    """The jobs of one `dispatch`, pulled in the caller's thread until they end or raise."""

    jobs: Iterator[tuple[int, Any]]
    attempt: Callable[[Any], Awaitable[Reply]]
    error: PromptoptError | None = None
    _ended: bool = False

    def pull(self, room: int) -> list[_Call]:
        """Return calls for the next jobs, at most `room`. Keeps an error of `jobs`, to be raised after the calls in flight."""
        calls: list[_Call] = []
        if self._ended:
            return calls
        try:
            for number, job in islice(self.jobs, room):
                calls.append(_Call(number, job, partial(self.attempt, job)))
        except PromptoptError as error:
            self.error = error
        self._ended = len(calls) < room
        return calls


@dataclass
class _PastAttempts:
    """The attempts at one call so far.

    Args:
        number: of the call; its waits are drawn from it.
        patience: limits them.
        tries: failures other than rate limits.
        waits: rate limits.
        replies_before: replies of the endpoint before the first failure.
        made: attempts that were begun.
        pause: seconds to wait before the next attempt.
    """

    number: int
    patience: Patience
    made: int = 0
    tries: int = 0
    waits: int = 0
    replies_before: int = 0
    pause: float = 0.0

    @property
    def count(self) -> int:
        """The number of failed attempts."""
        return self.tries + self.waits

    @property
    def exhausted(self) -> bool:
        """Whether there should be no further attempt."""
        return self.tries == self.patience.tries or self.waits == self.patience.waits

    def add(self, error: AttemptError, started: float, shared: Endpoint) -> None:
        """Add a failure of an attempt that started at loop time `started`.

        Raises:
            TransientModelError: the endpoint asks for too long a wait.
        """
        if not self.count:
            self.replies_before = shared.replies
        if error.overloaded:
            self.waits += 1
        else:
            self.tries += 1
        jitter = float(named_generator(self.number, f"wait {self.count}").uniform(0.5, 1.0))
        shared.record_failure(error, started, self.patience, jitter)
        shared_wait = error.overloaded or error.wait is not None
        self.pause = 0.0 if shared_wait else self.patience.pause(self.tries, jitter)


@dataclass
class _Calls:
    """The calls of one `dispatch`. All but `room` runs in the event loop's thread."""

    shared: Endpoint
    limit: int
    patience: Patience
    probe: Callable[[Any], Awaitable[Reply]] | None
    done: SimpleQueue[list[_Done]] = field(default_factory=SimpleQueue)
    ended: bool = False
    _undelivered: list[_Done] = field(default_factory=list)

    def room(self, in_flight: int) -> int:
        """Return how many more calls may start."""
        return max(min(self.limit, int(self.shared.window)) - in_flight, 0)

    def start(self, calls: Sequence[_Call]) -> None:
        """Start calls."""
        running = asyncio.get_running_loop()
        for call in calls:
            task = running.create_task(self._run(call))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _run(self, call: _Call) -> None:
        past = _PastAttempts(call.number, self.patience)
        try:
            result: Reply | BaseException = await self._answer(call, past)
        except BaseException as error:  # noqa: BLE001  raised in the caller's thread
            if isinstance(error, ModelError):
                error.attempt = past.made
            result = error
            self.ended = True
        if not self._undelivered:  # results of the same loop iteration are delivered together: waking a thread is slow
            asyncio.get_running_loop().call_soon(self._deliver)
        self._undelivered.append(_Done(call.number, result))

    def _deliver(self) -> None:
        self.done.put(self._undelivered)
        self._undelivered = []

    async def _answer(self, call: _Call, past: _PastAttempts) -> Reply:
        """Return the reply, or the failure after the last attempt.

        Raises:
            ModelError: no call can succeed.
        """
        while True:
            async with self.shared.slot(self.limit) as started:
                try:
                    return await self._attempt(call, past)
                except RefusedError as error:
                    verdict = self.shared.record_refusal(error, self.patience)
                    return await self._unless_down(call, Failure(error.reason, refused=True), verdict)
                except AttemptError as error:
                    past.add(error, started, self.shared)
                    if past.exhausted:
                        verdict = self.shared.give_up(error, past.count, past.replies_before)
                        return await self._unless_down(call, Failure(f"{error.reason}, {past.count} times"), verdict)
            await asyncio.sleep(past.pause)

    async def _attempt(self, call: _Call, past: _PastAttempts) -> Reply:
        if self.ended:
            raise _DroppedError
        past.made += 1
        reply = await _attempt_safely(call)
        self.shared.record_reply(self.limit)
        return reply

    async def _unless_down(self, call: _Call, failure: Failure, verdict: ModelError | None) -> Failure:
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


class _DroppedError(Exception):
    """The dispatch ended before the call was made."""


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


_tasks: set[asyncio.Task[None]] = set()  # the event loop holds tasks only weakly


@cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:  # a forked process does not inherit the thread
    event_loop = asyncio.new_event_loop()
    threading.Thread(target=event_loop.run_forever, name=f"promptopt calls {process}", daemon=True).start()
    return event_loop
