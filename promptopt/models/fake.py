"""Models that are Python functions: for real use, and fakes for free, offline tests and experiments."""

from __future__ import annotations

import sys
import uuid
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from promptopt.errors import InputError
from promptopt.models.base import Price, Request
from promptopt.models.identity import code_digest
from promptopt.replies import Arrival, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.prompt import Context


class FunctionModel:
    """A model whose replies are `handler(request)`: a text or a `Response`.

    Args:
        handler: called with one request at a time.
        name: of the model, in results and in the memo.
        version: change it whenever the function's replies change; the memo reuses replies of the same name and version.

    Raises:
        InputError: `name` or `version` is empty or not a string.
    """

    unit: Literal["reply"] = "reply"
    price = Price(0.0, 0.0)
    max_image_bytes = sys.maxsize  # the function gets the paths, and no image is sent
    fingerprint: Mapping[str, Any]

    def __init__(self, handler: Callable[[Request], str | Response], *, name: str, version: str) -> None:
        for argument, value in (("name", name), ("version", version)):
            if not isinstance(value, str) or not value:
                raise InputError(
                    f"the {argument} of a FunctionModel must be a non-empty string such as 'v1', not {value!r}"
                )
        self.handler = handler
        self.fingerprint = {"provider": "function", "model": name, "version": version}

    def check_request(self, request: Request) -> Request:
        """Return the request: the function gets its options."""
        return request

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Answer one request at a time.

        Raises:
            InputError: the function returned neither a text nor a Response.
        """
        for index, request in enumerate(requests):
            reply = self.handler(request)
            if not isinstance(reply, str | Response):
                raise InputError(f"a model's function must return a text or a Response, not {reply!r}")
            yield Arrival(index, Response(reply) if isinstance(reply, str) else reply)


class FakeModel(FunctionModel):
    """A model whose replies are `handler(request)`; the memo identifies it by the function's code.

    The fingerprint has a digest of the code, defaults, closure and globals that the function uses when the model is made, so an
    edited function is called again. If something cannot be compared across processes, such as a callable object or a closure
    over one, the memo reuses replies only for this instance; `FunctionModel` takes a version instead. Files and environment
    variables that the function reads are not tracked.

    Args:
        handler: called with one request at a time.
        name: of the model, in results and in the memo.
    """

    def __init__(self, handler: Callable[[Request], str | Response], name: str = "fake") -> None:
        self.handler = handler
        self.fingerprint = _fingerprint(name, type(self), handler)


class FakeLabelModel(FakeModel):
    """A fake that also scores labels: `logprobs(context, labels)` returns one natural log-probability per label."""

    def __init__(self, logprobs: Callable[[Context, Sequence[str]], Sequence[float]], name: str = "fake") -> None:
        self.handler = lambda request: str(request.context)
        self.fingerprint = _fingerprint(name, type(self), logprobs)
        self.logprobs = logprobs

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Answer one context at a time."""
        for index, context in enumerate(contexts):
            values = tuple(float(value) for value in self.logprobs(context, labels))
            likeliest = max(zip(values, labels, strict=False), key=itemgetter(0), default=(0.0, ""))[1]
            yield Arrival(index, Response(likeliest, values))


def _fingerprint(name: str, *code: Any) -> dict[str, Any]:
    digest = code_digest(*code)
    fingerprint = {"provider": "fake", "model": name}
    return fingerprint | ({"instance": uuid.uuid4().hex} if digest is None else {"code": digest})
