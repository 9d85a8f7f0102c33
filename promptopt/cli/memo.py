"""`promptopt memo`: the replies that are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from promptopt.cli.output import say, say_json, say_lines
from promptopt.errors import InputError
from promptopt.memo.memo import Memo, default_location, folder_path, parse_age, public_location, write_lines
from promptopt.memo.salvage import salvage as salvaged

memo = typer.Typer(help="The memo: every reply that was ever paid for.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[str | None, typer.Option("--memo", help="Folder of the memo, or redis://HOST:PORT/DB.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


@memo.command()
def path() -> None:
    """Say where the memo lies."""
    say(public_location(default_location()))


@memo.command()
def stats(place: Place = None, json_: Json = False) -> None:
    """Say how much is stored, and since when."""
    with Memo(place) as store:
        found = store.stats()
    if json_:
        values = found._asdict()
        say_json({"place": values.pop("location"), **values})
        return
    say(f"place    {found.location}\nentries  {found.entries:,}\nbytes    {found.bytes:,}")
    for name, moment in (("oldest", found.oldest), ("newest", found.newest)):
        if moment is not None:
            say(f"{name}   {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC")


Target = Annotated[Path, typer.Argument(help="JSONL file to write; - is standard output.", allow_dash=True)]


@memo.command()
def export(file: Target, place: Place = None) -> None:
    """Write all entries to a file, one JSON object a line."""
    with Memo(place) as store:
        if str(file) == "-":
            say_lines(store.lines())
            return
        say(f"{store.export(file):,} entries written to {file}")


@memo.command()
def salvage(file: Target, place: Place = None) -> None:
    """Write what can still be read of a damaged memo to a file, for `import` into a new one.

    Entries that were deleted and not yet written over are found too.
    """
    name = place or default_location()
    if "://" in name:
        raise InputError(f"{public_location(name)} is a server: only the file of a memo in a folder can be salvaged")
    entries = salvaged(folder_path(name))
    lines = (entry.line for entry in entries)
    if str(file) == "-":
        say_lines(lines)
        return
    write_lines(file, lines)
    say(
        f"{len(entries):,} entries written to {file}: move {name} away, then `promptopt memo import {file}` adds them anew"
    )


@memo.command("import")
def import_(file: Annotated[Path, typer.Argument(help="JSONL file to read.")], place: Place = None) -> None:
    """Add the entries of an exported file."""
    with Memo(place) as store:
        say(f"{store.import_(file):,} new entries")


@memo.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, such as 30d, 12h, 90m or 3600s.")], place: Place = None
) -> None:
    """Delete entries that were stored longer ago than an age."""
    seconds = parse_age(older_than)
    with Memo(place) as store:
        say(f"{store.prune(seconds):,} entries deleted")
