"""The one way to a model: through the memo and the ledger.

Equal requests are asked once; a reply is on disk the moment it arrives (or, where rounding depends on how a batch is
composed, the whole batch in one transaction); failures are returned and never stored. The memo holds a reply as it came;
what is returned is the answer, without the thoughts before it. Knows nothing of prompts, examples or rewards.
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
    """Set by Ctrl-C, read between calls."""

    requested: bool = False

    def check(self) -> None:
        """Raise StoppedError once the user asked to end."""
        if self.requested:
            raise StoppedError("stopped by the user")


@dataclass
class Caller:
    """Asks models for replies on behalf of one run.

    Args:
        memo: where replies are kept.
        ledger: what the run may use.
        stop: when to end early.
        watch: called after each reply, to show progress.
        halved: keys of the replies that held half of a surrogate pair, for which U+FFFD was delivered.
    """

    memo: ReplyCache
    ledger: Ledger
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[], None] = lambda: None
    halved: set[str] = field(default_factory=set)

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return a reply to each request, in order.

        Raises:
            BudgetExhaustedError: more calls than the budget allows, and nothing was sent; or its tokens or dollars ended
                on the way, and what was sent is stored.
            FinalModelError: the model refuses for good.
            MemoError: the memo can be read or written no more; what arrived is in a file.
            InputError: the budget is in dollars and the model's price is not known.
            StoppedError: the user asked to end; what arrived is stored.
        """
        from promptopt.evaluation.batch_journal import ask_in_batches  # noqa: PLC0415  loads asyncio, which `import promptopt` need not
        from promptopt.models.hosted.batches.base import BatchModel  # noqa: PLC0415

        make = KeyMaker(model.fingerprint, "generate")
        keys = [make(_body(request), request.replicate) for request in requests]

        def token_range_of(index: int) -> TokenRange:
            return reply_token_range(requests[index].context, requests[index].max_tokens)

        def dispatch(missing: Iterable[int]) -> Iterator[Arrival]:
            if role != "writer" and isinstance(model, BatchModel):  # a search waits for each of its writer's replies
                asked = list(missing)
                names = [keys[i] for i in asked]
                return ask_in_batches(self.memo, model, names, [requests[i] for i in asked], check=self.stop.check)
            return model.generate(_given(model.unit, (requests[i] for i in missing)))

        replies = self._ask(role, model, keys, token_range_of, dispatch)
        return [_named(reply, request.labels) for reply, request in zip(replies, requests, strict=True)]

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return for each context a response with the log-probabilities of the labels, in order.

        Raises: as `generate`.
        """
        make = KeyMaker(model.fingerprint, "label_logprobs")
        names = list(labels)
        keys = [make({"context": context, "labels": names}) for context in contexts]
        longest = max((byte_length(label) for label in labels), default=0)

        def token_range_of(index: int) -> TokenRange:
            return label_token_range(contexts[index], len(labels), longest)

        def dispatch(missing: Iterable[int]) -> Iterator[Arrival]:
            arrivals = model.label_logprobs(_given(model.unit, (contexts[i] for i in missing)), labels)
            return _scored(arrivals, len(labels), model)

        return [_likeliest(reply, tuple(labels)) for reply in self._ask(role, model, keys, token_range_of, dispatch)]

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
        self.ledger.admit(role, keys, by_mean=model.unit == "batch")
        places: dict[str, int] = {}
        for index, key in enumerate(keys):
            places.setdefault(key, index)
        vouch = model.assume_reachable if isinstance(model, ReachabilityAware) else _nothing
        asking = _Asking(self, role, model.price, self._measures(model), places, token_range_of, dispatch, vouch)
        try:
            if model.unit == "batch":
                asking.whole()
            else:
                asking.one_by_one()
        finally:
            self.ledger.release(places)
        return [asking.replies[key] for key in keys]

    def _measures(self, model: Model) -> bool:
        """Whether the tokens of a model's calls matter: they are limited, or may cost something.

        A model that computes a batch as a whole counts its own tokens.
        """
        costs = model.price is None or any(model.price)
        return model.unit == "reply" and (costs or self.ledger.limit.tokens is not None)

    def delivered(self, key: str, reply: Reply) -> Reply:
        """Return a reply in whole characters; the memo keeps what came, so that a replay counts the same."""
        if isinstance(reply, Failure):
            return replace(reply, reason=replace_surrogates(reply.reason))
        text = replace_surrogates(reply.text)
        if text == reply.text:
            return reply
        self.halved.add(key)
        return replace(reply, text=text)

    def stored(self, keys: Iterable[str]) -> dict[str, Response]:
        """Return the replies that the memo holds."""
        found = {key: _read(key, value) for key, value in self.memo.get_many(list(keys)).items()}
        return {key: with_valid_usage(reply) for key, reply in found.items() if reply is not None}


@dataclass
class _Asking:
    """One batch of calls on its way.

    Args:
        caller: who asks.
        role: for whom.
        price: of the model.
        measured: whether tokens that a server does not report are counted as the most that there can be.
        places: each distinct key, in order, and the index of its request.
        token_range_of: what the request of an index can take.
        dispatch: asks the model for the requests of some indices.
        vouch: tells the model that the memo holds replies of it.
        replies: by key, so far.
    """

    caller: Caller
    role: str
    price: Price | None
    measured: bool
    places: Mapping[str, int]
    token_range_of: Callable[[int], TokenRange]
    dispatch: Callable[[Iterable[int]], Iterator[Arrival]]
    vouch: Callable[[], None]
    replies: dict[str, Reply] = field(default_factory=dict)
    _lost: MemoError | None = None
    _unkept: dict[str, Any] = field(default_factory=dict)

    def whole(self) -> None:
        """Ask for all that is missing at once, and store it at once."""
        missing = self._untaken(self.places)
        while missing:
            with self.caller.memo.claim(missing) as claim:
                # Somebody may have stored a reply between our look and our claim.
                self._batch(self._untaken(claim.mine))
            claim.wait(self.caller.stop.check)
            missing = self._untaken(claim.theirs)  # where the others failed, it is our turn

    def one_by_one(self) -> None:
        """Ask in order; a call passes if those before it leave enough for the most that it can use.

        What is known takes its turn like the rest, so that the walk ends at the same key whatever the memo holds.

        Raises:
            BudgetExhaustedError: the next call does not fit, and nothing is in flight that could give something back.
        """
        known = self.caller.stored(self.places)
        if known:
            self.vouch()
        pending = deque(self.places)
        while pending:
            with self.caller.memo.claim([key for key in pending if key not in known]) as claim:
                known |= self.caller.stored(claim.mine)
                theirs = set(claim.theirs)
                if not self.caller.ledger.weighs:  # the order decides nothing: wait for others at the end
                    pending = deque(sorted(pending, key=theirs.__contains__))
                while pending and pending[0] not in theirs:
                    self._walk(pending, known, theirs)
            claim.wait(self.caller.stop.check)
            known |= self.caller.stored(claim.theirs)

    def _walk(self, pending: deque[str], known: Mapping[str, Response], theirs: Collection[str]) -> None:
        """Take keys off `pending`, and ask for those that are not known, for as long as they pass."""
        self.caller.stop.check()
        sent: list[str] = []
        passing = self._passing(pending, known, theirs, sent)
        first = next(passing, None)
        if first is None:  # a model is not asked for nothing
            return
        try:
            for arrival in self.dispatch(chain([first], passing)):
                key, reply = sent[arrival.number], arrival.reply
                if isinstance(reply, Response):
                    reply = with_valid_usage(reply)
                    self._keep(key, reply)
                self._record(key, reply, arrival.share)
        finally:
            if self._lost is not None:
                if self._unkept:  # there may be room again; where not, they go to a file together
                    self.caller.memo.put_many(self._unkept)
                raise self._lost

    def _keep(self, key: str, reply: Response) -> None:
        """Store a reply. Once that failed nothing more is asked, and what is still in flight is stored at the end."""
        if self._lost is not None:
            self._unkept[key] = reply.to_json()
            return
        try:
            self.caller.memo.put(key, reply.to_json())
        except MemoError as error:
            self._lost = error

    def _passing(
        self, pending: deque[str], known: Mapping[str, Response], theirs: Collection[str], sent: list[str]
    ) -> Iterator[int]:
        """Take keys off `pending` while the budget lets them pass; yield the indices of those to ask, noted in `sent`.

        Ends early on Ctrl-C, at a key that somebody else asks for, and, once something is sent, where the budget wants
        to know what that used.
        """
        stop, ledger = self.caller.stop, self.caller.ledger
        while pending and not stop.requested and self._lost is None and pending[0] not in theirs:
            key = pending[0]
            if ledger.weighs:
                try:
                    ledger.reserve(self.role, key, self.token_range_of(self.places[key]).bound(self.price))
                except BudgetExhaustedError:
                    if sent:
                        return
                    raise
            pending.popleft()
            if key in known:
                self._take({key: known[key]})
            else:
                sent.append(key)
                yield self.places[key]

    def _batch(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self.caller.stop.check()
        stored: dict[str, Any] = {}
        for number, arrived in self.dispatch([self.places[key] for key in keys]):
            reply = with_valid_usage(arrived) if isinstance(arrived, Response) else arrived
            if isinstance(reply, Response):
                self.caller.stop.check()
                stored[keys[number]] = reply.to_json()
            self._record(keys[number], reply)
        self.caller.memo.put_many(stored)

    def _untaken(self, keys: Iterable[str]) -> list[str]:
        """Take what the memo holds of `keys`, and return the rest."""
        names = list(keys)
        known = self.caller.stored(names)
        self._take(known)
        return [key for key in names if key not in known]

    def _take(self, known: Mapping[str, Response]) -> None:
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
        """Return a reply with the usage to count; the memo holds what was reported, so that a replay counts the same."""
        if not self.measured:
            return reply
        usage = self.token_range_of(self.places[key]).billable_usage(reply, self.price)
        if usage == reply.usage:
            return reply
        self.caller.ledger.unreported.setdefault(self.role, set()).add(key)
        return replace(reply, usage=usage)


def _nothing() -> None:
    """Do nothing."""


def _given(unit: Unit, items: Iterable[T]) -> Iterable[T]:
    """Return a list for models that compute a batch as a whole; others pull one by one."""
    return list(items) if unit == "batch" else items


def _scored(arrivals: Iterable[Arrival], labels: int, model: Model) -> Iterator[Arrival]:
    """Pass on what a model of somebody's own says of the labels, if it can be meant.

    Raises:
        InputError: it gave another number of log-probabilities, or one that is no finite number.
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


