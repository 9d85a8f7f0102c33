"""The one way to a model: through the memo and the ledger.

Equal requests are asked once; a reply is on disk the moment it arrives (or, where rounding depends on how a batch is
composed, the whole batch in one transaction); failures are returned and never stored. Knows nothing of prompts,
examples or rewards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from promptopt.errors import StoppedError
from promptopt.memo import KeyMaker
from promptopt.scores import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from promptopt.ledger import Ledger
    from promptopt.memo import Memo
    from promptopt.models.base import LabelModel, Model, Request
    from promptopt.prompt import Context
    from promptopt.scores import Arrival

Reply: TypeAlias = Response | Failure

_log = logging.getLogger(__name__)

# Calls sent to a hosted model at once: enough to keep its connections busy, few enough that Ctrl-C, which lets those
# in flight finish so that nothing paid for is lost, ends soon.
_SLICE = 128


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
    """

    memo: Memo
    ledger: Ledger
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[], None] = lambda: None

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return a reply to each request, in order.

        Raises:
            BudgetExhaustedError: they would overstep the budget; nothing was sent.
            FinalModelError: the model refuses for good.
            StoppedError: the user asked to end; what arrived is stored.
        """
        make = KeyMaker(model.fingerprint, "generate")
        keys = [make(_body(request), request.replicate) for request in requests]

        def dispatch(missing: Sequence[int]) -> Iterator[Arrival]:
            return model.generate([requests[i] for i in missing])

        return self._ask(role, model, keys, dispatch)

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return for each context a response with the log-probabilities of the labels, in order.

        Raises: as `generate`.
        """
        make = KeyMaker(model.fingerprint, "label_logprobs")
        keys = [make({"context": context, "labels": list(labels)}) for context in contexts]

        def dispatch(missing: Sequence[int]) -> Iterator[Arrival]:
            return model.label_logprobs([contexts[i] for i in missing], labels)

        return self._ask(role, model, keys, dispatch)

    def _ask(
        self, role: str, model: Model, keys: Sequence[str], dispatch: Callable[[Sequence[int]], Iterator[Arrival]]
    ) -> list[Reply]:
        self.stop.check()
        self.ledger.admit(role, keys)
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)

        def send(missing: Sequence[str]) -> Iterator[Arrival]:
            return dispatch([first[key] for key in missing])

        replies = self._known(role, model, list(first))
        with self.memo.claim([key for key in first if key not in replies]) as claim:
            # Another thread may have stored a reply between our look and our claim.
            replies |= self._known(role, model, claim.mine)
            self._fetch(role, model, [key for key in claim.mine if key not in replies], send, replies)
            claim.wait()
        others = [key for key in claim.theirs if key not in replies]
        if others:  # asked by another thread at the same time: read its replies, or ask again where it failed
            replies |= self._known(role, model, others)
            self._fetch(role, model, [key for key in others if key not in replies], send, replies)
        return [replies[key] for key in keys]

    def _known(self, role: str, model: Model, keys: Sequence[str]) -> dict[str, Reply]:
        out: dict[str, Reply] = {}
        for key, value in self.memo.get_many(keys).items():
            reply = _read(key, value)
            if reply is not None:
                out[key] = reply
                self.ledger.record(role, key, reply.usage, model.price, paid=False)
        if out:
            self.watch()
        return out

    def _fetch(
        self,
        role: str,
        model: Model,
        keys: Sequence[str],
        send: Callable[[Sequence[str]], Iterator[Arrival]],
        replies: dict[str, Reply],
    ) -> None:
        """Ask the model for `keys` and put what arrives into `replies` and the memo."""
        whole = model.unit == "batch"
        size = max(len(keys), 1) if whole else _SLICE
        for start in range(0, len(keys), size):
            self.stop.check()
            part = keys[start : start + size]
            batch: dict[str, Any] = {}
            for number, reply in send(part):
                key = part[number]
                replies[key] = reply
                if isinstance(reply, Failure):
                    self.ledger.record_failure(role, key)
                else:
                    if whole:
                        self.stop.check()
                        batch[key] = reply.to_json()
                    else:
                        self.memo.put(key, reply.to_json())
                    self.ledger.record(role, key, reply.usage, model.price, paid=True)
                self.watch()
            if batch:
                self.memo.put_many(batch)


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
    return body


def _read(key: str, value: Any) -> Response | None:
    """Return the stored response, or None (a miss) where an imported entry is not one."""
    match value:
        case {
            "text": str(),
            "label_logprobs": None | [int() | float(), *_],
            "usage": [int(), int(), int()],
            "finish_reason": "stop" | "length" | "refusal",
        }:
            return Response.from_json(value)
    _log.warning("memo entry %s is no response: asked again", key)
    return None
