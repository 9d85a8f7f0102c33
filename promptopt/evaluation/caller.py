"""Calls models through the memo and the ledger; nothing else in the package calls a model.

Identical requests are sent once. Each reply is stored as soon as it arrives, or the whole batch in one transaction if results
depend on batch composition. Failures are returned and never stored. The memo holds the raw reply; callers get the answer
without the reasoning before it. Knows nothing of prompts, examples or rewards.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from promptopt.errors import BudgetExhaustedError, InputError, MemoError, StoppedError
from promptopt.memo.memo import KeyMaker
from promptopt.models.base import ReachabilityAware
from promptopt.models.usage import byte_length, label_token_range, reply_token_range, with_valid_usage
from promptopt.parsing.thinking import strip_thinking
from promptopt.replies import Failure, Response
from promptopt.utils.characters import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from promptopt.evaluation.ledger import Ledger
    from promptopt.memo.store import ReplyCache
    from promptopt.models.base import LabelModel, Model, Price, Request, Unit
    from promptopt.models.usage import TokenRange
    from promptopt.prompt import Context
    from promptopt.replies import Arrival

Reply: TypeAlias = Response | Failure
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass
class Stop:
    """A flag that Ctrl-C sets and that is checked between calls."""

    requested: bool = False

    def check(self) -> None:
        """Raise StoppedError if the user asked to stop."""
        if self.requested:
            raise StoppedError("stopped by the user")


@dataclass
class Caller:
    """Gets replies from models on behalf of one run.

    Args:
        memo: stores replies.
        ledger: the run's budget.
        stop: set when the run should end early.
        watch: called after each reply, to show progress.
        halved: keys of replies with an unpaired surrogate, which was replaced by U+FFFD.
    """

    memo: ReplyCache
    ledger: Ledger
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[], None] = lambda: None
    halved: set[str] = field(default_factory=set)

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return a reply to each request, in order.

        Raises:
            BudgetExhaustedError: there are more calls than the budget allows, and nothing was sent; or tokens or dollars ran
                out on the way, and the replies so far are stored.
            FinalModelError: the model failed permanently.
            MemoError: the memo can no longer be read or written; the replies that arrived are in a file.
            InputError: the budget is in dollars and the model's price is unknown.
            StoppedError: the user asked to stop; the replies that arrived are stored.
        """
        from promptopt.evaluation.batch_journal import ask_in_batches  # noqa: PLC0415  loads asyncio, which `import promptopt` need not
        from promptopt.models.hosted.batches.base import BatchModel  # noqa: PLC0415

        make_key = KeyMaker(model.fingerprint, "generate")
        keys = [make_key(_request_key(request), request.replicate) for request in requests]

        def token_range_of(index: int) -> TokenRange:
            return reply_token_range(requests[index].context, requests[index].max_tokens)

        def dispatch(missing: Iterable[int]) -> Iterator[Arrival]:
            if role != "writer" and isinstance(
                model, BatchModel
            ):  # the search needs each of the writer's replies at once
                indices = list(missing)
                missing_keys = [keys[i] for i in indices]
                missing_requests = [requests[i] for i in indices]
                return ask_in_batches(self.memo, model, missing_keys, missing_requests, check=self.stop.check)
            return model.generate(_as_model_expects(model.unit, (requests[i] for i in missing)))

        replies = self._ask(role, model, keys, token_range_of, dispatch)
        return [_with_label_names(reply, request.labels) for reply, request in zip(replies, requests, strict=True)]

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return, for each context, a response with the log-probability of each label, in order.

        Raises: as for `generate`.
        """
        make_key = KeyMaker(model.fingerprint, "label_logprobs")
        names = list(labels)
        keys = [make_key({"context": context, "labels": names}) for context in contexts]
        longest = max((byte_length(label) for label in labels), default=0)

        def token_range_of(index: int) -> TokenRange:
            return label_token_range(contexts[index], len(labels), longest)

        def dispatch(missing: Iterable[int]) -> Iterator[Arrival]:
            arrivals = model.label_logprobs(_as_model_expects(model.unit, (contexts[i] for i in missing)), labels)
            return _validated_logprobs(arrivals, len(labels), model)

        return [
            _with_likeliest_label(reply, tuple(labels))
            for reply in self._ask(role, model, keys, token_range_of, dispatch)
        ]

    def _ask(
        self,
        role: str,
        model: Model,
        keys: Sequence[str],
        token_range_of: Callable[[int], TokenRange],
        dispatch: Callable[[Iterable[int]], Iterator[Arrival]],
    ) -> list[Reply]:
        self.stop.check()
        if self.ledger.limit.dollars is not None and model.price is None:
            raise InputError(
                f"a budget in dollars needs the price of the {role} model: give --price INPUT,OUTPUT in dollars per "
                "million tokens, or a budget in calls or tokens"
            )
        self.ledger.admit(role, keys, estimate_from_mean=model.unit == "batch")
        index_of: dict[str, int] = {}
        for index, key in enumerate(keys):
            index_of.setdefault(key, index)
        assume_reachable = model.assume_reachable if isinstance(model, ReachabilityAware) else _nothing
        pending_calls = _PendingCalls(
            self, role, model.price, self._needs_usage(model), index_of, token_range_of, dispatch, assume_reachable
        )
        try:
            if model.unit == "batch":
                pending_calls.run_as_batch()
            else:
                pending_calls.run_streaming()
        finally:
            self.ledger.release(index_of)
        return [pending_calls.replies[key] for key in keys]

    def _needs_usage(self, model: Model) -> bool:
        """Whether token usage must be known for each call: tokens are limited, or may cost something.

        Models that commit whole batches count their own tokens.
        """
        costs = model.price is None or any(model.price)
        return model.unit == "reply" and (costs or self.ledger.limit.tokens is not None)

    def delivered(self, key: str, reply: Reply) -> Reply:
        """Return a reply without unpaired surrogates. The memo keeps the raw reply, so that a replay counts the same."""
        if isinstance(reply, Failure):
            return replace(reply, reason=replace_surrogates(reply.reason))
        text = replace_surrogates(reply.text)
        if text == reply.text:
            return reply
        self.halved.add(key)
        return replace(reply, text=text)

    def replies_in_memo(self, keys: Iterable[str]) -> dict[str, Response]:
        """Return the replies that are in the memo, by key."""
        replies = {key: _parse_stored(key, value) for key, value in self.memo.get_many(list(keys)).items()}
        return {key: with_valid_usage(reply) for key, reply in replies.items() if reply is not None}


@dataclass
class _PendingCalls:
    """The calls of one request to a `Caller`, until all of them have replies.

    Args:
        caller: the caller.
        role: role of the model: "task", "writer" or "judge".
        price: price of the model.
        counts_unreported: whether usage that the server does not report is replaced by its upper bound.
        index_of: the index of each distinct key's request, in order.
        token_range_of: the size of the request at an index.
        dispatch: sends the requests at some indices to the model.
        assume_reachable: tells the model that the memo holds replies from it.
        replies: replies so far, by key.
    """

    caller: Caller
    role: str
    price: Price | None
    counts_unreported: bool
    index_of: Mapping[str, int]
    token_range_of: Callable[[int], TokenRange]
    dispatch: Callable[[Iterable[int]], Iterator[Arrival]]
    assume_reachable: Callable[[], None]
    replies: dict[str, Reply] = field(default_factory=dict)
    _memo_error: MemoError | None = None
    _unsaved: dict[str, Any] = field(default_factory=dict)

    def run_as_batch(self) -> None:
        """Send all missing requests as one batch, and store the replies in one transaction."""
        missing = self._missing(self.index_of)
        while missing:
            with self.caller.memo.claim(missing) as claim:
                # Another process may have stored a reply between our lookup and our claim.
                self._batch(self._missing(claim.mine))
            claim.wait(self.caller.stop.check)
            missing = self._missing(claim.theirs)  # retry what the other processes did not store

    def run_streaming(self) -> None:
        """Send requests in order, each once the budget left by earlier ones covers its upper bound.

        Stored replies take their turn too, so that the budget ends at the same key whatever the memo holds.

        Raises:
            BudgetExhaustedError: the next call does not fit, and no call in flight could release budget.
        """
        known = self.caller.replies_in_memo(self.index_of)
        if known:
            self.assume_reachable()
        pending = deque(self.index_of)
        while pending:
            with self.caller.memo.claim([key for key in pending if key not in known]) as claim:
                known |= self.caller.replies_in_memo(claim.mine)
                theirs = set(claim.theirs)
                if not self.caller.ledger.meters_tokens:  # order does not matter: wait for other processes last
                    pending = deque(sorted(pending, key=theirs.__contains__))
                while pending and pending[0] not in theirs:
                    self._dispatch_affordable(pending, known, theirs)
            claim.wait(self.caller.stop.check)
            known |= self.caller.replies_in_memo(claim.theirs)

    def _dispatch_affordable(self, pending: deque[str], known: Mapping[str, Response], theirs: Collection[str]) -> None:
        """Remove keys from `pending` and send those that are not known, as long as the budget covers them."""
        self.caller.stop.check()
        sent: list[str] = []
        affordable = self._affordable_indices(pending, known, theirs, sent)
        first = next(affordable, None)
        if first is None:  # do not call the model without requests
            return
        try:
            for arrival in self.dispatch(chain([first], affordable)):
                key, reply = sent[arrival.number], arrival.reply
                if isinstance(reply, Response):
                    reply = with_valid_usage(reply)
                    self._store(key, reply)
                self._record(key, reply, arrival.share)
        finally:
            if self._memo_error is not None:
                if self._unsaved:  # there may be space again; otherwise the memo saves them to a file together
                    self.caller.memo.put_many(self._unsaved)
                raise self._memo_error

    def _store(self, key: str, reply: Response) -> None:
        """Store a reply. After a failure nothing more is sent, and replies still in flight are stored at the end."""
        if self._memo_error is not None:
            self._unsaved[key] = reply.to_json()
            return
        try:
            self.caller.memo.put(key, reply.to_json())
        except MemoError as error:
            self._memo_error = error

    def _affordable_indices(
        self, pending: deque[str], known: Mapping[str, Response], theirs: Collection[str], sent: list[str]
    ) -> Iterator[int]:
        """Remove keys from `pending` while the budget covers them; yield the indices of those to send, listed in `sent`.

        Ends early on Ctrl-C, at a key that another process has claimed, and, once something is sent, when the budget must
        wait for its actual usage.
        """
        stop, ledger = self.caller.stop, self.caller.ledger
        while pending and not stop.requested and self._memo_error is None and pending[0] not in theirs:
            key = pending[0]
            if ledger.meters_tokens:
                try:
                    ledger.reserve(self.role, key, self.token_range_of(self.index_of[key]).bound(self.price))
                except BudgetExhaustedError:
                    if sent:
                        return
                    raise
            pending.popleft()
            if key in known:
                self._record_stored({key: known[key]})
            else:
                sent.append(key)
                yield self.index_of[key]

    def _batch(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self.caller.stop.check()
        to_store: dict[str, Any] = {}
        for number, arrived in self.dispatch([self.index_of[key] for key in keys]):
            reply = with_valid_usage(arrived) if isinstance(arrived, Response) else arrived
            if isinstance(reply, Response):
                self.caller.stop.check()
                to_store[keys[number]] = reply.to_json()
            self._record(keys[number], reply)
        self.caller.memo.put_many(to_store)

    def _missing(self, keys: Iterable[str]) -> list[str]:
        """Record the replies that the memo holds, and return the keys without one."""
        wanted = list(keys)
        known = self.caller.replies_in_memo(wanted)
        self._record_stored(known)
        return [key for key in wanted if key not in known]

    def _record_stored(self, known: Mapping[str, Response]) -> None:
        for key, reply in known.items():
            counted = self._counted(key, reply)
            self.replies[key] = self.caller.delivered(key, strip_thinking(counted))
            self.caller.ledger.record(self.role, key, counted.usage, self.price, paid=False)
        if known:
            self.caller.watch()

    def _record(self, key: str, reply: Reply, share: float = 1.0) -> None:
        if isinstance(reply, Failure):
            self.replies[key] = self.caller.delivered(key, reply)
            self.caller.ledger.record_failure(self.role, key)
        else:
            counted = self._counted(key, reply)
            self.replies[key] = self.caller.delivered(key, strip_thinking(counted))
            self.caller.ledger.record(self.role, key, counted.usage, self.price, paid=True, share=share)
        self.caller.watch()

    def _counted(self, key: str, reply: Response) -> Response:
        """Return a reply with the usage to count. The memo holds the reported usage, so that a replay counts the same."""
        if not self.counts_unreported:
            return reply
        usage = self.token_range_of(self.index_of[key]).billable_usage(reply, self.price)
        if usage == reply.usage:
            return reply
        self.caller.ledger.unreported.setdefault(self.role, set()).add(key)
        return replace(reply, usage=usage)


def _nothing() -> None:
    """Do nothing."""


def _as_model_expects(unit: Unit, items: Iterable[T]) -> Iterable[T]:
    """Return a list for models that compute whole batches; others pull requests one by one."""
    return list(items) if unit == "batch" else items


def _validated_logprobs(arrivals: Iterable[Arrival], labels: int, model: Model) -> Iterator[Arrival]:
    """Yield the arrivals of a label model after checking their log-probabilities.

    Raises:
        InputError: a reply does not hold one finite log-probability per label.
    """
    for arrival in arrivals:
        if isinstance(arrival.reply, Response):
            values = arrival.reply.label_logprobs
            if values is None or len(values) != labels or not all(map(math.isfinite, values)):
                raise InputError(
                    f"the model {model.fingerprint.get('model', model)!r} gave {values} as log-probabilities of {labels} "
                    "labels: it must give one finite number for each"
                )
        yield arrival


def _with_likeliest_label(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Return the reply with its label names and, as its text, the likeliest label."""
    if isinstance(reply, Failure) or reply.label_logprobs is None:
        return reply
    best = max(range(len(labels)), key=reply.label_logprobs.__getitem__)
    return replace(reply, text=labels[best], labels=labels)


def _with_label_names(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Return the reply with the names of the requested labels."""
    return reply.with_labels(labels) if isinstance(reply, Response) else reply


def _request_key(request: Request) -> dict[str, Any]:
    body = {
        "context": request.context,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop),
    }
    # Added only if used: existing memos hold keys made of the four fields above.
    if request.top_p != 1:
        body["top_p"] = request.top_p
    if request.top_k:
        body["top_k"] = request.top_k
    if request.labels:
        # Not "labels": under that name, memos of earlier versions hold replies whose text is the likeliest label.
        body["label_logprobs"] = list(request.labels)
    return body


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
