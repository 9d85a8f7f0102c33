"""`promptopt optimize` and `promptopt score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.options import BudgetText, DryRun, Json, MemoLocation, Objectives, Prefer, Quiet, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json, say_table
from promptopt.cli.recorded import record_options
from promptopt.cli.score_table import print_scores, score_prompts
from promptopt.cli.search_options import SearchOptions
from promptopt.cli.task_options import DataOptions, Read, TaskOptions, read_prompts
from promptopt.data.user_code import import_named
from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.optimization.api import run_job
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import prepare
from promptopt.optimization.run_folder import PROMPTS
from promptopt.results.front import FRONT_HEADS
from promptopt.results.headline import CHOSEN
from promptopt.results.prompt_files import prompt_diff
from promptopt.results.result import SPENDING
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from promptopt.results.result import Result

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite the result of another run in --run-dir.")]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        help="Function to call with each event of the run, as MODULE:FUNCTION: a Python file beside the task file (with --data, "
        "in the current folder) or an installed module (repeatable).",
    ),
]


@with_groups
def optimize(
    task: TaskOptions,
    model: TaskModelOptions,
    search: SearchOptions,
    budget: BudgetText = None,
    objectives: Objectives = None,
    prefer: Prefer = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the result and report.", show_default="a new folder in runs/"),
    ] = None,
    overwrite: Overwrite = False,
    memo: MemoLocation = None,
    study: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL to record the run in.", show_default="study.db in --run-dir"),
    ] = None,
    no_study: Annotated[bool, typer.Option("--no-study", help="Do not record an Optuna study.")] = False,
    callback: Callbacks = None,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Search for a better prompt, select on validation data, and test it once on held-out data."""
    loaded_task = task.load()
    loaded_model = model.task_model()
    callbacks = [
        import_named(name, task.folder, key="--callback", instead="MODULE:FUNCTION") for name in callback or []
    ]
    options: dict[str, Any] = {
        **search.read(task.folder, model),
        "budget": budget,
        "objectives": objectives,
        "prefer": prefer,
    }
    if dry_run:
        cost = estimate(loaded_task, loaded_model, memo=memo, **options)
        say_json(cost.to_json()) if json_ else say(cost)
        return
    if study is not None and no_study:
        raise InputError("--study and --no-study contradict each other: give one of them")
    job = prepare(loaded_task, loaded_model, **options)
    with Display(quiet=quiet) as display, Memo(memo) as store, redirect_library_output():
        result = run_job(
            job,
            run_dir=run_dir or Path("runs") / job.folder_name,
            memo=store,
            display=display,
            tracking=study or not no_study,
            callbacks=callbacks,
            overwrite=overwrite,
        )
    if result.run_dir:
        record_options(Path(result.run_dir), task, model, search, budget=budget, objectives=objectives, prefer=prefer)
    if json_:
        outcome = {"headline": result.headline, "improved": result.improved, "finished": result.finished}
        say_json({**result.to_json(), **outcome})
    else:
        _print_result(result)
    raise typer.Exit(0 if result.finished else 1)


@with_groups
def score(
    task: DataOptions,
    model: TaskModelOptions,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt to score (repeatable).")] = None,
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt-from",
            "--prompt-file",
            help="Folder of a run, or a file with a prompt: text, or exported with --as json (repeatable).",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score on: train, validation or test.")] = "validation",
    replicates: Annotated[int, typer.Option(min=1, help="Replies per prompt and example.")] = 1,
    read_as: Read = None,
    budget: BudgetText = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Score prompts on a task, with 95 % intervals. Without --prompt, the seed prompt is scored."""
    loaded_task = task.load(read=read_as)
    splits = {"train": loaded_task.train, "validation": loaded_task.validation, "test": loaded_task.test}
    if split not in splits or not splits[split]:
        raise InputError(
            f"the task has no examples in split {split!r}: use one of {[k for k, v in splits.items() if v]}"
        )
    prompts = read_prompts(prompt or [], prompt_file or [], loaded_task)
    loaded_model = model.task_model()
    with Display(quiet=quiet) as display, Memo(memo) as store, redirect_library_output():
        ledger = Ledger(Budget.parse(budget) if budget else Budget())
        caller = Caller(store, ledger, watch=lambda: display.count(ledger))
        scorer = Scorer(loaded_task, loaded_model, caller)
        rows = score_prompts(scorer, prompts or [loaded_task.seed_prompt], split, replicates)
    label_notes = [CHOSEN] if scorer.chooses and not scorer.tests_text else []
    for note in (*loaded_task.notes, *ledger.notes(), *scorer.tally.notes, *label_notes):
        say(f"note: {note}", to_stderr=json_)
    if json_:
        say_json(rows)
    else:
        print_scores(rows)
    raise typer.Exit(1 if any(row["failed"] for row in rows) else 0)


def _print_result(result: Result) -> None:
    say_table(["", "seed prompt", "chosen prompt"], result.rows(), title=result.task)
    if result.points:
        say_table(FRONT_HEADS, result.front_rows(), title="front", left=(0, 1))
        for record in result.front:
            say(f"\ncandidate {record.number}:\n{record.prompt}")
    say_table(["", ""], result.facts(), left=(0, 1), plain=True)
    say_table(SPENDING, result.spending(), plain=True)
    for note in result.notes:
        say(f"note: {note}")
    # Not in a table, which would wrap the prompt's lines.
    say(f"\n{_shown_prompt(result)}\n\n{result.headline}")
    if result.unfinished and "run again" not in result.unfinished:
        say("To resume, run the same command again: no completed call is repeated.")


def _shown_prompt(result: Result) -> str:
    """Return the chosen prompt; of a program, what changed in the files of its prompts."""
    diff = prompt_diff(result.seed_prompt, result.prompt)
    if not diff:
        return f"chosen prompt:\n{result.prompt}"
    where = f", in {Path(result.run_dir) / PROMPTS}" if result.run_dir else ""
    return f"changes in the prompts{where}:\n{diff}"
