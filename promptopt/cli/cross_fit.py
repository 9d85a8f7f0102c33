"""`promptopt cross-fit`: what a search gains on a small data set, tested on every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import CallLimits, ModelOptions
from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.run import (
    BaseUrl,
    Batch,
    Concurrency,
    ExtraBody,
    Json,
    MemoLocation,
    ModelName,
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
from promptopt.memo.memo import Memo
from promptopt.optimization.cross_fitting import cross_fit, cross_fit_jobs
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import read_strategy
from promptopt.results.cross_fit import HEADS
from promptopt.strategies.auto import AUTO
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from promptopt.models.base import Model
    from promptopt.results.cross_fit import CrossFit


def cross_fit_task(
    task: Annotated[Path, typer.Argument(help="Task file (TOML), with at least 20 rows.")],
    model: ModelName = "local:smollm2",
    strategy: Annotated[
        str, typer.Option(help="Search strategy (see `promptopt strategies`), or one of your own as MODULE:CLASS.")
    ] = AUTO,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Strategy setting NAME=VALUE (repeatable).")] = None,
    writer: Annotated[str | None, typer.Option(help="Model that writes new prompts. Default: the task model.")] = None,
    writer_base_url: Annotated[str | None, typer.Option(help="URL of the writer's endpoint.")] = None,
    writer_price: Annotated[str | None, typer.Option(help="Price of the writer, in the format of --price.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limit for all six runs together, in equal parts, such as '3000 calls', '2 dollars' or '6M tokens'."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed, of the folds too.")] = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for a folder with result and report of each run.", show_default="runs/cross-fit"),
    ] = None,
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    model_option: ModelOptions = None,
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
    """Search on a small data set, and test such a search on every row, by cross-fitting in five folds."""
    limits = CallLimits(concurrency, timeout, rpm, tpm)
    loaded = limits.load(model, base_url, price, tokenizer, replicas, ray, extra_body, model_option)
    loaded = _with_batches(loaded) if batch else loaded
    options: dict[str, Any] = {
        "strategy": read_strategy(strategy, task if task.is_dir() else task.parent),
        "writer": limits.load(writer, writer_base_url, writer_price) if writer else None,
        "budget": budget,
        "seed": seed,
        "settings": _read_settings(set_ or []),
    }
    if dry_run:
        _print_costs(task, loaded, memo, options, as_json=json_)
        return
    runs = run_dir or Path("runs") / "cross-fit"
    with Display(quiet=quiet) as display, Memo(memo) as store, _redirect_library_output():
        outcome = cross_fit(task, loaded, run_dir=runs, memo=store, display=display, **options)
    say_json(outcome.to_json()) if json_ else _print(outcome)
    raise typer.Exit(0 if outcome.finished else 1)


def _print_costs(task: Path, model: Model, memo: str | None, options: dict[str, Any], *, as_json: bool) -> None:
    for name, job in cross_fit_jobs(task, model, **options).items():
        cost = estimate(
            job.task, job.model, job.strategy, writer=job.writer, budget=job.budget, seed=job.seed, memo=memo
        )
        say_json({"run": name, **cost.to_json()}) if as_json else say(f"{name}\n{cost}\n")


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
