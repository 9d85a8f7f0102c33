"""Turns files, Hugging Face data sets and plain mappings into examples.

Knows nothing of splits, tasks, models or rewards. Every error message names the file, the line, the field and the fix.
"""

from __future__ import annotations

import codecs
import importlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from promptopt.data.delimited import SEPARATORS, csv_delimiter, is_quoted, read_records
from promptopt.data.frames import records
from promptopt.data.splits import split_examples as split_examples  # noqa: PLC0414  documented here in earlier versions
from promptopt.errors import InputError, MissingExtraError, nearest
from promptopt.prompt import Example
from promptopt.utils.characters import character_fault
from promptopt.utils.json_values import json_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias

    from promptopt.data.frames import PandasFrame, PolarsFrame

    Source: TypeAlias = str | Path | Iterable[Mapping[str, Any]] | PandasFrame | PolarsFrame

HUB = "hf://"
_MOST_ROWS_LISTED, _LONGEST_FAULT = 5, 100  # limits of the note on dropped rows: rows, and characters for each

_TABLES = (".csv", ".tsv", ".txt")
ENDINGS = (".jsonl", ".ndjson", ".json", *_TABLES)
_DROP = "drop_unusable, --drop-unusable"
_FILL_FIX = f"fill it in or drop the row ({_DROP})"


class Row(NamedTuple):
    """One row of data as text.

    Args:
        values: column -> text; nulls are omitted.
        where: "train.tsv, line 7" or "item 3", for messages.
        stem: file name without folder and extension, or "item".
        number: line of the file on which the row starts, or the row's number from 1 if there are no lines.
        faults: column -> why its value cannot be used, of columns that are not in `values`. They matter only to anyone who
            uses the column.
    """

    values: dict[str, str]
    where: str
    stem: str
    number: int
    faults: Mapping[str, str] = MappingProxyType({})


class _Fault(NamedTuple):
    """A value that cannot be used, in words that follow the column's name."""

    words: str


_REPEATED = _Fault("is the name of several columns; rename all but one")


class UnusableRowError(InputError):
    """A row cannot be used.

    Args:
        where: which row.
        fault: what is wrong with it.
        fix: what to do about it.
    """

    def __init__(self, where: str, fault: str, fix: str) -> None:
        super().__init__(f"{where}: {fault}; {fix}")
        self.where = where
        self.fault = fault
        self._fix = fix

    def __reduce__(self) -> tuple[type[UnusableRowError], tuple[str, str, str]]:
        """Pickle as constructor arguments: the default passes the message."""
        return type(self), (self.where, self.fault, self._fix)


