"""The data files that a form offers, and what is in their columns. Nothing outside the folder is offered or read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from promptopt.data.rows import ENDINGS, read_rows
from promptopt.errors import InputError, nearest
from promptopt.results.result import FILE as RESULT
from promptopt.tracking.event_file import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FILES = 500
_MAX_DEPTH = 4  # folders below the one that is searched
_MOST_LABELS = 20  # distinct values of a column whose values are offered as labels
_LEAST_REPEATS = 2  # rows for each distinct value, on average, from which values look like labels
_SAMPLE = 80  # characters
_LABEL_NAMES = ("label", "labels", "target", "answer", "class", "category", "expected", "output")


class DataFile(NamedTuple):
    """A file that a form offers.

    Args:
        name: path below the folder, with forward slashes.
        size: in bytes.
    """

    name: str
    size: int


class Column(NamedTuple):
    """A column of a data file.

    Args:
        name: of the column.
        sample: the start of its first value.
        distinct: number of distinct values.
        labels: its distinct values in order of appearance, if they look like labels; () if not.
        length: mean length of its values in characters.
    """

    name: str
    sample: str
    distinct: int
    labels: tuple[str, ...]
    length: float


def data_files(folder: Path) -> list[DataFile]:
    """Return the data files of a folder and the folders below it, by name; at most `MOST_FILES`.

    Hidden files, symbolic links and the folders of runs are left out.
    """
    files = []
    for file in _files(folder):
        files.append(file)
        if len(files) == MOST_FILES:
            break
    return sorted(files)


def data_path(folder: Path, name: str) -> Path:
    """Return the path of a file that `data_files` offers.

    Raises:
        InputError: it offers no such file.
    """
    names = [file.name for file in data_files(folder)]
    if name not in names:
        raise InputError(
            f"there is no data file {name!r} in {folder}{nearest(name, names)}: choose one of the files on the form"
        )
    return folder / name


def columns(path: Path) -> list[Column]:
    """Return the columns of a data file, in their order.

    Raises:
        InputError: the file cannot be read, or has no rows.
    """
    rows = read_rows(path, dropped=[])
    names = dict.fromkeys(name for row in rows for name in row.values)
    return [_column(name, [row.values[name].strip() for row in rows if name in row.values]) for name in names]


def likely_label(found: list[Column]) -> Column | None:
    """Return the column that looks like the answers: by its name, else by its values; None if none does."""
    named = [column for name in _LABEL_NAMES for column in found if column.name.casefold() == name]
    valued = [column for column in found if column.labels]
    return next(iter([*named, *valued[::-1]]), None)


def likely_input(found: list[Column]) -> Column | None:
    """Return the column that looks like the input: that with the longest texts beside the answers; None if there is none."""
    others = [column for column in found if column != likely_label(found)]
    return max(others, key=lambda column: column.length, default=None)


def _column(name: str, values: list[str]) -> Column:
    distinct = dict.fromkeys(value for value in values if value)
    few = 1 < len(distinct) <= _MOST_LABELS and len(distinct) * _LEAST_REPEATS <= len(values)
    labels = tuple(distinct) if few and not any("\n" in value for value in distinct) else ()
    sample = next(iter(distinct), "")[:_SAMPLE]
    return Column(name, sample, len(distinct), labels, sum(map(len, values)) / len(values))


def _files(folder: Path) -> Iterator[DataFile]:
    open_folders = [(folder, 0)]
    while open_folders:
        place, depth = open_folders.pop()
        try:
            with os.scandir(place) as scanned:
                entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:  # not readable, or deleted meanwhile
            continue
        if {RESULT, EVENTS} & {entry.name for entry in entries}:  # a run's own files are no data
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
                open_folders.append((Path(entry.path), depth + 1))
            elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in ENDINGS:
                yield DataFile(Path(entry.path).relative_to(folder).as_posix(), entry.stat().st_size)
