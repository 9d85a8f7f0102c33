"""The page of a run: its report, from the report's own template; or how far it came."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from promptopt.report.page import report_data, report_values
from promptopt.view.file_cache import FileCache
from promptopt.view.pages import live
from promptopt.view.pages.tabs import tabs_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry

_MAX_REPORTS = 4  # reports kept in memory


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""
    pages = _ReportPages(viewer)
    return [Route("/runs/{run}", pages.show), Route("/runs/{run}/data.json", pages.data)]


@dataclass(frozen=True)
class _ReportPages:
    """The page and its data. Both are kept as texts: with 10,000 candidates, each takes a tenth of a second to make.

    Args:
        viewer: renders them.
    """

    viewer: Viewer
    _pages: FileCache[str] = field(default_factory=lambda: FileCache(_MAX_REPORTS))
    _data: FileCache[str] = field(default_factory=lambda: FileCache(_MAX_REPORTS))

    def show(self, request: Request) -> Response:
        """Show the report of a run with a result."""
        entry = self.viewer.run(request)
        if entry.summary is None:
            return live.page(self.viewer, entry)
        files = self.viewer.library.report_files(entry)
        return HTMLResponse(self._pages.get(entry.id, files, lambda: self._page(entry)))

    def data(self, request: Request) -> Response:
        """Return what the script of the report reads."""
        entry = self.viewer.run(request)
        files = self.viewer.library.report_files(entry)
        return Response(self._data.get(entry.id, files, lambda: self._json(entry)), media_type="application/json")

    def _page(self, entry: RunEntry) -> str:
        values = report_values(self.viewer.library.result(entry), self.viewer.library.outcomes(entry))
        return self.viewer.pages.render(
            "report.html.j2",
            tabs=tabs_of(entry, "Report"),
            scripts=["report.js"],
            data_address=f"/runs/{entry.id}/data.json",
            **values,
        )

    def _json(self, entry: RunEntry) -> str:
        data = report_data(self.viewer.library.result(entry), self.viewer.library.outcomes(entry))
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace").decode()  # prompts may hold unpaired surrogates
