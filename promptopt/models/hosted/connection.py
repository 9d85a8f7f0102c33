"""The HTTP clients of hosted endpoints: no redirect is followed, a reply's size is bounded, a slip in the environment is named.

Of the SDKs this knows that they take an HTTP client, and which of its kinds they have: httpx's or its successor's.
"""

from __future__ import annotations

import importlib
import os
import re
import ssl
import zlib
from typing import TYPE_CHECKING, Any

from promptopt.errors import FinalModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

LARGEST = 16 * 2**20
"""Bytes of a reply, decoded; what is longer is not read to its end."""

_PIECE = 2**20
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = {"SSL_CERT_FILE": "cafile", "SSL_CERT_DIR": "capath"}
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")


class UnreadableReplyError(Exception):
    """A reply is larger than any reply can be, or encoded in a way that was not asked for."""


def async_client(sdk: Any) -> Any:
    """Return the HTTP client for an SDK's calls.

    Raises:
        FinalModelError: the environment holds what none can be made with; names the variable.
    """
    hooks = {"response": [_read_bounded]}
    return _made(sdk, lambda: sdk.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks, headers=_ACCEPTED))


def sync_client(sdk: Any) -> Any:
    """Return the HTTP client for an SDK's files, which may be of any size.

    Raises:
        FinalModelError: as `async_client`.
    """
    return _made(sdk, lambda: sdk.DefaultHttpxClient(follow_redirects=False))


_ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


def _made(sdk: Any, make: Callable[[], Any]) -> Any:
    _check_headers(sdk.__name__)
    try:
        return make()
    except (ImportError, OSError, ValueError, TypeError, _invalid_url(sdk)) as error:
        slip = next(_slips(sdk), None) or f"no connection can be made ({type(error).__name__}: {error})"
        raise FinalModelError(slip) from None


def _check_headers(service: str) -> None:
    """Refuse what the SDK puts into a header and no header can hold."""
    for variable in _HEADERS:
        value = os.environ.get(variable, "") if variable.startswith(service.upper()) else ""
        lines = value.split("\n") if variable.endswith("_HEADERS") else [value]
        if not all(re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", line) for line in lines):
            raise FinalModelError(
                f"{variable} holds a letter or a blank that no header of a request can: set it again, or unset it"
            )


def _slips(sdk: Any) -> Iterator[str]:
    """Yield what is wrong with each variable from which no client can be made."""
    httpx = _httpx(sdk)
    for name in (each for variable in _PROXIES for each in (variable, variable.lower())):
        value = os.environ.get(name)
        try:
            httpx.AsyncHTTPTransport(proxy=value if not value or "://" in value else f"http://{value}", verify=False)
        except ImportError:
            yield (
                f"{name} names a SOCKS proxy ({_shown(value)}), for which a package is missing: pip install 'httpx[socks]', "
                f"or unset {name}"
            )
        except (ValueError, TypeError, httpx.InvalidURL):
            yield f"{name} is no address of a proxy ({_shown(value)}): set it to one such as http://host:port, or unset it"
    for name, argument in _CERTIFICATES.items():
        value = os.environ.get(name)
        if value and not (os.path.isdir(value) if argument == "capath" else _certificates(value)):  # noqa: PTH112
            yield f"{name} names no certificates that can be read ({value!r}): correct it, or unset {name}"
    log = os.environ.get("SSLKEYLOGFILE")
    if log and not os.access(os.path.dirname(log) or ".", os.W_OK):  # noqa: PTH120
        yield f"SSLKEYLOGFILE names a file that cannot be written ({log!r}): correct it, or unset it"
    if os.environ.get("NO_PROXY") or os.environ.get("no_proxy"):
        yield "NO_PROXY is no list of hosts: write names with commas between them, or unset it"


def _shown(proxy: str | None) -> str:
    """Return a proxy without its user and password."""
    return repr((proxy or "").rpartition("@")[2][:100])


def _certificates(file: str) -> bool:
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
    """Read a response to its end, decoded, and put what was read in the place of its stream.

    Raises:
        UnreadableReplyError: it is too large, or in another encoding than was asked for.
    """
    encoding = response.headers.pop("content-encoding", "identity").strip().casefold()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise UnreadableReplyError(f"its reply is encoded ({encoding[:20]!r}) in a way that was not asked for")
    parts, size = [], 0
    pieces = response.stream if encoding in ("identity", "") else _inflated(response.stream)
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > LARGEST:
            raise UnreadableReplyError(f"its reply is larger than {LARGEST // 2**20} MB")
    await response.stream.aclose()
    module = importlib.import_module(type(response).__module__.partition(".")[0])
    response.stream = module.ByteStream(b"".join(parts))


async def _inflated(stream: Any) -> AsyncIterator[bytes]:
    """Yield what gzip or deflate hold, in pieces whose size does not depend on what the server sends."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    async for chunk in stream:
        left, piece = chunk, b""
        while left or len(piece) == _PIECE:  # what fills a piece may not be all
            try:
                piece = inflater.decompress(left, _PIECE)
            except zlib.error:
                raise UnreadableReplyError("its reply is not compressed as it says") from None
            left = inflater.unconsumed_tail
            yield piece
