"""Batch endpoints of hosted models: replies within a day, at half the price. Knows nothing of where replies are kept.

A batch model wraps an adapter and adds its provider's batch endpoint. The adapter formats requests, parses replies, and
answers single requests.
"""

# ruff: noqa: SLF001  a batch model shares the private parts of its adapter
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from promptopt.errors import ModelError, PermanentModelError, TransientModelError
from promptopt.models.hosted.batches.client import BatchClient, NotFoundError, wait
from promptopt.models.hosted.endpoint import AttemptError, RefusedError
from promptopt.models.hosted.refusals import read_refusal
from promptopt.replies import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Price, Request, Submission
    from promptopt.models.hosted.batches.client import BatchPatience
    from promptopt.models.hosted.model import HostedModel
    from promptopt.replies import Arrival, Reply

_log = logging.getLogger(__name__)

_FIELD_ERRORS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


class Line(NamedTuple):
    """One result in a batch: the request's key, HTTP status (0 if it was not run; `body` then says why), and body."""

    key: str
    status: int
    body: Any


class HostedBatches(ABC):
    """Base class of the providers' batch endpoints: safe creation of batches, polling, and reading of results.

    Args:
        model: the adapter.
        patience: how long to wait for a batch, and how often a call is tried again.
    """

    path: ClassVar[str]  # below the base URL
    max_requests: ClassVar[int]
    max_bytes: ClassVar[int]
    unit: Literal["reply"] = "reply"

    def __init__(self, model: HostedModel, patience: BatchPatience) -> None:
        self.model = model
        self.client = BatchClient(model, patience)
        self._patience = patience

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
        for pause in islice(self._patience.pauses(), self._patience.submit_attempts - 1):
            try:
                return self.create(submission, requests)
            except NotFoundError as error:
                message = f"{error}: it has no batch endpoint, omit --batch"
                raise PermanentModelError(message, status=error.status, endpoint=self.endpoint) from error
            except TransientModelError as error:
                _log.info("a batch may not have been created: %s", error)
            wait(pause, check)
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
        permanent_error: ModelError | None = None
        for key, reply in self._read(lines, requests):
            if not isinstance(reply, ModelError):
                yield key, reply
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
        for pause in self._patience.pauses():
            state = self.client.retry(lambda: self.fetch_state(batch), check)
            ended, done, total = self.progress(state)
            _log.info("batch %s: %d of %d done", batch, done, total)
            if ended:
                return self.client.retry(lambda: self.read_results(state), check)  # noqa: B023  called at once
            wait(pause, check)
        raise AssertionError("the pauses never end")

    def _read(self, lines: Sequence[Line], requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply | ModelError]]:
        """Yield the reply in each line, or the permanent error that it holds."""
        # Unsupported fields are omitted from now on, so those requests are worth retrying.
        retryable = self._adapt_dialect([line for line in lines if line.status in _FIELD_ERRORS], requests)
        responds = any(line.status == HTTPStatus.OK for line in lines)
        for line in lines:
            reply = self._read_line(line, requests[line.key], responds=responds)
            is_retryable = isinstance(reply, ModelError) and line.key in retryable
            yield line.key, Failure(str(reply)) if is_retryable else reply

    def _adapt_dialect(self, refused: Sequence[Line], requests: Mapping[str, Request]) -> set[str]:
        """Omit the fields that refusals name from now on; return the keys of the requests whose body this changes."""
        bodies = {line.key: self.model.body(requests[line.key]) for line in refused}
        for line in refused:
            self.model.omit_refused_field(requests[line.key], read_refusal(line.status, {}, encoded(line.body)))
        return {key for key, body in bodies.items() if self.model.body(requests[key]) != body}

    def _read_line(self, line: Line, request: Request, *, responds: bool) -> Reply | ModelError:
        if line.status == HTTPStatus.OK:
            if not isinstance(line.body, dict):
                return Failure("the reply is not a JSON object")
            return self.model._parse(line.body, request)
        if not line.status:
            return Failure(f"{self.endpoint} did not run this request of a batch ({line.body})")
        interpreted = self.model.interpret(read_refusal(line.status, {}, encoded(line.body)), responds=responds)
        if isinstance(interpreted, AttemptError | TransientModelError):
            return Failure(f"{self.endpoint} answered {line.status} in a batch")
        if isinstance(interpreted, RefusedError):
            return Failure(interpreted.reason, refused=True)
        return interpreted


def encoded(value: Any) -> str:
    """Return compact ASCII JSON; an SDK never sends more bytes."""
    return json.dumps(value, separators=(",", ":"))
