"""The command line. Exit codes: 0 success, 1 a run failed or is unfinished, 2 usage error; `gate` also 3 worse, 4 undecided.

Results go to stdout, everything else to stderr; with --json, stdout contains only JSON.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from promptopt import __version__
from promptopt.cli.catalogue import models, strategies
from promptopt.cli.cross_fit import cross_fit_task
from promptopt.cli.diagnose import diagnose
from promptopt.cli.doctor import doctor
from promptopt.cli.export import export_prompt
from promptopt.cli.gate import gate
from promptopt.cli.judges import claim, judge_check
from promptopt.cli.memo import memo
from promptopt.cli.migrate import migrate_prompt
from promptopt.cli.output import say
from promptopt.cli.process import prepare_process
from promptopt.cli.report import compare, report
from promptopt.cli.run import optimize, score
from promptopt.cli.serve import serve
from promptopt.cli.sweep import sweep
from promptopt.cli.view import view
from promptopt.errors import InputError, MemoError, PromptoptError, RewardError

app = typer.Typer(
    name="promptopt",
    help="Find better prompts for language models, and measure the gain on held-out data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(optimize)
app.command()(score)
app.command()(doctor)
app.command()(diagnose)
app.command()(gate)
app.command(name="cross-fit")(cross_fit_task)
app.command(name="migrate")(migrate_prompt)
app.command(name="judge-check")(judge_check)
app.command()(claim)
app.command()(report)
app.command()(compare)
app.command()(view)
app.command(name="export")(export_prompt)
app.command()(sweep)
app.command()(serve)
app.command()(strategies)
app.add_typer(models, name="models")
app.add_typer(memo, name="memo")


def _show_version(requested: bool) -> None:  # noqa: FBT001  typer's signature
    if requested:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Errors are printed as one sentence unless --debug is given."""
    prepare_process()
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except PromptoptError as error:
        if debug:
            raise
        say(f"error: {error}", to_stderr=True)
        _say_notes(error)
        usage_error = isinstance(error, InputError) and not isinstance(error, MemoError | RewardError)
        sys.exit(2 if usage_error else 1)
    except KeyboardInterrupt:
        say("stopped; run the same command again to resume (the replies so far are in the memo)", to_stderr=True)
        sys.exit(1)
    except Exception as error:
        if debug or not getattr(error, "__notes__", ()):  # unexpected: no code added a note
            raise
        say(f"error: {type(error).__name__}: {error}", to_stderr=True)
        _say_notes(error)
        say("use --debug to see the traceback", to_stderr=True)
        sys.exit(1)


def _say_notes(error: Exception) -> None:
    for note in getattr(error, "__notes__", ()):
        say(note, to_stderr=True)
