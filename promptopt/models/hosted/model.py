"""Base class of hosted adapters: making calls, interpreting errors, and keeping the key secret.

An adapter defines how a request is sent and how a reply's JSON is parsed. `refusals` parses errors, `dialect` decides which
fields to omit, and `connection` makes the HTTP client. This module uses only what the official SDKs have in common: how to
make a client, and the names of two errors. SDKs are imported at the first call.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from promptopt.errors import InputError, ModelError, PermanentModelError, TransientModelError
from promptopt.models.hosted.bodies import excerpt
from promptopt.models.hosted.connection import UnreadableReplyError, async_client, public_endpoint
from promptopt.models.hosted.dialect import Change, Dialect, Negotiation, changes, negotiate, truncate_at
from promptopt.models.hosted.dispatch import call_loop, dispatch
from promptopt.models.hosted.endpoint import AttemptError, Patience, RefusedError
from promptopt.models.hosted.fields import Secret, checked_extra_body, checked_headers, masked, merged, nested
from promptopt.models.hosted.refusals import Refusal, error_in, read_refusal
from promptopt.models.options import JSON, NO_OPTIONS, RequestOptions
from promptopt.models.usage import USUAL_IMAGE_TOKENS
from promptopt.prompt import Message
from promptopt.replies import Arrival, Failure, Response
from promptopt.utils.json_values import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from promptopt.models.base import Price, Request
    from promptopt.models.hosted.services import Service
    from promptopt.prompt import Context

NO_PAID_CALLS = "PROMPTOPT_NO_PAID_CALLS"
"""Environment variable that, if set, makes every call to another machine an error; meant for test suites."""

_log = logging.getLogger(__name__)

NO_KEY = "none"
"""Sent to servers that need no key: the SDKs insist on one."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HARMLESS: Mapping[bool, Context] = {  # harmless contexts: by whether they are plain text
    True: "one, two, three,",
    False: (Message("user", "Reply with the word ready."),),
}
_PLAIN: dict[str, Any] = {"labels": (), "tools": (), "exchanges": (), "options": NO_OPTIONS}


