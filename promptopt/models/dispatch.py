"""The one way out to hosted endpoints: how many calls at once, when to wait, when to try again, when to give up.

Asynchronous inside, on one loop in a thread of its own (so that a notebook's running loop is no hindrance), synchronous
outside. Knows nothing of HTTP: an attempt returns a reply or raises what kind of failure it was.
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
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from promptopt.errors import PassingModelError, PromptoptError
from promptopt.randomness import named_generator
from promptopt.scores import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

Job = TypeVar("Job")
Reply: TypeAlias = Response | Failure

TRIES = 4
"""Attempts at one request that server errors, timeouts, lost connections and broken replies may cost."""
WAITS = 10
"""Times that one request may be told that there are too many; they are waited out and are no tries."""
LONGEST_WAIT = 300.0
"""Seconds; an endpoint that asks for more ends the run, which goes on from there when it is started again."""

_FIRST_WAIT = 0.5  # seconds before the second try; doubles from try to try
_LONGEST_BACKOFF = 60.0
_START = 8  # calls at once, until replies show that there may be more


class AttemptError(Exception):
    """One attempt failed, and another may not.

    Args:
        reason: for people.
        wait: seconds that the endpoint asks to be left alone, or None.
        crowded: whether it failed because there were too many calls.
    """

    def __init__(self, reason: str, *, wait: float | None = None, crowded: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.crowded = reason, wait, crowded


class _DroppedError(Exception):
    """Its dispatch ended before the call was made."""


@dataclass
class Endpoint:
    """What all calls to one address share: how many may be out, until when none may start, how it has been answering.

    Changed only by the loop's thread. The window opens by one with each reply until the endpoint first says that there
    are too many, then by one with each window's worth of replies; it halves when it is too many.
    """

    name: str
    window: float = _START
    replies: int = 0
    _out: int = 0
    _closed_until: float = 0.0
    _halved: float = -1.0  # loop time
    _crowded: int = 0  # in a row
    _given_up: int = 0  # requests in a row that used up their tries
    _line: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def enter(self, most: int) -> float:
        """Wait for a place among `most` and for the end of a cool-down; return the time."""
        loop = asyncio.get_running_loop()
        while True:
            wait = self._closed_until - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self._out < min(most, int(self.window)):
                self._out += 1
                return loop.time()
            else:
                turn = loop.create_future()
                self._line.append(turn)
                await turn

    def leave(self) -> None:
        """Give the place to the next in line."""
        self._out -= 1
        for _ in range(max(int(self.window) - self._out, 1)):
            if self._line:
                self._line.popleft().set_result(None)

    def answered(self, most: int) -> None:
        """Note a reply."""
        self.replies += 1
        self._crowded = self._given_up = 0
        if self.window < most:
            self.window += 1 if self._halved < 0 else 1 / self.window

    def failed(self, error: AttemptError, entered: float, jitter: float) -> None:
        """Note a failed attempt that began at loop time `entered`: cool down if the endpoint asks for it.

        Raises:
            PassingModelError: it asks for longer than a run should wait.
        """
        now = asyncio.get_running_loop().time()
        wait = error.wait or 0.0
        if wait > LONGEST_WAIT:
            raise PassingModelError(f"{self.name} asks to be left alone for {wait:,.0f} s: run again after that")
        if error.crowded and entered > self._halved:  # once for all that were out together
            self.window = max(self.window / 2, 1.0)
            self._halved = now
            self._crowded += 1
        if error.crowded and error.wait is None:
            wait = _backoff(self._crowded, jitter)
        self._closed_until = max(self._closed_until, now + wait)

    def give_up(self, error: AttemptError, replies_before: int) -> Failure:
        """Return the failure of a request that used up its tries.

        Raises:
            PassingModelError: it is the second in a row, with no reply to any other since its first failed try: the endpoint
                is down, and more calls would be for nothing.
        """
        self._given_up += 1
        if self._given_up > 1 and self.replies == replies_before:
            raise PassingModelError(
                f"{self.name} does not answer ({error.reason}, {TRIES} times each for {self._given_up} requests): "
                "run again when it does"
            )
        return Failure(f"{error.reason}, {TRIES if not error.crowded else WAITS} times")


@cache
def endpoint(name: str) -> Endpoint:
    """Return the state of an address, the same for all models there."""
    return Endpoint(name)


def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process on which all calls run."""
    return _loop_of(os.getpid())


