"""The event file of a run: what happens in it, one line of JSON each, for anyone who watches it from another process.

The file is locked while the run lives, so that a reader can tell a run in progress from one that was killed. The run's folder is
also where another process asks the run to end.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Self

from promptopt.errors import PromptoptError
from promptopt.results.summary import RunSummary
from promptopt.statistics import mean_interval
from promptopt.tracking.events import RunFinished, RunStarted, StepFinished, Tracker
from promptopt.utils.locks import try_lock

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from promptopt.evaluation.calls import Stop
    from promptopt.evaluation.ledger import Budget, Spending
    from promptopt.results.result import Record, Result
    from promptopt.search.archive import Candidate
    from promptopt.search.run import Run
    from promptopt.statistics import Interval
    from promptopt.tracking.events import Event

EVENTS = "events.jsonl"
"""Name of the event file in the folder of a run."""

STOP_REQUEST = "stop-requested"
"""Name of the file in the folder of a run that asks the run to end, as Ctrl-C does."""

_PROGRESS_INTERVAL = 0.5  # seconds between two looks at the progress
_STOP_INTERVAL = 0.25  # seconds between two looks for a request to stop

_log = logging.getLogger(__name__)


class EventFile(Tracker):
    """Writes the event file of a run, and ends the run when its folder says so. A context manager.

    Args:
        folder: of the run; it exists.
        budget: of the run.
        stop: set when the run is asked to end.
    """

    def __init__(self, folder: Path, budget: Budget, stop: Stop) -> None:
        super().__init__()
        self._path = folder / EVENTS
        self._request = folder / STOP_REQUEST
        self._budget = budget
        self._stop = stop
        self._file: IO[bytes] | None = None
        self._writing = threading.Lock()
        self._run: Run | None = None
        self._written: dict[str, Any] = {}  # the last progress
        self._best_interval: tuple[bytes, Interval] | None = None
        self._ended = threading.Event()
        self._watchers = (
            threading.Thread(target=self._watch_for_stop, name="promptopt stop request", daemon=True),
            threading.Thread(target=self._watch_progress, name="promptopt progress", daemon=True),
        )

    def __str__(self) -> str:
        return str(self._path)

    def __enter__(self) -> Self:
        self._attempt(self._open)
        for watcher in self._watchers:
            watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_watching()
        if error is not None:
            self._attempt(lambda: self._write("failed", error=_described(error)))
        if self._file is not None:
            with suppress(OSError):
                self._request.unlink(missing_ok=True)
            self._file.close()  # which unlocks it

    def follow(self, run: Run) -> None:
        """Set the run whose progress is written."""
        self._run = run

    def write_progress(self) -> None:
        """Write the progress of the followed run, unless it is as it was written last."""
        if self._run is None:
            return
        progress = self._progress(self._run)
        if progress != self._written:
            self._written = progress
            self._write("progress", **progress)

    def finish(self, result: Result) -> None:
        """Write the end of the run."""
        self(RunFinished(result))

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        if not try_lock(self._file):
            self._file.close()
            self._file = None
            raise BlockingIOError("another process runs in the same folder and writes it")
        self._file.truncate()
        self._request.unlink(missing_ok=True)

    def _handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._write("started", pid=os.getpid(), **asdict(event))
            case StepFinished():
                candidates = [_candidate(record) for record in event.candidates]
                self._write("step", number=event.number, facts=event.facts, candidates=candidates)
            case RunFinished():
                self._end_watching()  # so that nothing comes after the end
                self.write_progress()
                self._write("finished", **RunSummary.of(event.result).to_json())

    def _write(self, kind: str, **values: Any) -> None:
        if self._file is None:
            return
        line = json.dumps({"event": kind, "time": time.time(), **values}, ensure_ascii=False, default=str)
        with self._writing:
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # one write: a reader sees whole lines

    def _progress(self, run: Run) -> dict[str, Any]:
        ledger = run.ledger
        used = ledger.total(ledger.logical)
        limits = {name: limit for name, limit in asdict(self._budget).items() if limit is not None}
        return {
            "stage": ledger.stage_name,
            "step": len(run.steps),
            "candidates": len(run.archive),
            "best": self._best(run),
            "used": {role: _spent(spending) for role, spending in ledger.logical.items()},
            "paid": {role: _spent(spending) for role, spending in ledger.paid.items()},
            "limits": limits,
            "left": {name: max(limit - getattr(used, name), 0.0) for name, limit in limits.items()},
            "failed": ledger.failed,
            "proposed": dict(run.proposed),
            "unusable": dict(run.unusable),
            "stopping": self._stop.requested,
        }

    def _best(self, run: Run) -> dict[str, Any] | None:
        """Return the best candidate so far, with the mean of its training rewards and its interval."""
        ranked = run.archive.ranked()
        if not ranked:
            return None
        best = ranked[0]
        estimate, low, high = (value if math.isfinite(value) else None for value in self._interval(run, best))
        return {
            "number": best.number,
            "text": str(best.prompt),
            "reward": estimate,
            "low": low,
            "high": high,
            "examples": best.examples,
        }

    def _interval(self, run: Run, best: Candidate) -> Interval:
        """Return the interval of a candidate's rewards. It is kept: a bootstrap takes 25 milliseconds."""
        rewards = run.archive.task_rewards([best.prompt])[0]
        key = rewards.tobytes()
        if self._best_interval is None or self._best_interval[0] != key:
            self._best_interval = key, mean_interval(rewards)
        return self._best_interval[1]

    def _watch_progress(self) -> None:
        """Write the progress twice a second, also while the run waits for a slow reply."""
        while not self._ended.wait(_PROGRESS_INTERVAL):
            self._attempt(self._look)

    def _look(self) -> None:
        """Write the progress of a run that goes on meanwhile: where a table changes while it is read, the next look reads it."""
        with suppress(RuntimeError, IndexError):
            self.write_progress()

    def _watch_for_stop(self) -> None:
        while not self._ended.wait(_STOP_INTERVAL):
            if self._request.exists():
                _log.warning("stopping: %s asks for it; keeping the best so far", self._request)
                self._stop.requested = True
                return

    def _end_watching(self) -> None:
        self._ended.set()
        for watcher in self._watchers:
            watcher.join()


def _candidate(record: Record) -> list[Any]:
    """Return what a curve and a table need: number, parent, length, reward, calls, dollars."""
    return [record.number, record.parent, record.length, record.reward, record.calls, record.dollars]


def _spent(spending: Spending) -> dict[str, float]:
    return {"calls": spending.calls, "tokens": spending.tokens, "dollars": spending.dollars}


def _described(error: BaseException) -> str:
    """Return an error in words. The package's own never hold a key; of others, which may, only the kind is written."""
    return str(error) if isinstance(error, PromptoptError) else type(error).__name__
