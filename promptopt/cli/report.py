"""`promptopt report` and `promptopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.output import say, say_json, say_table
from promptopt.report.compare import compare_runs, read_run

if TYPE_CHECKING:
    from promptopt.report.compare import Compared

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the page goes; report.html in the run's folder.")
    ] = None,
) -> None:
    """Write a run's report as one HTML page that needs no network."""
    from promptopt.report.page import page, write_page  # noqa: PLC0415  the extra 'report'

    found = read_run(run)
    folder = run if run.is_dir() else run.parent
    target = output or folder / "report.html"
    write_page(page(found.result, found.outcomes), target)
    say(target)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the first is what the others are measured by.")],
    html: Annotated[Path | None, typer.Option(help="Write a page there too.")] = None,
    json_: Json = False,
) -> None:
    """Put runs side by side: test rewards, paired differences, and the best so far at equal calls."""
    compared = compare_runs([read_run(run) for run in runs])
    if html is not None:
        from promptopt.report.page import comparison_page, write_page  # noqa: PLC0415  the extra 'report'

        write_page(comparison_page(compared), html)
    if json_:
        say_json(compared.to_json())
    else:
        _print(compared)


def _print(compared: Compared) -> None:
    heads, rows = compared.table()
    say_table(heads, rows)
    for note in compared.notes:
        say(f"note: {note}")
