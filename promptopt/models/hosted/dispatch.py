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
"""Attempts at one request that server errors, timeouts, lost connections and broken replies may cost."""
WAITS = 10
"""Times that one request may be told that there are too many; they are waited out and are no tries."""
REFUSALS = 3
"""Requests in a row that may be refused for what they hold before it is asked whether the endpoint takes any."""
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


class RefusedError(Exception):
    """The endpoint refuses this request for what it holds, and would again.

    Args:
        reason: for people.
        final: what it means if other requests are refused too.
    """

    def __init__(self, reason: str, final: ModelError) -> None:
        super().__init__(reason)
        self.reason, self.final = reason, final


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
    _attempts: int = 0  # at these
    _refused: int = 0  # requests in a row that were refused for what they hold
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
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
        self._crowded = self._given_up = self._attempts = self._refused = 0
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

    def give_up(self, reason: str, attempts: int, replies_before: int) -> PassingModelError | None:
        """Note a request that used up its tries.

        Return what that means if the endpoint is down, which the second in a row may show, with no reply to any other since
        its first failed try; else None.
        """
        self._given_up += 1
        self._attempts += attempts
        if self._given_up == 1 or self.replies != replies_before:
            return None
        return PassingModelError(
            f"{self.name} does not answer ({reason}; {self._attempts} attempts at {self._given_up} requests): run again when "
            "it does"
        )

    def refuse(self, error: RefusedError) -> ModelError | None:
        """Note a request that was refused; return what that means if all are, once several were in a row, else None."""
        self._refused += 1
        return error.final if self._refused >= REFUSALS else None

    @property
    def in_doubt(self) -> bool:
        """Whether no request was answered since the last ones failed."""
        return self._given_up + self._refused > 0


def endpoint(name: str) -> Endpoint:
    """Return the state of an address in this process, the same for all models there."""
    return endpoint_of(name, os.getpid())


@cache
def endpoint_of(name: str, process: int) -> Endpoint:  # noqa: ARG001  a forked child has calls of its own out
    """Return the state of an address in a process."""
    return Endpoint(name)


def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process on which all calls run."""
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
    """One batch of calls under way."""

    shared: Endpoint
    most: int
    probe: Callable[[Any], Awaitable[Reply]] | None = None
    done: SimpleQueue[list[_Done]] = field(default_factory=SimpleQueue)
    ended: bool = False
    _fresh: list[_Done] = field(default_factory=list)

    def start(self, calls: Sequence[_Call]) -> None:
        """Start calls, in the loop's thread."""
        running = asyncio.get_running_loop()
        for call in calls:
            task = running.create_task(self._run(call))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _run(self, call: _Call) -> None:
        try:
            result: Reply | BaseException = await self._answer(call)
        except BaseException as error:  # noqa: BLE001  handed to the thread that asked, which raises it
            result = error
            self.ended = True
        if not self._fresh:  # what else arrives in this turn of the loop goes with it: threads cost time to wake
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._fresh.append(_Done(call.number, result))

    def _hand_over(self) -> None:
        self.done.put(self._fresh)
        self._fresh = []

    async def _answer(self, call: _Call) -> Reply:
        shared, tries, waits, before = self.shared, 0, 0, 0
        while True:
            entered = await shared.enter(self.most)
            try:
                if self.ended:
                    raise _DroppedError
                reply = await _attempted(call)
            except RefusedError as error:
                return await self._gap(call, Failure(error.reason, refused=True), shared.refuse(error))
            except AttemptError as error:
                if not tries + waits:
                    before = shared.replies
                tries, waits = tries + (not error.crowded), waits + error.crowded
                jitter = float(named_generator(call.number, f"wait {tries + waits}").uniform(0.5, 1.0))
                shared.failed(error, entered, jitter)
                if tries == TRIES or waits == WAITS:
                    lost = Failure(f"{error.reason}, {tries + waits} times")
                    return await self._gap(call, lost, shared.give_up(error.reason, tries + waits, before))
                pause = 0.0 if error.crowded or error.wait is not None else _backoff(tries, jitter)
            else:
                shared.answered(self.most)
                return reply
            finally:
                shared.leave()
            await asyncio.sleep(pause)

    async def _gap(self, call: _Call, failure: Failure, verdict: ModelError | None) -> Failure:
        """Return the failure of one request, once it is known that the endpoint answers others.

        Raises:
            ModelError: the verdict; it does not.
        """
        if verdict is None:
            return failure
        if self.probe is None:
            raise verdict
        async with self.shared.probing:  # others that failed meanwhile wait for the answer, which holds for them too
            if self.ended:
                raise _DroppedError
            if self.shared.in_doubt:
                try:
                    await _attempted(call._replace(attempt=partial(self.probe, call.job)))
                except (RefusedError, AttemptError):
                    raise verdict from None
                self.shared.answered(self.most)
        return failure


async def _attempted(call: _Call) -> Reply:
    """Make an attempt; what nobody foresaw is a failed one, for no single reply may end a run.

    Only where it happened is said: the words of such an error may be the server's, or hold the key.
    """
    try:
        return await call.attempt()
    except (AttemptError, RefusedError, PromptoptError):
        raise
    except Exception as error:  # noqa: BLE001  as said
        where = extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition(os.sep)[2]}:{where.lineno}"
        raise AttemptError(f"the reply led to an unexpected {type(error).__name__} ({place})") from None


def dispatch(
    name: str,
    jobs: Iterable[Job],
    attempt: Callable[[Job], Awaitable[Reply]],
    most: Callable[[], int],
    probe: Callable[[Job], Awaitable[Reply]] | None = None,
) -> Iterator[Arrival]:
    """Yield each job's reply as soon as it is there, numbered by the jobs' order.

    A job is pulled, in the caller's thread, when there is a place for it; what was pulled is answered. Where the jobs
    end early nothing more is sent. A reader that leaves ends what was not sent yet.

    Args:
        name: of the endpoint, such as its address.
        jobs: what is asked.
        attempt: makes one call; raises AttemptError where another try may help, RefusedError where this job is refused for
            what it holds, a ModelError where no call can work.
        most: calls at once, at this moment.
        probe: makes a call like a job's that nothing speaks against; asked where jobs fail in a row, to tell their own
            faults from those of an endpoint that answers nothing. Without it, it is the endpoint.

    Raises:
        ModelError: as `attempt`, after those in flight have arrived.
        PassingModelError: the endpoint answers nothing any more, or asks to be left alone for long.
    """
    shared, source, running = endpoint(name), enumerate(jobs), loop()
    batch = _Dispatch(shared, most(), probe)
    out, dry = 0, False
    refusal: BaseException | None = None
    arrived: list[_Done] = []
    try:
        while True:
            batch.most = most()
            calls: list[_Call] = []
            room = 0 if dry or refusal or batch.ended else min(batch.most, int(shared.window)) - out
            try:
                for number, job in islice(source, max(room, 0)):
                    calls.append(_Call(number, job, partial(attempt, job)))
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
