"""Printing for commands: text without terminal control codes, tables without markup, JSON in ASCII."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import IO, TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptopt.utils.characters import printable
from promptopt.utils.streams import FailsafeStream, failsafe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

_MAX_WORD = 20  # characters
_UNLIMITED = 100_000  # characters: wider than any cell


def say(text: object = "", *, to_stderr: bool = False) -> None:
    """Print a line to stdout, or to stderr."""
    _write(printable(str(text)), sys.stderr if to_stderr else sys.stdout)


def say_json(value: Any) -> None:
    """Print a JSON value on one line, in ASCII, which every console and pipe can encode."""
    _write(json.dumps(value).replace("\x7f", "\\u007f"), sys.stdout)


def say_lines(lines: Iterable[bytes]) -> None:
    """Write raw lines to stdout for another program to read."""
    stream = FailsafeStream(sys.stdout)
    for line in lines:
        stream.write_bytes(line)
    stream.flush()


def _write(line: str, stream: IO[str]) -> None:
    output = failsafe(stream)
    output.write(f"{line}\n")
    output.flush()


def redirect_library_output() -> AbstractContextManager[Any]:
    """Redirect what libraries print (such as Ray, when an actor dies) to stderr: stdout is for results."""
    return redirect_stdout(sys.stderr)


def say_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: Sequence[int] = (0,),
    plain: bool = False,
) -> None:
    """Print a table.

    Args:
        headers: column headers; no header row is printed if all are empty.
        rows: cell texts, printed literally (no markup).
        title: printed above the table.
        left: indices of left-aligned columns; the others are right-aligned.
        plain: omit the lines between cells.
    """
    table = Table(title=_plain_text(title) if title else None, title_justify="left", show_header=any(headers))
    if plain:
        table.box = None
    lines = [list(row) for row in rows]
    for column, header in enumerate(headers):
        cells = [header, *(line[column] for line in lines)]
        justify: Literal["left", "right"] = "left" if column in left else "right"
        min_width = _word_width(cells) if column in left else None  # names stay whole where numbers can wrap
        table.add_column(_plain_text(header), justify=justify, overflow="fold", min_width=min_width)
    for line in lines:
        table.add_row(*map(_plain_text, line))
    console = Console(file=failsafe(sys.stdout), highlight=False)
    _keep_within(console, table)
    console.print(table)


def _keep_within(console: Console, table: Table) -> None:
    """Fix columns with a minimum width to it if the others leave no more room: rich then wraps those instead of cutting them off."""
    unlimited = console.options.update(max_width=_UNLIMITED)
    excess = console.measure(table, options=unlimited).maximum - console.width
    for column in table.columns:
        if column.min_width is None:
            continue
        natural = max(console.measure(cell, options=unlimited).maximum for cell in (column.header, *column.cells))
        if natural - excess < column.min_width:
            column.width = column.min_width


def _word_width(cells: Iterable[str]) -> int:
    """Return the length of the longest word, up to a quarter of a narrow terminal."""
    return min(max((len(word) for cell in cells for word in cell.split()), default=1), _MAX_WORD)


def _plain_text(text: str) -> Text:
    return Text(printable(text))
