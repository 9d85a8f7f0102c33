"""What hosted adapters share: the pool of calls, what follows from each error, and the care taken of the key.

An adapter says how a request is sent and how a reply's JSON is read. What an error says is `refusals`, which fields are left
out `dialect`, the HTTP client `connection`. Of the official SDKs this knows what they have in common: how a client is made,
and the names of two errors. They are imported with the first call.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from promptopt.errors import FinalModelError, InputError, ModelError, PassingModelError
from promptopt.models.hosted.bodies import beginning, json_value
from promptopt.models.hosted.connection import UnreadableReplyError, async_client
from promptopt.models.hosted.dialect import Change, Dialect, Negotiation, changes, cut, negotiate
from promptopt.models.hosted.dispatch import AttemptError, RefusedError, dispatch, loop
from promptopt.models.hosted.refusals import Refusal, error_in, read_refusal
from promptopt.prompt import Message
from promptopt.replies import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from promptopt.models.base import Price, Request
    from promptopt.prompt import Context

NO_PAID_CALLS = "PROMPTOPT_NO_PAID_CALLS"
"""Environment variable that, set to anything, makes every call beyond this machine an error: for test suites."""

_log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHORTEST_KEY = 8  # what is shorter is a placeholder, for a server that asks for no key
_OWN_FIELDS = {  # by what sets them
    **dict.fromkeys(("model", "messages", "prompt", "system"), "the model and the prompts"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"), "the task"),
    **dict.fromkeys(("stop", "stop_sequences", "logprobs", "top_logprobs", "echo"), "the task"),
    "api_key": "the environment, for results repeat extra_body",
    **dict.fromkeys(("stream", "n"), "promptopt, which reads one whole reply to each request"),
}
_NEUTRAL: Mapping[bool, Context] = {  # what no server can object to, as plain text or not
    True: "one, two, three,",
    False: (Message("user", "Reply with the word ready."),),
}


class Service(NamedTuple):
    """A provider, and the names of what reaches it.

    Args:
        sdk: module of the official SDK, and the provider's name in fingerprints.
        client: class of the SDK.
        endpoint: base URL where none is given.
        endpoint_variable: environment variable that names another.
        key_variable: environment variable that holds the key.
        headers: sent with every call, in place of the SDK's own.
    """

    sdk: str
    client: str
    endpoint: str
    endpoint_variable: str
    key_variable: str
    headers: Mapping[str, str] | None = None


@runtime_checkable
class Secret(Protocol):
    """A key that does not show itself, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


