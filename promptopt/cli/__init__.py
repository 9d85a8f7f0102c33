"""The command line. Exit codes: 0 done, 1 a run failed or is unfinished, 2 wrong usage.

Results go to standard output, everything else to standard error; with --json standard output holds JSON alone.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from promptopt import __version__
from promptopt.cli.catalogue import models, strategies
from promptopt.cli.diagnose import diagnose
from promptopt.cli.memo import memo
from promptopt.cli.output import say
from promptopt.cli.process import prepare_process
from promptopt.cli.report import compare, report
from promptopt.cli.run import optimize, score
from promptopt.cli.sweep import sweep
from promptopt.errors import InputError, MemoError, PromptoptError, RewardError

app = typer.Typer(
    name="promptopt",
    help="Find better prompts for language models, and say honestly by how much.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(optimize)
app.command()(score)
app.command()(diagnose)
app.command()(report)
app.command()(compare)
app.command()(sweep)
app.command()(strategies)
app.add_typer(models, name="models")
app.add_typer(memo, name="memo")


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer's signature
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a stack trace with errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors are one sentence unless --debug is given."""
    prepare_process()
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except PromptoptError as error:
        if debug:
            raise
        say(f"error: {error}", aside=True)
        _say_notes(error)
        slip = isinstance(error, InputError) and not isinstance(error, MemoError | RewardError)
        sys.exit(2 if slip else 1)
    except KeyboardInterrupt:
        say("stopped; what had arrived is in the memo, the same command goes on from there", aside=True)
        sys.exit(1)
    except Exception as error:
        if debug or not getattr(error, "__notes__", ()):  # nobody has looked after it
            raise
        say(f"error: {type(error).__name__}: {error}", aside=True)
        _say_notes(error)
        say("--debug shows where it was raised", aside=True)
        sys.exit(1)


def _say_notes(error: Exception) -> None:
    for note in getattr(error, "__notes__", ()):
        say(note, aside=True)
