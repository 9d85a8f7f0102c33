"""The rows of the list of runs, and which of them changed since they were sent. Knows nothing of how they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.results.summary import model_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.summary import RunSummary
    from promptopt.view.library import RunEntry


class Changes(NamedTuple):
    """What a list of runs has to show again.

    Args:
        changed: runs that are new or not as they were, in the order of the list.
        gone: ids of runs that are no longer there.
    """

    changed: list[RunEntry]
    gone: list[str]


class SentRows:
    """The runs that a page shows."""

    def __init__(self) -> None:
        self._sent: dict[str, RunEntry] = {}

    def update(self, runs: Sequence[RunEntry]) -> Changes:
        """Return what changed since the last time, at first all."""
        before, self._sent = self._sent, {entry.id: entry for entry in runs}
        changed = [entry for entry in runs if before.get(entry.id) != entry]
        return Changes(changed, [run_id for run_id in before if run_id not in self._sent])


def run_row(entry: RunEntry) -> dict[str, Any]:
    """Return what a row of the list inserts."""
    row = {"id": entry.id, "name": entry.name, "status": entry.status, "time": entry.time, "improved": False}
    return {**row, **(_started(entry) if entry.summary is None else _summarised(entry.summary))}


def _started(entry: RunEntry) -> dict[str, Any]:
    """Return the cells of a run without a result."""
    started, progress = entry.started, entry.progress
    used = progress.get("used", {}).values()
    dollars, calls = sum(spent["dollars"] for spent in used), sum(spent["calls"] for spent in used)
    return {
        "headline": entry.error or _how_far(progress),
        "model": model_name(started.get("models", {})),
        "strategy": started.get("strategy", {}).get("name", ""),
        "seed": started.get("seed", ""),
        "gain": "",
        "gain_value": "",
        "interval": "",
        "dollars": f"{dollars:.4f}" if progress else "",
        "dollars_value": dollars if progress else "",
        "calls": f"{calls:,} calls" if progress else "",
    }


def _how_far(progress: dict[str, Any]) -> str:
    """Return the state of a run in progress as a sentence, "" before the first."""
    if not progress:
        return ""
    best = (progress["best"] or {}).get("reward")
    parts = ["stopping" if progress["stopping"] else progress["stage"], f"{progress['candidates']:,} candidates"]
    parts += [] if best is None else [f"best so far {best:.3f} in training"]
    return ", ".join(filter(None, parts))


def _summarised(summary: RunSummary) -> dict[str, Any]:
    """Return the cells of a run with a result."""
    gain = summary.gain
    return {
        "headline": summary.headline,
        "model": summary.model,
        "strategy": summary.strategy,
        "seed": summary.seed,
        "improved": summary.improved,
        "gain": "" if gain is None else f"{gain.estimate:+.3f}",
        "gain_value": "" if gain is None else gain.estimate,
        "interval": "" if gain is None else f"{gain.low:+.3f} to {gain.high:+.3f}",
        "dollars": "price unknown" if summary.unpriced else f"{summary.dollars:.4f}",
        "dollars_value": "" if summary.unpriced else summary.dollars,
        "calls": f"{summary.calls:,} calls",
    }