class _Done(NamedTuple):
    number: int
    result: Reply | BaseException


@dataclass
class _Dispatch:
    """One batch of calls under way."""

    shared: Endpoint
    most: int
    done: SimpleQueue[list[_Done]] = field(default_factory=SimpleQueue)
    ended: bool = False
    _fresh: list[_Done] = field(default_factory=list)

    def start(self, calls: Sequence[tuple[int, Callable[[], Awaitable[Reply]]]]) -> None:
        """Start calls, in the loop's thread."""
        running = asyncio.get_running_loop()
        for number, attempt in calls:
            task = running.create_task(self._run(number, attempt))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _run(self, number: int, attempt: Callable[[], Awaitable[Reply]]) -> None:
        try:
            result: Reply | BaseException = await self._answer(number, attempt)
        except BaseException as error:  # noqa: BLE001  handed to the thread that asked, which raises it
            result = error
            self.ended = True
        if not self._fresh:  # what else arrives in this turn of the loop goes with it: threads cost time to wake
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._fresh.append(_Done(number, result))

    def _hand_over(self) -> None:
        self.done.put(self._fresh)
        self._fresh = []

    async def _answer(self, number: int, attempt: Callable[[], Awaitable[Reply]]) -> Reply:
        shared, tries, waits, before = self.shared, 0, 0, 0
        while True:
            entered = await shared.enter(self.most)
            try:
                if self.ended:
                    raise _DroppedError
                reply = await attempt()
            except AttemptError as error:
                if not tries + waits:
                    before = shared.replies
                tries, waits = tries + (not error.crowded), waits + error.crowded
                jitter = float(named_generator(number, f"wait {tries + waits}").uniform(0.5, 1.0))
                shared.failed(error, entered, jitter)
                if tries == TRIES or waits == WAITS:
                    return shared.give_up(error, before)
                pause = 0.0 if error.crowded or error.wait is not None else _backoff(tries, jitter)
            else:
                shared.answered(self.most)
                return reply
            finally:
                shared.leave()
            await asyncio.sleep(pause)


def dispatch(
    name: str, jobs: Iterable[Job], attempt: Callable[[Job], Awaitable[Reply]], most: Callable[[], int]
) -> Iterator[Arrival]:
    """Yield each job's reply as soon as it is there, numbered by the jobs' order.

    A job is pulled, in the caller's thread, when there is a place for it; what was pulled is answered. Where the jobs
    end early nothing more is sent. A reader that leaves ends what was not sent yet.

    Args:
        name: of the endpoint, such as its address.
        jobs: what is asked.
        attempt: makes one call; raises AttemptError where another try may help, a ModelError where none can.
        most: calls at once, at this moment.

    Raises:
        ModelError: as `attempt`, after those in flight have arrived.
        PassingModelError: the endpoint answers nothing any more, or asks to be left alone for long.
    """
    shared, source, running = endpoint(name), enumerate(jobs), loop()
    batch = _Dispatch(shared, most())
    out, dry = 0, False
    refusal: BaseException | None = None
    arrived: list[_Done] = []
    try:
        while True:
            batch.most = most()
            calls: list[tuple[int, Callable[[], Awaitable[Reply]]]] = []
            room = 0 if dry or refusal or batch.ended else min(batch.most, int(shared.window)) - out
            try:
                for number, job in islice(source, max(room, 0)):
                    calls.append((number, partial(attempt, job)))
            except PromptoptError as error:  # what is in flight is paid for
                refusal = error
            dry = dry or len(calls) < room
            out += len(calls)
            if calls:
                running.call_soon_threadsafe(batch.start, calls)
            for number, result in arrived:
                if isinstance(result, BaseException):
                    refusal = refusal or result
                else:
                    yield Arrival(number, result)
            if not out:
                break
            arrived = batch.done.get()
            out -= len(arrived)
    finally:
        batch.ended = True
    if refusal is not None:
        raise refusal


_tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly


@cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:  # a forked child has no thread of its parent's
    running = asyncio.new_event_loop()
    threading.Thread(target=running.run_forever, name=f"promptopt calls {process}", daemon=True).start()
    return running


def _backoff(count: int, jitter: float) -> float:
    return min(_FIRST_WAIT * 2.0 ** (count - 1), _LONGEST_BACKOFF) * jitter
