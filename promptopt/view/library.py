"""The runs and sweeps under a folder. Reads small files only, each once for each change; follows no symbolic link."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import InputError
from promptopt.results.outcomes import FILE as OUTCOMES
from promptopt.results.outcomes import read_outcomes
from promptopt.results.result import FILE as RESULT
from promptopt.results.result import Result
from promptopt.results.summary import RunSummary
from promptopt.tracking.event_file import EVENTS
from promptopt.utils.json_values import json_object
from promptopt.utils.locks import is_locked
from promptopt.view.file_cache import FileCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.results.outcomes import Outcome

SWEEP = "sweep.json"
Status: TypeAlias = Literal["in progress", "finished", "unfinished", "interrupted", "failed", "unreadable"]

_MAX_DEPTH = 4  # folders below the one that is viewed
_TAIL = 65_536  # bytes at the end of an event file that hold its last line, but for a very long headline
_ID_DIGITS = 12
_MAX_RESULTS = 4  # results kept in memory, each up to some hundred megabytes


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run in the list.

    Args:
        id: in addresses; a digest of the path.
        name: path below the folder that is viewed.
        folder: of the run.
        status: how far it came.
        time: seconds since 1970 of its end, or of its last event; while it is in progress, of its start.
        summary: None if it has no result yet.
        started: its first event, for a run without a summary; {} if there is none.
        progress: its last state while it is in progress; {} before the first.
        error: why it failed or cannot be read, or "".
    """

    id: str
    name: str
    folder: Path
    status: Status
    time: float
    summary: RunSummary | None = None
    started: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def live(self) -> bool:
        """Whether the run is in progress."""
        return self.status == "in progress"


@dataclass(frozen=True, kw_only=True)
class SweepEntry:
    """A sweep in the list.

    Args:
        id: in addresses.
        name: path below the folder that is viewed.
        folder: of the sweep.
        time: seconds since 1970 of its table.
    """

    id: str
    name: str
    folder: Path
    time: float


class _Folder(NamedTuple):
    """A folder at or below the one that is viewed.

    Args:
        path: below the one that is viewed, with forward slashes; "." for that one itself.
        location: where it is.
        files: names of its files.
    """

    path: str
    location: str
    files: frozenset[str]

    @property
    def id(self) -> str:
        """A digest of the path."""
        return hashlib.sha256(self.path.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_DIGITS]

    @property
    def name(self) -> str:
        """The path; of the folder that is viewed, its own name."""
        return self.path if self.path != "." else Path(self.location).resolve().name

    @property
    def holds_run(self) -> bool:
        """Whether it is the folder of a run."""
        return RESULT in self.files or EVENTS in self.files


