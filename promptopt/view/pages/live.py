"""A run in progress: its state, which moves by server-sent events, and the button that ends it."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from promptopt.results.summary import model_name
from promptopt.tracking.event_file import STOP_REQUEST
from promptopt.view.curve import HEIGHT, WIDTH, curve
from promptopt.view.live_state import LiveState
from promptopt.view.sent_events import COMMENT, SILENCE, event, event_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from starlette.requests import Request

    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry

_INTERVAL = 0.3  # seconds between two looks at the event file


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def events(request: Request) -> Response:
        entry = viewer.run(request)
        return event_response(_events(viewer, entry))

    def stop(request: Request) -> Response:
        entry = viewer.run(request)
        if not entry.live:
            raise HTTPException(409, f"The run {entry.name} is not in progress: there is nothing to end.")
        _request_stop(entry.folder)
        return RedirectResponse(f"/runs/{entry.id}", 303)

    return [Route("/runs/{run}/events", events), Route("/runs/{run}/stop", stop, methods=["POST"])]


def page(viewer: Viewer, entry: RunEntry) -> Response:
    """Return the page of a run that has no result yet."""
    state = LiveState(entry.folder)
    state.read()
    return viewer.pages.response(
        "live.html.j2", tabs=[], scripts=["live.js"] if entry.live else [], entry=entry, **_panel(entry, state)
    )


def _panel(entry: RunEntry, state: LiveState) -> dict[str, Any]:
    """Return what the moving part inserts."""
    progress = state.progress
    roles = sorted(progress["used"].keys() | progress["paid"].keys())
    nothing = {"calls": 0, "tokens": 0, "dollars": 0.0}
    return {
        "state": "stopping" if _stopping(entry, progress) else entry.status,
        "started": state.started,
        "model": model_name(state.started.get("models", {})),
        "progress": progress,
        "spending": [(r, progress["used"].get(r, nothing), progress["paid"].get(r, nothing)) for r in roles],
        "budget": list(_budget(progress)),
        "rejected": _rejected(progress),
        "steps": list(state.steps),
        "curve": curve(state.points),
        "size": (WIDTH, HEIGHT),
        "error": entry.error,
    }


def _stopping(entry: RunEntry, progress: dict[str, Any]) -> bool:
    return entry.live and bool(progress["stopping"] or (entry.folder / STOP_REQUEST).exists())


def _budget(progress: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield each limit as (unit, left, limit)."""
    for unit, limit in progress["limits"].items():
        yield unit, progress["left"][unit], limit


def _rejected(progress: dict[str, Any]) -> list[tuple[str, int]]:
    """Return why proposals of the writer were rejected, the most frequent reason first."""
    reasons = {name: n for name, n in progress["proposed"].items() if name != "usable"}
    for name, n in progress["unusable"].items():
        reasons[f"reply {name}"] = n
    return sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0]))


async def _events(viewer: Viewer, entry: RunEntry) -> AsyncIterator[str]:
    """Yield the moving part whenever the event file grows, and "end" when the run no longer lives."""
    state, silence, was_stopping = LiveState(entry.folder), 0.0, False
    while True:
        news = await run_in_threadpool(state.read)
        now = await run_in_threadpool(viewer.library.current, entry)
        stopping = _stopping(now, state.progress)
        if news or stopping != was_stopping:
            yield event("panel", viewer.pages.render("live_panel.html.j2", **_panel(now, state)))
        silence = 0.0 if news else silence + _INTERVAL
        was_stopping = stopping
        if not now.live and not (state.end.get("event") == "finished" and now.summary is None):
            yield event("end", "")
            return  # a sweep writes the results of its runs a moment after their end
        if silence >= SILENCE:
            silence = 0.0
            yield COMMENT
        await asyncio.sleep(_INTERVAL)


def _request_stop(folder: Path) -> None:
    """Ask the run in a folder to end. A request that is there already is one."""
    with suppress(FileExistsError):
        os.close(os.open(folder / STOP_REQUEST, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
