"""Two or three candidates side by side, example by example: replies, rewards, reasons, traces; filtered and searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from promptopt.results.cells import CELLS
from promptopt.view import query
from promptopt.view.cells import Filter, open_cells, read_items
from promptopt.view.library import is_own_file
from promptopt.view.pages.tabs import tabs_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.results.result import Record, Result
    from promptopt.view.app import Viewer

_ROWS = 20  # examples on a page
_MOST_SIDES = 3
_OUTCOMES = ("won", "lost", "tied")
_PARTS = ("training", "validation", "test")


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def show(request: Request) -> Response:
        entry = viewer.run(request)
        result = viewer.library.result(entry)
        records = _records(request, result)
        chosen = _filter(request)
        first = query.number(request, "first", 0, most=10**9) // _ROWS * _ROWS
        with open_cells(entry.folder, result, viewer.library.outcomes(entry)) as cells:
            page = read_items(cells, [record.prompt for record in records], chosen, first=first, most=_ROWS)
        return viewer.pages.response(
            "items.html.j2",
            tabs=tabs_of(entry, "Side by side"),
            entry=entry,
            records=records,
            names=[_name(record, result) for record in records],
            page=page,
            chosen=chosen,
            outcomes=_OUTCOMES if len(records) > 1 else (),
            shown=(first + 1, min(first + _ROWS, page.total), page.total),
            previous=query.address(request, first=first - _ROWS) if first else "",
            following=query.address(request, first=first + _ROWS) if first + _ROWS < page.total else "",
            recorded=is_own_file(entry.folder / CELLS),
        )

    return [Route("/runs/{run}/items", show)]


def _records(request: Request, result: Result) -> list[Record]:
    """Return the candidates that the address names; by default the seed prompt and the chosen one."""
    named = query.numbers(request, "c", below=len(result.history), most=_MOST_SIDES)
    if named:
        return [result.history[number] for number in named]
    both = (result.seed_record, result.chosen_record)
    default = {record.number: record for record in both if record is not None}
    return list(default.values()) or list(result.history[:1])


def _filter(request: Request) -> Filter:
    return Filter(
        part=query.one_of(request, "part", _PARTS),
        label=request.query_params.get("label", ""),
        outcome=query.one_of(request, "outcome", _OUTCOMES),
        kind=request.query_params.get("kind", ""),
        words=request.query_params.get("q", "").strip(),
    )


def _name(record: Record, result: Result) -> str:
    roles = [
        name for name, other in (("seed", result.seed_record), ("chosen", result.chosen_record)) if record is other
    ]
    return f"Candidate {record.number} ({', '.join(roles)})" if roles else f"Candidate {record.number}"
