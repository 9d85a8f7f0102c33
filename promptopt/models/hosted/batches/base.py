"""Batch endpoints of hosted models: replies within a day, at half the price. Knows nothing of where replies are kept.

A batch model wraps an adapter and adds its provider's batch endpoint. The adapter formats requests, parses replies, and
answers single requests. A batch needs few calls, so they use the SDK's synchronous client, one at a time.
"""

# ruff: noqa: SLF001  a batch model shares the private parts of its adapter
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import logging
import os
import time
import weakref
from abc import ABC, abstractmethod
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from promptopt.errors import FinalModelError, ModelError, PassingModelError
from promptopt.models.base import Model
from promptopt.models.hosted.bodies import json_object
from promptopt.models.hosted.connection import sync_client
from promptopt.models.hosted.dispatch import AttemptError, RefusedError
from promptopt.models.hosted.refusals import read_refusal
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Price, Request
    from promptopt.models.hosted.model import HostedModel
    from promptopt.replies import Arrival

Reply: TypeAlias = Response | Failure
T = TypeVar("T")

_log = logging.getLogger(__name__)

_SDK_RETRIES = 4  # per call, with the SDK's own backoff
_ATTEMPTS = 30  # at an idempotent call, each with its SDK retries: about 25 minutes without a network
_SUBMIT_ATTEMPTS = 3  # to create one batch
_TIMEOUT = 600.0  # seconds; a provider reads a whole batch before it answers
_MAX_PAGES = 10  # of 100 batches each, newest first, searched for a lost batch
_FIELD_ERRORS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_NOT_FOUND = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class Submission(NamedTuple):
    """What is known of a batch before it is created; used to find it if the response to its creation is lost.

    Args:
        tag: a unique name.
        since: earliest creation time, in seconds since 1970.
        size: number of requests.
    """

    tag: str
    since: float
    size: int


@runtime_checkable
class BatchModel(Model, Protocol):
    """A model that also accepts batches of requests, at a lower price and with no guaranteed response time.

    Requests are identified by keys: 1 to 64 letters, digits, - or _. `check` is called about once a second during waits
    and may raise to end them.
    """

    def chunk(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Request]]:
        """Split requests into chunks that each fit into one batch."""
        ...

    def submit(self, submission: Submission, requests: Mapping[str, Request], check: Callable[[], None]) -> str:
        """Create one batch, at most one despite retries, and return the provider's id for it.

        Raises:
            FinalModelError: no later call can succeed.
            PassingModelError: the call failed; only `find` can tell whether the batch was created.
        """
        ...

    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the provider's id for the batch that a submission created, None if it created none.

        Raises:
            FinalModelError: no later call can succeed.
            PassingModelError: this cannot be determined now.
        """
        ...

    def collect(
        self, batch: str, requests: Mapping[str, Request], check: Callable[[], None]
    ) -> Iterator[tuple[str, Reply]]:
        """Wait until a batch has ended and yield its replies to `requests`; nothing if the provider lost the batch.

        Raises:
            FinalModelError: the batch or one of its requests was permanently refused; raised after all replies.
            PassingModelError: the batch could not be polled or read; nothing was yielded.
        """
        ...


class Line(NamedTuple):
    """One result in a batch: the request's key, HTTP status (0 if it was not run; `body` then says why), and body."""

    key: str
    status: int
    body: Any


class NotFoundError(PassingModelError):
    """The server has no such batch, file or endpoint."""


