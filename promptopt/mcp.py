"""Tools of MCP servers (Model Context Protocol), by the official SDK: as functions that a program can call or offer to a model.

A server is started, or connected to, once per process, when its tools are listed; again if it has ended since.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError, MissingExtraError
from promptopt.program import check_version, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

_START_SECONDS = 60.0


def mcp_tools(
    server: str | Sequence[str],
    *,
    version: str,
    environment: Mapping[str, str] | None = None,
    threads: int = 8,
    timeout: float = 60.0,
) -> tuple[Callable[..., str], ...]:
    """Return the tools of an MCP server, each as a function that returns the result's text.

    A result that the server marks as an error is returned too, for the model to read. A lost connection or a timeout is an exception, which fails the
    program. The memo knows results by the tool's name, description, parameters, and the version.

    Args:
        server: the command that starts it, such as ["python", "server.py"], or its URL (streamable HTTP).
        version: change it when the server's results change.
        environment: variables for the command, such as keys, beside the few that the SDK passes on.
        threads: calls at once.
        timeout: seconds that a call may take.

    Raises:
        InputError: the server cannot be reached, or the version is empty.
        MissingExtraError: the SDK is not installed.
    """
    if not isinstance(server, str) and (not server or not all(isinstance(word, str) for word in server)):
        raise InputError(f"server must be a command such as ['python', 'server.py'], or a URL, not {server!r}")
    check_version(version)
    if importlib.util.find_spec("mcp") is None:
        raise MissingExtraError("an MCP server", "mcp")
    connection = _Connection(server, environment, timeout)
    return tuple(_function(connection, listed, version=version, threads=threads) for listed in connection.list_tools())


def _function(connection: _Connection, listed: Any, *, version: str, threads: int) -> Callable[..., str]:
    name, description = str(listed.name), str(listed.description or "")
    parameters = dict(listed.input_schema)
    described = json.dumps([description, parameters], sort_keys=True)

    def call(**arguments: Any) -> str:
        return connection.call(name, arguments)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = description
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    return tool(version=f"{version} {digest}", threads=threads, parameters=parameters)(call)


class _Connection:
    """A connection to a server, in an event loop of its own.

    Args:
        server: command or URL.
        environment: further variables.
        timeout: seconds that a call may take.
    """

    def __init__(self, server: str | Sequence[str], environment: Mapping[str, str] | None, timeout: float) -> None:
        self._server, self._environment, self._timeout = server, environment, timeout
        self._lock = threading.Lock()
        self._open: _Open | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True).start()

    def list_tools(self) -> list[Any]:
        """Return the server's tools.

        Raises:
            InputError: it cannot be reached.
        """
        try:
            return list(self._wait(self._connected().client.list_tools(), _START_SECONDS).tools)
        except Exception as error:  # transports raise anything, also in groups
            raise InputError(
                f"the MCP server {_shown(self._server)} cannot be used ({_words(error)}): try its command or address by hand"
            ) from error

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a result.

        Raises:
            RuntimeError: there is none: the server ended, took too long, or returned something other than text.
        """
        connected = self._connected()
        try:
            result = self._wait(connected.client.call_tool(name, arguments), self._timeout)
        except Exception as error:  # as above
            self._close(connected)
            raise RuntimeError(f"the MCP server failed: {_words(error)}") from error
        texts = [part.text for part in result.content if part.type == "text"]
        if len(texts) < len(result.content):
            raise RuntimeError("the MCP server returned something other than text")
        if not texts and result.structured_content is not None:
            texts = [json.dumps(result.structured_content, ensure_ascii=False)]
        return "\n".join(texts)

    def _connected(self) -> _Open:
        with self._lock:
            if self._open is None:
                ready: Future[_Open] = Future()
                asyncio.run_coroutine_threadsafe(self._hold(ready), self._loop)
                self._open = ready.result(_START_SECONDS)
            return self._open

    def _close(self, connected: _Open) -> None:
        """End a connection, so that the next call makes a new one."""
        with self._lock:
            if self._open is connected:
                self._open = None
                self._loop.call_soon_threadsafe(connected.ended.set)

    async def _hold(self, ready: Future[_Open]) -> None:
        """Open the connection and hold it until it is to end; one task must do both."""
        try:
            async with _client(self._server, self._environment) as client:
                connected = _Open(client, asyncio.Event())
                ready.set_result(connected)
                await connected.ended.wait()
        except Exception as error:  # noqa: BLE001  as above
            if not ready.done():
                ready.set_exception(error)

    def _wait(self, waiting: Coroutine[Any, Any, Any], seconds: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"no result after {seconds:g} seconds") from None


class _Open(NamedTuple):
    client: Any
    ended: asyncio.Event


def _client(server: str | Sequence[str], environment: Mapping[str, str] | None) -> Any:
    from mcp import Client, StdioServerParameters  # noqa: PLC0415  an extra

    if isinstance(server, str):
        return Client(server)
    command, *arguments = server
    given = None if environment is None else dict(environment)
    return Client(StdioServerParameters(command=command, args=arguments, env=given))


def _shown(server: str | Sequence[str]) -> str:
    """Return the server without arguments or query, which may hold a key."""
    return repr(server.partition("?")[0] if isinstance(server, str) else server[0])


def _words(error: BaseException) -> str:
    """Return what an error says; of a group, what its first member says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
