"""Parses text that is separated by commas, tabs and the like into records of fields. Knows nothing of columns and rows."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from promptopt.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # the first in a header counts
_QUOTED_TEXT = re.compile(r'"(?:[^"]|"")*"')
# A quoted field after a separator and blanks, in a line that has no other quotes before it; %s is the separator.
_SPACED_FIELD = r'^[^"\n]*%s +"(?:[^"]|"")*"(?=%s|\r?\n|\Z)'
_QUOTED_FIELD = r'(?:"(?:[^"]|"")*"|[^"\t]*)'
_QUOTED_LINE = re.compile(rf"{_QUOTED_FIELD}(?:\t{_QUOTED_FIELD})*")


def csv_delimiter(text: str) -> str:
    """Return the delimiter: spreadsheets write semicolons in locales that use decimal commas, databases tabs or bars."""
    header = _unquoted_header(text)
    return next((mark for mark in SEPARATORS if mark in header), ",")


def is_quoted(text: str) -> bool:
    """Whether every quote in a tab-separated text is consistent with CSV quoting."""
    lines = [line.rstrip("\r") for line in text.split("\n") if '"' in line]
    return bool(lines) and all(_QUOTED_LINE.fullmatch(line) for line in lines)


def _unquoted_header(text: str) -> str:
    return _QUOTED_TEXT.sub("", text.lstrip("\r\n").partition("\n")[0])


def _has_blanks_after(delimiter: str, text: str) -> bool:
    """Whether separators are followed by blanks, as in `label, "text"`, which belong to no field.

    That is so if each one in the header is, or any before a quoted field, whose quotes would be part of the text otherwise.
    """
    header = _unquoted_header(text)
    if delimiter in header and header.count(delimiter) == header.count(f"{delimiter} "):
        return True
    mark = re.escape(delimiter)
    return re.search(_SPACED_FIELD % (mark, mark), text, re.MULTILINE) is not None


def read_records(path: Path, text: str, delimiter: str, *, quoted: bool) -> list[tuple[int, list[str]]]:
    """Return (first line, fields) of each record; blank lines are skipped."""
    records = []
    start = 1
    limit = csv.field_size_limit(max(len(text), 1))  # a global setting: restored below
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            skipinitialspace=quoted and _has_blanks_after(delimiter, text),
            strict=True,
        )
        for cells in reader:
            if cells:
                records.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start}: {error}; double the quotes inside a quoted field, or read the file with quoting off"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return records
