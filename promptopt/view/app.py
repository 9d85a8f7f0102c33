"""The application: what the modules of `pages` offer, behind the guard.

To add a page: a module in `pages` with a function `routes(viewer)`, that function in `_PAGES`, its templates in `templates`, and, if it
belongs to a run, its tab in `pages/tabs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from promptopt.errors import InputError
from promptopt.view.assets import Assets
from promptopt.view.library import Library
from promptopt.view.pages import candidates, items, labelling, labels, live, play, run, runs, start
from promptopt.view.security import Guard
from promptopt.view.templating import Pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from promptopt.view.library import RunEntry
    from promptopt.view.recorded import RecordedRun

_PAGES: tuple[Callable[[Viewer], list[Route]], ...] = (
    runs.routes,
    run.routes,
    live.routes,
    candidates.routes,
    items.routes,
    start.routes,
    play.routes,
    labels.routes,
    labelling.routes,
)


@dataclass(frozen=True)
class Viewer:
    """What pages need.

    Args:
        library: the runs under the folder.
        pages: renders templates.
        assets: scripts and styles.
        load_run: loads task and models of the run in a folder; raises an InputError if it cannot.
    """

    library: Library
    pages: Pages
    assets: Assets
    load_run: Callable[[Path], RecordedRun]

    def run(self, request: Request) -> RunEntry:
        """Return the run whose id is in the address.

        Raises:
            HTTPException: there is none; answered with 404.
        """
        entry = self.library.run(request.path_params["run"])
        if entry is None:
            raise HTTPException(404, "There is no such run here: it may have been moved or deleted.")
        return entry


def _loads_none(_: Path) -> RecordedRun:
    raise InputError("this server loads no tasks: start it by the command promptopt view")


def build_app(
    folder: Path | str,
    *,
    token: str,
    host: str = "127.0.0.1",
    cookie: str = "promptopt",
    load_run: Callable[[Path], RecordedRun] = _loads_none,
) -> Starlette:
    """Return the application; `state.library` of it is the folder's content.

    Args:
        folder: holds runs and sweeps.
        token: without it, nothing is answered.
        host: address that the server listens on.
        cookie: name of the cookie that keeps the token.
        load_run: loads task and models of the run in a folder.

    Raises:
        InputError: there is no such folder.
    """
    assets = Assets()
    viewer = Viewer(Library(folder), Pages(assets), assets, load_run)
    routes = [route for routes in _PAGES for route in routes(viewer)]
    app = Starlette(
        routes=[*routes, Route("/static/{name}", _static(assets))],
        middleware=[Middleware(Guard, token=token, cookie=cookie, host=host)],
        exception_handlers={HTTPException: _error_page(viewer), InputError: _error_page(viewer)},
    )
    app.state.library = viewer.library
    return app


def _static(assets: Assets) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return assets.response(request.path_params["name"]) or Response(status_code=404)

    return endpoint


def _error_page(viewer: Viewer) -> Any:
    """Return a handler that shows an error as a page."""

    def handle(_: Request, error: Exception) -> Response:
        status, words = (error.status_code, error.detail) if isinstance(error, HTTPException) else (422, str(error))
        return viewer.pages.response("error.html.j2", status=status, words=words, tabs=[])

    return handle
