"""Who is answered: only a browser that opened the printed address, and only for pages of this server.

A token in the first address is exchanged for a cookie, so that it stays in no history, link or log. The Host header keeps out
names that were made to point here (DNS rebinding), Origin and Sec-Fetch-Site keep out other sites, other ports of this machine
among them: for cookies, all ports of a machine are one site.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"  # noqa: S105  a parameter's name
"""Name of the parameter of the first address."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The content security policy of every page: files of this server alone, nothing inline."""

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OWN_SITE = frozenset({"same-origin", "none"})


class Guard:
    """Answers only requests that carry the token's cookie, for an own name, from an own page.

    Args:
        app: answers the others.
        token: in the first address.
        cookie: name of the cookie; one for each server, because ports share cookies.
        host: address that the server listens on.
    """

    def __init__(self, app: ASGIApp, *, token: str, cookie: str, host: str) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        answer: ASGIApp = self._app if refusal is None else refusal

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not let through."""
        headers, method = Headers(scope=scope), scope["method"]
        if not self._own_name(headers.get("host", "")):
            return _refused("this server is not known by that name: open the address that promptopt view printed", 421)
        if method not in _SAFE_METHODS and not _own_origin(headers):
            return _refused("this request comes from another site", 403)
        query = QueryParams(scope["query_string"])
        if method == "GET" and _same(query.get(TOKEN, ""), self._token):
            return self._welcome(scope["path"])
        if not _own_site(headers):
            return _refused("this request comes from another site", 403)
        if not _same(_cookie(headers, self._cookie), self._token):
            return _refused(
                "open the address that promptopt view printed: its token is missing or of another start", 403
            )
        return None

    def _own_name(self, host: str) -> bool:
        """Whether a Host header is an address, or a name of this machine. Others may be anyone's."""
        name = _split(f"//{host}").hostname or ""
        if self._loopback:
            return name in _LOOPBACK
        return name in _LOOPBACK or _is_address(name) or name == socket.gethostname().lower()

    def _welcome(self, path: str) -> Response:
        response = RedirectResponse(f"/{path.lstrip('/')}", 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return response


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is this machine's own."""
    return host in _LOOPBACK


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # such as "[broken"
        return urlsplit("")


def _own_origin(headers: Headers) -> bool:
    """Whether a request that changes something comes from a page of this server."""
    origin = _split(headers.get("origin", ""))
    return origin.scheme in {"http", "https"} and origin.netloc == headers.get("host")


def _own_site(headers: Headers) -> bool:
    """Whether a page of this server, or the user, asks; a link elsewhere that leads to a page does no harm."""
    if headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document":
        return True
    return headers.get("sec-fetch-site", "none") in _OWN_SITE


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _refused(why: str, status: int) -> Response:
    return PlainTextResponse(f"{why}\n", status)
