"""What hosted adapters share: the pool of calls, what each error means, and the care taken of the key.

An adapter says how a request is sent and how a reply's JSON is read; everything else is here. Of the official SDKs this
knows what they have in common: how a client is made, and the names of two errors. They are imported with the first call.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import weakref
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from promptopt.errors import FinalModelError, InputError
from promptopt.scores import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.models.base import Price, Request
    from promptopt.scores import Finish

NO_PAID_CALLS = "PROMPTOPT_NO_PAID_CALLS"
"""Environment variable that, set to anything, makes every call beyond this machine an error: for test suites."""

RETRIES = 4  # the SDKs wait 0.5 s, 1 s, 2 s, 4 s between them, or as long as the server asks

_PASSING = (  # of the 4xx, those that another try may get past
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
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


class HostedModel(ABC):
    """A model behind a provider's API.

    Args:
        name: the provider's name of the model.
        base_url: endpoint, if not the provider's or the environment's.
        api_key: if not the environment's; it is in no message, name or fingerprint.
        price: dollars per million tokens, None where it is not known.
        concurrency: calls in flight at once.
        timeout: seconds to wait for an answer, each try anew.

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
        api_key: str | None = None,
        price: Price | None = None,
        concurrency: int = 16,
        timeout: float = 60.0,
    ) -> None:
        if not name:
            raise InputError(f"the {self.service.sdk} model has no name: give the provider's name of a model")
        if concurrency < 1:
            raise InputError(f"concurrency must be 1 or more, not {concurrency}")
        if not timeout > 0:
            raise InputError(f"timeout must be more than 0 seconds, not {timeout}")
        self.name = name
        self.price = price
        self._base_url = base_url or os.environ.get(self.service.endpoint_variable) or self.service.endpoint
        self._key = (api_key or os.environ.get(self.service.key_variable) or "").strip()
        self._concurrency = concurrency
        self._timeout = timeout
        self._answered = False
        self.endpoint = public_endpoint(self._base_url)
        self.fingerprint: Mapping[str, Any] = {
            "provider": self.service.sdk,
            "endpoint": self.endpoint,
            "model": name,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.endpoint!r})"

    def generate(self, requests: Sequence[Request]) -> Iterator[Arrival]:
        """Yield each reply as soon as it is there; calls that have not started when iteration ends are not made.

        A model's first call goes alone, so that a bad key or a wrong name costs one call and not one for each worker.

        Raises:
            FinalModelError: no later call can work either; the message says what to change.
        """
        alone = 0 if self._answered else 1
        for index, request in enumerate(requests[:alone]):
            first = self._answer(request)
            self._answered = True
            yield Arrival(index, first)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix=self.service.sdk)
        try:
            asked = {pool.submit(self._answer, requests[i]): i for i in range(alone, len(requests))}
            refusal: FinalModelError | None = None
            for future in as_completed(asked):
                if future.cancelled():
                    continue
                try:
                    reply = future.result()
                except FinalModelError as error:  # those in flight are paid for: let them arrive before the run stops
                    refusal = refusal or error
                    for other in asked:
                        other.cancel()
                    continue
                yield Arrival(asked[future], reply)
            if refusal is not None:
                raise refusal
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @abstractmethod
    def _send(self, client: Any, request: Request) -> Any:
        """Make one call and return the SDK's raw response."""

    @abstractmethod
    def _read(self, body: Mapping[str, Any]) -> Response | Failure:
        """Read the JSON of a reply."""

    @cached_property
    def _sdk(self) -> Any:
        return importlib.import_module(self.service.sdk)

    @cached_property
    def _client(self) -> Any:
        self._check_key()
        if os.environ.get(NO_PAID_CALLS) and urlsplit(self.endpoint).hostname not in _LOOPBACK:
            raise FinalModelError(f"no call to {self.endpoint}: {NO_PAID_CALLS} is set, as in tests")
        client = getattr(self._sdk, self.service.client)(
            api_key=self._key,
            base_url=self._base_url,
            timeout=self._timeout,
            max_retries=RETRIES,
            default_headers=self.service.headers,
            http_client=self._sdk.DefaultHttpxClient(event_hooks={"response": [_forbid_useless_retry]}),
        )
        weakref.finalize(self, client.close)
        return client

    def _check_key(self) -> None:
        variable = self.service.key_variable
        if not self._key:
            raise FinalModelError(
                f"there is no key for {self.endpoint}: set {variable} (to any word, if the server asks for none)"
            )
        if not re.fullmatch("[!-~]+", self._key):
            raise FinalModelError(
                f"the key for {self.endpoint} holds a space or a letter that no key has: set {variable} again"
            )

    def _answer(self, request: Request) -> Response | Failure:
        client = self._client
        try:
            body = self._send(client, request).http_response.text
        except self._sdk.APIStatusError as error:
            status, body = error.status_code, error.response.text
        except self._sdk.APITimeoutError:
            return Failure(f"{self.endpoint} gave no answer within {self._timeout:g} s, {RETRIES + 1} times")
        except self._sdk.APIConnectionError:
            return Failure(f"{self.endpoint} could not be reached, {RETRIES + 1} times")
        else:
            return self._checked(body)
        # Outside the except block, for the SDK's error, which a traceback would show, may quote the key.
        return self._refused(status, body)

    def _checked(self, text: str) -> Response | Failure:
        body = _json_object(text)
        if body is None:
            return Failure(self._without_key(f"{self.endpoint} sent no JSON object but {_beginning(text)}"))
        return self._read(body)

    def _refused(self, status: int, body: str) -> Failure:
        """Return the failure that an HTTP error is.

        Raises:
            FinalModelError: it is one that no other try gets past.
        """
        variable, says = self.service.key_variable, self._without_key(_server_words(body))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # Without the server's words, which are where keys get quoted.
            raise FinalModelError(
                f"{self.endpoint} does not let this key use {self.name!r} ({status}): check {variable} and what the key may do"
            )
        if status == HTTPStatus.NOT_FOUND:
            raise FinalModelError(
                f"model {self.name!r} is unknown at {self.endpoint} ({status}, {says}): check the name and the base URL"
            )
        if status == HTTPStatus.PAYMENT_REQUIRED or _quota_spent(body):
            raise FinalModelError(
                f"the quota at {self.endpoint} is spent ({status}): add credit there, or set {variable} to another key"
            )
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING:
            hot = "temperature" in says
            mend = "set the temperature to 1, all that some models take" if hot else "change what it names"
            raise FinalModelError(f"{self.endpoint} refused the request to {self.name!r} ({status}, {says}): {mend}")
        return Failure(f"{self.endpoint} answered {status} ({says})")

    def _without_key(self, text: str) -> str:
        """Hide each word that shows the key or an end of it, for servers quote keys as `sk-ab***yz`."""
        if len(self._key) < _SHORTEST_KEY:
            return text
        shown = (self._key[:4], self._key[-4:])
        return re.sub(r"\S+", lambda word: "***" if any(end in word[0] for end in shown) else word[0], text)


