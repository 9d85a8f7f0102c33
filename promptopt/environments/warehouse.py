"""Warehouse: robots on tracks between shelves fetch boxes without colliding (PROMST, Chen et al. 2024).

`Team` documents the differences from the released code. In addition, there a nonexistent track was reported as illegal but
entered anyway, and track 0 was offered but then refused; here tracks are numbered from 1, and refused actions are not
executed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, ClassVar

from promptopt.environments.base import World, check_range, if_solvable
from promptopt.environments.events import Event, distinct, rule
from promptopt.environments.fleet import Fleet, Robot
from promptopt.environments.team import Team
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance

_ROBOT = re.compile(r"\W*(?:robot|agent)[\s_\[(]*(\d{1,3})(?!\d)", re.IGNORECASE)
_ACTION = re.compile(
    r"\W*(?:(?:move|go)[\s_]*)?(?:to[\s_]*)?(?:the[\s_]*)?(?:(left|right|target)\b|track[\s_]*(\d{1,3})\b)"
    r"|\W*pick[\s_]*(?:up[\s_]*)?(box_\d{1,3}_\d{1,3})\b",
    re.IGNORECASE,
)


class Warehouse(Team):
    """Keys of an instance: tracks, columns, robots, boxes ([shelf, column]), cap. All robots start at the target.

    Tracks are numbered from 1; shelf s is between tracks s and s + 1, so a robot on track t reaches shelves t - 1 and t in
    its column. Column 1 is next to the target, which can hold any number of robots. Two robots that end a round in the
    same cell of a track, or swap cells, collide (the released code checked only the former).
    """

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        **Team.rules,
        Event.COLLISION: rule(
            "Two robots came to the same place of a track or ran through each other, which ends the episode: their places "
            "must be compared before they move.",
            Event.COLLISION,
        ),
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        """Begin an episode.

        Raises:
            InputError: there are no robots or no boxes, or a box is out of reach.
        """
        self._tracks, self._columns = int(instance["tracks"]), int(instance["columns"])
        places = {(int(shelf), int(column)) for shelf, column in instance["boxes"]}
        reachable = all(0 <= shelf <= self._tracks and 1 <= at <= self._columns for shelf, at in places)
        if not places or not reachable or int(instance["robots"]) < 1:
            raise InputError(
                "the instance needs at least one robot, and boxes on "
                f"shelves 0 to {self._tracks} in columns 1 to {self._columns}"
            )
        self._boxes = {f"box_{shelf}_{column}": (shelf, column) for shelf, column in sorted(places)}
        self._box_count = len(self._boxes)
        self._robots = [Robot()] * int(instance["robots"])
        self._plans: dict[Hashable, str] = {}
        return self._begin(instance)

    def score(self) -> float:
        """Return the fraction of boxes that have been brought to the target."""
        return 1 - (len(self._boxes) + sum(bool(robot.box) for robot in self._robots)) / self._box_count

    def oracle(self) -> str:
        """Return the next round of a good plan (not always the shortest); replan if the episode has left the last plan."""
        if self._state() not in self._plans:
            robots, boxes = self._robots, self._boxes
            for plan in Fleet(self._tracks, self._columns, boxes).plan(robots):
                chosen = {f"robot{i}": action for i, action in sorted(plan.items())}
                self._plans[tuple(robots), tuple(boxes)] = json.dumps(chosen)
                after = _robots_after(robots, chosen)
                robots, boxes = _unloaded(after), _not_taken(boxes, after)
        return self._plans.get(self._state(), "{}")

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return random actions that cause no collision; robots without such an action wait."""
        options = self._options()
        plan: dict[str, str] = {}
        for i in rng.permutation(len(self._robots)).tolist():
            name = f"robot{i}"
            taken = {box for action in plan.values() for box in action.split() if box.startswith("box_")}
            legal = [
                action
                for action in options[name]
                if action.split()[-1] not in taken
                and not self._collision(_robots_after(self._robots, plan | {name: action}))
            ]
            if legal:
                plan[name] = legal[rng.integers(len(legal))]
        return json.dumps(dict(sorted(plan.items())) if not self._collision(_robots_after(self._robots, plan)) else {})

    def _agent_name(self, key: str) -> str | None:
        match = _ROBOT.match(key)
        return f"robot{int(match[1])}" if match else None

    def _action_name(self, text: str) -> str | None:
        match = _ACTION.match(text)
        if match is None:
            return None
        way, track, box = match.groups()
        if box:
            return f"pick {box.lower()}"
        if track:
            return f"move to track_{int(track)}"
        return "move to target" if way.lower() == "target" else f"move {way.lower()}"

    def _options(self) -> dict[str, list[str]]:
        return {f"robot{i}": self._possible_actions(robot) for i, robot in enumerate(self._robots)}

    def _possible_actions(self, robot: Robot) -> list[str]:
        if not robot.track:
            return [f"move to track_{track}" for track in range(1, self._tracks + 1)]
        near = {(robot.track - 1, robot.column), (robot.track, robot.column)}
        picks = [] if robot.box else [f"pick {box}" for box, place in self._boxes.items() if place in near]
        left = "move left" if robot.column > 1 else "move to target"
        return [*picks, left, *(["move right"] if robot.column < self._columns else [])]

    def _act(self, chosen: Mapping[str, str]) -> str:
        after = _robots_after(self._robots, chosen)
        collision = self._collision(after)
        self._boxes = _not_taken(self._boxes, after)
        self._robots = _unloaded(after)
        return collision

    def _collision(self, after: list[Robot]) -> str:
        """Describe two robots that would collide, or return ""."""
        for i, first in enumerate(after):
            for j, second in enumerate(after[:i]):
                swapped = first[:2] == self._robots[j][:2] and second[:2] == self._robots[i][:2]
                if first.track and second.track and (first[:2] == second[:2] or swapped):
                    return f"robot{j} and robot{i} collided on track_{first.track}"
        return ""

    def _state(self) -> Hashable:
        return tuple(self._robots), tuple(self._boxes)

    def _observe(self, happened: list[str]) -> str:
        shelves = "; ".join(
            f"shelf {shelf}: {', '.join(box for box, (at, _) in self._boxes.items() if at == shelf)}"
            for shelf in sorted({shelf for shelf, _ in self._boxes.values()})
        )
        options = self._options()
        lines = [f"Last round: {'; '.join(happened)}."] if happened else []
        lines += [
            f"Tracks 1 to {self._tracks}, columns 1 to {self._columns}. A robot on track t reaches shelf t-1 and shelf t.",
            f"Boxes left (box_SHELF_COLUMN): {shelves or 'none'}.",
            f"Delivered: {round(self.score() * self._box_count)} of {self._box_count}.",
        ]
        lines += [
            f"robot{i} is {_position_text(robot)}, {f'carries {robot.box}' if robot.box else 'empty'}. "
            f"It can do: {', '.join(options[f'robot{i}'])}."
            for i, robot in enumerate(self._robots)
        ]
        return "\n".join([*lines, f"Rounds left: {self._rounds}."])


