"""`promptopt memo`: inspect, export, import and prune the store of replies."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from promptopt.cli.output import say, say_json, say_lines
from promptopt.errors import InputError
from promptopt.memo.memo import Memo, default_location, folder_path, parse_age, public_location, write_lines
from promptopt.memo.salvage import salvage as salvage_entries

memo = typer.Typer(help="Manage the memo, the store of all model replies.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[str | None, typer.Option("--memo", help="Memo: a folder or redis://HOST:PORT/DB.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON to stdout.")]


@memo.command()
def path() -> None:
    """Print the location of the memo."""
    say(public_location(default_location()))


@memo.command()
def stats(place: Place = None, json_: Json = False) -> None:
    """Print the number of entries, their size and age."""
    with Memo(place) as store:
        statistics = store.stats()
    if json_:
        values = statistics._asdict()
        say_json({"place": values.pop("location"), **values})
        return
    say(f"location  {statistics.location}\nentries   {statistics.entries:,}\nbytes     {statistics.bytes:,}")
    for name, moment in (("oldest", statistics.oldest), ("newest", statistics.newest)):
        if moment is not None:
            say(f"{name}   {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC")


Target = Annotated[Path, typer.Argument(help="JSONL file to write, or - for stdout.", allow_dash=True)]


@memo.command()
def export(file: Target, place: Place = None) -> None:
    """Export all entries to a JSONL file."""
    with Memo(place) as store:
        if str(file) == "-":
            say_lines(store.lines())
            return
        say(f"{store.export(file):,} entries written to {file}")


@memo.command()
def salvage(file: Target, place: Place = None) -> None:
    """Recover readable entries of a damaged memo into a file that `import` can load.

    May also recover deleted entries whose space was not reused.
    """
    location = place or default_location()
    if "://" in location:
        raise InputError(f"{public_location(location)} is a server: salvage only works on a memo in a folder")
    entries = salvage_entries(folder_path(location))
    lines = (entry.line for entry in entries)
    if str(file) == "-":
        say_lines(lines)
        return
    write_lines(file, lines)
    say(f"{len(entries):,} entries written to {file}; now move {location} away and run `promptopt memo import {file}`")


@memo.command("import")
def import_(file: Annotated[Path, typer.Argument(help="JSONL file to read.")], place: Place = None) -> None:
    """Import entries from an exported file."""
    with Memo(place) as store:
        say(f"{store.import_(file):,} new entries")


@memo.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Minimum age, such as 30d, 12h, 90m or 3600s.")], place: Place = None
) -> None:
    """Delete entries older than a given age."""
    seconds = parse_age(older_than)
    with Memo(place) as store:
        say(f"{store.prune(seconds):,} entries deleted")
