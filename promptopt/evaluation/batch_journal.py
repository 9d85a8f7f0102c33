"""Sends many requests through a model's batch endpoint, and makes sure that a killed run finds its batches again.

A request has one of three states, kept in the memo beside its reply: submitting, in batch N, none. It is "submitting" before a
batch is created, "in batch N" afterwards, and "none" once its reply was collected. A later run that asks for it, alone or
among other requests, collects batch N, which is already paid for. Knows nothing of prompts, budgets or providers.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from promptopt.errors import PermanentModelError, TransientModelError
from promptopt.memo.memo import KeyMaker
from promptopt.models.base import Submission
from promptopt.replies import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from promptopt.memo.store import ReplyCache
    from promptopt.models.base import BatchModel, Request
    from promptopt.replies import Reply

T = TypeVar("T")

_log = logging.getLogger(__name__)

MIN_REQUESTS = 10
"""Fewer requests than this are sent one by one: a batch is not worth the wait."""

_MAX_ROUNDS = 2  # batches in which a request may fail before it is sent on its own
_MAX_FULL_PRICE_SHARE = 0.1  # share of the requests that may be sent again at full price


class BatchArrival(Arrival):
    """A reply from a batch, at half the price."""

    __slots__ = ()

    @property
    def share(self) -> float:
        """Share of the list price: half, at both OpenAI and Anthropic."""
        return 0.5


def ask_in_batches(
    memo: ReplyCache,
    model: BatchModel,
    keys: Sequence[str],
    requests: Sequence[Request],
    *,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Arrival]:
    """Yield the reply to each request, in any order; the caller must store each reply before it takes the next.

    Requests that fail in a batch go into a second batch. Requests that fail again are sent one by one at full price if they
    are few; otherwise they remain failures. If the wait for a batch is cut short, its requests are failures for now: the batch
    stays in the journal, and asking again collects it. Batches finish within a day, often within the hour; progress is logged.

    Args:
        memo: stores the journal.
        model: the model to ask.
        keys: memo keys of the requests, all different.
        requests: the requests, one per key.
        check: called about every second; may raise to stop waiting. The batches keep running and stay in the journal.

    Raises:
        PermanentModelError: the model failed permanently; replies that arrived before were yielded.
    """
    index_of = {key: index for index, key in enumerate(keys)}
    session = BatchSession(_Journal(memo, model.fingerprint), model, dict(zip(keys, requests, strict=True)), check)
    for key, reply in session.replies():
        yield BatchArrival(index_of[key], reply)
    unanswered = session.unanswered
    if len(unanswered) >= MIN_REQUESTS and len(unanswered) > _MAX_FULL_PRICE_SHARE * len(keys):
        yield from (Arrival(index_of[key], failure) for key, failure in unanswered.items() if failure is not None)
        return
    indices = [index_of[key] for key in unanswered]
    for number, reply in model.generate([requests[index] for index in indices]):
        yield Arrival(indices[number], reply)


class _Journal:
    """The state of each request: in a batch, in a submission whose outcome is unknown, or none."""

    def __init__(self, memo: ReplyCache, fingerprint: Mapping[str, Any]) -> None:
        self._memo = memo
        self._journal_key = KeyMaker(fingerprint, "batch")

    def read(self, keys: Iterable[str]) -> dict[str, str | Submission]:
        """Return the batch or the submission of each request that has one."""
        key_of = {self._journal_key(key): key for key in keys}
        out: dict[str, str | Submission] = {}
        for entry, value in self._memo.get_many(list(key_of)).items():
            match value:
                case {"batch": str(batch)}:
                    out[key_of[entry]] = batch
                case {"batch": None, "begun": [str(tag), int() | float() as since, int(size)]}:
                    out[key_of[entry]] = Submission(tag, since, size)
        return out

    def write(self, keys: Iterable[str], state: str | Submission | None) -> None:
        """Set the state of all the requests in one transaction."""
        value = {"batch": None, "begun": list(state)} if isinstance(state, Submission) else {"batch": state}
        self._memo.put_many({self._journal_key(key): value for key in keys})


_Batches: TypeAlias = dict[str, list[str]]  # the keys of the requests in each batch
_Replies: TypeAlias = "Generator[tuple[str, Reply], None, T]"  # yields replies by key, and returns a T


@dataclass
class BatchSession:
    """One call of `ask_in_batches`.

    Args:
        journal: holds the state of each request.
        model: the model to ask.
        requests: the requests, by key.
        check: called during waits; may raise to end them.
        unanswered: each request without a reply, with its failure if it has one.
    """

    journal: _Journal
    model: BatchModel
    requests: Mapping[str, Request]
    check: Callable[[], None]
    unanswered: dict[str, Failure | None] = field(init=False)

    def __post_init__(self) -> None:
        self.unanswered = dict.fromkeys(self.requests)

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """Yield the replies from batches in the journal and from new ones."""
        batches = yield from self._resume()
        for _ in range(_MAX_ROUNDS):
            in_batches = {key for keys in batches.values() for key in keys}
            fresh = {key: self.requests[key] for key in self.unanswered if key not in in_batches}
            if len(fresh) >= MIN_REQUESTS:
                batches |= yield from self._submit(fresh)
            for batch, keys in batches.items():
                yield from self._collect(batch, keys)
            batches = {}

    def _resume(self) -> _Replies[_Batches]:
        """Return existing batches; yield failures for requests of which nobody knows whether they are in one."""
        batches: _Batches = {}
        submissions: dict[Submission, list[str]] = {}
        for key, state in self.journal.read(self.requests).items():
            if isinstance(state, Submission):
                submissions.setdefault(state, []).append(key)
            else:
                batches.setdefault(state, []).append(key)
        unknown: dict[str, Failure] = {}
        for submission, keys in submissions.items():
            try:
                batch = self.model.find(submission, keys, self.check)
            except TransientModelError as error:
                reason = f"{error}; cannot tell whether these requests are in a batch already"
                unknown |= dict.fromkeys(keys, Failure(reason))
                continue
            self.journal.write(keys, batch)
            if batch is not None:
                batches.setdefault(batch, []).extend(keys)
        for batch, members in batches.items():
            _log.info("batch %s: resumed, with %d of the requests", batch, len(members))
        yield from self._give_up(unknown)
        return batches

    def _submit(self, requests: Mapping[str, Request]) -> _Replies[_Batches]:
        """Create batches, with each in the journal before and after, and return them; yield failures if that did not work."""
        batches: _Batches = {}
        failures: dict[str, Failure] = {}
        for chunk in self.model.chunk(requests):
            self.check()
            submission = Submission(uuid.uuid4().hex, time.time(), len(chunk))
            self.journal.write(chunk, submission)
            try:
                batch = self.model.submit(submission, chunk, self.check)
            except TransientModelError as error:
                failures |= dict.fromkeys(chunk, Failure(f"no batch was created: {error}"))
                continue
            self.journal.write(chunk, batch)
            batches[batch] = list(chunk)
            _log.info("batch %s: created, with %d requests", batch, len(chunk))
        yield from self._give_up(failures)
        return batches

    def _collect(self, batch: str, keys: Sequence[str]) -> _Replies[None]:
        """Yield the replies of a batch, record failures in `unanswered`, and remove the batch from the journal."""
        permanent_error: PermanentModelError | None = None
        try:
            yield from self._read(batch, keys)
        except PermanentModelError as error:
            permanent_error = error
        except TransientModelError as error:
            reason = f"{error}; batch {batch} is kept in the journal: run again to collect it"
            yield from self._give_up({key: Failure(reason) for key in keys if key in self.unanswered})
            return
        self.journal.write(keys, None)  # other runs may still be collecting the rest of the batch
        if permanent_error is not None:
            raise permanent_error
        for key in keys:
            if key in self.unanswered and self.unanswered[key] is None:
                self.unanswered[key] = Failure(f"batch {batch} has no reply to this request")

    def _read(self, batch: str, keys: Sequence[str]) -> _Replies[None]:
        """Yield the replies of a batch that need no second try; record the others in `unanswered`."""
        wanted = {key: self.requests[key] for key in keys if key in self.unanswered}
        for key, reply in self.model.collect(batch, wanted, self.check):
            if isinstance(reply, Response) or reply.refused:  # a refusal would only be repeated
                del self.unanswered[key]
                yield key, reply
            else:
                self.unanswered[key] = reply

    def _give_up(self, failures: Mapping[str, Failure]) -> _Replies[None]:
        """Yield failures that must not be retried in this session."""
        for key, failure in failures.items():
            del self.unanswered[key]
            yield key, failure
