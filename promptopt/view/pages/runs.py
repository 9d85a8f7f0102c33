"""The first page: all runs and sweeps of the folder; and a sweep's page, with its table and its runs. Both follow the folder."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Route

from promptopt.view.library import Status, read_sweep
from promptopt.view.run_rows import SentRows, run_row
from promptopt.view.sent_events import COMMENT, SILENCE, event, event_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry, SweepEntry

_COLUMNS = (
    ("name", "Run"),
    ("gain", "Gain"),
    ("model", "Model"),
    ("strategy", "Strategy"),
    ("dollars", "Dollars"),
    ("time", "Date"),
)
_FIRST_ROWS = 50  # in the page itself, more than a screen holds; the script asks for the others
_INTERVAL = 1.0  # seconds between two looks at the folder


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""
    pages = _ListPages(viewer)
    return [
        Route("/", pages.all_runs),
        Route("/rows", pages.all_rows),
        Route("/sweeps/{sweep}", pages.one_sweep),
        Route("/sweeps/{sweep}/rows", pages.rows_of_sweep),
    ]


@dataclass(frozen=True)
class _ListPages:
    """The pages, and the rows that they are sent.

    Args:
        viewer: renders them.
    """

    viewer: Viewer

    def all_runs(self, _: Request) -> Response:
        """Show all runs and sweeps."""
        runs, sweeps = self.viewer.library.contents()
        return self._page(runs, "/rows", heading="All runs", sweeps=sweeps, sweep_rows=[])

    def all_rows(self, _: Request) -> Response:
        """Send the rows of all runs."""
        return event_response(row_events(self.viewer, self.viewer.library.runs))

    def one_sweep(self, request: Request) -> Response:
        """Show a sweep with its runs."""
        sweep = self._sweep(request)
        table = _sweep_table(read_sweep(sweep))
        address = f"/sweeps/{sweep.id}/rows"
        return self._page(self._runs_of(sweep), address, heading=f"Sweep {sweep.name}", sweeps=[], sweep_rows=table)

    def rows_of_sweep(self, request: Request) -> Response:
        """Send the rows of the runs of a sweep."""
        sweep = self._sweep(request)
        return event_response(row_events(self.viewer, lambda: self._runs_of(sweep)))

    def _sweep(self, request: Request) -> SweepEntry:
        """Return the sweep whose id is in the address.

        Raises:
            HTTPException: there is none; answered with 404.
        """
        sweep = self.viewer.library.sweep(request.path_params["sweep"])
        if sweep is None:
            raise HTTPException(404, "There is no such sweep here: it may have been moved or deleted.")
        return sweep

    def _runs_of(self, sweep: SweepEntry) -> list[RunEntry]:
        return [entry for entry in self.viewer.library.runs() if sweep.folder in entry.folder.parents]

    def _page(self, runs: Sequence[RunEntry], rows_address: str, **values: Any) -> Response:
        return self.viewer.pages.response(
            "runs.html.j2",
            rows=[run_row(entry) for entry in runs[:_FIRST_ROWS]],
            rows_address=rows_address,
            total=len(runs),
            folder=str(self.viewer.library.folder),
            statuses=get_args(Status),
            columns=_COLUMNS,
            tabs=[],
            scripts=["runs.js"],
            prefetch="vega.js",  # which the server bundles meanwhile: a run's charts come next
            **values,
        )


async def row_events(viewer: Viewer, list_runs: Callable[[], list[RunEntry]]) -> AsyncIterator[str]:
    """Yield the rows of all runs, then those that change and the ids of those that go."""
    sent, silence = SentRows(), 0.0
    name = "all"
    while True:
        changed, gone = await run_in_threadpool(lambda: sent.update(list_runs()))
        if changed or name == "all":
            rows = [run_row(entry) for entry in changed]
            yield event(name, await run_in_threadpool(viewer.pages.render, "run_rows.html.j2", rows=rows))
        if gone:
            yield event("gone", "\n".join(gone))
        name = "changed"
        silence = 0.0 if changed or gone else silence + _INTERVAL
        if silence >= SILENCE:
            silence = 0.0
            yield COMMENT
        await asyncio.sleep(_INTERVAL)


def _sweep_table(saved: dict[str, Any]) -> list[list[str]]:
    """Return the rows of a saved table with its headers first; [] if there are none."""
    rows = [row for row in saved.get("rows", []) if isinstance(row, dict)]
    if not rows:
        return []
    names = [name for name, value in rows[0].items() if not isinstance(value, list | dict) or name in {"test", "gain"}]
    return [names, *([_cell(row.get(name)) for name in names] for row in rows)]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(part) for part in value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
