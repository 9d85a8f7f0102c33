"""Calls of functions in threads, with a time limit for each. Knows nothing of what they do.

The threads are daemons: a call that never ends holds up neither the other calls nor the end of the process.
"""

from __future__ import annotations

import contextvars
import math
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from promptopt.replies import Arrival, Failure, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from promptopt.models.base import Request


class _Running(NamedTuple):
    """A call in progress: the number of its request, and the time at which it is given up."""

    number: int
    deadline: float


def call_in_threads(
    call: Callable[[Request], Reply], requests: Iterable[Request], threads: int, timeout: float | None
) -> Iterator[Arrival]:
    """Yield the reply to each request as soon as it is there.

    Args:
        call: answers one request.
        requests: the next one is pulled when a call can start.
        threads: calls at once, not counting those that were given up.
        timeout: seconds after which a call is given up, as a `Failure`; None waits for each.
    """
    numbered, running = enumerate(requests), dict[Future[Reply], _Running]()
    limit = math.inf if timeout is None else timeout
    while True:
        for number, request in islice(numbered, threads - len(running)):
            running[_started(call, request)] = _Running(number, time.monotonic() + limit)
        if not running:
            return
        nearest = min(one.deadline for one in running.values())
        left = None if nearest == math.inf else max(nearest - time.monotonic(), 0.0)
        done = wait(running, timeout=left, return_when=FIRST_COMPLETED).done
        now = time.monotonic()
        late = [future for future, one in running.items() if future not in done and one.deadline <= now]
        for future in done:
            yield Arrival(running.pop(future).number, future.result())
        for future in late:
            yield Arrival(
                running.pop(future).number,
                Failure(f"no result after {timeout:g} s (its thread cannot be stopped and runs on)"),
            )


def _started(call: Callable[[Request], Reply], request: Request) -> Future[Reply]:
    """Start a call in a thread with the caller's context variables, by which other libraries pass settings on."""
    future, context = Future[Reply](), contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call, request))
        except BaseException as error:  # noqa: BLE001  raised again by `future.result()`
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future
