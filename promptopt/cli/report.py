"""`promptopt report` and `promptopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.output import say, say_json, say_table
from promptopt.report.compare import compare_runs, read_run
from promptopt.results.saved import folder_of

if TYPE_CHECKING:
    from promptopt.report.compare import RunComparison

Json = Annotated[bool, typer.Option("--json", help="Print only JSON to stdout.")]


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: report.html in the run's folder.")
    ] = None,
) -> None:
    """Write a run's report as a self-contained HTML page."""
    from promptopt.report.page import page, write_page  # noqa: PLC0415  the extra 'report'

    saved_run = read_run(run)
    target = output or folder_of(run) / "report.html"
    write_page(page(saved_run.result, saved_run.outcomes), target)
    say(target)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the first is the baseline.")],
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page to this file.")] = None,
    json_: Json = False,
) -> None:
    """Compare runs: test rewards, paired differences, and the best training reward at equal numbers of calls."""
    comparison = compare_runs([read_run(run) for run in runs])
    if html is not None:
        from promptopt.report.page import comparison_page, write_page  # noqa: PLC0415  the extra 'report'

        write_page(comparison_page(comparison), html)
    if json_:
        say_json(comparison.to_json())
    else:
        _print(comparison)


def _print(comparison: RunComparison) -> None:
    headers, rows = comparison.table()
    say_table(headers, rows)
    for note in comparison.notes:
        say(f"note: {note}")
