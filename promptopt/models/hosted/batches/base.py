"""Batch endpoints of hosted models: replies within a day, for half the price. Knows nothing of where replies are kept.

A batch model is an adapter with its provider's batch endpoint beside it: the adapter says what a request is, reads the
replies, and answers single requests. A batch takes few calls, so they go through the SDK's synchronous client, one by one.
"""

# ruff: noqa: SLF001  a batch model is the other half of its adapter
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

_RETRIES = 4  # of a call, by the SDK, which waits between them
_PATIENCE = 30  # tries of what may be repeated, each with its retries: some 25 minutes without a network
_SUBMISSIONS = 3  # tries to create one batch
_TIMEOUT = 600.0  # seconds; a provider reads a whole batch before it answers
_PAGES = 10  # of 100 batches each, newest first, that are looked through for a lost one
_OF_FIELDS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_NO_SUCH_PLACE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class Submission(NamedTuple):
    """What is known of a batch before it is created, so that it can be found where the answer to that never arrived.

    Args:
        tag: a name of its own.
        since: when, in seconds since 1970.
        size: number of its requests.
    """

    tag: str
    since: float
    size: int


@runtime_checkable
class BatchModel(Model, Protocol):
    """A model that also takes many requests at once, for less money, and answers when it has time.

    Requests have names, "keys": 1 to 64 letters, digits, - or _. `check` is called about every second while something is
    waited for, and may raise to end it.
    """

    def cut(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Request]]:
        """Cut requests into parts that are each no more than one batch may hold."""
        ...

    def submit(self, submission: Submission, requests: Mapping[str, Request], check: Callable[[], None]) -> str:
        """Create one batch, no more than one in spite of retries, and return the provider's name for it.

        Raises:
            FinalModelError: no later call can work either.
            PassingModelError: it did not work; whether there is a batch now, only `find` may tell.
        """
        ...

    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the provider's name for the batch that a submission led to, None where it led to none.

        Raises:
            FinalModelError: no later call can work either.
            PassingModelError: it cannot be told now.
        """
        ...

    def collect(
        self, batch: str, requests: Mapping[str, Request], check: Callable[[], None]
    ) -> Iterator[tuple[str, Reply]]:
        """Wait until a batch is over and yield what it holds in reply to some requests; nothing where the provider lost it.

        Raises:
            FinalModelError: the batch, or one of its requests, was refused for good; after all replies.
            PassingModelError: it could not be waited for or read; nothing was yielded.
        """
        ...


class Line(NamedTuple):
    """One result of a batch: the request's key, HTTP status (0 where it was not run, `body` then says why), and body."""

    key: str
    status: int
    body: Any


class NoSuchPlaceError(PassingModelError):
    """The server knows no such batch, file or endpoint."""


