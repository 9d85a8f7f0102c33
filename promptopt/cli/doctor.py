"""`promptopt doctor`: what a run would need, do and show, before it is started."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import typer

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.options import BudgetText, Json, MemoLocation, Objectives, Prefer, read_settings, with_groups
from promptopt.cli.output import say, say_json
from promptopt.cli.search_options import SearchOptions
from promptopt.cli.task_options import TaskOptions
from promptopt.optimization.checkup import examine
from promptopt.optimization.job import read_strategy

if TYPE_CHECKING:
    from promptopt.optimization.checkup import Checkup

_MARKS = {"ok": "ok", "note": "-", "problem": "no"}


@with_groups
def doctor(
    task: TaskOptions,
    model: TaskModelOptions,
    search: SearchOptions,
    budget: BudgetText = None,
    objectives: Objectives = None,
    prefer: Prefer = None,
    memo: MemoLocation = None,
    json_: Json = False,
) -> None:
    """Check data, models, strategy, budget and what the test can show, without calling a model.

    Takes the options of `promptopt optimize` that decide a run. Exit codes: 0 it can start, 1 it cannot.
    """
    checkup = examine(
        task.load,
        model.task_model,
        lambda: read_strategy(search.strategy, task.folder),
        read_writer=lambda: model.load_writer(search.writer, search.writer_base_url, search.writer_price),
        memo=memo,
        budget=budget,
        seed=search.seed,
        settings=read_settings(search.set_),
        objectives=objectives,
        prefer=prefer,
    )
    words = sys.argv[sys.argv.index("doctor") + 1 :]
    command = ["promptopt", "optimize", *(word for word in words if word != "--json")]
    if json_:
        say_json({**checkup.to_json(), "command": command if checkup.ready else None})
    else:
        _print(checkup, command)
    raise typer.Exit(0 if checkup.ready else 1)


def _print(checkup: Checkup, command: list[str]) -> None:
    for topic, state, text in checkup.findings:
        say(f"{_MARKS[state]:4}{topic:10}{text}")
    say(f"\nrun it: {shlex.join(command)}" if checkup.ready else "\nnot ready: see the lines marked 'no'")
