"""The page of a sweep, and its figures as files. Needs the extra 'report'."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import vl_convert

from promptopt.report.page import render_page, write_page
from promptopt.report.seed_curves import figure, layers, lines
from promptopt.sweep.table import HEADERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.sweep.figures import Figure
    from promptopt.sweep.table import Table

_FIRST_COLUMN = HEADERS.index("strategy")  # the columns before it are the heading of a table


def write_sweep_page(table: Table, drawn: Sequence[Figure], folder: Path) -> None:
    """Write `sweep.html`: for each task and model the table, the figure and the chosen prompts."""
    write_page(sweep_page(table, drawn), folder / "sweep.html")


def sweep_page(table: Table, drawn: Sequence[Figure]) -> str:
    """Return the page of a sweep."""
    by_name = {(figure.task, figure.model): i for i, figure in enumerate(drawn)}
    groups: list[dict[str, Any]] = []
    for (task, model), rows in groupby(table.rows, key=lambda row: (row.task, row.model)):
        number = by_name.get((task, model))
        shown = None if number is None else drawn[number]
        groups.append(
            {
                "task": task,
                "model": model,
                "rows": list(rows),
                "number": number,
                "figure": shown,
                "lines": lines(shown.drawn) if shown else [],
            }
        )
    charts = [{"layers": layers(figure.drawn), "description": figure.description} for figure in drawn]
    return render_page(
        "sweep.html.j2",
        {"figures": charts},
        table=table,
        groups=groups,
        headers=HEADERS[_FIRST_COLUMN:],
        first=_FIRST_COLUMN,
    )


def write_figures(drawn: Sequence[Figure], folder: Path) -> None:
    """Write each figure as SVG and PDF: `sweep.svg`, or `sweep-1.svg` and so on if there are several."""
    for number, shown in enumerate(drawn, 1):
        name = "sweep" if len(drawn) == 1 else f"sweep-{number}"
        svg = vl_convert.vegalite_to_svg(figure(shown.drawn, shown.description))
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
