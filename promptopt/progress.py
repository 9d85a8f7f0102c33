"""Shows a run while it goes: one live line on a terminal, a plain line now and then elsewhere. Decides nothing."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from promptopt.run import Run

_LIVE_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Display:
    """Progress of one run on standard error; a context manager. What the package logs meanwhile is shown above it.

    Args:
        console: where to write; by default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console  # noqa: PLC0415  loaded when used
        from rich.live import Live  # noqa: PLC0415

        self.console = console or Console(stderr=True, highlight=False)
        self._live = (
            Live(console=self.console, refresh_per_second=10, transient=True) if self.console.is_terminal else None
        )
        self._next = 0.0
        self._logger = logging.getLogger("promptopt")
        self._said = _Said(self)

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)  # such as how far a batch is
        self._logger.addHandler(self._said)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._logger.removeHandler(self._said)
        self._logger.setLevel(self._level)

    def show(self, run: Run) -> None:
        """Show where the run is, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_LIVE_SECONDS if self._live is not None else _PLAIN_SECONDS)
        self._put(line(run))

    def say(self, text: str) -> None:
        """Show a sentence at once."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _put(self, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415  loaded when used

        if self._live is not None:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        else:
            self.console.print(text, markup=False, soft_wrap=True)


class _Said(logging.Handler):
    """Shows what is logged."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message."""
        self._display.say(record.getMessage())


def line(run: Run) -> str:
    """Return one line on where a run is."""
    ledger = run.scorer.caller.ledger
    used, paid = ledger.total(ledger.logical), ledger.total(ledger.paid)
    best = max((c.reward for c in run.history.values() if c.cells), default=None)
    parts: list[Any] = [
        f"step {len(run.steps)}",
        "best -" if best is None else f"best {best:.3f}",
        f"{len(run.history):,} prompts scored",
        f"{paid.calls:,} calls made",
        f"{max(used.calls - paid.calls, 0):,} from the memo",
    ]
    if ledger.failed:
        parts.append(f"{ledger.failed:,} failed")
    parts += [
        f"{left:,.0f} {name} left" if name != "dollars" else f"${left:.2f} left" for name, left in ledger.left().items()
    ]
    return " | ".join(parts)
