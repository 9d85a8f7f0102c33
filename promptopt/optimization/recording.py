"""What a run writes into its folder while it goes on: events and replies. Never changes what the run does.

`promptopt view` reads it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptopt.results.cells import CellRecorder
from promptopt.tracking.event_file import EventFile

if TYPE_CHECKING:
    from collections.abc import Generator

    from promptopt.evaluation.calls import Stop
    from promptopt.optimization.job import Job
    from promptopt.results.result import Result
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.tracking import Callback


@dataclass(frozen=True)
class Recording:
    """The files that a run writes while it goes on.

    Args:
        events: its events; None for a run without a folder.
        cells: its replies; None likewise.
    """

    events: EventFile | None = None
    cells: CellRecorder | None = None

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Receivers of the events before the last."""
        return () if self.events is None else (self.events,)

    def observe(self, scores: Scores) -> None:
        """Write scores."""
        if self.cells is not None:
            self.cells.add(scores)

    def follow(self, run: Run) -> None:
        """Set the run whose progress is written."""
        if self.events is not None:
            self.events.follow(run)

    def finish(self, result: Result) -> None:
        """Write the end."""
        if self.events is not None:
            self.events.finish(result)


NOT_RECORDED = Recording()


@contextmanager
def record_run(job: Job, folder: Path | str | None, stop: Stop) -> Generator[Recording]:
    """Record a run in its folder; without a folder, nothing is written.

    Args:
        job: the run.
        folder: of the run.
        stop: set when the folder asks the run to end.
    """
    if folder is None:
        yield NOT_RECORDED
        return
    with CellRecorder(Path(folder), job.task) as cells, EventFile(Path(folder), job.budget, stop) as events:
        yield Recording(events, cells)
