"""`promptopt gate`: may a new prompt replace the old one, and is the model behind a run still the same?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.options import BudgetText, Json, MemoLocation, Quiet, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json
from promptopt.errors import InputError
from promptopt.optimization.gate import DEFAULT_MARGIN, check_drift, compare_prompts
from promptopt.optimization.sequential_test import DEFAULT_ERROR
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from promptopt.models.base import Model
    from promptopt.results.gate import GateResult

_TEST = "test"


@with_groups
def gate(
    old: Annotated[
        Path,
        typer.Argument(
            help="Old prompt: a text file, JSON that a run wrote, or a run's folder. Alone: a run's folder."
        ),
    ],
    model: TaskModelOptions,
    new: Annotated[
        Path | None,
        typer.Argument(
            help="New prompt, in one of the same forms. If omitted, the run's recorded replies are compared with new ones.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[Path | None, typer.Option(help="Task file (TOML).")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Largest loss of mean reward that passes.", show_default=f"{DEFAULT_MARGIN:g}"),
    ] = None,
    better: Annotated[
        bool,
        typer.Option(
            "--better", help="The new prompt must be better than the old one, not only no worse by the margin."
        ),
    ] = False,
    error: Annotated[
        float, typer.Option(help="Largest probability of a wrong decision, over all looks.")
    ] = DEFAULT_ERROR,
    split: Annotated[str, typer.Option(help="Items to compare on: test, validation or train.")] = _TEST,
    budget: BudgetText = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the order of the items.")] = 0,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the outcome as Markdown, for a pull request.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the outcome as JUnit XML.")] = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Test whether a new prompt is no worse than the old one, on as many items as the decision needs.

    Exit codes: 0 passed, 3 worse, 4 undecided; 1 a model cannot be used, 2 usage error.
    """
    loaded = model.task_model()
    options: dict[str, Any] = {"margin": margin, "error": error, "budget": budget, "seed": seed}
    for file in (markdown, junit):
        if file is not None and not file.absolute().parent.is_dir():
            raise InputError(f"cannot write {file}: there is no folder {file.parent}; make it first")
    with Display(quiet=quiet) as display, redirect_library_output():
        if new is None:
            _refuse_for_drift(better=better, split=split, memo=memo)
            outcome = _check_drift(old, loaded, task, display, options)
        elif task is None:
            raise InputError("two prompts need a task to be compared on: give --task FILE")
        else:
            outcome = compare_prompts(
                old, new, task, loaded, better=better, split=split, memo=memo, display=display, **options
            )
    _write(outcome, markdown, junit)
    say_json(outcome.to_json()) if json_ else say(outcome)
    raise typer.Exit(outcome.exit_code)


def _check_drift(run: Path, model: Model, task: Path | None, display: Display, options: dict[str, Any]) -> GateResult:
    """Check for drift; Ctrl-C has a message of its own, because no reply is kept that a second try could take."""
    try:
        return check_drift(run, model, task, display=display, **options)
    except KeyboardInterrupt:
        say("stopped; the next drift check starts from the beginning, because no replies are kept", to_stderr=True)
        raise typer.Exit(1) from None


def _refuse_for_drift(*, better: bool, split: str, memo: str | None) -> None:
    """Refuse options that have no meaning if the model is compared with a run's record."""
    given = [
        name for name, used in (("--better", better), ("--split", split != _TEST), ("--memo", memo is not None)) if used
    ]
    if given:
        raise InputError(
            f"{given[0]} needs two prompts; with a run alone, its recorded test replies are compared with new ones: give "
            "promptopt gate OLD NEW, or leave the option out"
        )


def _write(outcome: GateResult, markdown: Path | None, junit: Path | None) -> None:
    try:
        if markdown is not None:
            markdown.write_text(outcome.markdown(), encoding="utf-8")
        if junit is not None:
            junit.write_text(outcome.junit(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {error.filename} ({error.strerror}): name another file") from error
