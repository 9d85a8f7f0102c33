"""Calls models through the memo and the ledger; nothing else in the package calls a model.

Identical requests are sent once, and `calls` gets the replies. Failures are returned and never stored. The memo holds the raw
reply; callers get the answer without the reasoning before it. Knows nothing of prompts, examples or rewards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from promptopt.errors import InputError, ModelError
from promptopt.evaluation.calls import BatchedCalls, Recorder, Stop, StreamedCalls, replies_in_memo
from promptopt.memo.memo import KeyMaker
from promptopt.models.base import BatchModel, ReachabilityAware
from promptopt.models.usage import byte_length, expected_token_range, label_token_range, reply_token_range
from promptopt.prompt import ImageMessage
from promptopt.replies import NO_USAGE, TOOL, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.evaluation.calls import Dispatch
    from promptopt.evaluation.ledger import Ledger
    from promptopt.memo.store import ReplyCache
    from promptopt.models.base import LabelModel, Model, Request, Unit
    from promptopt.models.usage import TokenRange
    from promptopt.prompt import Context
    from promptopt.replies import Arrival, Reply

T = TypeVar("T")


@dataclass
class Caller:
    """Gets replies from models on behalf of one run.

    Args:
        memo: stores replies.
        ledger: the run's budget.
        stop: set when the run should end early.
        watch: called after each reply, to show progress.
        repaired: keys of replies with an unpaired surrogate, which was replaced by U+FFFD.
    """

    memo: ReplyCache
    ledger: Ledger
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[], None] = lambda: None
    repaired: set[str] = field(default_factory=set)

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return a reply to each request, in order. A batch model gets them as batches.

        Raises:
            BudgetExhaustedError: there are more calls than the budget allows, and nothing was sent; or tokens or dollars ran
                out on the way, and the replies so far are stored.
            PermanentModelError: the model failed permanently.
            MemoError: the memo can no longer be read or written; the replies that arrived are in a file.
            InputError: the budget is in dollars and the model's price is unknown.
            StoppedError: the user asked to stop; the replies that arrived are stored.
        """
        keys = request_keys(model, requests)
        request_of = dict(zip(keys, requests, strict=True))

        largest_tool = expected_token_range(self.ledger.largest_usage.get(TOOL, NO_USAGE))

        def token_range_of(key: str) -> TokenRange:
            request = request_of[key]
            return largest_tool if role == TOOL else reply_token_range(request)

        def dispatch(missing: Iterable[str]) -> Iterator[Arrival]:
            if isinstance(model, BatchModel):
                return self._ask_in_batches(model, {key: request_of[key] for key in missing})
            return model.generate(_as_model_expects(model.unit, (request_of[key] for key in missing)))

        replies = self._ask(role, model, keys, token_range_of, dispatch)
        return [_with_label_names(reply, request.labels) for reply, request in zip(replies, requests, strict=True)]

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return, for each context, a response with the log-probability of each label, in order.

        Raises: as for `generate`.
        """
        keys = label_keys(model, contexts, labels)
        context_of = dict(zip(keys, contexts, strict=True))
        longest = max((byte_length(label) for label in labels), default=0)

        def token_range_of(key: str) -> TokenRange:
            return label_token_range(context_of[key], len(labels), longest)

        def dispatch(missing: Iterable[str]) -> Iterator[Arrival]:
            contexts = _as_model_expects(model.unit, (context_of[key] for key in missing))
            return _validated_logprobs(model.label_logprobs(contexts, labels), len(labels), model)

        replies = self._ask(role, model, keys, token_range_of, dispatch)
        return [_with_likeliest_label(reply, tuple(labels)) for reply in replies]

    def _ask(
        self,
        role: str,
        model: Model,
        keys: Sequence[str],
        token_range_of: Callable[[str], TokenRange],
        dispatch: Dispatch,
    ) -> list[Reply]:
        self.stop.check()
        if self.ledger.limit.dollars is not None and model.price is None:
            raise InputError(_price_advice(role, model))
        self.ledger.admit(role, keys, estimate_from_mean=model.unit == "batch")
        recorder = Recorder(
            role=role,
            price=model.price,
            ledger=self.ledger,
            watch=self.watch,
            token_range_of=token_range_of,
            counts_unreported=self._needs_usage(model),
            repaired=self.repaired,
        )
        self.ledger.waiting_for = role
        try:
            self._calls(model, recorder, dispatch).run(dict.fromkeys(keys))
        except ModelError as error:
            error.role = error.role or role
            raise
        finally:
            self.ledger.waiting_for = ""
            self.ledger.release(keys)
        return [recorder.replies[key] for key in keys]

    def _calls(self, model: Model, recorder: Recorder, dispatch: Dispatch) -> BatchedCalls | StreamedCalls:
        if model.unit == "batch":
            return BatchedCalls(self.memo, self.stop, recorder, dispatch)
        assume_reachable = model.assume_reachable if isinstance(model, ReachabilityAware) else nothing
        return StreamedCalls(self.memo, self.stop, recorder, dispatch, assume_reachable)

    def _ask_in_batches(self, model: BatchModel, requests: Mapping[str, Request]) -> Iterator[Arrival]:
        from promptopt.evaluation.batch_journal import ask_in_batches  # noqa: PLC0415  loads asyncio, which `import promptopt` need not

        return ask_in_batches(self.memo, model, [*requests], [*requests.values()], check=self.stop.check)

    def _needs_usage(self, model: Model) -> bool:
        """Whether token usage must be known for each call: tokens are limited, or may cost something.

        Models that commit whole batches count their own tokens.
        """
        costs = model.price is None or any(model.price)
        return model.unit == "reply" and (costs or self.ledger.limit.tokens is not None)

    def replies_in_memo(self, keys: Iterable[str]) -> dict[str, Response]:
        """Return the replies that are in the memo, by key."""
        return replies_in_memo(self.memo, keys)


def _price_advice(role: str, model: Model) -> str:
    if role == TOOL:
        return (
            f"a budget in dollars needs the price of what {model.fingerprint['model']!r} uses: give it with "
            "as_program(..., price=Price(INPUT, OUTPUT)), --predict-price INPUT,OUTPUT or price = [INPUT, OUTPUT] in the task "
            "file, in dollars per million tokens (zeros if it costs nothing); or a budget in calls or tokens"
        )
    return (
        f"a budget in dollars needs the price of the {role} model: give --price INPUT,OUTPUT in dollars per "
        "million tokens, or a budget in calls or tokens"
    )


def request_keys(model: Model, requests: Iterable[Request]) -> list[str]:
    """Return the memo keys of requests to `generate`."""
    make_key = KeyMaker(model.fingerprint, "generate")
    return [make_key(_request_key(request), request.replicate) for request in requests]


def label_keys(model: LabelModel, contexts: Iterable[Context], labels: Sequence[str]) -> list[str]:
    """Return the memo keys of contexts whose labels are scored."""
    make_key = KeyMaker(model.fingerprint, "label_logprobs")
    names = list(labels)
    return [make_key({"context": _context_key(context), "labels": names}) for context in contexts]


def nothing(*_: object) -> None:
    """Do nothing: a callback that shows no progress."""


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


def _context_key(context: Context) -> Any:
    """Return what identifies a context: an image counts by its contents, whatever its file is called."""
    if isinstance(context, str) or not any(isinstance(turn, ImageMessage) for turn in context):
        return context
    return [
        (turn.role, [part if isinstance(part, str) else {"image": part.digest} for part in turn.parts])
        if isinstance(turn, ImageMessage)
        else turn
        for turn in context
    ]


def _request_key(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "context": _context_key(request.context),
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
    if request.tools:
        body["tools"] = request.tools
    if request.exchanges:
        body["exchanges"] = request.exchanges
    if request.options:
        body["options"] = request.options.to_json()
    return body
