"""`promptopt sweep`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.report import Json
from promptopt.cli.run import Quiet
from promptopt.sweep.table import HEADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.sweep.table import Row


def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (TOML).")],
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where runs, table and study go.", show_default="runs/ and the file's name"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Runs at once, on Ray's workers; 0 for one after another, without Ray.",
            show_default="as many as there are cores for, 0 without Ray",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster, such as auto.", show_default="one of its own, here")
    ] = None,
    memo: Annotated[str | None, typer.Option(help="Folder or redis:// URL of the memo that all runs share.")] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL that all runs share.", show_default="study.db of --run-dir"),
    ] = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run tasks x models x strategies x seeds at equal budget, or as portfolios, and put them into one table."""
    from promptopt.sweep import run_sweep  # noqa: PLC0415  loaded when used

    def tell(said: str) -> None:
        if not quiet:
            say(said, aside=True)

    found = run_sweep(file, folder=run_dir, memo=memo, storage=study, workers=workers, address=ray, tell=tell)
    if json_:
        say_json(found.to_json())
    else:
        _print(found.rows)
        for line in [*(f"failed: {line}" for line in found.failures), *(f"note: {note}" for note in found.notes)]:
            say(line)
    raise typer.Exit(0 if found.finished else 1)


def _print(found: Sequence[Row]) -> None:
    """Print a table for each task and model, its intervals under their means: lines of a terminal are short."""
    for (task, model), group in groupby(found, key=lambda row: (row.task, row.model)):
        heads, here = HEADS[2:], [row.cells()[2:] for row in group]
        kept = [i for i in range(len(heads)) if any(cells[i] for cells in here)]
        rows = [[cells[i].replace(" (", "\n(", 1) if i else cells[i] for i in kept] for cells in here]
        say_table([heads[i] for i in kept], rows, title=f"{task}, {model}")