def checked_extra_body(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return further fields of a request, as JSON reads them back.

    Raises:
        InputError: one is no JSON, is set elsewhere, or holds the key.
    """
    for name in fields:
        if name in _OWN_FIELDS:
            raise InputError(f"extra_body cannot hold {name!r}, which is set by {_OWN_FIELDS[name]}: leave it out")
    try:
        read: dict[str, Any] = json.loads(json.dumps(dict(fields), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"extra_body must be a JSON object: {error}") from None
    if len(key) >= _SHORTEST_KEY and key in json.dumps(read):
        raise InputError("extra_body holds the API key, and results repeat extra_body: leave the key out")
    return read


class HostedModel(ABC):
    """A model behind a provider's API.

    Args:
        name: the provider's name of the model.
        base_url: endpoint, if not the provider's or the environment's.
        api_key: if not the environment's, as text or as pydantic's SecretStr; it is in no message, name or fingerprint.
        price: dollars per million tokens; None takes the provider's list price, at its own endpoint.
        concurrency: calls in flight at once, at most; they begin few, and become fewer while the endpoint is crowded.
        timeout: seconds to wait for an answer, each try anew.
        requests_per_minute: the most to send, None is no limit.
        tokens_per_minute: the most to ask for, by a guess of each request's size.
        extra_body: further fields of every request, as the endpoint names them, such as {"logit_bias": {"1904": 100}} or a
            grammar for constrained answers. They are part of the fingerprint, and a result's `request` repeats them.

    Raises:
        InputError: an argument out of its range, an endpoint that is no plain URL, or an extra field that is no JSON or is
            the task's to set.
    """

    service: ClassVar[Service]
    unit: Literal["reply"] = "reply"

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        price: Price | None = None,
        concurrency: int = 64,
        timeout: float = 60.0,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not name:
            raise InputError(f"the {self.service.sdk} model has no name: give the provider's name of a model")
        if concurrency < 1:
            raise InputError(f"concurrency must be 1 or more, not {concurrency}")
        if not timeout > 0:
            raise InputError(f"timeout must be more than 0 seconds, not {timeout}")
        self.name = name
        for limit, value in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if value is not None and not value > 0:
                raise InputError(f"{limit} must be more than 0, not {value}")
        self._given_price = price
        self._base_url = base_url or os.environ.get(self.service.endpoint_variable) or self.service.endpoint
        given = api_key.get_secret_value() if isinstance(api_key, Secret) else api_key
        self._key = (given or os.environ.get(self.service.key_variable) or "").strip()
        self._concurrency = concurrency
        self._timeout = timeout
        self._rates = (requests_per_minute, tokens_per_minute)
        self._answered = self._vouched = False
        self._changes: set[str] = set()
        self._negotiation = Negotiation(Dialect(), self._say_once)
        self._made: _Session | None = None
        self.endpoint = public_endpoint(self._base_url)
        self.fingerprint: dict[str, Any] = {
            "provider": self.service.sdk,
            "endpoint": self.endpoint,
            "model": name,
        }
        self._extra_body = checked_extra_body(extra_body or {}, self._key)
        if self._extra_body:
            self.fingerprint["extra_body"] = self._extra_body

    @property
    def price(self) -> Price | None:
        """Dollars per million tokens: the given ones, or the list's at the provider's own endpoint, else None."""
        return self._price

    @cached_property
    def _price(self) -> Price | None:
        if self._given_price is not None or self.endpoint != self.service.endpoint:
            return self._given_price
        from promptopt.models.hosted.prices import known_price  # noqa: PLC0415  a third of a second, and only for hosted models

        return known_price(self.service.sdk, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.endpoint!r})"

    @property
    def changes(self) -> tuple[str, ...]:
        """What was left out of requests, because the model does not take it, in words."""
        return tuple(sorted(self._changes))

    def vouch(self) -> None:
        """Take it as known that the model answers: a memo holds replies of it. What it refuses is then a request's own fault."""
        self._vouched = True

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each reply as soon as it is there; a request is pulled when there is a place for its call.

        Until the model has answered once its calls go one by one, so that a bad key or a wrong name costs one call. Where
        requests fail in a row, a small call that no account counts finds out whether the model answers at all.

        Raises:
            FinalModelError: no later call can work either; the message says what to change.
            PassingModelError: the endpoint answers nothing any more.
        """
        most = self._concurrency
        return dispatch(self.endpoint, requests, self._answer, lambda: most if self._answered else 1, self._probe)

    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent for a request, without what the model is known not to take."""
        return self._body(request, self._negotiation.dialect)

    def _body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        return self.written(request, dialect) | self._extra_body

    @abstractmethod
    def path(self, request: Request) -> str:
        """Return where a request goes, behind the endpoint's host."""

    @abstractmethod
    def written(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON of a request in a dialect."""

    @abstractmethod
    def optional(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a request's JSON that it may do without, under `dialect`'s names."""

    @abstractmethod
    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        """Send a body by the SDK and return its raw response."""

    @abstractmethod
    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        """Read the JSON of a reply."""

    @cached_property
    def _sdk(self) -> Any:
        return importlib.import_module(self.service.sdk)

    @property
    def _session(self) -> _Session:
        """What this process calls with: a fork of it has connections, limits and locks of its own."""
        if self._made is None or self._made.process != os.getpid():
            self.check_key()
            make = getattr(self._sdk, f"Async{self.service.client}")
            client = make(**self.client_settings(), max_retries=0, http_client=async_client(self._sdk))
            self._made = _Session(client, self._limiters())
            weakref.finalize(self, _close, client, os.getpid()).atexit = False
        return self._made

    def _limiters(self) -> list[tuple[Any, Callable[[Request], float]]]:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415  loaded when used

        amounts: tuple[Callable[[Request], float], ...] = (lambda _: 1.0, _guessed_tokens)
        return [(AsyncLimiter(rate), amount) for rate, amount in zip(self._rates, amounts, strict=True) if rate]

    def client_settings(self) -> dict[str, Any]:
        """Return what an SDK's client of this endpoint is made with."""
        return {
            "api_key": self._key,
            "base_url": self._base_url,
            "timeout": self._timeout,
            "default_headers": self.service.headers,
        }

    def check_key(self) -> None:
        """Refuse to call without a key that can be sent, and beyond this machine where that is forbidden.

        Raises:
            FinalModelError: as said; the message names what to set.
        """
        variable = self.service.key_variable
        if not self._key:
            raise FinalModelError(
                f"there is no key for {self.endpoint}: set {variable} (to any word, if the server asks for none)"
            )
        if not re.fullmatch("[!-~]+", self._key):
            raise FinalModelError(
                f"the key for {self.endpoint} holds a space or a letter that no key has: set {variable} again"
            )
        if os.environ.get(NO_PAID_CALLS) and urlsplit(self.endpoint).hostname not in _LOOPBACK:
            raise FinalModelError(f"no call to {self.endpoint}: {NO_PAID_CALLS} is set, as in tests")

    async def _answer(self, request: Request) -> Response | Failure:
        """Make one attempt; where the model does not take a field of it, find out which, and ask without it.

        Raises:
            AttemptError: another may do better.
            RefusedError: none can, because of what this request holds.
            FinalModelError: none can, whatever is asked.
            PassingModelError: none can for a long time.
        """
        session = self._session
        for limiter, amount in session.limiters:
            await limiter.acquire(min(amount(request), limiter.max_rate))
        dialect = self._negotiation.dialect
        reply = await self._asked(request, dialect)
        if isinstance(reply, Refusal) and not reply.crowded:
            async with session.negotiating:
                if self._negotiation.dialect != dialect:  # somebody else found it out meanwhile
                    reply = await self._asked(request, self._negotiation.dialect)
                if isinstance(reply, Refusal):
                    reply = await negotiate(
                        self._negotiation,
                        reply,
                        lambda known, words: self._possible_changes(request, known, words),
                        lambda known: self._asked(request, known),
                    )
        if isinstance(reply, Refusal):
            raise self.meaning(reply)
        self._answered = True
        self._negotiation.accept(self._possible_changes(request, self._negotiation.dialect))
        return self._stopped(request, reply)

    async def _probe(self, request: Request) -> Response | Failure:
        return await self._answer(replace(request, context=_NEUTRAL[isinstance(request.context, str)], labels=()))

    def _possible_changes(self, request: Request, dialect: Dialect, words: str = "") -> list[Change]:
        return changes(dialect, self.optional(self.written(request, dialect)), words)

    def _stopped(self, request: Request, reply: Response) -> Response:
        """Do what a server that takes no stop would have done."""
        if "stop" not in self._negotiation.dialect.left_out:
            return reply
        text = cut(reply.text, request.stop)
        return reply if text == reply.text else replace(reply, text=text, finish_reason="stop")

    async def _asked(self, request: Request, dialect: Dialect) -> Response | Refusal:
        """Send a request in a dialect, once.

        Raises:
            AttemptError: no reply came, or a broken one.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, body = await self._exchange(self._session.client, self._body(request, dialect))
        except (TimeoutError, self._sdk.APITimeoutError):
            raise AttemptError(f"{self.endpoint} gave no answer within {self._timeout:g} s") from None
        except (UnreadableReplyError, self._sdk.APIConnectionError) as error:
            unreadable = error if isinstance(error, UnreadableReplyError) else error.__cause__
            if isinstance(unreadable, UnreadableReplyError):
                raise AttemptError(f"{self.endpoint} cannot be read: {unreadable}") from None
            raise AttemptError(f"{self.endpoint} could not be reached, or broke off") from None
        value = json_value(body)
        failed = error_in(value) if status < HTTPStatus.MULTIPLE_CHOICES else status
        if failed is not None:
            return read_refusal(failed, headers, body)
        if not isinstance(value, dict):
            raise AttemptError(self._without_key(f"{self.endpoint} sent no JSON object but {beginning(body)}"))
        reply = self._read(value, request)
        if isinstance(reply, Failure):
            raise AttemptError(self._without_key(reply.reason))
        return reply

    async def _exchange(self, client: Any, sent: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        """Return status, headers and body: outside any except block, for an SDK's error may quote the key."""
        try:
            response = (await self._send(client, sent)).http_response
        except self._sdk.APIStatusError as error:
            response = error.response
        return (
            response.status_code,
            response.headers,
            response.content.decode("utf-8", "replace").removeprefix("\ufeff"),
        )

    def _say_once(self, change: str) -> None:
        if change not in self._changes:
            self._changes.add(change)
            _log.warning("%s at %s %s", self.name, self.endpoint, change)

    def leave_out(self, request: Request, refusal: Refusal) -> None:
        """Leave out from here on what a refusal names and the model does not take."""
        found = self._negotiation.suspects(
            refusal, self._possible_changes(request, self._negotiation.dialect, refusal.words)
        )
        self._negotiation.adopt(found[:1])

    def meaning(self, refusal: Refusal, *, answers: bool = False) -> AttemptError | RefusedError | ModelError:
        """Return what follows from a refusal: another try, a gap, or the end.

        Args:
            refusal: the endpoint's.
            answers: whether the model is known to answer other requests; besides those that were answered here.
        """
        answers = answers or self._answered or self._vouched
        says, status = self._without_key(beginning(refusal.says)[1:-1]), refusal.status
        if refusal.of_content and not refusal.of_quota:
            return RefusedError(f"{self.endpoint} refuses the request ({status}, {says})", self._final(refusal, says))
        if refusal.of_day and not refusal.of_quota:
            return PassingModelError(
                f"a limit at {self.endpoint} is reached ({status}, {says}): run again when it is reset"
            )
        own = answers and not (refusal.of_key or refusal.of_quota or status < HTTPStatus.BAD_REQUEST)
        if refusal.passing and not refusal.of_quota:
            return AttemptError(
                f"{self.endpoint} answered {status} ({says})", wait=refusal.wait, crowded=refusal.crowded
            )
        final = self._final(refusal, says)
        return RefusedError(f"{self.endpoint} refuses the request ({status}, {says})", final) if own else final

    def _final(self, refusal: Refusal, says: str) -> FinalModelError:
        """Return the error of a refusal that every request gets."""
        variable, status = self.service.key_variable, refusal.status
        if status < HTTPStatus.BAD_REQUEST:
            return FinalModelError(
                f"{self.endpoint} redirects ({status}) to {refusal.host or 'another address'}, to which nothing was sent: set "
                "--base-url to the address that answers"
            )
        if refusal.of_quota:
            return FinalModelError(
                f"the quota at {self.endpoint} is spent ({status}): add credit there, or set {variable} to another key"
            )
        if refusal.of_key or (status == HTTPStatus.FORBIDDEN and not refusal.of_content):
            # Without the server's words, which are where keys get quoted.
            return FinalModelError(
                f"{self.endpoint} does not let this key use {self.name!r} ({status}): check {variable} and what the key may do"
            )
        if refusal.of_model:
            return FinalModelError(
                f"model {self.name!r} is unknown at {self.endpoint} ({status}, {says}): check the name and the base URL"
            )
        return FinalModelError(
            f"{self.endpoint} refused the request to {self.name!r} ({status}, {says}): change what it names"
        )

    def _without_key(self, text: str) -> str:
        """Hide each word that shows the key or an end of it, for servers quote keys as `sk-ab***yz`."""
        if len(self._key) < _SHORTEST_KEY:
            return text
        shown = (self._key[:4], self._key[-4:])
        return re.sub(r"\S+", lambda word: "***" if any(end in word[0] for end in shown) else word[0], text)


def public_endpoint(url: str) -> str:
    """Return a base URL without the slash at its end.

    Raises:
        InputError: it is no plain http(s) URL, or holds a user or a password, which would be sent in place of the key.
    """
    shown = url.rpartition("@")[2]
    if shown != url:
        raise InputError(f"the base URL of {shown!r} holds a user or a password: take it out, and set the key instead")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"the base URL must look like https://host/v1, without ? or #, not {shown!r}")
    return url.rstrip("/")


def _guessed_tokens(request: Request) -> float:
    """Return about how many tokens a request may take: four bytes each, and its longest reply."""
    context = request.context
    text = context if isinstance(context, str) else "".join(turn.content for turn in context)
    return len(text.encode()) / 4 + request.max_tokens


@dataclass
class _Session:
    """What one process calls with."""

    client: Any
    limiters: list[tuple[Any, Callable[[Request], float]]]
    process: int = field(default_factory=os.getpid)
    negotiating: asyncio.Lock = field(default_factory=asyncio.Lock)


def _close(client: Any, process: int) -> None:
    if process != os.getpid():  # its connections are another process's
        return
    running = loop()
    running.call_soon_threadsafe(lambda: running.create_task(client.close()))
