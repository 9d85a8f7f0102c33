"""Groups of options: a dataclass in a command's signature is an option for each of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from promptopt.cli.options import with_groups


@dataclass(frozen=True, kw_only=True)
class Place:
    """A group."""

    town: Annotated[str, typer.Option(help="Where.")] = "here"


@dataclass(frozen=True, kw_only=True)
class Address(Place):
    """A group with the fields of another."""

    number: Annotated[int, typer.Option("--no", min=1)] = 1


@with_groups
def command(name: str, address: Address, loud: bool = False) -> None:  # noqa: FBT001, FBT002  as typer takes it
    """Say it."""
    typer.echo(f"{name} {address!r} {loud}")


def test_the_fields_are_options_and_the_command_gets_the_group() -> None:
    app = typer.Typer()
    app.command()(command)
    run = CliRunner()

    assert run.invoke(app, ["Ann", "--town", "Rye", "--no", "3", "--loud"]).output == (
        "Ann Address(town='Rye', number=3) True\n"
    )
    assert run.invoke(app, ["Ann"]).output == "Ann Address(town='here', number=1) False\n"
    assert run.invoke(app, ["Ann", "--no", "0"]).exit_code == 2