def _position_text(robot: Robot) -> str:
    return f"on track_{robot.track} in column {robot.column}" if robot.track else "at the target"


def _robots_after(robots: list[Robot], chosen: Mapping[str, str]) -> list[Robot]:
    """Return the robots after a round; those that reached the target still carry their boxes."""
    return [_robot_after(robot, chosen.get(f"robot{i}", "")) for i, robot in enumerate(robots)]


def _unloaded(robots: list[Robot]) -> list[Robot]:
    return [robot if robot.track else Robot() for robot in robots]


def _not_taken(boxes: dict[str, tuple[int, int]], robots: list[Robot]) -> dict[str, tuple[int, int]]:
    """Return the boxes that no robot has taken."""
    taken = {robot.box for robot in robots}
    return {box: place for box, place in boxes.items() if box not in taken}


def _robot_after(robot: Robot, action: str) -> Robot:
    """Return a robot after a legal action; "" means to wait."""
    if action == "move to target":
        return Robot(box=robot.box)
    if action.startswith("move to track_"):
        return Robot(int(action.removeprefix("move to track_")), 1)
    if action.startswith("pick "):
        return robot._replace(box=action.removeprefix("pick "))
    return robot._replace(column=robot.column + {"move left": -1, "move right": 1}.get(action, 0))


def instances(
    count: int,
    rng: np.random.Generator,
    *,
    tracks: int = 3,
    columns: int = 4,
    fill: int = 25,
    robots: int = 2,
    cap: int = 25,
) -> list[Instance]:
    """Draw the boxes on the shelves.

    Args:
        count: number of instances.
        rng: random number generator.
        tracks: number of tracks; there are tracks + 1 shelves.
        columns: number of columns of each shelf.
        fill: percentage of shelf places with a box; at least one place has one.
        robots: number of robots.
        cap: maximum number of rounds.

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(tracks=(tracks, 1, 20), columns=(columns, 1, 20), fill=(fill, 1, 100), robots=(robots, 1, 20))
    check_range(cap=(cap, 1, 500))
    places = (tracks + 1) * columns

    def draw() -> Instance | None:
        boxes = sorted(rng.permutation(places)[: max(1, round(places * fill / 100))].tolist())
        held = [[place // columns, place % columns + 1] for place in boxes]
        return if_solvable(
            Warehouse(), {"tracks": tracks, "columns": columns, "robots": robots, "boxes": held, "cap": cap}
        )

    return distinct(count, draw, f"{tracks}x{columns} warehouse")


_PROMPT = """You direct the robots of a warehouse. Bring every box to the target, in as few rounds as you can; the number of rounds is limited.

Robots run on tracks between shelves. All of them begin at the target, which joins column 1 of every track. A robot holds one box at most. In one round each robot can do one action: "move to track_K" from the target to column 1 of track K; "move right" or "move left" by one column; "pick box_S_C" if the box is on a shelf beside its track and in its column; "move to target" from column 1, which delivers its box. All robots act at the same moment. Two robots that come to the same column of a track, or change places on it, collide, which ends everything. An action that a robot cannot do is passed over.

Reply with one JSON object that gives an action for each robot that is to act, for example {"robot0": "move right", "robot1": "pick box_1_2"}. A reply without such an object ends everything, and so does going in circles."""

WAREHOUSE = World(
    environment=Warehouse,
    instances=instances,
    # tracks, columns, share of filled places and robots of the paper's four sizes; cap 50 (code)
    paper=tuple(
        {"tracks": tracks, "columns": columns, "fill": fill, "robots": robots, "cap": 50}
        for tracks, columns, fill, robots in ((3, 5, 50, 2), (4, 4, 30, 3), (4, 6, 30, 4), (5, 6, 30, 5))
    ),
    prompt=_PROMPT,
    description="Let the robots of a warehouse, all acting at once, fetch boxes from shelves along tracks without meeting.",
)
