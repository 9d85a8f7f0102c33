"""`promptopt migrate`: the prompt of a run, and the best candidates that it knows, on other models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import NewModelOptions
from promptopt.cli.options import DryRun, Json, MemoLocation, Quiet, Settings, read_settings, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json, say_table
from promptopt.cli.search_options import print_costs
from promptopt.errors import InputError
from promptopt.memo.memo import Memo
from promptopt.optimization.job import read_strategy
from promptopt.optimization.migration import DEFAULT_CANDIDATES, migrate, migration_jobs
from promptopt.results.migration import HEADS
from promptopt.results.result import Result
from promptopt.results.saved import folder_of
from promptopt.strategies.auto import AUTO
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from promptopt.results.migration import Migration


@with_groups
def migrate_prompt(
    run: Annotated[Path, typer.Argument(help="Folder of the run whose prompt is migrated.")],
    to: Annotated[list[str], typer.Option(help="New model as KIND:NAME (repeatable); see `promptopt models`.")],
    task: Annotated[Path, typer.Option(help="Task file (TOML) of the run.")],
    loading: NewModelOptions,
    candidates: Annotated[
        int,
        typer.Option(min=1, help="Number of further candidates of the run to measure, the seed prompt first."),
    ] = DEFAULT_CANDIDATES,
    budget: Annotated[
        str | None, typer.Option(help="Limit for each new model, such as '500 calls', '2 dollars' or '1M tokens'.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Limit for each new model that includes a search from the best candidate; use instead of --budget."
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help="Strategy of --search; see `promptopt strategies`.")] = AUTO,
    set_: Settings = None,
    writer: Annotated[
        str | None, typer.Option(help="Model that writes new prompts in --search. Default: the new model.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results and reports, with a subfolder for each new model.",
            show_default="migrated in the run's folder",
        ),
    ] = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Move a run's prompt to other models: measure it and the run's best candidates there, choose, and test once."""
    of_one = {
        "--base-url": loading.base_url,
        "--tokenizer": loading.tokenizer,
        "--price": loading.price,
        "--extra-body": loading.extra_body,
    }
    option = next((name for name, value in of_one.items() if value is not None), None)
    if len(to) > 1 and option is not None:
        raise InputError(f"{option} is for one model: give one --to, and run the command once for each model")
    models = [loading.load(name) for name in to]
    options: dict[str, Any] = {
        "candidates": candidates,
        "budget": budget,
        "search": search,
        "strategy": read_strategy(strategy, folder_of(task)),
        "writer": loading.load_writer(writer),
        "settings": read_settings(set_),
        "seed": seed,
    }
    old = Result.load(run)
    if dry_run:
        jobs = migration_jobs(old, models, task, **options)
        names = [str(job.model.fingerprint.get("model", job.model)) for job in jobs]
        print_costs(zip(names, jobs, strict=True), "model", memo, as_json=json_)
        return
    folder = run_dir or folder_of(run) / "migrated"
    with Display(quiet=quiet) as display, Memo(memo) as store, redirect_library_output():
        outcome = migrate(run, models, task, run_dir=folder, memo=store, display=display, **options)
    say_json(outcome.to_json()) if json_ else _print(outcome)
    raise typer.Exit(0 if outcome.finished else 1)


def _print(outcome: Migration) -> None:
    say_table(HEADS, outcome.rows(), title=outcome.task)
    for note in outcome.all_notes:
        say(f"note: {note}")
    for move in outcome.moves:
        if not move.result.kept:
            say(f"\n{move.chosen} for {move.model}:\n{move.result.prompt}")
    say()
    say(outcome.headline)
    for move in outcome.moves:
        if move.result.run_dir:
            say(f"run and report of {move.model}: {move.result.run_dir}")
