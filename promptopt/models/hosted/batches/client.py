"""Calls to a batch endpoint, one at a time, over the SDK's synchronous client. Knows nothing of what batches hold."""

# ruff: noqa: SLF001  a batch model shares the private parts of its adapter
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import os
import time
import weakref
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from promptopt.errors import ModelError, TransientModelError
from promptopt.models.hosted.connection import sync_client
from promptopt.models.hosted.endpoint import RefusedError
from promptopt.models.hosted.refusals import read_refusal
from promptopt.utils.json_values import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from promptopt.models.hosted.model import HostedModel

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MAX_PAGES = 10  # of 100 batches each, newest first, searched for a lost batch
_NOT_FOUND = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


@dataclass(frozen=True, kw_only=True)
class BatchPatience:
    """How long to wait for a batch, and how often a call is tried again.

    Args:
        longest_pause: maximum seconds between two polls of a batch.
        attempts: at an idempotent call, each with its SDK retries; the default lasts about 25 minutes without a network.
        submit_attempts: to create one batch.
        sdk_retries: per call, with the SDK's own backoff.
        timeout: seconds per call; a provider reads a whole batch before it answers.
    """

    longest_pause: float = 60.0
    attempts: int = 30
    submit_attempts: int = 3
    sdk_retries: int = 4
    timeout: float = 600.0

    def pauses(self) -> Iterator[float]:
        """Yield seconds to wait, each 1.5 times the last, up to the longest pause."""
        pause = self.longest_pause / 30
        while True:
            yield pause
            pause = min(1.5 * pause, self.longest_pause)


class NotFoundError(TransientModelError):
    """The server has no such batch, file or endpoint."""


class BatchClient:
    """The synchronous client of a hosted model.

    Args:
        model: the adapter, which knows the endpoint and the key.
        patience: how often a call is tried again.
    """

    def __init__(self, model: HostedModel, patience: BatchPatience) -> None:
        self._model = model
        self._patience = patience
        self._clients: dict[int, Any] = {}  # by process

    def retry(self, call: Callable[[], T], check: Callable[[], None]) -> T:
        """Return the result of `call`, retrying after transient errors."""
        for pause in islice(self._patience.pauses(), self._patience.attempts - 1):
            try:
                return call()
            except NotFoundError:
                raise
            except TransientModelError as error:
                _log.info("%s: retrying", error)
            wait(pause, check)
        return call()

    def call(self, call: Callable[[Any], Any], *, once: bool = False) -> Any:
        """Return the result of `call(client)`; `once` disables the SDK's retries, for calls that are not idempotent.

        Raises:
            PermanentModelError: no later call can succeed.
            TransientModelError: the call failed despite retries.
        """
        client = self._client.with_options(max_retries=0) if once else self._client
        sdk = self._model._sdk
        try:
            return call(client)
        except sdk.APIStatusError as error:
            status, headers, body = error.status_code, error.response.headers, error.response.text
        except sdk.APIConnectionError:
            status, headers, body = 0, {}, ""
        # Outside the except blocks: a traceback would show the SDK's error, which may quote the key.
        raise self._error(status, headers, body)

    def get(self, path: str, **params: str | int) -> str:
        """Return the full response body at a path below the endpoint.

        The SDKs' streaming readers would not retry after a broken connection.
        """
        options = {"params": params, "headers": {"Accept": "*/*"}}
        return str(self.call(lambda client: client.get(path, cast_to=str, options=options)))

    def json(self, text: str) -> dict[str, Any]:
        """Parse a JSON object.

        Raises:
            TransientModelError: the text is not a JSON object.
        """
        value = json_object(text)
        if value is None:
            endpoint = self._model.endpoint
            raise TransientModelError(f"{endpoint} sent a batch response that is not a JSON object", endpoint=endpoint)
        return value

    def json_lines(self, text: str) -> list[dict[str, Any]]:
        """Parse JSON lines, all or none: a missing line would count as unanswered and be paid for again.

        Raises:
            TransientModelError: a line is not a JSON object.
        """
        return [self.json(line) for line in text.split("\n") if line.strip()]

    def pages(self, path: str, cursor: str) -> Iterator[dict[str, Any]]:
        """Yield the states of batches, newest first."""
        params: dict[str, str | int] = {"limit": 100}
        for _ in range(_MAX_PAGES):
            page = self.json(self.get(path, **params))
            batches = page.get("data") or []
            yield from batches
            if not page.get("has_more") or not batches:
                return
            params[cursor] = batches[-1]["id"]

    def _error(self, status: int, headers: Mapping[str, str], body: str) -> ModelError:
        """Return the error for an answer; status 0 if there was none."""
        endpoint = self._model.endpoint
        if not status:
            return TransientModelError(f"connection to {endpoint} failed", endpoint=endpoint)
        if status in _NOT_FOUND:
            return NotFoundError(f"{endpoint} answered {status}", status=status, endpoint=endpoint)
        interpreted = self._model.interpret(read_refusal(status, headers, body))
        if isinstance(interpreted, RefusedError):
            return interpreted.if_general
        if isinstance(interpreted, ModelError):
            return interpreted
        return TransientModelError(f"{endpoint} answered {status}", status=status, endpoint=endpoint)

    @property
    def _client(self) -> Any:
        """The client of this process; a forked process makes its own."""
        process = os.getpid()
        if process not in self._clients:
            model, patience = self._model, self._patience
            model.check_key()
            settings = model.client_settings() | {"timeout": patience.timeout, "max_retries": patience.sdk_retries}
            client = getattr(model._sdk, model.service.client)(**settings, http_client=sync_client(model._sdk))
            weakref.finalize(self, client.close)
            self._clients = {process: client}
        return self._clients[process]


def wait(seconds: float, check: Callable[[], None]) -> None:
    """Sleep, calling `check` about once a second."""
    deadline = time.monotonic() + seconds
    check()
    while (remaining := deadline - time.monotonic()) > 0:
        time.sleep(min(remaining, 1.0))
        check()
