"""`promptopt sweep`: run a sweep file and print its table."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.options import Quiet
from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.report import Json
from promptopt.sweep.table import HEADERS, LEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.sweep.table import Row


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (TOML).")],
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for runs, table and study.", show_default="runs/FILE, without the extension"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum parallel runs, on Ray; 0 runs them one by one, without Ray.",
            show_default="0; with --ray, as many as the cluster's cores allow",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster, such as auto.", show_default="with --workers, a new one on this machine"
        ),
    ] = None,
    memo: Annotated[str | None, typer.Option(help="Memo shared by all runs: a folder or redis://HOST:PORT/DB.")] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL shared by all runs.", show_default="study.db in --run-dir"),
    ] = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run tasks x models x strategies x seeds at equal budget, or as portfolios, and print one table."""
    from promptopt.sweep import run_sweep  # noqa: PLC0415  loaded when used

    def log_progress(message: str) -> None:
        if not quiet:
            say(message, to_stderr=True)

    table = run_sweep(file, folder=run_dir, memo=memo, storage=study, workers=workers, address=ray, tell=log_progress)
    if json_:
        say_json(table.to_json())
    else:
        _print(table.rows)
        for line in [*(f"failed: {line}" for line in table.failures), *(f"note: {note}" for note in table.notes)]:
            say(line)
    raise typer.Exit(0 if table.finished else 1)


def _print(rows: Sequence[Row]) -> None:
    """Print a table for each task and model. Intervals go below their means, and leads below the table, to fit a terminal."""
    for (task, model), group in groupby(rows, key=lambda row: (row.task, row.model)):
        listed = list(group)
        lines: list[dict[str, str]] = [dict(zip(HEADERS, row.formatted(), strict=True)) for row in listed]
        free = [name for name in ("tokens", "dollars") if not any(getattr(row, name) for row in listed)]
        hidden = {"task", "model", LEAD, *free}
        names = [name for name in HEADERS if name not in hidden and any(line[name] for line in lines)]
        cells = [
            [line[name].replace(" (", "\n(", 1) if i else line[name] for i, name in enumerate(names)] for line in lines
        ]
        say_table(names, cells, title=f"{task}, {model}")
        for line in lines:
            if line[LEAD]:
                say(f"{line['strategy']}: {LEAD} {line[LEAD]}")
