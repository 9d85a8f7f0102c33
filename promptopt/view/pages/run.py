"""The page of a run: its report, from the report's own template; or how far it came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from promptopt.report.page import report_data, report_values
from promptopt.view.pages import live
from promptopt.view.pages.tabs import tabs_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from promptopt.view.app import Viewer


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def show(request: Request) -> Response:
        entry = viewer.run(request)
        if entry.summary is None:
            return live.page(viewer, entry)
        values = report_values(viewer.library.result(entry), viewer.library.outcomes(entry))
        return viewer.pages.response(
            "report.html.j2",
            tabs=tabs_of(entry, "Report"),
            scripts=["vega.js", "report.js"],
            data_address=f"/runs/{entry.id}/data.json",
            **values,
        )

    def data(request: Request) -> Response:
        entry = viewer.run(request)
        return JSONResponse(report_data(viewer.library.result(entry), viewer.library.outcomes(entry)))

    return [Route("/runs/{run}", show), Route("/runs/{run}/data.json", data)]
