"""Reads what an address asks for. What cannot be read is left out: an address is often typed or shortened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request


def number(request: Request, name: str, default: int, *, most: int) -> int:
    """Return a parameter as a number from 0 to `most`."""
    text = request.query_params.get(name, "")
    return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 10 else default  # noqa: PLR2004


def one_of(request: Request, name: str, choices: Sequence[str], default: str = "") -> str:
    """Return a parameter that is one of some words."""
    text = request.query_params.get(name, "")
    return text if text in choices else default


def numbers(request: Request, name: str, *, below: int, most: int) -> list[int]:
    """Return up to `most` distinct numbers below `below`, from all parameters of this name: `c=0&c=4`, or `c=0,4`."""
    words = re.findall(r"[0-9]{1,9}", " ".join(request.query_params.getlist(name)))
    return [n for n in dict.fromkeys(map(int, words)) if n < below][:most]


def address(request: Request, **changes: int | str) -> str:
    """Return the address of the same page with other parameters."""
    return request.url.include_query_params(**changes).replace(scheme="", netloc="")._url  # noqa: SLF001  a relative URL
