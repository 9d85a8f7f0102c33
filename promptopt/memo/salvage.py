"""Recovers the entries of a memo from a damaged SQLite file, page by page, without SQLite.

Leaf pages can be read even if the pages that link to them are damaged. A row counts as an entry if its checksum matches.
Format: https://www.sqlite.org/fileformat2.html. Knows nothing of what the values mean.
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

_HEADER, _LOG_HEADER, _FRAME_HEADER = (
    100,
    32,
    24,
)  # bytes: of the file, of its write-ahead log, of each frame in the log
_LEAF = 13  # first byte of a page that holds rows
_KEY, _TIME, _VALUE, _COLUMNS = 1, 3, 11, 12  # column numbers; column 0, the row id, is stored outside the record
_FIXED = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # size in bytes by column type
_REAL, _FIRST_BLOB = 7, 12
_SIZES = (4096, 512, 1024, 2048, 8192, 16384, 32768, 65536)


class Salvaged(NamedTuple):
    """A recovered entry: key, time stored (seconds since 1970) and value."""

    key: str
    stored: float
    value: Any

    @property
    def line(self) -> bytes:
        """The entry as a line of an export."""
        return to_line(self.key, self.value, self.stored)


def salvage(folder: Path) -> list[Salvaged]:
    """Return the entries that can still be read, sorted by time and key; the last one stored for each key.

    Deleted entries that have not been overwritten are recovered too, and so are those in the write-ahead log.

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
        raise InputError(f"the memo's file {database} cannot be read ({error}): give its folder with --memo") from error
    entries: dict[str, Salvaged] = {}
    for size in _page_sizes(data):
        pages = [data[start : start + size] for start in range(0, len(data), size)]
        # Long rows continue on overflow pages, and the log may hold newer versions of those.
        log_pages = dict(_log_pages(logged, size))
        for version in (pages, *([_apply_log(pages, log_pages)] if log_pages else [])):
            for entry in _entries(version):
                previous = entries.get(entry.key)
                if previous is None or previous.stored <= entry.stored:
                    entries[entry.key] = entry
        if entries:
            break
    return sorted(entries.values(), key=lambda entry: (entry.stored, entry.key))


def _page_sizes(data: bytes) -> list[int]:
    """Return the page sizes to try: the declared one first, then the other valid ones."""
    declared = int.from_bytes(data[16:18], "big")
    declared = 65536 if declared == 1 else declared
    return [declared, *(size for size in _SIZES if size != declared)] if declared in _SIZES else [*_SIZES]


def _log_pages(log: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (page number from 0, page) for each frame of a log; for a repeated number the last one is valid."""
    frame = _FRAME_HEADER + size
    for start in range(_LOG_HEADER, len(log) - frame + 1, frame):
        yield int.from_bytes(log[start : start + 4], "big") - 1, log[start + _FRAME_HEADER : start + frame]


def _apply_log(pages: list[bytes], log_pages: dict[int, bytes]) -> list[bytes]:
    most = len(pages) + len(log_pages)
    count = max(len(pages), 1 + max((number for number in log_pages if number < most), default=-1))
    return [log_pages.get(number, pages[number] if number < len(pages) else b"") for number in range(count)]


def _entries(pages: list[bytes]) -> Iterator[Salvaged]:
    for number, page in enumerate(pages):
        head = _HEADER if number == 0 else 0
        if len(page) <= head + 8 or page[head] != _LEAF:
            continue
        count = min(int.from_bytes(page[head + 3 : head + 5], "big"), len(page) // 2)
        for offset in range(head + 8, head + 8 + 2 * count, 2):
            with suppress(ValueError, IndexError, struct.error):
                yield _entry(_row(page, int.from_bytes(page[offset : offset + 2], "big"), pages))


def _entry(row: list[Any]) -> Salvaged:
    """Return the entry of a row.

    Raises:
        ValueError: the row is not an entry.
    """
    if len(row) < _COLUMNS or not isinstance(row[_KEY], str) or not isinstance(row[_VALUE], bytes):
        raise ValueError("not a row of a memo")
    stored = float(row[_TIME]) if isinstance(row[_TIME], int | float) and 0 <= row[_TIME] < END_OF_TIME else 0.0
    return Salvaged(row[_KEY], stored, unpack(row[_KEY], row[_VALUE]))


def _row(page: bytes, start: int, pages: list[bytes]) -> list[Any]:
    """Return the columns of the row that starts at byte `start` of a page.

    Raises:
        ValueError: it is damaged.
        IndexError: likewise.
    """
    length, offset = _varint(page, start)
    _, offset = _varint(page, offset)
    record = _record(page, offset, length, pages)
    header_end, offset = _varint(record, 0)
    types = []
    while offset < header_end:
        kind, offset = _varint(record, offset)
        types.append(kind)
    columns: list[Any] = []
    offset = header_end
    for kind in types:
        size = _FIXED[kind] if kind in _FIXED else (kind - _FIRST_BLOB) // 2
        if size < 0 or offset + size > len(record):
            raise ValueError("a column ends after its row")
        columns.append(_column(kind, record[offset : offset + size]))
        offset += size
    return columns


def _column(kind: int, data: bytes) -> Any:
    decode: Callable[[bytes], Any]
    if kind == 0:
        return None
    if kind == _REAL:
        return struct.unpack(">d", data)[0]
    decode = (
        (bytes, bytes.decode)[kind % 2] if kind >= _FIRST_BLOB else lambda raw: int.from_bytes(raw, "big", signed=True)
    )
    return decode(data)


def _record(page: bytes, start: int, length: int, pages: list[bytes]) -> bytes:
    """Return the bytes of a row, including those on overflow pages."""
    usable = len(page)
    if length <= usable - 35:
        return page[start : start + length]
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)  # bytes on this page
    local = local if local <= usable - 35 else least
    parts, remaining = [page[start : start + local]], length - local
    overflow_page = int.from_bytes(page[start + local : start + local + 4], "big")
    for _ in pages:  # bounds the loop: a damaged chain may be a cycle
        if remaining <= 0:
            break
        if not 0 < overflow_page <= len(pages):
            raise ValueError("the rest of a row is lost")
        overflow = pages[overflow_page - 1]
        parts.append(overflow[4 : 4 + remaining])
        remaining -= len(parts[-1])
        overflow_page = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Decode a variable-length integer of up to nine bytes; return it and the offset after it."""
    value = 0
    for offset in range(start, start + 8):
        value = value << 7 | data[offset] & 0x7F
        if data[offset] < 0x80:  # noqa: PLR2004  a clear high bit marks the last byte
            return value, offset + 1
    return value << 8 | data[start + 8], start + 9
