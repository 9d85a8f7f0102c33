"""What the process of a command needs around it: streams that cannot fail, signals that end in good order, descriptors."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from promptopt.optimization.signals import ENDING
from promptopt.utils.streams import failsafe, open_standard_descriptors

_DESCRIPTORS = 4096  # a hosted model takes one for each call in flight; some systems begin with 256


def prepare_process() -> None:
    """Prepare this process for commands; before anything is opened."""
    open_standard_descriptors()
    sys.stdout, sys.stderr = failsafe(sys.stdout), failsafe(sys.stderr)
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: what is in flight is closed
    _raise_descriptor_limit()


def _raise_descriptor_limit() -> None:
    try:
        import resource  # noqa: PLC0415  Windows has none, and no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