class HostedBatches(ABC):
    """Base class of the providers' batch endpoints: the client, safe creation of batches, polling, and reading of results.

    Args:
        model: the adapter.
        longest_pause: maximum seconds between two polls of a batch.
    """

    path: ClassVar[str]  # below the base URL
    max_requests: ClassVar[int]
    max_bytes: ClassVar[int]
    unit: Literal["reply"] = "reply"

    def __init__(self, model: HostedModel, longest_pause: float) -> None:
        self.model = model
        self._longest_pause = longest_pause
        self._clients: dict[int, Any] = {}  # by process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The adapter's fingerprint: batching does not change replies."""
        return self.model.fingerprint

    @property
    def price(self) -> Price | None:
        """Dollars per million tokens, without the batch discount."""
        return self.model.price

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return self.model.endpoint

    def assume_reachable(self) -> None:
        """Treat the model as known to respond."""
        self.model.assume_reachable()

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield replies through the adapter, without a batch."""
        return self.model.generate(requests)

    def chunk(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Request]]:
        """Split requests into chunks with a single path each, within the provider's limits."""
        chunk: dict[str, Request] = {}
        chunk_bytes, chunk_path = 0, ""
        for key, request in requests.items():
            request_bytes, path = len(encoded(self.batch_entry(key, request))) + 2, self.model.path(request)
            full = len(chunk) == self.max_requests or chunk_bytes + request_bytes > self.max_bytes
            if chunk and (full or path != chunk_path):
                yield chunk
                chunk, chunk_bytes = {}, 0
            chunk[key] = request
            chunk_bytes, chunk_path = chunk_bytes + request_bytes, path
        if chunk:
            yield chunk

    def submit(self, submission: Submission, requests: Mapping[str, Request], check: Callable[[], None]) -> str:
        """Create one batch; after an ambiguous error, look for the batch before retrying."""
        for pause in islice(self._pauses(), _SUBMIT_ATTEMPTS - 1):
            try:
                return self.create(submission, requests)
            except NotFoundError as error:
                raise FinalModelError(f"{error}: it has no batch endpoint, omit --batch") from error
            except PassingModelError as error:
                _log.info("a batch may not have been created: %s", error)
            _sleep(pause, check)
            batch = self.find(submission, requests, check)
            if batch is not None:
                return batch
        return self.create(submission, requests)

    def collect(
        self, batch: str, requests: Mapping[str, Request], check: Callable[[], None]
    ) -> Iterator[tuple[str, Reply]]:
        """Wait until a batch has ended and yield its replies."""
        try:
            lines = [line for line in self.results_of(batch, check) if line.key in requests]
        except NotFoundError as error:
            _log.warning("batch %s is lost (%s): its requests count as unanswered", batch, error)
            return
        # Unsupported fields are omitted from now on, so those requests are worth retrying.
        retryable = self._adapt_dialect([line for line in lines if line.status in _FIELD_ERRORS], requests)
        responds = any(line.status == HTTPStatus.OK for line in lines)
        permanent_error: ModelError | None = None
        for line in lines:
            reply = self._read(line, requests[line.key], responds=responds)
            if not isinstance(reply, ModelError):
                yield line.key, reply
            elif line.key in retryable:
                yield line.key, Failure(str(reply))
            else:  # raised after the other replies, which are paid for
                permanent_error = permanent_error or reply
        if permanent_error is not None:
            raise permanent_error

    @abstractmethod
    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the id of the batch that a submission created."""

    @abstractmethod
    def batch_entry(self, key: str, request: Request) -> dict[str, Any]:
        """Return the JSON of one request within a batch."""

    @abstractmethod
    def create(self, submission: Submission, requests: Mapping[str, Request]) -> str:
        """Create a batch, without retries."""

    @abstractmethod
    def fetch_state(self, batch: str) -> dict[str, Any]:
        """Return the state of a batch."""

    @abstractmethod
    def progress(self, state: Mapping[str, Any]) -> tuple[bool, int, int]:
        """Return whether a batch has ended, how many requests are done, and how many there are."""

    @abstractmethod
    def read_results(self, state: Mapping[str, Any]) -> list[Line]:
        """Return the results of a batch that has ended."""

    def results_of(self, batch: str, check: Callable[[], None]) -> list[Line]:
        """Wait until a batch has ended and return its results."""
        for pause in self._pauses():
            state = self.retry(lambda: self.fetch_state(batch), check)
            ended, done, total = self.progress(state)
            _log.info("batch %s: %d of %d done", batch, done, total)
            if ended:
                return self.retry(lambda: self.read_results(state), check)  # noqa: B023  called at once
            _sleep(pause, check)
        raise AssertionError("the pauses never end")

    def retry(self, call: Callable[[], T], check: Callable[[], None]) -> T:
        """Return the result of `call`, retrying after transient errors."""
        for pause in islice(self._pauses(), _ATTEMPTS - 1):
            try:
                return call()
            except NotFoundError:
                raise
            except PassingModelError as error:
                _log.info("%s: retrying", error)
            _sleep(pause, check)
        return call()

    def call(self, call: Callable[[Any], Any], *, once: bool = False) -> Any:
        """Return the result of `call(client)`; `once` disables the SDK's retries, for calls that are not idempotent.

        Raises:
            FinalModelError: no later call can succeed.
            PassingModelError: the call failed despite retries.
        """
        client = self._client.with_options(max_retries=0) if once else self._client
        sdk = self.model._sdk
        try:
            return call(client)
        except sdk.APIStatusError as error:
            status, headers, body = error.status_code, error.response.headers, error.response.text
        except sdk.APIConnectionError:
            status, headers, body = 0, {}, ""
        # Outside the except blocks: a traceback would show the SDK's error, which may quote the key.
        if not status:
            raise PassingModelError(f"connection to {self.endpoint} failed")
        if status in _NOT_FOUND:
            raise NotFoundError(f"{self.endpoint} answered {status}")
        interpreted = self.model.interpret(read_refusal(status, headers, body))
        if isinstance(interpreted, RefusedError):
            raise interpreted.if_general
        raise (
            interpreted
            if isinstance(interpreted, ModelError)
            else PassingModelError(f"{self.endpoint} answered {status}")
        )

    def get(self, path: str, **params: str | int) -> str:
        """Return the full response body at a path below the endpoint.

        The SDKs' streaming readers would not retry after a broken connection.
        """
        options = {"params": params, "headers": {"Accept": "*/*"}}
        return str(self.call(lambda client: client.get(path, cast_to=str, options=options)))

    def json(self, text: str) -> dict[str, Any]:
        """Parse a JSON object.

        Raises:
            PassingModelError: the text is not a JSON object.
        """
        value = json_object(text)
        if value is None:
            raise PassingModelError(f"{self.endpoint} sent a batch response that is not a JSON object")
        return value

    def json_lines(self, text: str) -> list[dict[str, Any]]:
        """Parse JSON lines, all or none: a missing line would count as unanswered and be paid for again.

        Raises:
            PassingModelError: a line is not a JSON object.
        """
        return [self.json(line) for line in text.split("\n") if line.strip()]

    def list_batches(self, path: str, cursor: str) -> Iterator[dict[str, Any]]:
        """Yield the states of batches, newest first."""
        params: dict[str, str | int] = {"limit": 100}
        for _ in range(_MAX_PAGES):
            page = self.json(self.get(path, **params))
            batches = page.get("data") or []
            yield from batches
            if not page.get("has_more") or not batches:
                return
            params[cursor] = batches[-1]["id"]

    @property
    def _client(self) -> Any:
        """The client of this process; a forked process makes its own."""
        process = os.getpid()
        if process not in self._clients:
            self.model.check_key()
            settings = self.model.client_settings() | {"timeout": _TIMEOUT, "max_retries": _SDK_RETRIES}
            sdk = self.model._sdk
            client = getattr(sdk, self.model.service.client)(**settings, http_client=sync_client(sdk))
            weakref.finalize(self, client.close)
            self._clients = {process: client}
        return self._clients[process]

    def _adapt_dialect(self, refused: Sequence[Line], requests: Mapping[str, Request]) -> set[str]:
        """Omit the fields that refusals name from now on; return the keys of the requests whose body this changes."""
        bodies = {line.key: self.model.body(requests[line.key]) for line in refused}
        for line in refused:
            self.model.omit_refused_field(requests[line.key], read_refusal(line.status, {}, encoded(line.body)))
        return {key for key, body in bodies.items() if self.model.body(requests[key]) != body}

    def _read(self, line: Line, request: Request, *, responds: bool) -> Reply | ModelError:
        if line.status == HTTPStatus.OK:
            if not isinstance(line.body, dict):
                return Failure("the reply is not a JSON object")
            return self.model._parse(line.body, request)
        if not line.status:
            return Failure(f"{self.endpoint} did not run this request of a batch ({line.body})")
        interpreted = self.model.interpret(read_refusal(line.status, {}, encoded(line.body)), responds=responds)
        if isinstance(interpreted, AttemptError | PassingModelError):
            return Failure(f"{self.endpoint} answered {line.status} in a batch")
        if isinstance(interpreted, RefusedError):
            return Failure(interpreted.reason, refused=True)
        return interpreted

    def _pauses(self) -> Iterator[float]:
        """Yield seconds to wait, each 1.5 times the last, up to the longest pause."""
        pause = self._longest_pause / 30
        while True:
            yield pause
            pause = min(1.5 * pause, self._longest_pause)


def encoded(value: Any) -> str:
    """Return compact ASCII JSON; an SDK never sends more bytes."""
    return json.dumps(value, separators=(",", ":"))


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    """Sleep, calling `check` about once a second."""
    deadline = time.monotonic() + seconds
    check()
    while (remaining := deadline - time.monotonic()) > 0:
        time.sleep(min(remaining, 1.0))
        check()
