"""Server-sent events: what a page in the browser is sent while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SILENCE = 15.0
"""Seconds without news after which a comment is sent, so that a closed page is noticed."""

COMMENT = ": still here\n\n"
"""What is sent then."""


def event(name: str, text: str) -> str:
    """Return an event as it is sent."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


def event_response(events: AsyncIterator[str]) -> StreamingResponse:
    """Return the answer that sends events, each from `event` or `COMMENT`, until they end or the page is closed."""
    return StreamingResponse(events, media_type="text/event-stream")
