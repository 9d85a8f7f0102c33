"""`promptopt migrate`: the prompt of a run, and the best candidates that it knows, on other models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import CallLimits
from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.run import (
    BaseUrl,
    Batch,
    Concurrency,
    ExtraBody,
    Json,
    MemoLocation,
    PriceText,
    Quiet,
    RayAddress,
    Replicas,
    Rpm,
    Timeout,
    Tokenizer,
    Tpm,
    _read_settings,
    _redirect_library_output,
    _with_batches,
)
from promptopt.errors import InputError
from promptopt.memo.memo import Memo
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import read_strategy
from promptopt.optimization.migration import DEFAULT_CANDIDATES, migrate, migration_jobs
from promptopt.results.migration import HEADS
from promptopt.results.result import Result
from promptopt.results.saved import folder_of
from promptopt.strategies.auto import AUTO
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Model
    from promptopt.results.migration import Migration


def migrate_prompt(
    run: Annotated[Path, typer.Argument(help="Folder of the run whose prompt is to move.")],
    to: Annotated[list[str], typer.Option(help="New model as KIND:NAME (repeatable); see `promptopt models`.")],
    task: Annotated[Path, typer.Option(help="Task file (TOML) of the run.")],
    candidates: Annotated[
        int,
        typer.Option(min=1, help="Candidates of the run to measure beside its chosen prompt, its seed prompt first."),
    ] = DEFAULT_CANDIDATES,
    budget: Annotated[
        str | None, typer.Option(help="Limit for each new model, such as '500 calls', '2 dollars' or '1M tokens'.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Then search on from the best candidate: limit for each new model, candidates included; in place of --budget."
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help="Strategy of --search; see `promptopt strategies`.")] = AUTO,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Strategy setting NAME=VALUE (repeatable).")] = None,
    writer: Annotated[
        str | None, typer.Option(help="Model that writes new prompts in --search. Default: the new model.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a folder with result and report of each new model.",
            show_default="migrated in the run's folder",
        ),
    ] = None,
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate calls and cost without calling a model.")
    ] = False,
    json_: Json = False,
) -> None:
    """Move a run's prompt to other models: measure it and the run's best candidates there, choose, and test once."""
    of_one = {"--base-url": base_url, "--tokenizer": tokenizer, "--price": price, "--extra-body": extra_body}
    option = next((name for name, value in of_one.items() if value is not None), None)
    if len(to) > 1 and option is not None:
        raise InputError(f"{option} is for one model: give one --to, and run the command once for each model")
    limits = CallLimits(concurrency, timeout, rpm, tpm)
    models = [limits.load(name, base_url, price, tokenizer, replicas, ray, extra_body) for name in to]
    models = [_with_batches(model) for model in models] if batch else models
    options: dict[str, Any] = {
        "candidates": candidates,
        "budget": budget,
        "search": search,
        "strategy": read_strategy(strategy, task if task.is_dir() else task.parent),
        "writer": limits.load(writer, None, None) if writer else None,
        "settings": _read_settings(set_ or []),
        "seed": seed,
    }
    old = Result.load(run)
    if dry_run:
        _print_costs(old, models, task, memo, options, as_json=json_)
        return
    folder = run_dir or folder_of(run) / "migrated"
    with Display(quiet=quiet) as display, Memo(memo) as store, _redirect_library_output():
        outcome = migrate(run, models, task, run_dir=folder, memo=store, display=display, **options)
    say_json(outcome.to_json()) if json_ else _print(outcome)
    raise typer.Exit(0 if outcome.finished else 1)


def _print_costs(
    old: Result, models: Sequence[Model], task: Path, memo: str | None, options: dict[str, Any], *, as_json: bool
) -> None:
    for job in migration_jobs(old, models, task, **options):
        name = str(job.model.fingerprint.get("model", job.model))
        cost = estimate(
            job.task, job.model, job.strategy, writer=job.writer, budget=job.budget, seed=job.seed, memo=memo
        )
        say_json({"model": name, **cost.to_json()}) if as_json else say(f"{name}\n{cost}\n")


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
