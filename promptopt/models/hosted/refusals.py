"""Parses an endpoint's error: status, message, what it is about, how long to wait. Pure functions of the response.

Providers, gateways and servers word and format errors in many ways; the words decide only if the status does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Any

from promptopt.models.hosted.bodies import at, excerpt
from promptopt.utils.json_values import json_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OVERLOADED = 529  # used by Anthropic
TRANSIENT = (  # 4xx statuses for which a retry may succeed
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_REQUEST_ERRORS = (  # always about this one request, whatever the message
    HTTPStatus.NOT_ACCEPTABLE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
)
_STATUS_OF_TYPE = {  # for errors whose HTTP status does not tell
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_prompt": 400,
}
_SERVER_ERROR = 500
_MESSAGE_KEYS = (
    "message",
    "msg",
    "detail",
    "error",
    "errors",
    "title",
    "description",
    "reason",
    "status",
    "code",
    "type",
    "param",
)
_DETAIL_KEYS = (
    "loc",
    "field",
    "details",
    "violations",
    "fieldViolations",
    "metadata",
    "innererror",
    "quotaId",
    "raw",
    "body",
)
_MAX_DEPTH = 8
_MAX_CHARACTERS = 4_000

_KEY = re.compile(
    r"(invalid|incorrect|expired|missing|revoked|wrong|bad)\W{0,3}(\w+\W+)?api[ _-]?key|"
    r"api[ _-]?key\W+(\w+\W+){0,3}(not valid|invalid|incorrect|expired|revoked|not found)|api_key_invalid"
)
_QUOTA = re.compile(
    r"insufficient[ _](quota|credit|balance|fund)|credit balance|out of credits?|exceeded your (current|monthly) quota|"
    r"billing[ _](details|hard limit|account|not[ _]active|limit)|spend(ing)?[ _](limit|cap)|payment required"
)
_LATER = re.compile(r"per[ _-]?(day|week|month)|\b(daily|weekly|monthly|rpd|tpd)\b")
_NO_MODEL = re.compile(
    r"model\b.{0,80}(not found|does not exist|not a valid model|unknown|not supported for|no such)|"
    r"(unknown|invalid|no such) model\b|not a valid model"
)
_CONTENT = re.compile(
    r"content[ _]?(filter|management|policy|moderation)|moderation|flagged|safety|prohibited|blocked|invalid[ _]prompt|"
    r"usage polic|violat(es|ing|ion)|inappropriate|sensitive|data_inspection|responsibleai|harmful|"
    r"(context|prompt|input|sequence)[ _](length|window|size)|context_length|request[ _]too[ _]large|"
    r"(prompt|input|context|messages?|request|text|content|payload|body|document)\b.{0,40}\btoo[ _](long|large|big|many)|"
    r"too many (input |prompt )?tokens|too (long|large) for|maximum[^.]{0,30}(length|tokens)|reduce the length|"
    r"exceed\w*.{0,40}(token|context|length)|string_above_max_length"
)
_TOO_LARGE = re.compile(r"request too large")
_VAGUE = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|\bextra\b|"
    r"not (permitted|allowed|enabled|available|implemented|valid)|bad request|unprocessable|validation|schema|malformed|"
    r"invalid (request|argument|parameter|field|body|payload|option|json|input)"
)
_PLAIN_BODY = re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """An error response.

    Args:
        status: the HTTP status, or its equivalent for an error with HTTP status 200.
        message: the server's message, for people; may quote the key.
        words: all text of the error in lower case, for matching; without quotes of the request.
        wait: seconds that the server asks to wait, or None.
        host: target of a redirect.
    """

    status: int
    message: str
    words: str
    wait: float | None = None
    host: str = ""

    @property
    def overloaded(self) -> bool:
        """Whether the error is a rate limit or an overload."""
        return self.status in (HTTPStatus.TOO_MANY_REQUESTS, OVERLOADED)

    @property
    def transient(self) -> bool:
        """Whether a retry of the same request may succeed."""
        return self.status in TRANSIENT or self.status >= _SERVER_ERROR

    @cached_property
    def about_key(self) -> bool:
        """Whether the key is rejected for all requests."""
        return self.status == HTTPStatus.UNAUTHORIZED or (not self.transient and bool(_KEY.search(self.words)))

    @cached_property
    def about_quota(self) -> bool:
        """Whether the account's quota or credit is exhausted, until the user acts."""
        if self.status == HTTPStatus.PAYMENT_REQUIRED or "insufficient_quota" in self.words:
            return True
        temporary = self.status == HTTPStatus.TOO_MANY_REQUESTS and self.wait is not None
        return self.status < _SERVER_ERROR and not temporary and bool(_QUOTA.search(self.words))

    @cached_property
    def about_daily_limit(self) -> bool:
        """Whether a limit per day or longer is reached, with no shorter wait given."""
        limited = self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.FORBIDDEN)
        return limited and (self.wait is None or "perday" in self.words) and bool(_LATER.search(self.words))

    @cached_property
    def about_model(self) -> bool:
        """Whether the model is unknown."""
        unknown = self.status == HTTPStatus.BAD_REQUEST and bool(_NO_MODEL.search(self.words))
        return self.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE) or unknown

    @cached_property
    def about_content(self) -> bool:
        """Whether it is about the content or length of this request."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return bool(_TOO_LARGE.search(self.words))  # larger than the limit per minute: waiting does not help
        return self.status in _REQUEST_ERRORS or (not self.transient and bool(_CONTENT.search(self.words)))

    @cached_property
    def vague(self) -> bool:
        """Whether the message does not say what is wrong."""
        return not self.words.strip() or bool(_PLAIN_BODY.match(self.message)) or bool(_VAGUE.search(self.words))


def read_refusal(status: int, headers: Mapping[str, str], body: str) -> Refusal:
    """Parse an error: `{"error": {...}}`, `{"error": "..."}`, a list of them, other JSON, or any text."""
    parsed = json_value(body)
    error = _error_object(parsed)
    stated = at(error, "message") or at(error, "detail") or at(error, "msg")
    text = " ".join(_strings(error))[:_MAX_CHARACTERS] if parsed is not None else ""
    message = stated if isinstance(stated, str) else text[:300] or body[:1000]
    wait = _retry_after(headers)
    return Refusal(
        status=status,
        message=message if isinstance(stated, str) or (parsed is not None and text) else excerpt(body),
        words=(text if parsed is not None else "" if _PLAIN_BODY.match(body) else body[:_MAX_CHARACTERS]).casefold(),
        wait=_wait_in(error, message) if wait is None else wait,
        host=_host(headers.get("location", "")) if status < HTTPStatus.BAD_REQUEST else "",
    )


def error_in(body: Any) -> int | None:
    """Return the equivalent status of an error in a body with HTTP status 200, None if it is not an error."""
    error = _error_object(body)
    if error is body or not error or at(body, "choices", 0, "message", "content"):
        return None
    for name in ("code", "status", "status_code", "type"):
        value = at(error, name)
        if isinstance(value, str) and value.casefold() in _STATUS_OF_TYPE:
            return _STATUS_OF_TYPE[value.casefold()]
        digits = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if re.fullmatch(r"[45]\d\d", digits):
            return int(digits)
    return _SERVER_ERROR


def _error_object(body: Any) -> Any:
    """Return the error object of a body, or the body itself if it has none."""
    first = body[0] if isinstance(body, list) and body else body
    for holder in (first, at(first, "choices", 0)):
        error = at(holder, "error")
        if error:
            return error if isinstance(error, dict) else {"message": error}
    return first


def _strings(value: Any, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """Yield the texts of an error; quotes of the request are under other keys, such as pydantic's `input`, and are skipped."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)[:_MAX_CHARACTERS].replace("invalid_request_error", "")
    elif isinstance(value, list) and depth:
        for element in value[:20]:
            yield from _strings(element, depth - 1)
    elif isinstance(value, dict) and depth:
        for name in (*_MESSAGE_KEYS, *_DETAIL_KEYS):
            yield from _strings(value.get(name), depth - 1)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, given in milliseconds, in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if isfinite(seconds):
            return max(seconds, 0.0)
    try:
        deadline = parsedate_to_datetime(headers["retry-after"])
        return max((deadline - datetime.now(UTC)).total_seconds(), 0.0)
    except (KeyError, ValueError, TypeError, OverflowError):  # missing, not a date, or without a time zone
        return None


def _wait_in(error: Any, message: str) -> float | None:
    """Return the seconds that an error's body asks to wait: Google's `retryDelay`, or "try again in 1m2.5s"."""
    for detail in at(error, "details") if isinstance(at(error, "details"), list) else ():
        delay = at(detail, "retryDelay")
        if isinstance(delay, str) and (match := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", delay)):
            return float(match[1])
    match = re.search(
        r"(?:try again|retry) (?:in|after) (?:(\d{1,4}) ?h[a-z]* ?)?(?:(\d{1,4}) ?m(?!s)[a-z]* ?)?(?:(\d{1,9}(?:\.\d+)?) ?(ms|s))?",
        message,
    )
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(match[i] or 0) for i in (1, 2, 3))
    return 3600 * hours + 60 * minutes + seconds * (1e-3 if match[4] == "ms" else 1.0)


def _host(location: str) -> str:
    """Return scheme and host of an address, without credentials or path."""
    match = re.match(r"(https?:)?//(?:[^/?#@]*@)?([\w.:\[\]-]{1,200})", location, re.ASCII | re.IGNORECASE)
    return f"{match[1] or ''}//{match[2]}" if match else ""
