"""HTTP clients for hosted endpoints: no redirects, bounded replies, and clear errors for bad environment variables.

Uses only two facts about the SDKs: they accept an HTTP client, and it is httpx's or its successor's.
"""

from __future__ import annotations

import importlib
import os
import re
import ssl
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from promptopt.errors import InputError, PermanentModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MAX_REPLY_BYTES = 16 * 2**20
"""Maximum size of a decoded reply; reading stops beyond it."""

_PIECE_BYTES = 2**20
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = {"SSL_CERT_FILE": "cafile", "SSL_CERT_DIR": "capath"}
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")


def public_endpoint(url: str) -> str:
    """Return a base URL without its trailing slash.

    Raises:
        InputError: it is not a plain http(s) URL, or holds credentials, which would be sent instead of the key.
    """
    without_credentials = url.rpartition("@")[2]
    if without_credentials != url:
        raise InputError(
            f"the base URL of {without_credentials!r} contains a user or password: remove it and set the API key instead"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"the base URL must look like https://host/v1, without ? or #, not {without_credentials!r}")
    return url.rstrip("/")


class UnreadableReplyError(Exception):
    """A reply is too large, or has an encoding that was not requested."""


def async_client(sdk: Any) -> Any:
    """Return the HTTP client for an SDK's calls.

    Raises:
        PermanentModelError: an environment variable prevents making a client; the message names it.
    """
    hooks = {"response": [_read_bounded]}
    return _make_client(
        sdk, lambda: sdk.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks, headers=_ACCEPTED)
    )


def sync_client(sdk: Any) -> Any:
    """Return the HTTP client for an SDK's file transfers, which may have any size.

    Raises:
        PermanentModelError: as `async_client`.
    """
    return _make_client(sdk, lambda: sdk.DefaultHttpxClient(follow_redirects=False))


_ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


def _make_client(sdk: Any, make: Callable[[], Any]) -> Any:
    _check_headers(sdk.__name__)
    try:
        return make()
    except (ImportError, OSError, ValueError, TypeError, _invalid_url(sdk)) as error:
        problem = (
            next(_environment_problems(sdk), None) or f"cannot make an HTTP client ({type(error).__name__}: {error})"
        )
        raise PermanentModelError(problem) from None


def _check_headers(service: str) -> None:
    """Check the variables that the SDK copies into headers."""
    for variable in _HEADERS:
        value = os.environ.get(variable, "") if variable.startswith(service.upper()) else ""
        lines = value.split("\n") if variable.endswith("_HEADERS") else [value]
        if not all(re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", line) for line in lines):
            raise PermanentModelError(
                f"{variable} contains a character that is not allowed in a header: correct it, or unset it"
            )


def _environment_problems(sdk: Any) -> Iterator[str]:
    """Yield a message for each environment variable that prevents making a client."""
    httpx = _httpx(sdk)
    for name in (name for variable in _PROXIES for name in (variable, variable.lower())):
        value = os.environ.get(name)
        try:
            httpx.AsyncHTTPTransport(proxy=value if not value or "://" in value else f"http://{value}", verify=False)
        except ImportError:
            yield (
                f"{name} names a SOCKS proxy ({_without_credentials(value)}), which needs another package: pip install 'httpx[socks]', "
                f"or unset {name}"
            )
        except (ValueError, TypeError, httpx.InvalidURL):
            yield f"{name} is not a proxy address ({_without_credentials(value)}): set it to one such as http://host:port, or unset it"
    for name, argument in _CERTIFICATES.items():
        value = os.environ.get(name)
        if value and not (os.path.isdir(value) if argument == "capath" else _is_certificate_file(value)):  # noqa: PTH112
            yield f"{name} does not name readable certificates ({value!r}): correct it, or unset {name}"
    log = os.environ.get("SSLKEYLOGFILE")
    if log and not os.access(os.path.dirname(log) or ".", os.W_OK):  # noqa: PTH120
        yield f"SSLKEYLOGFILE names a file that is not writable ({log!r}): correct it, or unset it"
    if os.environ.get("NO_PROXY") or os.environ.get("no_proxy"):
        yield "NO_PROXY is not a list of hosts: separate host names with commas, or unset it"


def _without_credentials(proxy: str | None) -> str:
    """Return a proxy address without user and password."""
    return repr((proxy or "").rpartition("@")[2][:100])


def _is_certificate_file(file: str) -> bool:
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError):
        return False
    return True


def _httpx(sdk: Any) -> Any:
    base = sdk.DefaultAsyncHttpxClient.__mro__[1]
    return importlib.import_module(base.__module__.partition(".")[0])


def _invalid_url(sdk: Any) -> type[Exception]:
    error: type[Exception] = _httpx(sdk).InvalidURL
    return error


async def _read_bounded(response: Any) -> None:
    """Read and decode a whole response, and replace its stream by the result.

    Raises:
        UnreadableReplyError: it is too large, or has an encoding that was not requested.
    """
    encoding = response.headers.pop("content-encoding", "identity").strip().casefold()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise UnreadableReplyError(f"its reply has the encoding {encoding[:20]!r}, which was not requested")
    parts, size = [], 0
    pieces = response.stream if encoding in ("identity", "") else _inflated(response.stream)
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > MAX_REPLY_BYTES:
            raise UnreadableReplyError(f"its reply is larger than {MAX_REPLY_BYTES // 2**20} MB")
    await response.stream.aclose()
    module = importlib.import_module(type(response).__module__.partition(".")[0])
    response.stream = module.ByteStream(b"".join(parts))


async def _inflated(stream: Any) -> AsyncIterator[bytes]:
    """Yield the decompressed stream, in pieces of bounded size whatever the server sends."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    async for chunk in stream:
        remaining, piece = chunk, b""
        while remaining or len(piece) == _PIECE_BYTES:  # after a full piece there may be more output
            try:
                piece = inflater.decompress(remaining, _PIECE_BYTES)
            except zlib.error:
                raise UnreadableReplyError("its reply does not match its declared compression") from None
            remaining = inflater.unconsumed_tail
            yield piece
