"""Progress display: a live line on a terminal or in a notebook, occasional plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Self

from promptopt.statistics.arrays import standard_error
from promptopt.utils.characters import printable
from promptopt.utils.streams import failsafe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console
    from rich.text import Text

    from promptopt.evaluation.ledger import Ledger
    from promptopt.search.archive import Archive
    from promptopt.search.run import Run

_LIVE_INTERVAL = 0.1  # seconds between updates on a terminal
_NOTEBOOK_INTERVAL = 0.5
_PLAIN_INTERVAL = 10.0
_HEARTBEAT_INTERVAL = 60.0  # seconds without a plain line, after which one is printed anyway
_WAITING_THRESHOLD = 5.0  # seconds without a reply, after which the live line shows the waiting time


class Display:
    """Progress on stderr, or in the output of a notebook cell. Log messages of the package appear above it.

    A reentrant context manager; `optimize` enters the display that it receives.

    Args:
        console: console to write to; by default stderr.
        quiet: show only warnings.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415  loaded when used
        from rich.live import Live  # noqa: PLC0415

        notebook = console is None and not quiet and _in_notebook()
        self.console = console or Console(file=failsafe(sys.stderr), highlight=False, force_jupyter=False)
        self._original_file: IO[str] | None = None
        terminal = self.console.is_terminal and not quiet and not notebook
        self._quiet = quiet
        self._plain = not (quiet or notebook or terminal)
        self._interval = _LIVE_INTERVAL if terminal else _NOTEBOOK_INTERVAL if notebook else _PLAIN_INTERVAL
        self._line = "starting: loading local models, first call to each model"
        self._start_time = self._last_activity = self._last_print = time.monotonic()
        self._next_update = 0.0
        self._run: Run | None = None
        self._ledger: Ledger | None = None
        self._depth = 0
        self._stopped = threading.Event()
        self._heartbeat_thread: threading.Thread | None = None
        self._logger = logging.getLogger("promptopt")
        self._log_handler = _DisplayHandler(self, logging.WARNING if quiet else logging.INFO)
        self._output = _NotebookOutput() if notebook else None
        self._live: Live | None = None
        if terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth > 1:
            return self
        self._original_file, self.console.file = self.console.file, failsafe(self.console.file)
        self._level = self._logger.level
        if not self._quiet:
            self._logger.setLevel(logging.INFO)  # includes the progress of batches
        self._logger.addHandler(self._log_handler)
        self._start_time = self._last_activity = self._last_print = time.monotonic()
        if self._live is not None:
            self._live.start()
        elif self._output is not None:
            self._output.show(self._line_with_clock())
        elif self._plain:
            self._stopped.clear()
            self._heartbeat_thread = threading.Thread(target=self._heartbeat, daemon=True)
            self._heartbeat_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._stopped.set()
        if self._heartbeat_thread is not None:
            self._heartbeat_thread.join()  # prevents a line after the end
        if self._live is not None:
            self._live.stop()
        self._logger.removeHandler(self._log_handler)
        self._logger.setLevel(self._level)
        if self._original_file is not None:
            self.console.file = self._original_file

    def follow(self, run: Run) -> None:
        """Set the run that `refresh` shows."""
        self._run, self._ledger = run, run.ledger

    def refresh(self) -> None:
        """Show the progress of the followed run, if an update is due."""
        if self._run is not None:
            self.show(self._run)

    def show(self, run: Run) -> None:
        """Show the progress of a run, if an update is due."""
        self._show(lambda: line(run))

    def count(self, ledger: Ledger) -> None:
        """Show the calls so far, if an update is due."""
        self._ledger = ledger
        self._show(lambda: " | ".join(_usage_parts(ledger)))

    def say(self, text: str) -> None:
        """Print a sentence immediately."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def _show(self, make_line: Callable[[], str]) -> None:
        now = self._last_activity = time.monotonic()
        if self._quiet or now < self._next_update:
            return
        self._next_update = now + self._interval
        self._line = make_line()
        if self._output is not None:
            self._output.show(self._line_with_clock())
        elif self._live is None:
            self._print()

    def _line_with_clock(self) -> str:
        """Return the line with the elapsed time and, during a long wait, the waiting time."""
        now = time.monotonic()
        waited = now - self._last_activity
        waiting = f"waiting {waited:.0f} s{self._awaited()} | " if waited >= _WAITING_THRESHOLD else ""
        return printable(f"{waiting}{self._line} | {_clock(now - self._start_time)}")

    def _awaited(self) -> str:
        role = self._ledger.waiting_for if self._ledger is not None else ""
        return f" for the {role} model" if role else ""

    def _render(self) -> Text:
        from rich.text import Text  # noqa: PLC0415  loaded when used

        return Text(self._line_with_clock(), no_wrap=True, overflow="ellipsis")

    def _print(self) -> None:
        self._last_print = time.monotonic()
        self.say(self._line_with_clock())

    def _heartbeat(self) -> None:
        """Print a line after a long silence, so that a log shows that the run is alive."""
        while not self._stopped.wait(
            max(self._last_print + _HEARTBEAT_INTERVAL - time.monotonic(), _HEARTBEAT_INTERVAL / 10)
        ):
            if time.monotonic() - self._last_print >= _HEARTBEAT_INTERVAL:
                self._print()


class _NotebookOutput:
    """A line in the output of a notebook cell, updated in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Replace the text."""
        from IPython.display import display  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  only notebooks have it

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _DisplayHandler(logging.Handler):
    """Shows log messages on the display."""

    def __init__(self, display: Display, level: int) -> None:
        super().__init__(level)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show a log record."""
        self._display.say(record.getMessage())


