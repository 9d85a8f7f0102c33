"""`promptopt judge-check` and `promptopt claim`: judges against people, and human scores of a run's test replies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptopt.cli.model_options import CallOptions
from promptopt.cli.options import BudgetText, Json, MemoLocation, Quiet, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json
from promptopt.data.score_files import UNIT, read_scale
from promptopt.errors import InputError
from promptopt.optimization.human_claim import human_claim, score_sheet
from promptopt.optimization.judge_check import check_judge
from promptopt.results.table import as_csv
from promptopt.rewards import Judge
from promptopt.tracking.display import Display
from promptopt.utils.files import write_private

HumanScale = Annotated[
    str | None, typer.Option("--scale", help="Lowest and highest human score, such as 1,5.", show_default="0,1")
]


@with_groups
def judge_check(
    data: Annotated[Path, typer.Argument(help="CSV, TSV, JSON or JSONL file with a row for each reply.")],
    calls: CallOptions,
    human: Annotated[str, typer.Option(help="Column with the human scores; rows without one are left out.")] = "human",
    score: Annotated[
        str | None, typer.Option(help="Column with the judge's scores, if present.", show_default="judge")
    ] = None,
    reply: Annotated[str, typer.Option(help="Column with the replies.")] = "reply",
    input: Annotated[  # noqa: A002  the option's name
        list[str] | None,
        typer.Option(help="Input column to show to the judge (repeatable).", show_default="columns named 'input: ...'"),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column with the correct answer, to show to the judge.")] = None,
    scale: HumanScale = None,
    judge_scale: Annotated[
        str | None,
        typer.Option(
            help="Lowest and highest judge score. Default: 0,1 with --score; 0,10 with --judge.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Model that scores the replies, as KIND:NAME.")] = None,
    criteria: Annotated[str | None, typer.Option(help="What makes a reply good, for --judge.")] = None,
    budget: BudgetText = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Measure how far a judge's scores agree with human scores: agreement, bias by length, and a calibrated scale."""
    if (judge is None) != (criteria is None):
        raise InputError("--judge and --criteria belong together: the model that scores, and what makes a reply good")
    if judge is not None and score is not None:
        raise InputError("--judge scores the replies, and --score names existing scores: remove one")
    asked = None
    if judge is not None and criteria is not None:
        asked = Judge(calls.load(judge), criteria, (0, 10) if judge_scale is None else _whole(judge_scale))
    with Display(quiet=quiet) as display, redirect_library_output():
        outcome = check_judge(
            data,
            asked,
            human=human,
            score=score or "judge",
            reply=reply,
            inputs=input,
            target=target,
            scale=UNIT if scale is None else read_scale(scale),
            judge_scale=UNIT if judge_scale is None else read_scale(judge_scale),
            budget=budget,
            memo=memo,
            display=display,
            announce=lambda text: say(text, to_stderr=True),
        )
    say_json(outcome.to_json()) if json_ else say(outcome)


def _whole(text: str) -> tuple[int, int]:
    low, high = read_scale(text)
    if not (low.is_integer() and high.is_integer()):
        raise InputError(
            f"--judge rates in whole numbers, so --judge-scale must be two of them, such as 1,5, not {text}"
        )
    return int(low), int(high)


def claim(
    run: Annotated[Path, typer.Argument(help="Folder of a run with a test.")],
    human_scores: Annotated[
        Path | None,
        typer.Option(help="File with the columns id, prompt (seed, chosen or a sheet's code) and human (score)."),
    ] = None,
    scale: HumanScale = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a CSV of test replies for people to score, and stop.", show_default=False)
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Test items of --sheet, drawn at random.", show_default="50, or all")
    ] = None,
    json_: Json = False,
) -> None:
    """Compare a run's chosen prompt with its seed prompt by human scores of some test items and the rewards of all."""
    if (sheet is None) == (human_scores is None):
        raise InputError(
            "give one of --sheet FILE, to draw replies for people to score, and --human-scores FILE, with their scores"
        )
    if sheet is not None:
        _write_sheet(run, sheet, items)
        return
    if items is not None or human_scores is None:
        raise InputError("--items is the size of a --sheet: remove it, all human scores count")
    outcome = human_claim(run, human_scores, scale=UNIT if scale is None else read_scale(scale))
    say_json(outcome.to_json()) if json_ else say(outcome)


def _write_sheet(run: Path, sheet: Path, items: int | None) -> None:
    if sheet.exists():
        raise InputError(f"{sheet} exists, perhaps with scores in it: name another file")
    rows = score_sheet(run, items)
    try:
        write_private(sheet, as_csv(rows))
    except OSError as error:
        raise InputError(f"cannot write {sheet} ({error.strerror}): name another file") from error
    say(
        f"{sheet}: {len(rows)} replies; fill in the column human, then run promptopt claim {run} --human-scores {sheet}"
    )
