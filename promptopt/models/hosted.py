"""What hosted adapters share: the pool of calls, what each error means, and the care taken of the key.

An adapter says how a request is sent and how a reply's JSON is read; everything else is here. Of the official SDKs this
knows what they have in common: how a client is made, and the names of two errors. They are imported with the first call.
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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn, Protocol, runtime_checkable
from urllib.parse import urlsplit

from promptopt.errors import FinalModelError, InputError
from promptopt.models.dispatch import AttemptError, dispatch, loop
from promptopt.scores import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from promptopt.models.base import Price, Request
    from promptopt.scores import Finish

NO_PAID_CALLS = "PROMPTOPT_NO_PAID_CALLS"
"""Environment variable that, set to anything, makes every call beyond this machine an error: for test suites."""

_log = logging.getLogger(__name__)

_PASSING = (  # of the 4xx, those that another try may get past
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_OVERLOADED = 529  # Anthropic's own
_CROWDED = (HTTPStatus.TOO_MANY_REQUESTS, _OVERLOADED)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHORTEST_KEY = 8  # what is shorter is a placeholder, for a server that asks for no key


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

    Raises:
        InputError: an argument out of its range, or an endpoint that is no plain URL.
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
        self._answered = False
        self._changes: set[str] = set()
        self.endpoint = public_endpoint(self._base_url)
        self.fingerprint: Mapping[str, Any] = {
            "provider": self.service.sdk,
            "endpoint": self.endpoint,
            "model": name,
        }

    @property
    def price(self) -> Price | None:
        """Dollars per million tokens: the given ones, or the list's at the provider's own endpoint, else None."""
        return self._price

    @cached_property
    def _price(self) -> Price | None:
        if self._given_price is not None or self.endpoint != self.service.endpoint:
            return self._given_price
        from promptopt.models.prices import known_price  # noqa: PLC0415  a third of a second, and only for hosted models

        return known_price(self.service.sdk, self.name)

    @cached_property
    def _limiters(self) -> list[tuple[Any, Callable[[Request], float]]]:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415  loaded when used

        amounts: tuple[Callable[[Request], float], ...] = (lambda _: 1.0, _guessed_tokens)
        return [(AsyncLimiter(rate), amount) for rate, amount in zip(self._rates, amounts, strict=True) if rate]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.endpoint!r})"

    @property
    def changes(self) -> tuple[str, ...]:
        """What was left out of requests, because the model does not take it, in words."""
        return tuple(sorted(self._changes))

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each reply as soon as it is there; a request is pulled when there is a place for its call.

        Until the model has answered once its calls go one by one, so that a bad key or a wrong name costs one call.

        Raises:
            FinalModelError: no later call can work either; the message says what to change.
            PassingModelError: the endpoint answers nothing any more.
        """
        return dispatch(self.endpoint, requests, self._answer, lambda: self._concurrency if self._answered else 1)

    @abstractmethod
    def path(self, request: Request) -> str:
        """Return where a request goes, behind the endpoint's host."""

    @abstractmethod
    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON that is sent for a request."""

    @abstractmethod
    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        """Send a body by the SDK and return its raw response."""

    @abstractmethod
    def _read(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        """Read the JSON of a reply."""

    @abstractmethod
    def _adapt(self, error: Mapping[str, Any]) -> None:
        """Leave out of all bodies from here on what the error of a 400 says that the model does not take, and say so."""

    @cached_property
    def _sdk(self) -> Any:
        return importlib.import_module(self.service.sdk)

    @cached_property
    def _client(self) -> Any:
        self.check_key()
        client = getattr(self._sdk, f"Async{self.service.client}")(**self.client_settings(), max_retries=0)
        weakref.finalize(self, _close, client).atexit = False
        return client

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
        """Make one attempt; where the model does not take a field of it, leave that out and ask again.

        Raises:
            AttemptError: another may do better.
            FinalModelError: none can.
        """
        client = self._client
        for limiter, amount in self._limiters:
            await limiter.acquire(min(amount(request), limiter.max_rate))
        sent = self.body(request)
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, body = await self._exchange(client, sent)
        except (TimeoutError, self._sdk.APITimeoutError):
            raise AttemptError(f"{self.endpoint} gave no answer within {self._timeout:g} s") from None
        except self._sdk.APIConnectionError:
            raise AttemptError(f"{self.endpoint} could not be reached, or broke off") from None
        if status >= HTTPStatus.BAD_REQUEST:
            if status == HTTPStatus.BAD_REQUEST:
                self._adapt(_error(body))
                if self.body(request) != sent:
                    return await self._answer(request)
            self._refuse(status, headers, body)
        reply = self._checked(body, request)
        if isinstance(reply, Failure):
            raise AttemptError(reply.reason)
        self._answered = True
        return reply

    async def _exchange(self, client: Any, sent: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        """Return status, headers and body: outside any except block, for an SDK's error may quote the key."""
        try:
            response = (await self._send(client, sent)).http_response
        except self._sdk.APIStatusError as error:
            response = error.response
        return response.status_code, response.headers, response.text

    def _checked(self, text: str, request: Request) -> Response | Failure:
        body = json_object(text)
        if body is None:
            return Failure(self._without_key(f"{self.endpoint} sent no JSON object but {_beginning(text)}"))
        return self._read(body, request)

    def _say_once(self, change: str) -> None:
        if change not in self._changes:
            self._changes.add(change)
            _log.warning("%s at %s %s", self.name, self.endpoint, change)

    def _refuse(self, status: int, headers: Mapping[str, str], body: str) -> NoReturn:
        """Raise what an HTTP error means.

        Raises:
            AttemptError: another try may get past it.
            FinalModelError: none gets past it.
        """
        error = self.refusal(status, body)
        if error is not None:
            raise error
        words = self._without_key(_server_words(body))
        raise AttemptError(
            f"{self.endpoint} answered {status} ({words})", wait=_retry_after(headers), crowded=status in _CROWDED
        )

    def refusal(self, status: int, body: str) -> FinalModelError | None:
        """Return the error of an HTTP status that no other try gets past, else None."""
        variable, says = self.service.key_variable, self._without_key(_server_words(body))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # Without the server's words, which are where keys get quoted.
            return FinalModelError(
                f"{self.endpoint} does not let this key use {self.name!r} ({status}): check {variable} and what the key may do"
            )
        if status == HTTPStatus.NOT_FOUND:
            return FinalModelError(
                f"model {self.name!r} is unknown at {self.endpoint} ({status}, {says}): check the name and the base URL"
            )
        if status == HTTPStatus.PAYMENT_REQUIRED or _quota_spent(body):
            return FinalModelError(
                f"the quota at {self.endpoint} is spent ({status}): add credit there, or set {variable} to another key"
            )
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING:
            return FinalModelError(
                f"{self.endpoint} refused the request to {self.name!r} ({status}, {says}): change what it names"
            )
        return None

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


