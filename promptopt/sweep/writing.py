"""Write the files of a sweep: its table as Markdown, JSON, CSV and LaTeX, its figures, and a page with both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from promptopt.errors import MissingExtraError
from promptopt.sweep.figures import figures
from promptopt.sweep.table_formats import differences_csv, latex, runs_csv
from promptopt.utils.characters import printable
from promptopt.utils.files import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.sweep.table import Table


def write_table(table: Table, folder: Path) -> Table:
    """Write the files into a folder; return the table, with a note if page and figures could not be written."""
    try:
        from promptopt.sweep.page import write_figures, write_sweep_page  # noqa: PLC0415  the extra 'report'

        drawn = figures(table)
        write_sweep_page(table, drawn, folder)
        write_figures(drawn, folder)
    except MissingExtraError as error:
        table = replace(table, notes=(*table.notes, f"no page and no figures were written: {error}"))
    text = json.dumps(table.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    for name, content in (("md", table.markdown()), ("json", text), ("csv", runs_csv(table)), ("tex", latex(table))):
        write_private(folder / f"sweep.{name}", content if name in {"json", "csv"} else printable(content))
    write_private(folder / "sweep-differences.csv", differences_csv(table))
    return table