class Library:
    """Everything under a folder.

    Args:
        folder: to view.

    Raises:
        InputError: it is not a folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"there is no folder {self.folder}: give one that holds runs, or start a run first")
        self._summaries: FileCache[RunEntry] = FileCache()
        self._results: FileCache[Result] = FileCache(_MAX_RESULTS)
        self._outcomes: FileCache[tuple[Outcome, ...]] = FileCache(_MAX_RESULTS)

    def runs(self) -> list[RunEntry]:
        """Return all runs, the newest first."""
        return self.contents()[0]

    def contents(self) -> tuple[list[RunEntry], list[SweepEntry]]:
        """Return all runs and all sweeps with a table, the newest first."""
        folders = list(self._folders())
        runs = [self._entry(found.id, found.name, found.location) for found in folders if found.holds_run]
        sweeps = [_sweep(found) for found in folders if SWEEP in found.files]
        return sorted(runs, key=_newest_first), sorted(sweeps, key=_newest_first)

    def run(self, run_id: str) -> RunEntry | None:
        """Return the run with this id, None if there is none."""
        found = self._find(run_id)
        return self._entry(run_id, found.name, found.location) if found is not None and found.holds_run else None

    def current(self, entry: RunEntry) -> RunEntry:
        """Return a run as it is now, without looking at the others."""
        return self._entry(entry.id, entry.name, str(entry.folder))

    def sweep(self, sweep_id: str) -> SweepEntry | None:
        """Return the sweep with this id, None if there is none."""
        found = self._find(sweep_id)
        return _sweep(found) if found is not None and SWEEP in found.files else None

    def result(self, entry: RunEntry) -> Result:
        """Return the result of a run.

        Raises:
            InputError: it has none, or none that can be read.
        """
        file = entry.folder / RESULT
        if not is_own_file(file):
            raise InputError(f"the run {entry.name} has no {RESULT}: it may have been moved or deleted")
        return self._results.get(entry.id, (file,), lambda: Result.load(file))

    def outcomes(self, entry: RunEntry) -> tuple[Outcome, ...]:
        """Return the test replies of a run; () without any.

        Raises:
            InputError: they cannot be read.
        """
        file = entry.folder / OUTCOMES
        if not is_own_file(file):
            return ()
        return self._outcomes.get(entry.id, (file,), lambda: read_outcomes(file))

    def report_files(self, entry: RunEntry) -> tuple[Path, ...]:
        """Return the files that `result` and `outcomes` read."""
        return entry.folder / RESULT, entry.folder / OUTCOMES

    def _find(self, folder_id: str) -> _Folder | None:
        return next((found for found in self._folders() if found.id == folder_id), None)

    def _folders(self) -> Iterator[_Folder]:
        """Yield each folder. Names are joined by hand, because a list of 500 runs does it a thousand times."""
        open_folders = [(".", str(self.folder), 0)]
        while open_folders:
            path, location, depth = open_folders.pop()
            files = set[str]()
            try:
                with os.scandir(location) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False):
                            files.add(entry.name)
                        elif depth < _MAX_DEPTH and entry.is_dir(follow_symlinks=False):
                            below = entry.name if path == "." else f"{path}/{entry.name}"
                            open_folders.append((below, entry.path, depth + 1))
            except OSError:  # not readable, or deleted meanwhile
                continue
            yield _Folder(path, location, frozenset(files))

    def _entry(self, run_id: str, name: str, location: str) -> RunEntry:
        files = (os.path.join(location, EVENTS), os.path.join(location, RESULT))  # noqa: PTH118  as in `_folders`
        entry = self._summaries.get(run_id, files, lambda: _read_entry(run_id, name, Path(location)))
        if entry.live and not _in_progress(entry.folder / EVENTS):
            return _read_entry(run_id, name, entry.folder)
        return entry


def _sweep(found: _Folder) -> SweepEntry:
    folder = Path(found.location)
    return SweepEntry(id=found.id, name=found.name, folder=folder, time=_modified(folder / SWEEP))


def _newest_first(entry: RunEntry | SweepEntry) -> tuple[float, str]:
    return -entry.time, entry.name


def _read_entry(run_id: str, name: str, folder: Path) -> RunEntry:
    events = folder / EVENTS
    first, lines = _read_events(events) if is_own_file(events) else ({}, [])
    last = _object(lines[-1]) if lines else {}
    time = float(last.get("time") or _modified(events))
    entry = RunEntry(id=run_id, name=name, folder=folder, status="interrupted", time=time, started=first)
    if first and _in_progress(events):
        start = float(first.get("time") or time)
        return replace(entry, status="in progress", time=start, progress=_last_progress(lines))
    if last.get("event") == "failed":
        return replace(entry, status="failed", error=str(last.get("error", "")))
    try:
        return _ended(entry, last)
    except ValueError as error:  # InputError is one
        return replace(entry, status="unreadable", error=str(error))


def _ended(entry: RunEntry, last: dict[str, Any]) -> RunEntry:
    """Return a run with the summary that it wrote last, or of its result; as it is without a result.

    Raises:
        ValueError: neither can be read.
    """
    result = entry.folder / RESULT
    if not is_own_file(result):
        return entry
    if last.get("event") == "finished":
        summary = RunSummary.from_json({name: value for name, value in last.items() if name not in {"event", "time"}})
    else:
        summary = RunSummary.of(Result.load(result))
    if entry.started and last.get("event") != "finished":  # begun again: the result is that of the time before
        return replace(entry, summary=summary)
    time = entry.time or _modified(result)
    return replace(entry, status="unfinished" if summary.unfinished else "finished", time=time, summary=summary)


def is_own_file(path: Path) -> bool:
    """Whether a path is a file itself, not a link to one."""
    return path.is_file() and not path.is_symlink()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _in_progress(events: Path) -> bool:
    try:
        return is_own_file(events) and is_locked(events)
    except OSError:
        return False


def _read_events(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Return the first whole line of an event file, {} without one, and its last whole lines."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - _TAIL, 0))
            return _object(first), file.read().split(b"\n")[:-1]
    except OSError:
        return {}, []


def _last_progress(lines: list[bytes]) -> dict[str, Any]:
    events = map(_object, reversed(lines))
    return next((event for event in events if event.get("event") == "progress"), {})


def _object(line: bytes) -> dict[str, Any]:
    return json_object(line.decode("utf-8", "replace")) or {}


def read_sweep(entry: SweepEntry) -> dict[str, Any]:
    """Return the saved table of a sweep; {} if it cannot be read."""
    try:
        value = json.loads((entry.folder / SWEEP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
