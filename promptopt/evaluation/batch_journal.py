"""Many requests at once through a model's batch endpoint, such that a killed run finds its batches again.

Beside each request's reply the memo keeps where the request stands: before a batch is created, that it is about to be;
after, the provider's name for it; and once its replies were taken, neither. So whoever asks for any of these requests
next, in whatever company, meets the batch that is paid for. Knows nothing of prompts, budgets or providers.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptopt.errors import FinalModelError, PassingModelError
from promptopt.memo.memo import KeyMaker
from promptopt.models.hosted.batches.base import Submission
from promptopt.replies import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.memo.store import ReplyCache
    from promptopt.models.base import Request
    from promptopt.models.hosted.batches.base import BatchModel, Reply

_log = logging.getLogger(__name__)

FEWEST = 10
"""Fewer requests than this are not worth waiting for: they are asked one by one."""

_ROUNDS = 2  # batches that a request goes into before it counts as failed
_FEW = 0.1  # share of the requests that may be asked again at full price


class BatchArrival(Arrival):
    """A reply that came through a batch, for half the price."""

    __slots__ = ()

    @property
    def share(self) -> float:
        """Half, at OpenAI as at Anthropic."""
        return 0.5


def ask_in_batches(
    memo: ReplyCache,
    model: BatchModel,
    keys: Sequence[str],
    requests: Sequence[Request],
    *,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Arrival]:
    """Yield the reply to each request, in any order; the caller stores each before it takes the next.

    What fails in a batch goes into a second one; what fails there is asked one by one at full price, if it is little, and
    else stays a failure. Where a batch cannot be waited for to its end, its requests are failures for now: it stays in the
    journal, and asking again collects it. Batches finish within a day, often within the hour; `logging` says how far they are.

    Args:
        memo: where the journal is kept.
        model: who is asked.
        keys: the requests' names in the memo, all different.
        requests: as many.
        check: called about every second; may raise to end the waiting. The batches go on, and stay in the journal.

    Raises:
        FinalModelError: no later call can work either; what had arrived was yielded before.
    """
    numbers = {key: number for number, key in enumerate(keys)}
    asking = _Asking(memo, model, dict(zip(keys, requests, strict=True)), check)
    for key, reply in asking.replies():
        yield BatchArrival(numbers[key], reply)
    left = asking.left
    if len(left) >= FEWEST and len(left) > _FEW * len(keys):
        yield from (Arrival(numbers[key], failure) for key, failure in left.items() if failure is not None)
        return
    places = [numbers[key] for key in left]
    for number, reply in model.generate([requests[place] for place in places]):
        yield Arrival(places[number], reply)


class _Journal:
    """Where each request stands: in a batch, in a submission of which it is not known whether it led to one, or nowhere."""

    def __init__(self, memo: ReplyCache, fingerprint: Mapping[str, Any]) -> None:
        self._memo = memo
        self._name = KeyMaker(fingerprint, "batch")

    def read(self, keys: Iterable[str]) -> dict[str, str | Submission]:
        """Return the batch or the submission of each request that has one."""
        names = {self._name(key): key for key in keys}
        out: dict[str, str | Submission] = {}
        for name, value in self._memo.get_many(list(names)).items():
            match value:
                case {"batch": str(batch)}:
                    out[names[name]] = batch
                case {"batch": None, "begun": [str(tag), int() | float() as since, int(size)]}:
                    out[names[name]] = Submission(tag, since, size)
        return out

    def write(self, keys: Iterable[str], where: str | Submission | None) -> None:
        """Note where requests stand now, all of them or none."""
        value = {"batch": None, "begun": list(where)} if isinstance(where, Submission) else {"batch": where}
        self._memo.put_many({self._name(key): value for key in keys})


@dataclass
class _Asking:
    """One call of `ask_in_batches`; `left` are the requests still without a reply, with the reason if there is one."""

    memo: ReplyCache
    model: BatchModel
    requests: Mapping[str, Request]
    check: Callable[[], None]

    def __post_init__(self) -> None:
        self.journal = _Journal(self.memo, self.model.fingerprint)
        self.left: dict[str, Failure | None] = dict.fromkeys(self.requests)

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """Yield what comes out of batches: of those that the journal knows, and of new ones."""
        batches, unknown = self._resumed()
        yield from self._given_up(unknown)
        for _ in range(_ROUNDS):
            inside = {key for keys in batches.values() for key in keys}
            fresh = {key: self.requests[key] for key in self.left if key not in inside}
            if len(fresh) >= FEWEST:
                created, unknown = self._submitted(fresh)
                yield from self._given_up(unknown)
                batches |= created
            for batch, keys in batches.items():
                yield from self._collected(batch, keys)
            batches = {}

    def _given_up(self, failures: Mapping[str, Failure]) -> Iterator[tuple[str, Reply]]:
        """Yield failures that must not be asked again now."""
        for key, failure in failures.items():
            del self.left[key]
            yield key, failure

    def _resumed(self) -> tuple[dict[str, list[str]], dict[str, Failure]]:
        """Return the batches that requests are in already, and failures where that cannot be found out."""
        batches: dict[str, list[str]] = {}
        begun: dict[Submission, list[str]] = {}
        failures: dict[str, Failure] = {}
        for key, where in self.journal.read(self.requests).items():
            if isinstance(where, Submission):
                begun.setdefault(where, []).append(key)
            else:
                batches.setdefault(where, []).append(key)
        for submission, keys in begun.items():
            try:
                batch = self.model.find(submission, keys, self.check)
            except PassingModelError as error:
                failures |= dict.fromkeys(keys, Failure(f"{error}; whether they are in a batch already is not known"))
                continue
            self.journal.write(keys, batch)
            if batch is not None:
                batches.setdefault(batch, []).extend(keys)
        for batch, members in batches.items():
            _log.info("batch %s: found again, with %d of the requests", batch, len(members))
        return batches, failures

    def _submitted(self, requests: Mapping[str, Request]) -> tuple[dict[str, list[str]], dict[str, Failure]]:
        """Create batches, each in the journal before and after; return them, and failures where that did not work."""
        batches: dict[str, list[str]] = {}
        failures: dict[str, Failure] = {}
        for part in self.model.chunk(requests):
            self.check()
            submission = Submission(uuid.uuid4().hex, time.time(), len(part))
            self.journal.write(part, submission)
            try:
                batch = self.model.submit(submission, part, self.check)
            except PassingModelError as error:
                failures |= dict.fromkeys(part, Failure(f"no batch was created: {error}"))
                continue
            self.journal.write(part, batch)
            batches[batch] = list(part)
            _log.info("batch %s: created, with %d requests", batch, len(part))
        return batches, failures

    def _collected(self, batch: str, keys: list[str]) -> Iterator[tuple[str, Reply]]:
        """Yield the replies of a batch, note failures in `left`, and take the batch out of the journal."""
        wanted = {key: self.requests[key] for key in keys if key in self.left}
        refusal: FinalModelError | None = None
        try:
            for key, reply in self.model.collect(batch, wanted, self.check):
                if isinstance(reply, Response) or reply.refused:  # it would be again
                    del self.left[key]
                    yield key, reply
                else:
                    self.left[key] = reply
        except FinalModelError as error:
            refusal = error
        except PassingModelError as error:
            reason = f"{error}; the batch {batch} is remembered: start again to collect it"
            yield from self._given_up({key: Failure(reason) for key in keys if key in self.left})
            return
        self.journal.write(keys, None)  # others may still be reading the rest of it
        if refusal is not None:
            raise refusal
        for key in keys:
            if key in self.left and self.left[key] is None:
                self.left[key] = Failure(f"the batch {batch} holds no reply to this request")