def line(run: Run) -> str:
    """Return a one-line summary of a run's progress."""
    ledger = run.ledger
    parts = [ledger.stage_name] if ledger.stage_name else []
    parts += [
        f"step {len(run.steps)}",
        _leader(run.archive),
        f"{len(run.archive):,} prompts scored",
        *_usage_parts(ledger),
    ]
    rejected = run.proposed.total() - run.proposed["usable"]
    if rejected:
        parts.append(f"{rejected:,} of {run.proposed.total():,} proposals rejected")
    return " | ".join(parts)


def _leader(archive: Archive) -> str:
    """Return the mean reward of the best of the well measured candidates, with its standard error, which costs less than an interval."""
    best = next(iter(archive.ranked()), None)
    if best is None or math.isnan(best.reward):
        return "best -"
    error = float(standard_error(archive.task_rewards([best.prompt]))[0])
    uncertainty = "" if math.isnan(error) else f"standard error {error:.3f}, "
    return f"best {best.reward:.3f} ({uncertainty}candidate {best.number})"


def _usage_parts(ledger: Ledger) -> list[str]:
    used, paid = ledger.total(ledger.logical), ledger.total(ledger.paid)
    parts = [f"{paid.calls:,} calls made"]
    if used.calls > paid.calls:
        parts.append(f"{used.calls - paid.calls:,} from the memo")
    if ledger.failed:
        parts.append(f"{ledger.failed:,} failed")
    where = f" for {ledger.stage_name}" if ledger.stage_name else ""  # later stages have shares of their own
    parts += [
        f"{remaining:,.0f} {name} left{where}" if name != "dollars" else f"${remaining:.2f} left{where}"
        for name, remaining in ledger.left().items()
    ]
    return parts + _dollars_by_role(ledger)


def _dollars_by_role(ledger: Ledger) -> list[str]:
    roles = {role: spent.dollars for role, spent in ledger.logical.items() if spent.dollars}
    return [" + ".join(f"{role} ${dollars:.3f}" for role, dollars in roles.items())] if roles else []


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel; an IPython shell on a terminal has none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