def reply(text: object, usage: Usage, finish: Finish) -> Response | Failure:
    """Return the response with that text; without one only a refusal or a reply cut off while thinking is a response."""
    if isinstance(text, str):
        return Response(text, usage=usage, finish_reason=finish)
    if text is None and finish != "stop":
        return Response("", usage=usage, finish_reason=finish)
    return Failure("the reply holds no text")


def at(value: Any, *path: str | int) -> Any:
    """Return what stands at `path` in JSON values, or None where the path leads nowhere."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _guessed_tokens(request: Request) -> float:
    """Return about how many tokens a request may take: four bytes each, and its longest reply."""
    context = request.context
    text = context if isinstance(context, str) else "".join(turn.content for turn in context)
    return len(text.encode()) / 4 + request.max_tokens


def unsupported(error: Mapping[str, Any]) -> str:
    """Return what an error says where it says that something is not supported, else ""."""
    named = f"{error.get('param')} {error.get('code')} {error.get('message')}"
    return named if re.search("unsupported|not support|deprecated|only the default", named, re.IGNORECASE) else ""


def _close(client: Any) -> None:
    running = loop()
    running.call_soon_threadsafe(lambda: running.create_task(client.close()))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to be left alone, given in milliseconds, in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    try:
        until = parsedate_to_datetime(headers["retry-after"])
        return max((until - datetime.now(UTC)).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError):  # none, no date, or one without a zone
        return None


def _quota_spent(body: str) -> bool:
    error = _error(body)
    return "insufficient_quota" in (error.get("code"), error.get("type"))


def _server_words(body: str) -> str:
    """Return the server's own message, or the beginning of a body that has none."""
    message = _error(body).get("message")
    return message if isinstance(message, str) else _beginning(body)


def _error(body: str) -> Mapping[str, Any]:
    """Return the error object of a body: `{"error": {...}}`, `{"error": "..."}` or the body itself."""
    whole = json_object(body) or {}
    error = whole.get("error", whole)
    return error if isinstance(error, dict) else {"message": error}


def json_object(text: str) -> dict[str, Any] | None:
    """Return the object that a text is, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _beginning(text: str) -> str:
    return repr(" ".join(text[:1000].split())[:100])
