"""Stop a run on signals: Ctrl-C, SIGTERM, and SIGHUP, which a closing terminal sends."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from promptopt.evaluation.calls import Stop

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from promptopt.tracking.display import Display

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__
)  # Windows has no SIGHUP


@contextmanager
def stop_on_signals(display: Display | None) -> Generator[Stop]:
    """Turn the first signal into a request to stop; a second Ctrl-C raises KeyboardInterrupt as usual.

    Repeated SIGTERM and SIGHUP have no effect, because shells and `timeout` send them twice. Only the main thread handles
    signals. Ignored signals stay ignored, such as SIGHUP under `nohup`, or Ctrl-C in a script's background job (`&`).
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's signature
        first, stop.requested = not stop.requested, True
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if first and display is not None:
            display.say("stopping; keeping the best so far (Ctrl-C again to quit now)")

    caught = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
