"""The runs and sweeps under a folder. Reads small files only, each once for each change; follows no symbolic link."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from promptopt.errors import InputError
from promptopt.results.outcomes import FILE as OUTCOMES
from promptopt.results.outcomes import read_outcomes
from promptopt.results.result import FILE as RESULT
from promptopt.results.result import Result
from promptopt.results.summary import RunSummary
from promptopt.tracking.event_file import EVENTS
from promptopt.utils.json_values import json_object
from promptopt.utils.locks import is_locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from promptopt.results.outcomes import Outcome

SWEEP = "sweep.json"
Status: TypeAlias = Literal["in progress", "finished", "unfinished", "interrupted", "failed", "unreadable"]

_MAX_DEPTH = 4  # folders below the one that is viewed
_TAIL = 65_536  # bytes at the end of an event file that hold its last line, but for a very long headline
_ID_DIGITS = 12
_MAX_RESULTS = 4  # results kept in memory, each up to some hundred megabytes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run in the list.

    Args:
        id: in addresses; a digest of the path.
        name: path below the folder that is viewed.
        folder: of the run.
        status: how far it came.
        time: seconds since 1970 of its end, or of the last event.
        summary: None if it has no result yet.
        started: its first event, for a run without a summary; {} if there is none.
        error: why it failed or cannot be read, or "".
    """

    id: str
    name: str
    folder: Path
    status: Status
    time: float
    summary: RunSummary | None = None
    started: dict[str, Any] = field(default_factory=dict)
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
        self._summaries: _Cache[RunEntry] = _Cache()
        self._results: _Cache[Result] = _Cache(_MAX_RESULTS)
        self._outcomes: _Cache[tuple[Outcome, ...]] = _Cache(_MAX_RESULTS)

    def runs(self) -> list[RunEntry]:
        """Return all runs, the newest first."""
        entries = [self._entry(folder) for folder, names in self._folders() if names & {RESULT, EVENTS}]
        return sorted(entries, key=lambda entry: (-entry.time, entry.name))

    def sweeps(self) -> list[SweepEntry]:
        """Return all sweeps with a table, the newest first."""
        entries = [
            SweepEntry(
                id=self._id(folder), name=self._name(folder), folder=folder, time=(folder / SWEEP).stat().st_mtime
            )
            for folder, names in self._folders()
            if SWEEP in names
        ]
        return sorted(entries, key=lambda entry: (-entry.time, entry.name))

    def run(self, run_id: str) -> RunEntry | None:
        """Return the run with this id, None if there is none."""
        matches = (folder for folder, names in self._folders() if names & {RESULT, EVENTS})
        return next((self._entry(folder) for folder in matches if self._id(folder) == run_id), None)

    def current(self, entry: RunEntry) -> RunEntry:
        """Return a run as it is now, without looking at the others."""
        return self._entry(entry.folder)

    def sweep(self, sweep_id: str) -> SweepEntry | None:
        """Return the sweep with this id, None if there is none."""
        return next((entry for entry in self.sweeps() if entry.id == sweep_id), None)

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

    def _folders(self) -> Iterator[tuple[Path, frozenset[str]]]:
        """Yield each folder with the names of its files."""
        open_folders = [(self.folder, 0)]
        while open_folders:
            folder, depth = open_folders.pop()
            names = set[str]()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False):
                            names.add(entry.name)
                        elif depth < _MAX_DEPTH and entry.is_dir(follow_symlinks=False):
                            open_folders.append((Path(entry.path), depth + 1))
            except OSError:  # not readable, or deleted meanwhile
                continue
            yield folder, frozenset(names)

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.folder).as_posix() if folder != self.folder else folder.resolve().name

    def _id(self, folder: Path) -> str:
        path = folder.relative_to(self.folder).as_posix().encode("utf-8", "surrogateescape")
        return hashlib.sha256(path).hexdigest()[:_ID_DIGITS]

    def _entry(self, folder: Path) -> RunEntry:
        run_id = self._id(folder)
        files = (folder / EVENTS, folder / RESULT)
        entry = self._summaries.get(run_id, files, lambda: self._read_entry(run_id, folder))
        if entry.live and not _in_progress(folder / EVENTS):
            return self._read_entry(run_id, folder)
        return entry

    def _read_entry(self, run_id: str, folder: Path) -> RunEntry:
        events = folder / EVENTS
        first, last = _ends(events) if is_own_file(events) else ({}, {})
        time = float(last.get("time") or _modified(events))
        entry = RunEntry(
            id=run_id, name=self._name(folder), folder=folder, status="interrupted", time=time, started=first
        )
        if first and _in_progress(events):
            return replace(entry, status="in progress")
        if last.get("event") == "failed":
            return replace(entry, status="failed", error=str(last.get("error", "")))
        try:
            return _ended(entry, last)
        except ValueError as error:  # InputError is one
            return replace(entry, status="unreadable", error=str(error))


def _ended(entry: RunEntry, last: dict[str, Any]) -> RunEntry:
    """Return a run with the summary that it wrote last, or of its result; as it is without both.

    Raises:
        ValueError: neither can be read.
    """
    result = entry.folder / RESULT
    if last.get("event") == "finished":
        summary = RunSummary.from_json({name: value for name, value in last.items() if name not in {"event", "time"}})
    elif is_own_file(result):
        summary = RunSummary.of(Result.load(result))
    else:
        return entry
    if entry.started and last.get("event") != "finished":  # begun again: the result is that of the time before
        return replace(entry, summary=summary)
    time = entry.time or _modified(result)
    return replace(entry, status="unfinished" if summary.unfinished else "finished", time=time, summary=summary)


class _Cache(dict[str, tuple[Any, T]]):
    """Values read from files, read again when one of these changes. Keeps the newest `most`; all by default."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._most = most

    def get(self, key: str, files: tuple[Path, ...], read: Callable[[], T]) -> T:  # type: ignore[override]
        """Return the value, read now or before."""
        state = tuple(_state(file) for file in files)
        held = super().get(key)
        if held is None or held[0] != state:
            held = (state, read())
            self[key] = held
            while self._most is not None and len(self) > self._most:
                self.pop(next(iter(self)), None)
        return held[1]


def is_own_file(path: Path) -> bool:
    """Whether a path is a file itself, not a link to one."""
    return path.is_file() and not path.is_symlink()


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


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


def _ends(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first and the last whole line of an event file; {} for what is not there."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - _TAIL, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return {}, {}
    last = lines[-2] if len(lines) > 1 else b""
    return _object(first), _object(last)


def _object(line: bytes) -> dict[str, Any]:
    return json_object(line.decode("utf-8", "replace")) or {}


def read_sweep(entry: SweepEntry) -> dict[str, Any]:
    """Return the saved table of a sweep; {} if it cannot be read."""
    try:
        value = json.loads((entry.folder / SWEEP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
