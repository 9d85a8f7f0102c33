"""Finds the entries of a memo in a damaged SQLite file, page by page, without SQLite.

A leaf page holds its rows whatever has become of the pages that lead to it. What is found is an entry if its checksum
says so. Format: https://www.sqlite.org/fileformat2.html. Knows nothing of what the values mean.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from diskcache.core import DBNAME

from promptopt.errors import InputError
from promptopt.memo.format import END_OF_TIME, to_line, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HEADER, _LOG_HEADER, _FRAME_HEADER = 100, 32, 24  # bytes: of the file, of the log beside it, of each page in that
_LEAF = 13  # first byte of a page that holds rows
_KEY, _TIME, _VALUE, _COLUMNS = 1, 3, 11, 12  # of the rows; the first column, their number, is kept elsewhere
_FIXED = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes of a column by its type
_REAL, _FIRST_BLOB = 7, 12
_SIZES = (4096, 512, 1024, 2048, 8192, 16384, 32768, 65536)


class Salvaged(NamedTuple):
    """An entry that was found: its key, when it was stored, in seconds since 1970, and its value."""

    key: str
    stored: float
    value: Any

    @property
    def line(self) -> bytes:
        """The entry as a line of an export."""
        return to_line(self.key, self.value, self.stored)


def salvage(folder: Path) -> list[Salvaged]:
    """Return the entries that can still be read, by time and key; of several with one key the last stored.

    Entries that were deleted and not yet written over are found too. The log beside the file is read as well.

    Args:
        folder: of the memo; nothing is written to it.

    Raises:
        InputError: it cannot be read.
    """
    database = folder / DBNAME
    try:
        data = database.read_bytes()
        log = database.with_name(f"{database.name}-wal")
        logged = log.read_bytes() if log.exists() else b""
    except OSError as error:
        raise InputError(f"the memo's file {database} cannot be read ({error}): name its folder with --memo") from error
    found: dict[str, Salvaged] = {}
    for size in _page_sizes(data):
        pages = [data[start : start + size] for start in range(0, len(data), size)]
        # Rows that are too long for a page go on in others, which the log may hold in a later state.
        later = dict(_log_pages(logged, size))
        for known in (pages, *([_overlaid(pages, later)] if later else [])):
            for entry in _entries(known):
                old = found.get(entry.key)
                if old is None or old.stored <= entry.stored:
                    found[entry.key] = entry
        if found:
            break
    return sorted(found.values(), key=lambda entry: (entry.stored, entry.key))


def _page_sizes(data: bytes) -> list[int]:
    """Return the page size that the file's first page says, and after it those that there can be."""
    said = int.from_bytes(data[16:18], "big")
    said = 65536 if said == 1 else said
    return [said, *(size for size in _SIZES if size != said)] if said in _SIZES else [*_SIZES]


def _log_pages(log: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a log by their number, from 0; of several the last counts."""
    frame = _FRAME_HEADER + size
    for start in range(_LOG_HEADER, len(log) - frame + 1, frame):
        yield int.from_bytes(log[start : start + 4], "big") - 1, log[start + _FRAME_HEADER : start + frame]


def _overlaid(pages: list[bytes], later: dict[int, bytes]) -> list[bytes]:
    count = max(len(pages), 1 + max((number for number in later if number < len(pages) + len(later)), default=-1))
    return [later.get(number, pages[number] if number < len(pages) else b"") for number in range(count)]


def _entries(pages: list[bytes]) -> Iterator[Salvaged]:
    for number, page in enumerate(pages):
        head = _HEADER if number == 0 else 0
        if len(page) <= head + 8 or page[head] != _LEAF:
            continue
        count = min(int.from_bytes(page[head + 3 : head + 5], "big"), len(page) // 2)
        for place in range(head + 8, head + 8 + 2 * count, 2):
            with suppress(ValueError, IndexError, struct.error):
                yield _entry(_row(page, int.from_bytes(page[place : place + 2], "big"), pages))


def _entry(row: list[Any]) -> Salvaged:
    """Return the entry that a row is.

    Raises:
        ValueError: it is none.
    """
    if len(row) < _COLUMNS or not isinstance(row[_KEY], str) or not isinstance(row[_VALUE], bytes):
        raise ValueError("no row of a memo")
    stored = float(row[_TIME]) if isinstance(row[_TIME], int | float) and 0 <= row[_TIME] < END_OF_TIME else 0.0
    return Salvaged(row[_KEY], stored, unpack(row[_KEY], row[_VALUE]))


def _row(page: bytes, start: int, pages: list[bytes]) -> list[Any]:
    """Return the columns of the row at a place of a page.

    Raises:
        ValueError: it is damaged.
        IndexError: likewise.
    """
    length, at = _varint(page, start)
    _, at = _varint(page, at)
    record = _whole(page, at, length, pages)
    end, at = _varint(record, 0)
    types, place = [], end
    while at < end:
        kind, at = _varint(record, at)
        types.append(kind)
    out: list[Any] = []
    for kind in types:
        size = _FIXED[kind] if kind in _FIXED else (kind - _FIRST_BLOB) // 2
        if size < 0 or place + size > len(record):
            raise ValueError("a column ends after its row")
        out.append(_column(kind, record[place : place + size]))
        place += size
    return out


def _column(kind: int, data: bytes) -> Any:
    read: Callable[[bytes], Any]
    if kind == 0:
        return None
    if kind == _REAL:
        return struct.unpack(">d", data)[0]
    read = (
        (bytes, bytes.decode)[kind % 2] if kind >= _FIRST_BLOB else lambda raw: int.from_bytes(raw, "big", signed=True)
    )
    return read(data)


def _whole(page: bytes, at: int, length: int, pages: list[bytes]) -> bytes:
    """Return a row's bytes, with those in other pages where it is too long for its own."""
    usable = len(page)
    if length <= usable - 35:
        return page[at : at + length]
    least = (usable - 12) * 32 // 255 - 23
    here = least + (length - least) % (usable - 4)
    here = here if here <= usable - 35 else least
    parts, left = [page[at : at + here]], length - here
    further = int.from_bytes(page[at + here : at + here + 4], "big")
    for _ in pages:  # no chain is longer; a damaged one may be a ring
        if left <= 0:
            break
        if not 0 < further <= len(pages):
            raise ValueError("the rest of a row is lost")
        other = pages[further - 1]
        parts.append(other[4 : 4 + left])
        left -= len(parts[-1])
        further = int.from_bytes(other[:4], "big")
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to nine bytes, and the place after it."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:  # noqa: PLR2004  the high bit says that there is more
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