def read_rows(
    source: Source,
    *,
    quoting: bool | None = None,
    dropped: list[UnusableRowError] | None = None,
) -> list[Row]:
    """Read a file, a data set of the Hugging Face hub, or mappings in memory.

    Args:
        source: a path ending in .csv, .tsv, .txt (tab-separated), .jsonl, .ndjson or .json (a list of objects);
            `hf://[owner/]name[:split]` or `hf://owner/name/config[:split]`, with "train" as the default split;
            a pandas or polars DataFrame, or mappings from column to value, such as a data set of `datasets`. Tables start
            with a header line. A .csv is separated by commas or, if its header has no comma, by semicolons, tabs or vertical
            bars; blanks between a separator and a quoted field are skipped. Files are UTF-8.
        quoting: whether fields are quoted as in CSV. The default is yes for .csv; for .tsv and .txt it is yes if the file
            contains quotes and each belongs to a properly quoted field on a single line.
        dropped: malformed lines are skipped and their errors appended to this list; None makes them raise.

    Returns:
        The rows in order. Numbers, booleans and nested values become JSON text; nulls are omitted.

    Raises:
        InputError: the source cannot be read; the message says where and how to fix it.
        MissingExtraError: `hf://` without the extra "datasets".
    """
    if isinstance(source, str) and source.startswith(HUB):
        rows = _hub_rows(source)
    elif isinstance(source, str | Path):
        rows = _file_rows(Path(source), quoting, dropped)
    else:
        rows = [_row(item, f"item {number}", "item", number) for number, item in enumerate(records(source), 1)]
    if not rows:
        name = source if isinstance(source, str | Path) else "the data"
        raise InputError(f"{name} has no rows: give at least one")
    return rows


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark; line endings are not changed.

    Raises:
        InputError: the file does not exist, cannot be read, or is not UTF-8.
    """
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError as error:
        folder = path.parent
        known = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
        start = "" if path.is_absolute() else f"; relative paths start from {Path.cwd()}"
        raise InputError(f"{path}: no such file{nearest(path.name, known)}{start}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its type and permissions") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def to_examples(
    rows: Sequence[Row] | Source,
    *,
    inputs: Sequence[str] | Mapping[str, Sequence[str]],
    label: str | None,
    id: str | None = None,  # noqa: A002 - the name of the column's role, as in Example
    labels: Mapping[str, str] | Sequence[str] | None = None,
    split: str = "",
    group: str | None = None,
    filled: str | None = None,
    dropped: list[UnusableRowError] | None = None,
) -> tuple[Example, ...]:
    """Turn rows into examples.

    Args:
        rows: of one file, or anything that `read_rows` takes.
        inputs: columns that become input fields; or field name -> alternative columns, of which the first one present
            is used. Like `label` and `id`, a column may be a path into JSON: `input.question` is the key `question` in the column
            `input`. An input may be blank if another input of the same row is not.
        label: column of the correct answer, which is stripped of white space; None for unlabelled data.
        id: column of the ids; without it, ids such as "test:17" are made of the split (or the file's stem) and the line.
        labels: the allowed answers, or data value -> label word.
        split: "train", "validation" or "test"; makes ids of files of the same name distinct.
        group: column of the examples' groups, such as customers.
        filled: a further column that must not be blank, such as that of the split, which no example holds (`values_by_id`).
        dropped: unusable rows are skipped and their errors appended to this list; None makes them raise.

    Raises:
        InputError: no row is usable, a column or value is missing or blank, a label is not allowed, the label is also an
            input, or an id occurs twice.
    """
    if not inputs:
        raise InputError("no input columns: name at least one")
    rows = with_paths(
        _as_rows(rows), [*(chain.from_iterable(inputs.values()) if isinstance(inputs, Mapping) else inputs), label, id]
    )
    accepted = dict(inputs) if isinstance(inputs, Mapping) else {name: (name,) for name in inputs}
    columns = {field: _column(rows, names) for field, names in accepted.items()}
    for name in (label, id, group, filled):
        if name is not None:
            _column(rows, (name,))
    if label in columns.values():
        raise InputError(
            f"the column {label!r} is both the label and an input, so the model would see the answer: remove it from inputs"
        )
    words = labels if isinstance(labels, Mapping) or labels is None else {word: word for word in labels}
    examples: dict[str, tuple[Example, Row]] = {}
    for row in rows:
        try:
            example = Example(
                inputs=_inputs(row, columns),
                target=None if label is None else _target(row, label, words),
                id=_line_id(row, split) if id is None else _non_blank(row, id),
                group=None if group is None else _non_blank(row, group),
            )
            _refuse_blank(row, filled)
            _refuse_repeated_id(example, row, examples)
        except UnusableRowError as error:
            if dropped is None:
                raise
            dropped.append(error)
        else:
            examples[example.id] = (example, row)
    if dropped and not examples:
        raise InputError(f"none of the {len(rows)} rows can be used; the first: {dropped[0]}")
    return tuple(example for example, _ in examples.values())


def _as_rows(source: Sequence[Row] | Source) -> Sequence[Row]:
    if isinstance(source, list | tuple) and all(isinstance(row, Row) for row in source):
        return cast("Sequence[Row]", source)
    return read_rows(source)  # type: ignore[arg-type]


def with_paths(rows: Sequence[Row], names: Iterable[str | None]) -> Sequence[Row]:
    """Return rows to which the values of paths into JSON, such as `input.question`, are added as columns.

    Args:
        rows: of one file.
        names: columns and paths; a column that the rows have is no path.
    """
    columns = set(chain.from_iterable(row.values for row in rows))
    paths = [name.split(".") for name in names if name and "." in name and name not in columns]
    if not paths:
        return rows
    out = []
    for row in rows:
        texts = {".".join(path): _text(_at(row.values.get(path[0], ""), path[1:])) for path in paths}
        out.append(
            row._replace(values={**row.values, **{name: text for name, text in texts.items() if isinstance(text, str)}})
        )
    return out


def _at(text: str, path: Sequence[str]) -> Any:
    """Return the value at a path in JSON text, or None."""
    value = json_value(text)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def values_by_id(rows: Sequence[Row], column: str, *, id: str | None = None, split: str = "") -> dict[str, str]:  # noqa: A002  as above
    """Return {id: value of a column}, with the ids that `to_examples` makes with the same arguments.

    Args:
        rows: of one file.
        column: of the values, which are stripped of white space; blank ones are left out.
        id: as in `to_examples`.
        split: as in `to_examples`.
    """
    out: dict[str, str] = {}
    for row in rows:
        name = _line_id(row, split) if id is None else row.values.get(id, "").strip()
        value = row.values.get(column, "").strip()
        if value:
            out.setdefault(name, value)  # of rows with the same id, the first is the example
    return out


def dropped_note(dropped: Sequence[UnusableRowError], rows: int) -> str:
    """Return a note on how many rows were dropped, and why the first few were."""
    first = ", ".join(
        f"{error.where} ({shorten(error.fault, _LONGEST_FAULT)})" for error in dropped[:_MOST_ROWS_LISTED]
    )
    more = "" if len(dropped) <= _MOST_ROWS_LISTED else ", ..."
    return f"{len(dropped)} of {rows} rows were dropped because they are unusable: {first}{more}"


def _hub_rows(source: str) -> list[Row]:
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise MissingExtraError(source, "datasets") from error
    path, _, split = source.removeprefix(HUB).partition(":")
    parts = path.split("/")
    name, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        data = datasets.load_dataset(name, config, split=split or "train")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} cannot be loaded: {error}; write it as hf://owner/name/config:split and check each part"
        ) from error
    return [_row(item, f"{source}, row {number}", parts[-1], number) for number, item in enumerate(data, 1)]


def _file_rows(path: Path, quoting: bool | None, dropped: list[UnusableRowError] | None) -> list[Row]:  # noqa: FBT001
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(
            f"{path}: unknown ending {ending!r}{nearest(ending, ENDINGS)}; known endings: {', '.join(ENDINGS)}"
        )
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty: give a file with data")
    if ending == ".json":
        return [_row(item, f"{path}, item {n}", path.stem, n) for n, item in _json_items(path, text)]
    table = ending in _TABLES
    items = _table_items(path, text, dropped, quoting=quoting) if table else _json_lines(path, text, dropped)
    return [_row(item, f"{path}, line {n}", path.stem, n) for n, item in items]


def _json_items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: invalid JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(items, list):
        raise InputError(
            f"{path} holds {_kind(items)}: give a list of objects, or a .jsonl file with one object per line"
        )
    return enumerate(items, 1)


def _json_lines(path: Path, text: str, dropped: list[UnusableRowError] | None) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            fault = f"invalid JSON: {error.msg} (column {error.colno})"
            _refuse_or_drop(f"{path}, line {number}", fault, "every line must be one complete object", dropped)
        else:
            yield number, item


def _refuse_or_drop(where: str, fault: str, fix: str, dropped: list[UnusableRowError] | None) -> None:
    error = UnusableRowError(where, fault, fix)
    if dropped is None:
        raise error
    dropped.append(error)


def _table_items(
    path: Path, text: str, dropped: list[UnusableRowError] | None, *, quoting: bool | None
) -> Iterator[tuple[int, dict[str, str | _Fault]]]:
    comma = path.suffix.lower() == ".csv"
    delimiter = csv_delimiter(text) if comma else "\t"
    quoted = quoting if quoting is not None else comma or is_quoted(text)
    records = read_records(path, text, delimiter, quoted=quoted)
    header = [name.strip() for name in records[0][1]]
    repeated = {name: _REPEATED for name, count in Counter(header).items() if count > 1}
    if len(records) == 1:
        raise InputError(f"{path} has a header but no rows: the first line must name the columns, and data must follow")
    other = "off" if quoted else "on"
    for number, cells in records[1:]:
        if len(cells) != len(header):
            fault = f"{len(cells)} fields where the header has {len(header)} ({', '.join(header)})"
            fix = (
                f"fix the line, or read the file with quoting {other}; fields are separated by {SEPARATORS[delimiter]}"
            )
            _refuse_or_drop(f"{path}, line {number}", fault, fix, dropped)
        else:
            yield number, dict(zip(header, cells, strict=True)) | repeated


def _row(item: Any, where: str, stem: str, number: int) -> Row:
    if not isinstance(item, Mapping):
        raise InputError(f"{where} is {_kind(item)}: every row must be an object with named fields")
    texts = {str(name): _text(value) for name, value in item.items()}
    faults = {name: text.words for name, text in texts.items() if isinstance(text, _Fault)}
    return Row({name: text for name, text in texts.items() if isinstance(text, str)}, where, stem, number, faults)


def _text(value: Any) -> str | _Fault | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str | _Fault):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return _Fault(f"holds {_kind(value)}, which is not text; convert it to text first")


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def _column(rows: Sequence[Row], accepted: Sequence[str]) -> str:
    """Return the first of the accepted columns that the rows have."""
    columns = list(dict.fromkeys(chain.from_iterable((*row.values, *row.faults) for row in rows)))
    for name in accepted:
        if name in columns:
            return name
    names = " or ".join(repr(name) for name in accepted)
    hint = nearest(accepted[0], columns) if accepted else ""
    raise InputError(
        f"{rows[0].where}: no column {names}{hint}; columns: {', '.join(columns)}{_other_separator(columns)}"
    )


def _other_separator(columns: Sequence[str]) -> str:
    """Return a hint if the only column's name looks like several in a file with another separator, else ""."""
    mark = next((mark for mark in SEPARATORS if len(columns) == 1 and mark in columns[0]), None)
    if mark is None:
        return ""
    return f"; if the file is separated by {SEPARATORS[mark]}, name it .csv (.tsv and .txt are separated by tabs)"


def _line_id(row: Row, split: str) -> str:
    return f"{split or row.stem}:{row.number}"


def _inputs(row: Row, columns: Mapping[str, str]) -> dict[str, str]:
    texts = {field: _value(row, column) for field, column in columns.items()}
    if not any(text.strip() for text in texts.values()):
        raise UnusableRowError(row.where, f"{', '.join(map(repr, columns.values()))} is blank", _FILL_FIX)
    return texts


def _target(row: Row, column: str, words: Mapping[str, str] | None) -> str:
    value = _non_blank(row, column)
    if words is None:
        return value
    if value not in words:
        marked = any(mark in value for mark in ",=")
        hint = "; on the command line, repeat --labels for labels that contain ',' or '='" if marked else ""
        raise UnusableRowError(
            row.where,
            f"{column!r} is {value!r}, which is not one of {', '.join(map(repr, words))}{nearest(value, words)}",
            f"fix the row, drop it ({_DROP}), or add the value to labels{hint}",
        )
    return words[value]


def _non_blank(row: Row, column: str) -> str:
    value = _value(row, column).strip()
    if not value:
        raise UnusableRowError(row.where, f"{column!r} is blank", _FILL_FIX)
    return value


def _refuse_blank(row: Row, column: str | None) -> None:
    if column is not None:
        _non_blank(row, column)


def _value(row: Row, column: str) -> str:
    if column in row.faults:
        fault, _, fix = row.faults[column].partition("; ")
        raise UnusableRowError(row.where, f"{column!r} {fault}", fix)
    if column not in row.values:
        raise UnusableRowError(row.where, f"{column!r} is missing or null", _FILL_FIX)
    text = row.values[column]
    fault = character_fault(text)
    if fault:
        raise UnusableRowError(row.where, f"{column!r} holds {fault}", _FILL_FIX.replace("fill it in", "fix it"))
    return text


def _refuse_repeated_id(example: Example, row: Row, examples: Mapping[str, tuple[Example, Row]]) -> None:
    if example.id in examples:
        raise UnusableRowError(
            row.where,
            f"the id {example.id!r} is already used in {examples[example.id][1].where}",
            "make ids unique, or omit the id column",
        )