def public_endpoint(url: str) -> str:
    """Return a base URL as it may be shown: without the user and password that it may hold.

    Raises:
        InputError: it is no plain http(s) URL.
    """
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"the base URL must look like https://host/v1, without ? or #, not {shown!r}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


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


def count(value: object) -> int:
    """Return a number of tokens, 0 where the server gave none."""
    return value if isinstance(value, int) else 0


def _forbid_useless_retry(response: Any) -> None:
    """Tell the SDK, by the header that it obeys, that this 429 will not pass: it would try again after any."""
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        response.read()
        if _quota_spent(response.text):
            response.headers["x-should-retry"] = "false"


def _quota_spent(body: str) -> bool:
    error = _error(body)
    return "insufficient_quota" in (error.get("code"), error.get("type"))


def _server_words(body: str) -> str:
    """Return the server's own message, or the beginning of a body that has none."""
    message = _error(body).get("message")
    return message if isinstance(message, str) else _beginning(body)


def _error(body: str) -> Mapping[str, Any]:
    """Return the error object of a body: `{"error": {...}}`, `{"error": "..."}` or the body itself."""
    whole = _json_object(body) or {}
    error = whole.get("error", whole)
    return error if isinstance(error, dict) else {"message": error}


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _beginning(text: str) -> str:
    return repr(" ".join(text[:1000].split())[:100])
