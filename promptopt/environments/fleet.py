"""Collision-free trips of robots on tracks, planned one after another in space and time (prioritized planning).

Knows nothing of episodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Cell: TypeAlias = tuple[int, int]
"""A track and a column, both from 1; (0, 0) is the target."""

TARGET: Cell = (0, 0)
_LONGEST_TRIP = 500  # rounds, including waits


class Robot(NamedTuple):
    """A robot's position (track 0 and column 0 are the target) and the box that it carries, or ""."""

    track: int = 0
    column: int = 0
    box: str = ""


class _Trip(NamedTuple):
    """A robot's actions, one per round from `start`, and its cells, beginning with the one before the first action."""

    start: int
    actions: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.actions)


class Fleet:
    """Plans trips for all boxes.

    Args:
        tracks: number of tracks.
        columns: number of columns of each track.
        boxes: shelf and column of each box.
    """

    def __init__(self, tracks: int, columns: int, boxes: Mapping[str, Cell]) -> None:
        self._tracks = tracks
        self._columns = columns
        self._boxes = dict(boxes)
        self._reserved_cells: set[tuple[int, Cell]] = set()
        self._reserved_moves: set[tuple[int, Cell, Cell]] = set()

    def plan(self, robots: list[Robot]) -> list[dict[int, str]]:
        """Return the actions of each round, by robot, until all boxes are at the target.

        The plan is good, but not always the shortest. Robots on tracks first leave them, fetching a box if that saves a
        trip. Then the next free robot takes the box with the least waiting time, the farthest one first.
        """
        trips = self._plan_exits(robots)
        while self._boxes:
            i = min(trips, key=lambda i: (trips[i][-1].end if trips[i] else 0, i))
            trip = self._plan_fetch(trips[i][-1].end if trips[i] else 0)
            if trip is None:
                break
            trips[i].append(trip)
        all_trips = [(i, trip) for i, each in trips.items() for trip in each]
        rounds: list[dict[int, str]] = [{} for _ in range(max((trip.end for _, trip in all_trips), default=0))]
        for i, trip in all_trips:
            for number, action in enumerate(trip.actions, start=trip.start):
                if action:
                    rounds[number][i] = action
        return rounds

    def _plan_exits(self, robots: list[Robot]) -> dict[int, list[_Trip]]:
        """Return the first trip of each robot that is on a track, and reserve its cells."""
        trips: dict[int, list[_Trip]] = {i: [] for i in range(len(robots))}
        for i in sorted(trips, key=lambda i: robots[i].column):
            if robots[i].track and (leaving := self._trip(robots[i][:2], 0, None)):
                trips[i] = [leaving]
                self._set_reserved(leaving, reserved=True)
        for i in sorted(trips, key=lambda i: -robots[i].column):
            if trips[i] and not robots[i].box:
                trips[i] = [self._detour(trips[i][0])]
        return trips

    def _detour(self, leaving: _Trip) -> _Trip:
        """Return a trip that fetches a box before leaving the track, if that saves rounds, and reserve its cells."""
        self._set_reserved(leaving, reserved=False)
        best, saved, fetched = leaving, 0, ""
        for box, (shelf, column) in self._boxes.items():
            if leaving.cells[0][0] in (shelf, shelf + 1):
                trip = self._trip(leaving.cells[0], 0, box)
                if trip and 2 * column + 1 - (trip.end - leaving.end) > saved:
                    best, saved, fetched = trip, 2 * column + 1 - (trip.end - leaving.end), box
        self._boxes.pop(fetched, None)
        self._set_reserved(best, reserved=True)
        return best

    def _plan_fetch(self, start: int) -> _Trip | None:
        best: tuple[int, str, _Trip] | None = None
        for box, (_, column) in sorted(self._boxes.items(), key=lambda item: (-item[1][1], item[0])):
            trip = self._trip(TARGET, start, box)
            if trip and (best is None or len(trip.actions) - 2 * column - 1 < best[0]):
                best = len(trip.actions) - 2 * column - 1, box, trip
                if not best[0]:
                    break
        if best is None:
            return None
        del self._boxes[best[1]]
        self._set_reserved(best[2], reserved=True)
        return best[2]

    def _set_reserved(self, trip: _Trip, *, reserved: bool) -> None:
        """Reserve the cells and moves of a trip, or release them."""
        for number, (before, after) in enumerate(zip(trip.cells, trip.cells[1:], strict=False), start=trip.start):
            if reserved:
                self._reserved_cells.add((number + 1, after))
                self._reserved_moves.add((number, before, after))
            else:
                self._reserved_cells.discard((number + 1, after))
                self._reserved_moves.discard((number, before, after))

    def _trip(self, cell: Cell, start: int, box: str | None) -> _Trip | None:
        """Return a shortest trip from a cell to the target, picking up `box` if one is named."""
        layer: dict[tuple[Cell, bool], _Trip] = {(cell, box is None): _Trip(start, (), (cell,))}
        for time in range(start, start + _LONGEST_TRIP):
            following: dict[tuple[Cell, bool], _Trip] = {}
            for (at, done), trip in layer.items():
                for action, to, then in self._options(at, box, done=done):
                    free = to == TARGET or (
                        (time + 1, to) not in self._reserved_cells and (time, to, at) not in self._reserved_moves
                    )
                    if free and (to, then) not in following:
                        longer = _Trip(start, (*trip.actions, action), (*trip.cells, to))
                        following[to, then] = longer
                        if then and to == TARGET:
                            return longer
            layer = following
        return None

    def _options(self, at: Cell, box: str | None, *, done: bool) -> Iterator[tuple[str, Cell, bool]]:
        """Yield (action, next cell, whether the box is on board or not needed)."""
        track, column = at
        shelf, place = self._boxes[box] if box else (-1, -1)
        if not track:
            for entered in (shelf, shelf + 1):
                if 1 <= entered <= self._tracks:
                    yield f"move to track_{entered}", (entered, 1), done
        else:
            if not done and column == place and track in (shelf, shelf + 1):
                yield f"pick {box}", at, True
            yield ("move left", (track, column - 1), done) if column > 1 else ("move to target", TARGET, done)
            if column < self._columns:
                yield "move right", (track, column + 1), done
        yield "", at, done
