"""Runs the server: loads the models, listens, and computes until it is stopped."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn

from promptopt.errors import InputError
from promptopt.serving.app import build_app
from promptopt.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.models.local.served import ServedModel

_PATIENCE = 1  # seconds that requests in progress have left when the server is stopped


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from error


class Server:
    """A server on a listening socket.

    Args:
        models: by the names that requests give.
        listening: see `listen`.
    """

    def __init__(self, models: Mapping[str, ServedModel], listening: socket.socket) -> None:
        self._models = models
        self._listening = listening
        self._uvicorn: uvicorn.Server | None = None

    def run(self) -> None:
        """Serve until stopped by a signal or by `stop`."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Let `run` return, from any thread."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    async def _serve(self) -> None:
        scheduler = Scheduler(self._models)
        app = build_app(self._models, scheduler)
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=_PATIENCE
        )
        self._uvicorn = uvicorn.Server(config)
        async with asyncio.TaskGroup() as tasks:  # an error of either ends both
            computing = tasks.create_task(scheduler.run())
            await self._uvicorn.serve([self._listening])
            computing.cancel()
