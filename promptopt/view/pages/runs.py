"""The first page: all runs and sweeps of the folder; and a sweep's page, with its table and its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.routing import Route

from promptopt.results.summary import model_name
from promptopt.view.library import read_sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry

_COLUMNS = (
    ("name", "Run"),
    ("gain", "Gain"),
    ("model", "Model"),
    ("strategy", "Strategy"),
    ("dollars", "Dollars"),
    ("time", "Date"),
)


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def all_runs(_: Request) -> Response:
        runs = viewer.library.runs()
        return _page(
            viewer, runs, heading=f"{len(runs):,} runs in {viewer.library.folder}", sweeps=viewer.library.sweeps()
        )

    def one_sweep(request: Request) -> Response:
        sweep = viewer.library.sweep(request.path_params["sweep"])
        if sweep is None:
            raise HTTPException(404, "There is no such sweep here: it may have been moved or deleted.")
        runs = [entry for entry in viewer.library.runs() if sweep.folder in entry.folder.parents]
        return _page(viewer, runs, heading=f"Sweep {sweep.name}", sweep_rows=_sweep_table(read_sweep(sweep)))

    return [Route("/", all_runs), Route("/sweeps/{sweep}", one_sweep)]


def _page(viewer: Viewer, runs: Sequence[RunEntry], **values: Any) -> Response:
    sweeps: dict[str, Any] = {"sweeps": [], "sweep_rows": [], **values}
    return viewer.pages.response(
        "runs.html.j2",
        folder=str(viewer.library.folder),
        rows=[_row(entry) for entry in runs],
        statuses=sorted({entry.status for entry in runs}),
        columns=_COLUMNS,
        tabs=[],
        scripts=["runs.js"],
        **sweeps,
    )


def _row(entry: RunEntry) -> dict[str, Any]:
    row = {"id": entry.id, "name": entry.name, "status": entry.status, "time": entry.time}
    summary = entry.summary
    if summary is None:
        started = entry.started
        about = {
            "headline": entry.error,
            "model": model_name(started.get("models", {})),
            "strategy": started.get("strategy", {}).get("name", ""),
            "seed": started.get("seed", ""),
        }
        unknown = dict.fromkeys(("gain", "gain_value", "interval", "dollars", "dollars_value", "calls", "improved"), "")
        return {**row, **unknown, **about}
    gain = summary.gain
    return {
        **row,
        "headline": summary.headline,
        "model": summary.model,
        "strategy": summary.strategy,
        "seed": summary.seed,
        "improved": summary.improved,
        "gain": "" if gain is None else f"{gain.estimate:+.3f}",
        "gain_value": "" if gain is None else gain.estimate,
        "interval": "" if gain is None else f"{gain.low:+.3f} to {gain.high:+.3f}",
        "dollars": "price unknown" if summary.unpriced else f"{summary.dollars:.4f}",
        "dollars_value": "" if summary.unpriced else summary.dollars,
        "calls": f"{summary.calls:,} calls",
    }


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