class HostedModel(ABC):
    """A model behind a provider's API.

    Args:
        name: the provider's name of the model.
        base_url: endpoint, if not the provider's or the environment's.
        api_key: if not the environment's, as text or pydantic's SecretStr; never shown in messages, names or fingerprints.
        price: dollars per million tokens; None uses the provider's list price, at its own endpoint.
        concurrency: maximum calls in flight; the actual number starts low and falls while the endpoint is overloaded.
        timeout: seconds per attempt.
        backoff: seconds before the second attempt at a request; doubles with each, up to a minute. 0, for tests, waits only if
            the endpoint asks for it.
        requests_per_minute: rate limit; None for no limit.
        tokens_per_minute: rate limit, by an estimate of each request's tokens; None for no limit.
        extra_body: additional fields of every request, as the endpoint names them, such as {"logit_bias": {"1904": 100}} or a
            grammar for constrained decoding. They are part of the fingerprint and repeated in a result's `request`.
        options: options of every request; they join the extra fields, under the endpoint's names.
        headers: further headers of every request. The fingerprint has a digest of a value; of a secret, or of the value of an
            environment variable (`env:NAME`), only the header's name. Values are never written.
        service: the provider, if not the class's own.

    Raises:
        InputError: an argument is out of range, the endpoint is not a plain URL, an extra field or header is reserved or cannot
            be sent, or the endpoint has no such option.
    """

    service: Service
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
        backoff: float = 0.5,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        options: RequestOptions = NO_OPTIONS,
        headers: Mapping[str, str | Secret] | None = None,
        service: Service | None = None,
    ) -> None:
        self.service = service or self.service
        if not name:
            raise InputError(f"the {self.service.name} model needs a name: give the provider's name of the model")
        if concurrency < 1:
            raise InputError(f"concurrency must be 1 or more, not {concurrency}")
        if not timeout > 0:
            raise InputError(f"timeout must be more than 0 seconds, not {timeout}")
        if not backoff >= 0:
            raise InputError(f"backoff must be 0 or more seconds, not {backoff}")
        self.name, self.max_image_bytes = name, self.service.max_image_bytes
        for limit, value in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if value is not None and not value > 0:
                raise InputError(f"{limit} must be more than 0, not {value}")
        self._explicit_price = price
        self._base_url = base_url or os.environ.get(self.service.endpoint_variable or "") or self.service.endpoint
        key = api_key.get_secret_value() if isinstance(api_key, Secret) else api_key
        self._key = (key or os.environ.get(self.service.key_variable) or "").strip()
        self._concurrency = concurrency
        self._timeout = timeout
        self._patience = Patience(backoff=backoff)
        self._rates = (requests_per_minute, tokens_per_minute)
        self._has_answered = self._assumed_reachable = False
        self._changes: set[str] = set()
        self._negotiation = Negotiation(Dialect(omitted=self.service.omitted), self._warn_once)
        self._current_session: _Session | None = None
        self.endpoint = public_endpoint(self._base_url)
        self.fingerprint: dict[str, Any] = {
            "provider": self.service.name,
            "endpoint": self.endpoint,
            "model": name,
        }
        self._headers = checked_headers(headers or {})
        self._secrets = (self._key, *self._headers.values.values())
        self._extra_body = merged(checked_extra_body(extra_body or {}, self._secrets), self.option_fields(options))
        if self._extra_body:
            self.fingerprint["extra_body"] = self._extra_body
        if headers:
            self.fingerprint["headers"] = self._headers.fingerprint

    @property
    def price(self) -> Price | None:
        """Dollars per million tokens: as given, else the list price at the provider's own endpoint, else None."""
        return self._price

    @cached_property
    def _price(self) -> Price | None:
        price = self._explicit_price or self.service.price
        if price is not None or self.endpoint != self.service.endpoint or not self.service.prices:
            return price
        from promptopt.models.hosted.prices import known_price  # noqa: PLC0415  takes a third of a second

        return known_price(self.service.prices, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.endpoint!r})"

    @property
    def changes(self) -> tuple[str, ...]:
        """Descriptions of the request fields that were omitted because the model does not accept them."""
        return tuple(sorted(self._changes))

    def assume_reachable(self) -> None:
        """Treat the model as known to respond: refusals are then blamed on the request. Called when the memo has its replies."""
        self._assumed_reachable = True

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each reply as soon as it arrives; a request is pulled when its call can start.

        Until the model has answered once, calls are sequential, so that a bad key or a wrong name costs one call. After
        several consecutive failures, a small call that counts toward no budget tests whether the model responds at all.

        Raises:
            PermanentModelError: no later call can succeed; the message says what to change.
            TransientModelError: the endpoint has stopped responding.
            InputError: the protocol does not support a request; it was not sent.
        """
        concurrency = self._concurrency
        return dispatch(
            self.endpoint,
            map(self.check_request, requests),
            self._answer,
            lambda: concurrency if self._has_answered else 1,
            self._probe,
            patience=self._patience,
        )

    def body(self, request: Request) -> dict[str, Any]:
        """Return the JSON body of a request, without fields that the model is known to reject."""
        return self._body(request, self._negotiation.dialect)

    def _body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        return self.format_body(request, dialect) | self.extra_fields(request)

    def extra_fields(self, request: Request) -> dict[str, Any]:
        """Return the fields of a request's body that the model's and the request's options set.

        Raises:
            InputError: the protocol has no such option, or both set a field to different values.
        """
        return merged(self._extra_body, self.option_fields(request.options)) if request.options else self._extra_body

    def option_fields(self, options: RequestOptions) -> dict[str, Any]:
        """Return the fields of a request's body that options set.

        Raises:
            InputError: the protocol has no such option, or a further field is reserved.
        """
        fields = checked_extra_body(options.extra, self._secrets, "extra")
        for name, value in options.named().items():
            field = self.service.options.get(name)
            if field is None:
                raise InputError(
                    f"{self.name!r} at {self.endpoint} takes no {name}, only {', '.join(self.service.options) or 'extra'}: remove "
                    "it, or send a field that the endpoint knows with extra"
                )
            if name == "response_format" and value == JSON and not self.service.json_mode:
                raise InputError(
                    f"{self.name!r} at {self.endpoint} takes a JSON schema as response_format, not 'json': give a schema"
                )
            fields = merged(fields, nested(field, self.option_value(name, value)))
        return fields

    def option_value(self, name: str, value: Any) -> Any:  # noqa: ARG002  other protocols have other values
        """Return the value of an option as the protocol writes it.

        Raises:
            InputError: the protocol does not allow the value.
        """
        return value

    def check_request(self, request: Request) -> Request:
        """Return a request that the protocol supports.

        Raises:
            InputError: it does not support it; the message says what to change.
        """
        if request.options:
            self.extra_fields(request)
        return request

    @abstractmethod
    def path(self, request: Request) -> str:
        """Return the URL path of a request."""

    @abstractmethod
    def format_body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        """Return the JSON body of a request in a dialect."""

    @abstractmethod
    def optional_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a JSON body that may be omitted or renamed, under `dialect`'s names."""

    @abstractmethod
    async def _send(self, client: Any, body: dict[str, Any]) -> Any:
        """Send a body through the SDK and return the raw response."""

    @abstractmethod
    def _parse(self, body: Mapping[str, Any], request: Request) -> Response | Failure:
        """Parse the JSON of a reply."""

    @cached_property
    def _sdk(self) -> Any:
        return importlib.import_module(self.service.sdk)

    @property
    def _session(self) -> _Session:
        """The client, limiters and locks of this process; a forked process makes its own."""
        if self._current_session is None or self._current_session.process != os.getpid():
            self.check_key()
            make = getattr(self._sdk, f"Async{self.service.client}")
            client = make(**self.client_settings(), max_retries=0, http_client=async_client(self._sdk))
            self._current_session = _Session(client, self._limiters())
            weakref.finalize(self, _close, client, os.getpid()).atexit = False
        return self._current_session

    def _limiters(self) -> list[tuple[Any, Callable[[Request], float]]]:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415  loaded when used

        amounts: tuple[Callable[[Request], float], ...] = (lambda _: 1.0, _estimated_tokens)
        return [(AsyncLimiter(rate), amount) for rate, amount in zip(self._rates, amounts, strict=True) if rate]

    def client_settings(self) -> dict[str, Any]:
        """Return the arguments for an SDK client of this endpoint."""
        return {
            "api_key": self._key or NO_KEY,
            "base_url": self._base_url,
            "timeout": self._timeout,
            "default_headers": {**(self.service.headers or {}), **self._headers.values},
        }

    def check_key(self) -> None:
        """Check that the key can be sent, and that calls to other machines are allowed.

        Raises:
            PermanentModelError: a check failed; the message says what to set.
        """
        variable = self.service.key_variable
        if not self._key and self.service.needs_key:
            raise PermanentModelError(
                f"no API key for {self.endpoint}: set {variable} (to any word if the server needs no key)",
                endpoint=self.endpoint,
            )
        if not re.fullmatch("[!-~]*", self._key):
            raise PermanentModelError(
                f"the API key for {self.endpoint} contains a space or a non-ASCII character: correct {variable}",
                endpoint=self.endpoint,
            )
        if os.environ.get(NO_PAID_CALLS) and urlsplit(self.endpoint).hostname not in _LOOPBACK:
            raise PermanentModelError(
                f"calls to {self.endpoint} are disabled because {NO_PAID_CALLS} is set: unset it to allow paid calls",
                endpoint=self.endpoint,
            )

    async def _answer(self, request: Request) -> Response | Failure:
        """Make one attempt; if the model rejects a field, find out which and retry without it.

        Raises:
            AttemptError: a retry may succeed.
            RefusedError: the endpoint refuses this request because of its content.
            PermanentModelError: no call can succeed.
            TransientModelError: no call can succeed for a long time.
        """
        session = self._session
        for limiter, amount in session.limiters:
            await limiter.acquire(min(amount(request), limiter.max_rate))
        dialect = self._negotiation.dialect
        reply = await self._send_once(request, dialect)
        if isinstance(reply, Refusal) and not reply.overloaded:
            async with session.negotiating:
                if self._negotiation.dialect != dialect:  # another call has negotiated meanwhile
                    reply = await self._send_once(request, self._negotiation.dialect)
                if isinstance(reply, Refusal):
                    reply = await negotiate(
                        self._negotiation,
                        reply,
                        lambda current, words: self._possible_changes(request, current, words),
                        lambda current: self._send_once(request, current),
                    )
        if isinstance(reply, Refusal):
            raise self.interpret(reply)
        self._has_answered = True
        self._negotiation.accept(self._possible_changes(request, self._negotiation.dialect))
        return self._apply_stop(request, reply)

    async def _probe(self, request: Request) -> Response | Failure:
        return await self._answer(replace(request, context=_HARMLESS[isinstance(request.context, str)], **_PLAIN))

    def _possible_changes(self, request: Request, dialect: Dialect, words: str = "") -> list[Change]:
        plain = replace(request, context=_HARMLESS[False]) if request.images else request  # images are large to encode
        return changes(dialect, self.optional_fields(self.format_body(plain, dialect)), words)

    def _apply_stop(self, request: Request, reply: Response) -> Response:
        """Truncate the reply at its stop strings if the server does not support them."""
        if "stop" not in self._negotiation.dialect.omitted:
            return reply
        text = truncate_at(reply.text, request.stop)
        return reply if text == reply.text else replace(reply, text=text, finish_reason="stop")

    async def _send_once(self, request: Request, dialect: Dialect) -> Response | Refusal:
        """Send a request once, in a dialect.

        Raises:
            AttemptError: no reply arrived, or it is malformed.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, body = await self._exchange(self._session.client, self._body(request, dialect))
        except (TimeoutError, self._sdk.APITimeoutError):
            reason = f"{self.endpoint} did not answer within {self._timeout:g} s"
            raise AttemptError(reason, timed_out=True) from None
        except (UnreadableReplyError, self._sdk.APIConnectionError) as error:
            unreadable = error if isinstance(error, UnreadableReplyError) else error.__cause__
            if isinstance(unreadable, UnreadableReplyError):
                raise AttemptError(f"unreadable reply from {self.endpoint}: {unreadable}") from None
            raise AttemptError(f"connection to {self.endpoint} failed") from None
        value = json_value(body)
        error_status = error_in(value) if status < HTTPStatus.MULTIPLE_CHOICES else status
        if error_status is not None:
            return read_refusal(error_status, headers, body)
        if not isinstance(value, dict):
            raise AttemptError(self._without_key(f"{self.endpoint} sent {excerpt(body)} instead of a JSON object"))
        reply = self._parse(value, request)
        if isinstance(reply, Failure):
            raise AttemptError(self._without_key(reply.reason))
        return reply

    async def _exchange(self, client: Any, request_body: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        """Return status, headers and body, so that callers handle them outside any except block: an SDK error may quote the key."""
        try:
            response = (await self._send(client, request_body)).http_response
        except self._sdk.APIStatusError as error:
            response = error.response
        return (
            response.status_code,
            response.headers,
            response.content.decode("utf-8", "replace").removeprefix("\ufeff"),
        )

    def _warn_once(self, change: str) -> None:
        if change not in self._changes:
            self._changes.add(change)
            _log.warning("%s at %s %s", self.name, self.endpoint, change)

    def omit_refused_field(self, request: Request, refusal: Refusal) -> None:
        """Omit from now on the field that a refusal names."""
        suspects = self._negotiation.suspects(
            refusal, self._possible_changes(request, self._negotiation.dialect, refusal.words)
        )
        self._negotiation.adopt(suspects[:1])

    def interpret(self, refusal: Refusal, *, responds: bool = False) -> AttemptError | RefusedError | ModelError:
        """Return the error for a refusal: retry the attempt, fail this request, or end the run.

        Args:
            refusal: from the endpoint.
            responds: whether the model is known to answer other requests, even if none was answered here.
        """
        responds = responds or self._has_answered or self._assumed_reachable
        quoted, status = self._without_key(excerpt(refusal.message)[1:-1]), refusal.status
        if refusal.about_content and not refusal.about_quota:
            return RefusedError(
                f"{self.endpoint} refuses the request ({status}, {quoted})", self._permanent_error(refusal, quoted)
            )
        if refusal.about_daily_limit and not refusal.about_quota:
            return TransientModelError(
                f"a usage limit at {self.endpoint} is reached ({status}, {quoted}): run again after it resets",
                status=status,
                endpoint=self.endpoint,
            )
        request_at_fault = responds and not (
            refusal.about_key or refusal.about_quota or status < HTTPStatus.BAD_REQUEST
        )
        if refusal.transient and not refusal.about_quota:
            return AttemptError(
                f"{self.endpoint} answered {status} ({quoted})",
                status=status,
                wait=refusal.wait,
                overloaded=refusal.overloaded,
            )
        permanent = self._permanent_error(refusal, quoted)
        return (
            RefusedError(f"{self.endpoint} refuses the request ({status}, {quoted})", permanent)
            if request_at_fault
            else permanent
        )

    def _permanent_error(self, refusal: Refusal, quoted: str) -> PermanentModelError:
        """Return the error for a refusal that applies to every request."""
        reason = self._permanent_reason(refusal, quoted)
        return PermanentModelError(reason, status=refusal.status, endpoint=self.endpoint)

    def _permanent_reason(self, refusal: Refusal, quoted: str) -> str:
        variable, status = self.service.key_variable, refusal.status
        if status < HTTPStatus.BAD_REQUEST:
            return (
                f"{self.endpoint} redirects ({status}) to {refusal.host or 'another address'}; the redirect was not followed: set "
                "--base-url to the final address"
            )
        if refusal.about_quota:
            return f"the quota at {self.endpoint} is exhausted ({status}): add credit, or set {variable} to another key"
        if refusal.about_key or (status == HTTPStatus.FORBIDDEN and not refusal.about_content):
            # Without the server's message, which may quote the key.
            return f"{self.endpoint} does not let this key use {self.name!r} ({status}): check {variable} and the key's permissions"
        if refusal.about_model:
            return f"model {self.name!r} is unknown at {self.endpoint} ({status}, {quoted}): check the name and the base URL"
        return (
            f"{self.endpoint} refused the request to {self.name!r} ({status}, {quoted}): correct the request settings"
        )

    def _without_key(self, text: str) -> str:
        return masked(text, self._key, self._headers.values.values())


def _estimated_tokens(request: Request) -> float:
    """Estimate the tokens of a request: a quarter of its bytes, its images, and the longest reply."""
    return len("".join(request.texts).encode()) / 4 + request.images * USUAL_IMAGE_TOKENS + request.max_tokens


@dataclass
class _Session:
    """The client, limiters and locks of one process."""

    client: Any
    limiters: list[tuple[Any, Callable[[Request], float]]]
    process: int = field(default_factory=os.getpid)
    negotiating: asyncio.Lock = field(default_factory=asyncio.Lock)


def _close(client: Any, process: int) -> None:
    if process != os.getpid():  # the connections belong to the parent process
        return
    event_loop = call_loop()
    event_loop.call_soon_threadsafe(lambda: event_loop.create_task(client.close()))
