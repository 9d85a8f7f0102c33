"""The candidates of a run as a table: sorted, searched, a page at a time; two or three go on to the side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from promptopt.view import query
from promptopt.view.pages.tabs import tabs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.results.result import Record
    from promptopt.view.app import Viewer

_ROWS = 100  # on a page
_SORTS: dict[str, tuple[str, Callable[[Record], float]]] = {
    "reward": ("training reward", lambda record: -_known(record.reward)),
    "validation": ("validation reward", lambda record: -_known(record.validation)),
    "number": ("number", lambda record: record.number),
    "length": ("length", lambda record: record.length),
}


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""

    def show(request: Request) -> Response:
        entry = viewer.run(request)
        result = viewer.library.result(entry)
        sort = query.one_of(request, "sort", tuple(_SORTS), "reward")
        words = request.query_params.get("q", "").strip()
        matches = _matches(result.history, words)
        records = sorted(matches, key=lambda record: (_SORTS[sort][1](record), record.number))
        first = query.number(request, "first", 0, most=max(len(records) - 1, 0)) // _ROWS * _ROWS
        seed, chosen = result.seed_record, result.chosen_record
        roles = {record.number: name for record, name in ((seed, "seed"), (chosen, "chosen")) if record is not None}
        return viewer.pages.response(
            "candidates.html.j2",
            tabs=tabs_of(entry, "Candidates"),
            entry=entry,
            records=records[first : first + _ROWS],
            shown=(first + 1, min(first + _ROWS, len(records)), len(records)),
            previous=query.address(request, first=first - _ROWS) if first else "",
            following=query.address(request, first=first + _ROWS) if first + _ROWS < len(records) else "",
            roles=roles,
            ticked={record.number for record in (seed, chosen) if record is not None},
            sort=sort,
            sorts=[(name, label) for name, (label, _) in _SORTS.items()],
            words=words,
        )

    return [Route("/runs/{run}/candidates", show)]


def _matches(records: Sequence[Record], words: str) -> list[Record]:
    """Return the candidates whose prompts hold a text."""
    return [record for record in records if not words or words.casefold() in str(record.prompt).casefold()]


def _known(value: float | None) -> float:
    return float("-inf") if value is None else value