class HostedBatches(ABC):
    """What the providers' batches share: the client, creating no batch twice, waiting, and reading.

    Args:
        model: the adapter.
        longest_pause: seconds between two looks at a batch.
    """

    path: ClassVar[str]  # below the base URL
    most_requests: ClassVar[int]
    most_bytes: ClassVar[int]
    unit: Literal["reply"] = "reply"

    def __init__(self, model: HostedModel, longest_pause: float) -> None:
        self.model = model
        self._longest_pause = longest_pause
        self._clients: dict[int, Any] = {}  # by process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """That of the adapter: a reply is the same, whichever way it comes."""
        return self.model.fingerprint

    @property
    def price(self) -> Price | None:
        """Dollars for a million tokens, without a batch."""
        return self.model.price

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return self.model.endpoint

    def vouch(self) -> None:
        """Take it as known that the model answers."""
        self.model.vouch()

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each reply as the adapter does, without a batch."""
        return self.model.generate(requests)

    def cut(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Request]]:
        """Cut requests into parts of one path each that are within the provider's limits."""
        part: dict[str, Request] = {}
        size, path = 0, ""
        for key, request in requests.items():
            weight, own_path = len(encoded(self.item(key, request))) + 2, self.model.path(request)
            full = len(part) == self.most_requests or size + weight > self.most_bytes
            if part and (full or own_path != path):
                yield part
                part, size = {}, 0
            part[key] = request
            size, path = size + weight, own_path
        if part:
            yield part

    def submit(self, submission: Submission, requests: Mapping[str, Request], check: Callable[[], None]) -> str:
        """Create one batch; after an error that may hide a success look for it first."""
        for pause in islice(self._pauses(), _SUBMISSIONS - 1):
            try:
                return self.create(submission, requests)
            except NoSuchPlaceError as error:
                raise FinalModelError(f"{error}: it takes no batches, leave out --batch") from error
            except PassingModelError as error:
                _log.info("a batch may not have been created: %s", error)
            _sleep(pause, check)
            found = self.find(submission, requests, check)
            if found is not None:
                return found
        return self.create(submission, requests)

    def collect(
        self, batch: str, requests: Mapping[str, Request], check: Callable[[], None]
    ) -> Iterator[tuple[str, Reply]]:
        """Wait until a batch is over and yield its replies."""
        try:
            lines = [line for line in self.results_of(batch, check) if line.key in requests]
        except NoSuchPlaceError as error:
            _log.warning("the batch %s is lost (%s): what it was asked counts as unanswered", batch, error)
            return
        # A field that the model does not take is left out from now on, and then the request is worth another try.
        again = self._otherwise_written([line for line in lines if line.status in _OF_FIELDS], requests)
        answers = any(line.status == HTTPStatus.OK for line in lines)
        end: ModelError | None = None
        for line in lines:
            reply = self._read(line, requests[line.key], answers=answers)
            if not isinstance(reply, ModelError):
                yield line.key, reply
            elif line.key in again:
                yield line.key, Failure(str(reply))
            else:  # the others are paid for
                end = end or reply
        if end is not None:
            raise end

    @abstractmethod
    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the batch that a submission led to."""

    @abstractmethod
    def item(self, key: str, request: Request) -> dict[str, Any]:
        """Return one request as it stands in a batch."""

    @abstractmethod
    def create(self, submission: Submission, requests: Mapping[str, Request]) -> str:
        """Create a batch, without a retry."""

    @abstractmethod
    def look(self, batch: str) -> dict[str, Any]:
        """Return the state of a batch."""

    @abstractmethod
    def progress(self, state: Mapping[str, Any]) -> tuple[bool, int, int]:
        """Return whether a batch is over, how many of its requests are done, and of how many."""

    @abstractmethod
    def read_results(self, state: Mapping[str, Any]) -> list[Line]:
        """Return the results of a batch that is over."""

    def results_of(self, batch: str, check: Callable[[], None]) -> list[Line]:
        """Wait until a batch is over and return its results."""
        for pause in self._pauses():
            state = self.persist(lambda: self.look(batch), check)
            over, done, total = self.progress(state)
            _log.info("batch %s: %d of %d done", batch, done, total)
            if over:
                return self.persist(lambda: self.read_results(state), check)  # noqa: B023  called at once
            _sleep(pause, check)
        raise AssertionError("the pauses never end")

    def persist(self, call: Callable[[], T], check: Callable[[], None]) -> T:
        """Return what `call` does, trying again where a failure may pass."""
        for pause in islice(self._pauses(), _PATIENCE - 1):
            try:
                return call()
            except NoSuchPlaceError:
                raise
            except PassingModelError as error:
                _log.info("%s: trying again", error)
            _sleep(pause, check)
        return call()

    def call(self, call: Callable[[Any], Any], *, once: bool = False) -> Any:
        """Return what `call(client)` does; `once` for what must not be repeated without a look.

        Raises:
            FinalModelError: no later call can work either.
            PassingModelError: it failed in spite of retries.
        """
        client = self._client.with_options(max_retries=0) if once else self._client
        sdk = self.model._sdk
        try:
            return call(client)
        except sdk.APIStatusError as error:
            status, headers, body = error.status_code, error.response.headers, error.response.text
        except sdk.APIConnectionError:
            status, headers, body = 0, {}, ""
        # Outside the except blocks, for the SDK's error, which a traceback would show, may quote the key.
        if not status:
            raise PassingModelError(f"{self.endpoint} could not be reached")
        if status in _NO_SUCH_PLACE:
            raise NoSuchPlaceError(f"{self.endpoint} answered {status}")
        meaning = self.model.meaning(read_refusal(status, headers, body))
        if isinstance(meaning, RefusedError):
            raise meaning.final
        raise meaning if isinstance(meaning, ModelError) else PassingModelError(f"{self.endpoint} answered {status}")

    def get(self, path: str, **params: str | int) -> str:
        """Return what lies at a path below the endpoint.

        Whole, unlike the SDKs' own ways to read results as they come: a connection that breaks then is not tried again.
        """
        options = {"params": params, "headers": {"Accept": "*/*"}}
        return str(self.call(lambda client: client.get(path, cast_to=str, options=options)))

    def json(self, text: str) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            PassingModelError: it is none.
        """
        value = json_object(text)
        if value is None:
            raise PassingModelError(f"{self.endpoint} sent no JSON object for a batch")
        return value

    def json_lines(self, text: str) -> list[dict[str, Any]]:
        """Read JSON objects, all or none: what is missing must not count as unanswered and be paid for again.

        Raises:
            PassingModelError: one of them is broken.
        """
        return [self.json(line) for line in text.split("\n") if line.strip()]

    def listed(self, path: str, cursor: str) -> Iterator[dict[str, Any]]:
        """Yield the states of batches, newest first."""
        params: dict[str, str | int] = {"limit": 100}
        for _ in range(_PAGES):
            page = self.json(self.get(path, **params))
            batches = page.get("data") or []
            yield from batches
            if not page.get("has_more") or not batches:
                return
            params[cursor] = batches[-1]["id"]

    @property
    def _client(self) -> Any:
        """The client of this process: a fork of it has connections of its own."""
        process = os.getpid()
        if process not in self._clients:
            self.model.check_key()
            settings = self.model.client_settings() | {"timeout": _TIMEOUT, "max_retries": _RETRIES}
            sdk = self.model._sdk
            client = getattr(sdk, self.model.service.client)(**settings, http_client=sync_client(sdk))
            weakref.finalize(self, client.close)
            self._clients = {process: client}
        return self._clients[process]

    def _otherwise_written(self, refused: Sequence[Line], requests: Mapping[str, Request]) -> set[str]:
        """Leave out the fields that refusals name; return the keys of those whose requests are written otherwise now."""
        bodies = {line.key: self.model.body(requests[line.key]) for line in refused}
        for line in refused:
            self.model.leave_out(requests[line.key], read_refusal(line.status, {}, encoded(line.body)))
        return {key for key, body in bodies.items() if self.model.body(requests[key]) != body}

    def _read(self, line: Line, request: Request, *, answers: bool) -> Reply | ModelError:
        if line.status == HTTPStatus.OK:
            whole = isinstance(line.body, dict)
            return self.model._read(line.body, request) if whole else Failure("the reply is no JSON object")
        if not line.status:
            return Failure(f"{self.endpoint} did not run this request of a batch ({line.body})")
        meaning = self.model.meaning(read_refusal(line.status, {}, encoded(line.body)), answers=answers)
        if isinstance(meaning, AttemptError | PassingModelError):
            return Failure(f"{self.endpoint} answered {line.status} in a batch")
        if isinstance(meaning, RefusedError):
            return Failure(meaning.reason, refused=True)
        return meaning

    def _pauses(self) -> Iterator[float]:
        """Yield seconds to wait, growing by halves to the longest."""
        pause = self._longest_pause / 30
        while True:
            yield pause
            pause = min(1.5 * pause, self._longest_pause)


def encoded(value: Any) -> str:
    """Return compact JSON in ASCII, which is never shorter than what an SDK sends."""
    return json.dumps(value, separators=(",", ":"))


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    """Sleep, and let `check` end it about every second."""
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        check()
