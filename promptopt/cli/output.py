"""What commands print: text that steers no terminal, tables that show names as they are, JSON in plain ASCII."""

from __future__ import annotations

import json
import sys
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptopt.utils.characters import printable
from promptopt.utils.streams import FailsafeStream, failsafe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def say(text: object = "", *, aside: bool = False) -> None:
    """Print a line on standard output, or `aside` on standard error."""
    _write(printable(str(text)), sys.stderr if aside else sys.stdout)


def say_json(value: Any) -> None:
    """Print a JSON value on one line; in ASCII, which every console and pipe can hold."""
    _write(json.dumps(value).replace("\x7f", "\\u007f"), sys.stdout)


def say_lines(lines: Iterable[bytes]) -> None:
    """Write lines on standard output as they are, for another program to read."""
    stream = FailsafeStream(sys.stdout)
    for line in lines:
        stream.write_bytes(line)
    stream.flush()


def _write(line: str, stream: IO[str]) -> None:
    safe = failsafe(stream)
    safe.write(f"{line}\n")
    safe.flush()


def say_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: Sequence[int] = (0,),
    plain: bool = False,
) -> None:
    """Print a table.

    Args:
        heads: of the columns; where all are empty, none are shown.
        rows: cells as they are: nothing in them is markup.
        title: above it.
        left: columns whose cells begin at the left; the others end at the right.
        plain: without lines between the cells.
    """
    table = Table(title=_cell(title) if title else None, title_justify="left", show_header=any(heads))
    if plain:
        table.box = None
    for number, head in enumerate(heads):
        table.add_column(_cell(head), justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    Console(file=failsafe(sys.stdout), highlight=False).print(table)


def _cell(text: str) -> Text:
    return Text(printable(text))
