"""The tabs of a run: each page of it, with its address."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from promptopt.view.library import RunEntry

_TABS = (
    ("Report", ""),
    ("Candidates", "/candidates"),
    ("Side by side", "/items"),
    ("Playground", "/play"),
    ("Labels", "/labels"),
)


class Tab(NamedTuple):
    """A link among the places of a page."""

    label: str
    address: str
    current: bool


def tabs_of(entry: RunEntry, current: str) -> list[Tab]:
    """Return the tabs of a run.

    Args:
        entry: the run.
        current: label of the page that is shown.
    """
    return [Tab(label, f"/runs/{entry.id}{end}", label == current) for label, end in _TABS]
