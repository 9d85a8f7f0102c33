"""Gets the replies to one request of a `Caller`: as one batch, or streaming, call by call.

Models whose results depend on how a batch is composed get one batch, whose replies are stored in one transaction. All others
get their calls one by one, each reply is stored as soon as it arrives, and the budget may end in between. Knows nothing of
requests: a call is a memo key.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from promptopt.errors import STOPPED, BudgetExhaustedError, MemoError, StoppedError
from promptopt.models.usage import with_valid_usage
from promptopt.parsing.thinking import strip_thinking
from promptopt.replies import Failure, Response
from promptopt.utils.characters import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.evaluation.ledger import Ledger
    from promptopt.memo.store import ReplyCache
    from promptopt.models.base import Price
    from promptopt.models.usage import Bound, TokenRange
    from promptopt.replies import Arrival, Reply

Dispatch: TypeAlias = "Callable[[Iterable[str]], Iterator[Arrival]]"
"""Sends the calls with these keys to the model; the numbers of the arrivals count the keys."""

_log = logging.getLogger(__name__)


@dataclass
class Stop:
    """A flag that Ctrl-C sets and that is checked between calls."""

    requested: bool = False

    def check(self) -> None:
        """Raise StoppedError if the user asked to stop."""
        if self.requested:
            raise StoppedError(STOPPED)


@dataclass(kw_only=True)
class Recorder:
    """Records the replies to one request: in the ledger, on the display, and for the caller.

    Args:
        role: role of the model: "task", "writer" or "judge".
        price: price of the model.
        ledger: the run's budget.
        watch: called after each reply.
        token_range_of: the size of the call with a key.
        counts_unreported: whether usage that the server does not report is replaced by its upper bound.
        repaired: receives the keys of replies with an unpaired surrogate.
        replies: replies so far, by key, as the caller gets them.
    """

    role: str
    price: Price | None
    ledger: Ledger
    watch: Callable[[], None]
    token_range_of: Callable[[str], TokenRange]
    counts_unreported: bool
    repaired: set[str]
    replies: dict[str, Reply] = field(default_factory=dict)

    def bound(self, key: str) -> Bound:
        """Return the most that a call can use."""
        return self.token_range_of(key).bound(self.price)

    def record(self, key: str, reply: Reply, share: float = 1.0) -> None:
        """Record what the model replied, at a share of its price."""
        if isinstance(reply, Failure):
            self.replies[key] = replace(reply, reason=replace_surrogates(reply.reason))
            self.ledger.record_failure(self.role, key)
        else:
            counted = self._counted(key, reply)
            self.replies[key] = self._delivered(key, counted)
            self.ledger.record(self.role, key, counted.usage, self.price, paid=True, share=share)
        self.watch()

    def record_stored(self, known: Mapping[str, Response]) -> None:
        """Record replies that the memo holds."""
        for key, reply in known.items():
            counted = self._counted(key, reply)
            self.replies[key] = self._delivered(key, counted)
            self.ledger.record(self.role, key, counted.usage, self.price, paid=False)
        if known:
            self.watch()

    def _counted(self, key: str, reply: Response) -> Response:
        """Return a reply with the usage to count. The memo holds the reported usage, so that a replay counts the same."""
        if not self.counts_unreported:
            return reply
        usage = self.token_range_of(key).billable_usage(reply, self.price)
        if usage == reply.usage:
            return reply
        self.ledger.unreported.setdefault(self.role, set()).add(key)
        return replace(reply, usage=usage)

    def _delivered(self, key: str, reply: Response) -> Response:
        """Return a reply without thinking and unpaired surrogates. The memo keeps the raw reply."""
        answer = strip_thinking(reply)
        text = replace_surrogates(answer.text)
        if text == answer.text:
            return answer
        self.repaired.add(key)
        return replace(answer, text=text)


@dataclass
class BatchedCalls:
    """Sends all missing calls as one batch, and stores the replies in one transaction."""

    memo: ReplyCache
    stop: Stop
    recorder: Recorder
    dispatch: Dispatch

    def run(self, keys: Iterable[str]) -> None:
        """Get a reply to each call."""
        missing = self._missing(keys)
        while missing:
            with self.memo.claim(missing) as claim:
                # Another process may have stored a reply between our lookup and our claim.
                self._send(self._missing(claim.mine))
            claim.wait(self.stop.check)
            missing = self._missing(claim.theirs)  # retry what the other processes did not store

    def _send(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self.stop.check()
        to_store: dict[str, Any] = {}
        for number, arrived in self.dispatch(keys):
            reply = with_valid_usage(arrived) if isinstance(arrived, Response) else arrived
            if isinstance(reply, Response):
                self.stop.check()
                to_store[keys[number]] = reply.to_json()
            self.recorder.record(keys[number], reply)
        self.memo.put_many(to_store)

    def _missing(self, keys: Iterable[str]) -> list[str]:
        """Record the replies that the memo holds, and return the keys without one."""
        wanted = list(keys)
        known = replies_in_memo(self.memo, wanted)
        self.recorder.record_stored(known)
        return [key for key in wanted if key not in known]


@dataclass
class StreamedCalls:
    """Sends calls in order, each once the budget left by earlier ones covers its upper bound.

    Stored replies take their turn too, so that the budget ends at the same key whatever the memo holds.

    Args:
        memo: stores each reply as it arrives.
        stop: set when the run should end early.
        recorder: gets each reply.
        dispatch: sends calls to the model.
        assume_reachable: called if the memo holds replies from the model.
    """

    memo: ReplyCache
    stop: Stop
    recorder: Recorder
    dispatch: Dispatch
    assume_reachable: Callable[[], None]
    _pending: deque[str] = field(default_factory=deque)  # keys, in order
    _known: dict[str, Response] = field(default_factory=dict)
    _theirs: set[str] = field(default_factory=set)  # keys that other processes have claimed

    def run(self, keys: Iterable[str]) -> None:
        """Get a reply to each call.

        Raises:
            BudgetExhaustedError: the next call does not fit, and no call in flight could release budget.
        """
        self._pending = deque(keys)
        self._known = replies_in_memo(self.memo, self._pending)
        if self._known:
            self.assume_reachable()
        while self._pending:
            with self.memo.claim([key for key in self._pending if key not in self._known]) as claim:
                self._known |= replies_in_memo(self.memo, claim.mine)
                self._theirs = set(claim.theirs)
                if not self.recorder.ledger.meters_tokens:  # order does not matter: wait for other processes last
                    self._pending = deque(sorted(self._pending, key=self._theirs.__contains__))
                while self._pending and self._pending[0] not in self._theirs:
                    self._send_affordable()
            claim.wait(self.stop.check)
            self._known |= replies_in_memo(self.memo, claim.theirs)

    def _send_affordable(self) -> None:
        """Take calls off `_pending` and send those without a stored reply, as long as the budget covers them."""
        self.stop.check()
        sent: list[str] = []
        store = _CarefulStore(self.memo)
        affordable = self._affordable(sent, store)
        first = next(affordable, None)
        if first is None:  # do not call the model without requests
            return
        with store:
            for arrival in self.dispatch(chain([first], affordable)):
                key, reply = sent[arrival.number], arrival.reply
                if isinstance(reply, Response):
                    reply = with_valid_usage(reply)
                    store.put(key, reply)
                self.recorder.record(key, reply, arrival.share)

    def _affordable(self, sent: list[str], store: _CarefulStore) -> Iterator[str]:
        """Take calls off `_pending` while the budget covers them; yield the keys of those to send, and list them in `sent`.

        Ends early on Ctrl-C, when the memo fails, at a key that another process has claimed, and, once something is sent, when
        the budget must wait for its actual usage.
        """
        while self._pending and not self.stop.requested and not store.failed and self._pending[0] not in self._theirs:
            key = self._pending[0]
            try:
                self._reserve(key)
            except BudgetExhaustedError:
                if sent:
                    return
                raise
            self._pending.popleft()
            if key in self._known:
                self.recorder.record_stored({key: self._known[key]})
            else:
                sent.append(key)
                yield key

    def _reserve(self, key: str) -> None:
        ledger = self.recorder.ledger
        if ledger.meters_tokens:
            ledger.reserve(self.recorder.role, key, self.recorder.bound(key))


class _CarefulStore:
    """Stores replies; after a failure it collects them, and stores or saves them together at the end."""

    def __init__(self, memo: ReplyCache) -> None:
        self._memo = memo
        self._error: MemoError | None = None
        self._unsaved: dict[str, Any] = {}

    @property
    def failed(self) -> bool:
        """Whether a reply could not be stored, so that nothing more should be sent."""
        return self._error is not None

    def put(self, key: str, reply: Response) -> None:
        """Store a reply."""
        if self._error is not None:
            self._unsaved[key] = reply.to_json()
            return
        try:
            self._memo.put(key, reply.to_json())
        except MemoError as error:
            self._error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Raise the MemoError, if there was one."""
        if self._error is None:
            return
        if self._unsaved:  # there may be space again; otherwise the memo saves them to a file together
            self._memo.put_many(self._unsaved)
        raise self._error


def replies_in_memo(memo: ReplyCache, keys: Iterable[str]) -> dict[str, Response]:
    """Return the replies that the memo holds, by key."""
    replies = {key: _parse_stored(key, value) for key, value in memo.get_many(list(keys)).items()}
    return {key: with_valid_usage(reply) for key, reply in replies.items() if reply is not None}


def _parse_stored(key: str, value: Any) -> Response | None:
    """Return the stored response, or None (a miss) if an imported entry is not a response."""
    match value:
        case {
            "text": str(),
            "label_logprobs": None | [int() | float(), *_],
            "usage": [int(), int(), int()] | [int(), int(), int(), int()],
            "finish_reason": "stop" | "length" | "refusal",
        } if isinstance(value.get("thinking", ""), str):
            return Response.from_json(value)
    _log.warning("memo entry %s is not a response: sending the request again", key)
    return None
