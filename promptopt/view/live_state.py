"""The state of a run by its event file, read on from where it was read last. Knows nothing of pages."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.tracking.event_file import EVENTS
from promptopt.view.library import is_own_file

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN_STEPS = 12
_NO_PROGRESS: dict[str, Any] = {
    "stage": "",
    "step": 0,
    "candidates": 0,
    "best": None,
    "used": {},
    "paid": {},
    "limits": {},
    "left": {},
    "failed": 0,
    "proposed": {},
    "unusable": {},
    "stopping": False,
}


class CurvePoint(NamedTuple):
    """A candidate on the curve.

    Args:
        number: of the candidate.
        calls: calls used when it was first scored.
        reward: mean training reward when its step ended.
    """

    number: int
    calls: float
    reward: float


class Step(NamedTuple):
    """A step of the search, in words.

    Args:
        number: from 0.
        candidates: first scored in it.
        facts: what the strategy reports, as (name, value).
    """

    number: int
    candidates: int
    facts: list[tuple[str, str]]


@dataclass
class LiveState:
    """What is known of a run in progress.

    Args:
        folder: of the run.
        started: the first event; {} before it.
        progress: the last state.
        points: candidates on the curve, in order.
        steps: the last steps, the newest first.
        end: the last event, "finished" or "failed", with its values; {} before it.
    """

    folder: Path
    started: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=_NO_PROGRESS.copy)
    points: list[CurvePoint] = field(default_factory=list)
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=_SHOWN_STEPS))
    end: dict[str, Any] = field(default_factory=dict)
    _position: int = 0

    def read(self) -> bool:
        """Read the lines written since the last time; return whether there were any.

        A file that became shorter is that of a run started again: all of it is read again.
        """
        path = self.folder / EVENTS
        if not is_own_file(path):
            return False
        with path.open("rb") as file:
            if path.stat().st_size < self._position:
                self.__init__(self.folder)  # type: ignore[misc]
            file.seek(self._position)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return False
        self._position += len(whole) + 1
        for line in whole.split(b"\n"):
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:  # written by something else
            return
        match event.get("event"):
            case "started":
                self.started = event
            case "progress":
                self.progress = {**_NO_PROGRESS, **event}
            case "step":
                self._take_step(event)
            case "finished" | "failed":
                self.end = event

    def _take_step(self, event: dict[str, Any]) -> None:
        self.points += [
            CurvePoint(number, calls, reward)
            for number, _, _, reward, calls, _ in event["candidates"]
            if reward is not None and calls is not None
        ]
        facts = [(str(name), _text(value)) for name, value in event["facts"].items() if value not in {None, ""}]
        self.steps.appendleft(Step(event["number"], len(event["candidates"]), facts))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
