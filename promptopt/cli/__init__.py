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
from promptopt.cli.report import compare, report
from promptopt.cli.run import optimize, score
from promptopt.cli.sweep import sweep
from promptopt.errors import InputError, PromptoptError

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
        typer.echo(__version__)
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
    try:
        app()
    except PromptoptError as error:
        if "--debug" in sys.argv[1:]:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        typer.echo("stopped; what had arrived is in the memo, the same command goes on from there", err=True)
        sys.exit(1)
