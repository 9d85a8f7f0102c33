"""Process setup for commands: robust output streams, signals as KeyboardInterrupt, enough file descriptors."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from promptopt.optimization.signals import ENDING
from promptopt.utils.streams import failsafe, open_standard_descriptors

_DESCRIPTORS = 4096  # a hosted model uses one per call in flight; the default limit is 256 on some systems


def prepare_process() -> None:
    """Set up streams, signals and descriptors. Call this before opening any file."""
    open_standard_descriptors()
    sys.stdout, sys.stderr = failsafe(sys.stdout), failsafe(sys.stderr)
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)  # handled like Ctrl-C, so that calls in flight are closed
    _raise_descriptor_limit()


def _raise_descriptor_limit() -> None:
    try:
        import resource  # noqa: PLC0415  missing on Windows, which has no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
