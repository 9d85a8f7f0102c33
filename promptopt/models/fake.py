"""Fake models for tests and for trying things out: a Python function answers. Free, offline, and as fast as the function."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from promptopt.errors import InputError
from promptopt.models.base import Price, Request
from promptopt.scores import Arrival, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.prompt import Context


class FakeModel:
    """A model whose replies are `handler(request)`: a text, or a whole `Response`.

    `name` stands in for the model id in the memo: change it when the handler changes.
    """

    unit: Literal["reply"] = "reply"
    price = Price(0.0, 0.0)

    def __init__(self, handler: Callable[[Request], str | Response], name: str = "fake") -> None:
        self.handler = handler
        self.fingerprint: Mapping[str, Any] = {"provider": "fake", "model": name}

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Answer one request after the other."""
        for index, request in enumerate(requests):
            reply = self.handler(request)
            if not isinstance(reply, str | Response):
                raise InputError(f"a fake model's function must return a text or a Response, not {reply!r}")
            yield Arrival(index, Response(reply) if isinstance(reply, str) else reply)


class FakeLabelModel(FakeModel):
    """A fake that also scores labels: `logprobs(context, labels)` gives one natural log-probability a label."""

    def __init__(self, logprobs: Callable[[Context, Sequence[str]], Sequence[float]], name: str = "fake") -> None:
        super().__init__(lambda request: str(request.context), name)
        self.logprobs = logprobs

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Answer one context after the other."""
        for index, context in enumerate(contexts):
            values = tuple(float(value) for value in self.logprobs(context, labels))
            likeliest = max(zip(values, labels, strict=False), key=itemgetter(0), default=(0.0, ""))[1]
            yield Arrival(index, Response(likeliest, values))