def _likeliest(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Return the reply with the names of its log-probabilities, and the likeliest label as its text, whatever the model wrote."""
    if isinstance(reply, Failure) or reply.label_logprobs is None:
        return reply
    best = max(range(len(labels)), key=reply.label_logprobs.__getitem__)
    return replace(reply, text=labels[best], labels=labels)


def _named(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Return the reply with the names of the labels that were asked for, wherever it came from."""
    return reply.with_labels(labels) if isinstance(reply, Response) else reply


def _body(request: Request) -> dict[str, Any]:
    body = {
        "context": request.context,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop),
    }
    # Only where they are used: memos hold replies whose keys are made of the four above.
    if request.top_p != 1:
        body["top_p"] = request.top_p
    if request.top_k:
        body["top_k"] = request.top_k
    if request.labels:
        # Under "labels" memos of earlier versions hold replies whose text was replaced by the likeliest label.
        body["label_logprobs"] = list(request.labels)
    return body


def _read(key: str, value: Any) -> Response | None:
    """Return the stored response, or None (a miss) where an imported entry is not one."""
    match value:
        case {
            "text": str(),
            "label_logprobs": None | [int() | float(), *_],
            "usage": [int(), int(), int()] | [int(), int(), int(), int()],
            "finish_reason": "stop" | "length" | "refusal",
        } if isinstance(value.get("thinking", ""), str):
            return Response.from_json(value)
    _log.warning("memo entry %s is no response: asked again", key)
    return None
