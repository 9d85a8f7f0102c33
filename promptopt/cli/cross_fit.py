"""`promptopt cross-fit`: what a search gains on a small data set, tested on every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.options import DryRun, Json, MemoLocation, Quiet, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json, say_table
from promptopt.cli.search_options import SearchOptions, print_costs
from promptopt.memo.memo import Memo
from promptopt.optimization.cross_fitting import cross_fit, cross_fit_jobs
from promptopt.results.cross_fit import HEADS
from promptopt.results.saved import folder_of
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from promptopt.results.cross_fit import CrossFit


@with_groups
def cross_fit_task(
    task: Annotated[Path, typer.Argument(help="Task file (TOML), with at least 20 rows.")],
    model: TaskModelOptions,
    search: SearchOptions,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limit for all six runs together, in equal parts, such as '3000 calls', '2 dollars' or '6M tokens'."
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results and reports, with a subfolder for each run.", show_default="runs/cross-fit"
        ),
    ] = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Search on a small data set, and test such a search on every row, by cross-fitting in five folds."""
    loaded = model.task_model()
    options: dict[str, Any] = {**search.read(folder_of(task), model), "budget": budget}
    if dry_run:
        print_costs(cross_fit_jobs(task, loaded, **options).items(), "run", memo, as_json=json_)
        return
    runs = run_dir or Path("runs") / "cross-fit"
    with Display(quiet=quiet) as display, Memo(memo) as store, redirect_library_output():
        outcome = cross_fit(task, loaded, run_dir=runs, memo=store, display=display, **options)
    say_json(outcome.to_json()) if json_ else _print(outcome)
    raise typer.Exit(0 if outcome.finished else 1)


def _print(outcome: CrossFit) -> None:
    say_table(HEADS, outcome.rows(), title=outcome.task)
    for note in outcome.all_notes:
        say(f"note: {note}")
    say()
    say(outcome.headline)
    final = outcome.final
    if final is not None and not final.kept:
        say(f"\n{final.prompt}")
    if final is not None and final.run_dir:
        say(f"\nrun and report on all rows: {final.run_dir}")
