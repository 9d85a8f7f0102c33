"""Ports for servers that other processes start."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000  # below the ports that systems give away, which another process may get meanwhile
_turns = itertools.count()


def free_port() -> int:
    """Return a port of this machine that nobody listens on, another one each time."""
    for turn in itertools.islice(_turns, _COUNT):
        port = _FIRST + (37 * os.getpid() + turn) % _COUNT
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise OSError(f"no port from {_FIRST} to {_FIRST + _COUNT - 1} is free")
