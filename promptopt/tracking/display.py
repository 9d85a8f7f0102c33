"""Shows a run while it goes: a live line on a terminal or in a notebook, a plain line now and then elsewhere. Decides nothing."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Self

from promptopt.utils.characters import printable
from promptopt.utils.streams import failsafe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console
    from rich.text import Text

    from promptopt.evaluation.ledger import Ledger
    from promptopt.search.run import Run

_LIVE_SECONDS = 0.1
_NOTEBOOK_SECONDS = 0.5
_PLAIN_SECONDS = 10.0
_SILENT_SECONDS = 60.0  # without a plain line, after which one says that the run is alive
_WAITING_SECONDS = 5.0  # without a reply, from which on the live line counts them


class Display:
    """Progress on standard error, or in the cell of a notebook. What the package logs meanwhile is shown above it.

    A context manager that may be entered again while it is; `optimize` enters the one that it is given.

    Args:
        console: where to write; by default standard error.
        quiet: show warnings alone.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415  loaded when used
        from rich.live import Live  # noqa: PLC0415

        notebook = console is None and not quiet and _in_notebook()
        self.console = console or Console(file=failsafe(sys.stderr), highlight=False, force_jupyter=False)
        self._given_file: IO[str] | None = None
        terminal = self.console.is_terminal and not quiet and not notebook
        self._quiet = quiet
        self._plain = not (quiet or notebook or terminal)
        self._every = _LIVE_SECONDS if terminal else _NOTEBOOK_SECONDS if notebook else _PLAIN_SECONDS
        self._line = "starting: a local model is loaded, each model is asked for the first time"
        self._began = self._moved = self._shown = time.monotonic()
        self._next = 0.0
        self._entered = 0
        self._over = threading.Event()
        self._beating: threading.Thread | None = None
        self._logger = logging.getLogger("promptopt")
        self._said = _Said(self, logging.WARNING if quiet else logging.INFO)
        self._cell = _Cell() if notebook else None
        self._live: Live | None = None
        if terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._rendered)

    def __enter__(self) -> Self:
        self._entered += 1
        if self._entered > 1:
            return self
        self._given_file, self.console.file = self.console.file, failsafe(self.console.file)
        self._level = self._logger.level
        if not self._quiet:
            self._logger.setLevel(logging.INFO)  # such as how far a batch is
        self._logger.addHandler(self._said)
        self._began = self._moved = self._shown = time.monotonic()
        if self._live is not None:
            self._live.start()
        elif self._cell is not None:
            self._cell.show(self._whole())
        elif self._plain:
            self._over.clear()
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered:
            return
        self._over.set()
        if self._beating is not None:
            self._beating.join()  # no line comes after the end
        if self._live is not None:
            self._live.stop()
        self._logger.removeHandler(self._said)
        self._logger.setLevel(self._level)
        if self._given_file is not None:
            self.console.file = self._given_file

    def show(self, run: Run) -> None:
        """Show where a run is, if it is time to."""
        self._show(lambda: line(run))

    def count(self, ledger: Ledger) -> None:
        """Show what was asked so far, if it is time to."""
        self._show(lambda: " | ".join(_spent(ledger)))

    def say(self, text: str) -> None:
        """Show a sentence at once."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def _show(self, made: Callable[[], str]) -> None:
        now = self._moved = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + self._every
        self._line = made()
        if self._cell is not None:
            self._cell.show(self._whole())
        elif self._live is None:
            self._print()

    def _whole(self) -> str:
        """Return the line with a clock, which shows that a long wait is one."""
        now = time.monotonic()
        waited = now - self._moved
        waiting = f" | waiting for {waited:.0f} s" if waited >= _WAITING_SECONDS else ""
        return printable(f"{self._line} | {_clock(now - self._began)}{waiting}")

    def _rendered(self) -> Text:
        from rich.text import Text  # noqa: PLC0415  loaded when used

        return Text(self._whole(), no_wrap=True, overflow="ellipsis")

    def _print(self) -> None:
        self._shown = time.monotonic()
        self.say(self._whole())

    def _beat(self) -> None:
        """Print a line where none was for long: whoever reads a log should see that the run is alive."""
        while not self._over.wait(max(self._shown + _SILENT_SECONDS - time.monotonic(), _SILENT_SECONDS / 10)):
            if time.monotonic() - self._shown >= _SILENT_SECONDS:
                self._print()


class _Cell:
    """A line in the output of a notebook's cell, changed in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        from IPython.display import display  # noqa: PLC0415  only notebooks have it

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _Said(logging.Handler):
    """Shows what is logged."""

    def __init__(self, display: Display, level: int) -> None:
        super().__init__(level)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message."""
        self._display.say(record.getMessage())


def line(run: Run) -> str:
    """Return one line on where a run is."""
    ledger = run.scorer.caller.ledger
    best = max((c.reward for c in run.history.values() if c.cells), default=None)
    parts = [ledger.stage] if ledger.stage else []
    parts += [
        f"step {len(run.steps)}",
        "best -" if best is None else f"best {best:.3f}",
        f"{len(run.history):,} prompts scored",
        *_spent(ledger),
    ]
    return " | ".join(parts)


def _spent(ledger: Ledger) -> list[str]:
    used, paid = ledger.total(ledger.logical), ledger.total(ledger.paid)
    parts = [f"{paid.calls:,} calls made", f"{max(used.calls - paid.calls, 0):,} from the memo"]
    if ledger.failed:
        parts.append(f"{ledger.failed:,} failed")
    return parts + [
        f"{left:,.0f} {name} left" if name != "dollars" else f"${left:.2f} left" for name, left in ledger.left().items()
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; a shell of IPython on a terminal has none."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    return getattr(shell, "kernel", None) is not None
