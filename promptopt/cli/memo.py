"""`promptopt memo`: the replies on disk."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from promptopt.memo import Memo, default_folder, parse_age

memo = typer.Typer(help="The memo: every reply that was ever paid for.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path | None, typer.Option("--memo", help="Folder of the memo.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


@memo.command()
def path() -> None:
    """Say where the memo lies."""
    typer.echo(default_folder())


@memo.command()
def stats(folder: Folder = None, json_: Json = False) -> None:
    """Say how much is stored, and since when."""
    with Memo(folder) as store:
        found = store.stats()
    if json_:
        typer.echo(json.dumps(found._asdict() | {"folder": str(found.folder)}))
        return
    typer.echo(f"folder   {found.folder}\nentries  {found.entries:,}\nbytes    {found.bytes:,}")
    for name, moment in (("oldest", found.oldest), ("newest", found.newest)):
        if moment is not None:
            typer.echo(f"{name}   {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC")


@memo.command()
def export(file: Annotated[Path, typer.Argument(help="JSONL file to write.")], folder: Folder = None) -> None:
    """Write all entries to a file, one JSON object a line."""
    with Memo(folder) as store:
        typer.echo(f"{store.export(file):,} entries written to {file}")


@memo.command("import")
def import_(file: Annotated[Path, typer.Argument(help="JSONL file to read.")], folder: Folder = None) -> None:
    """Add the entries of an exported file."""
    with Memo(folder) as store:
        typer.echo(f"{store.import_(file):,} new entries")


@memo.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, such as 30d, 12h, 90m or 3600s.")], folder: Folder = None
) -> None:
    """Delete entries that were stored longer ago than an age."""
    seconds = parse_age(older_than)
    with Memo(folder) as store:
        typer.echo(f"{store.prune(seconds):,} entries deleted")
