"""Gridworld 1 and 2: a robot collects goals among obstacles, in any order or in the order of their numbers.

After PROMST (Chen et al. 2024). Differences from its released code: observations are immutable text, not the live board;
collisions have a rule under the name by which they are reported; a loop is any state that occurs a fourth time, not 15
rounds without a goal; and the oracle solves every instance within its cap, while 3 of 50 (any order) and 17 of 50 (in
order) of the code's 6x6 grids cannot be solved within theirs.
"""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from promptopt.environment import Step
from promptopt.environments.base import World, check_range, if_solvable
from promptopt.environments.events import Event, Visits, distinct, rule
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance

Cell: TypeAlias = tuple[int, int]

_MOVES = {"Move up": (-1, 0), "Move down": (1, 0), "Move left": (0, -1), "Move right": (0, 1)}
_PICK = "Pick goal"
_ACTIONS = (*_MOVES, _PICK)
_NAMED = re.compile(r"\b(" + "|".join(action.replace(" ", r"\s+") for action in _ACTIONS) + r")\b", re.IGNORECASE)


class Gridworld1:
    """Goals may be picked in any order. Keys of an instance: rows, columns, robot, goals, obstacles ([row, column]), cap."""

    ordered: ClassVar[bool] = False
    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.FORMAT: rule(
            f"The reply did not name exactly one of the five actions ({', '.join(_ACTIONS)}), which ends the episode.",
            Event.FORMAT,
        ),
        Event.COLLISION: rule("The move led into an obstacle, which ends the episode.", Event.COLLISION),
        Event.OUTSIDE: rule("The move led out of the grid, which ends the episode.", Event.OUTSIDE),
        Event.INVALID: rule("A goal was to be picked in a cell that has none; the round was lost.", Event.INVALID),
        Event.LOOP: rule(
            "The robot came back to the same cell for the fourth time with nothing picked in between, which ends the "
            "episode. Its last two rounds are shown.",
            Event.LOOP,
            rounds=2,
        ),
        Event.LIMIT: rule(
            "The rounds were used up before all goals were picked. The last two are shown.", Event.LIMIT, rounds=2
        ),
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        self._size = int(instance["rows"]), int(instance["columns"])
        self._robot = _cell(instance["robot"])
        self._goals = [_cell(goal) for goal in instance["goals"]]
        if not self._goals:
            raise InputError("the instance has no goals: give at least one")
        self._obstacles = frozenset(_cell(obstacle) for obstacle in instance["obstacles"])
        self._remaining = list(range(len(self._goals)))
        self._rounds = int(instance["cap"])
        self._done = False
        self._visits = Visits()
        self._visits.loops((self._robot, len(self._remaining)))
        return self._observe("")

    def step(self, text: str) -> Step:
        """Take one action; an unreadable reply, an obstacle, the edge of the grid or a wrong order ends the episode."""
        if self._done:
            return Step(self._observe("The episode is over."), done=True)
        self._rounds -= 1
        action = _parse_action(text)
        if action is None:
            happened, events = "Your reply named no single action.", [Event.FORMAT]
        elif action == _PICK:
            happened, events = self._pick()
        else:
            happened, events = self._move(action)
        self._done = not self._remaining or any(event is not Event.INVALID for event in events)
        if not self._done and self._visits.loops((self._robot, len(self._remaining))):
            events.append(Event.LOOP)
        elif not self._done and self._rounds <= 0:
            events.append(Event.LIMIT)
        self._done = self._done or Event.LOOP in events or Event.LIMIT in events
        return Step(self._observe(happened), self._done, tuple(events))

    def score(self) -> float:
        """Return the fraction of goals that have been picked."""
        return 1 - len(self._remaining) / len(self._goals)

    def actions(self) -> tuple[str, ...]:
        """Return the five actions, whether possible or not."""
        return _ACTIONS

    def oracle(self) -> str:
        """Return the first action of a shortest path that picks all remaining goals."""
        orders = [tuple(self._remaining)] if self.ordered else list(permutations(self._remaining))
        distances = {
            start: _distances(start, self._free) for start in (self._robot, *(self._goals[g] for g in self._remaining))
        }

        def length(order: tuple[int, ...]) -> float:
            stops = [self._robot, *(self._goals[goal] for goal in order)]
            return sum(distances[b].get(a, float("inf")) for a, b in pairwise(stops))

        target = self._goals[min(orders, key=length)[0]]
        here = distances[target].get(self._robot)
        if not here:
            return _PICK
        return next(action for action in _MOVES if distances[target].get(_neighbour(self._robot, action)) == here - 1)

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random move to a free cell, or the pick action if a goal can be picked here."""
        legal = [action for action in _MOVES if self._free(_neighbour(self._robot, action))]
        if self._goals_here() and not self._too_early():
            legal.append(_PICK)
        return legal[rng.integers(len(legal))] if legal else _PICK

    def _free(self, cell: Cell) -> bool:
        return self._inside(cell) and cell not in self._obstacles

    def _inside(self, cell: Cell) -> bool:
        return all(0 <= at < size for at, size in zip(cell, self._size, strict=True))

    def _goals_here(self) -> list[int]:
        return [goal for goal in self._remaining if self._goals[goal] == self._robot]

    def _too_early(self) -> bool:
        return self.ordered and self._goals_here()[0] != self._remaining[0]

    def _pick(self) -> tuple[str, list[Event]]:
        if not self._goals_here():
            return f"{_PICK}: there is no goal here.", [Event.INVALID]
        goal = self._goals_here()[0]
        if self._too_early():
            return f"{_PICK}: goal {goal} was picked before goal {self._remaining[0]}.", [Event.ORDER]
        self._remaining.remove(goal)
        return f"{_PICK}: goal {goal} is picked.", []

    def _move(self, action: str) -> tuple[str, list[Event]]:
        to = _neighbour(self._robot, action)
        if not self._inside(to):
            return f"{action}: that is out of the grid.", [Event.OUTSIDE]
        if to in self._obstacles:
            return f"{action}: that is an obstacle.", [Event.COLLISION]
        self._robot = to
        return f"{action}: done.", []

    def _observe(self, happened: str) -> str:
        """Return the observation: the current state and what `happened`."""
        goals = "; ".join(f"goal {goal} at {_position_text(self._goals[goal])}" for goal in self._remaining) or "none"
        obstacles = "; ".join(map(_position_text, sorted(self._obstacles))) or "none"
        around = ", ".join(
            f"{action.split()[1]}: {self._contents(_neighbour(self._robot, action))}" for action in _MOVES
        )
        lines = [
            f"Last action: {happened}" if happened else "",
            f"Grid: {self._size[0]} rows, {self._size[1]} columns, counted from 0 at the upper left.",
            f"You are at {_position_text(self._robot)}. Here: {self._contents(self._robot)}.",
            f"Around you: {around}.",
            f"Goals left: {goals}.",
            f"Obstacles: {obstacles}.",
            f"Rounds left: {self._rounds}.",
            f"Possible actions: {', '.join(_ACTIONS)}",
        ]
        return "\n".join(line for line in lines if line)

    def _contents(self, cell: Cell) -> str:
        if not self._inside(cell):
            return "out of the grid"
        if cell in self._obstacles:
            return "obstacle"
        return " and ".join(f"goal {goal}" for goal in self._remaining if self._goals[goal] == cell) or "empty"


class Gridworld2(Gridworld1):
    """Goals must be picked in the order of their numbers, from 0; one picked before its turn ends the episode."""

    ordered: ClassVar[bool] = True
    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        **Gridworld1.rules,
        Event.ORDER: rule(
            "A goal was picked before its turn, which ends the episode: goal 0 comes first, then goal 1, and so on.",
            Event.ORDER,
        ),
    }


def _instances(
    environment: type[Gridworld1],
    count: int,
    rng: np.random.Generator,
    *,
    rows: int = 4,
    columns: int = 4,
    goals: int = 2,
    obstacles: int = 3,
    cap: int = 12,
) -> list[Instance]:
    """Draw the robot, goals and obstacles in different cells.

    Raises:
        InputError: a size is out of range, they do not fit in the grid, or there are fewer than `count` instances.
    """
    check_range(rows=(rows, 1, 20), columns=(columns, 1, 20), goals=(goals, 1, 7), cap=(cap, 1, 500))
    check_range(obstacles=(obstacles, 0, rows * columns - 1 - goals))

    def draw() -> Instance | None:
        cells = [divmod(int(cell), columns) for cell in rng.permutation(rows * columns)[: 1 + goals + obstacles]]
        robot, *others = [list(cell) for cell in cells]
        instance = {
            "rows": rows,
            "columns": columns,
            "robot": robot,
            "goals": others[:goals] if environment.ordered else sorted(others[:goals]),
            "obstacles": sorted(others[goals:]),
            "cap": cap,
        }
        return if_solvable(environment(), instance)

    return distinct(count, draw, f"{rows}x{columns} gridworld")


def _parse_action(text: str) -> str | None:
    """Return the only action named in the last {...} of a reply, else on its last line, else anywhere; or None."""
    braces = re.findall(r"\{([^{}]*)\}", text)
    sections = [braces[-1]] if braces else [text.strip().rpartition("\n")[2], text]
    for section in sections:
        named = {" ".join(match.split()).capitalize() for match in _NAMED.findall(section)}
        if len(named) == 1:
            return named.pop()
    return None


def _cell(pair: Sequence[int]) -> Cell:
    row, column = pair
    return int(row), int(column)


def _position_text(cell: Cell) -> str:
    return f"row {cell[0]} column {cell[1]}"


def _neighbour(cell: Cell, action: str) -> Cell:
    down, right = _MOVES[action]
    return cell[0] + down, cell[1] + right


def _distances(start: Cell, free: Callable[[Cell], bool]) -> dict[Cell, int]:
    """Return the number of moves from `start` to each reachable cell."""
    distances, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        for action in _MOVES:
            to = _neighbour(cell, action)
            if to not in distances and free(to):
                distances[to] = distances[cell] + 1
                queue.append(to)
    return distances


_PROMPT = """You steer a robot through a grid of cells, one action a round. Rows are counted from 0 at the top, columns from 0 at the left: up is one row less, down one row more, left one column less, right one column more.

Your task is to pick every goal{order}. To pick a goal, first move to its cell, then pick it there. Some cells hold obstacles. Moving into an obstacle or out of the grid ends everything, and what you picked until then is your score. The number of rounds is limited.

The actions are Move up, Move down, Move left, Move right and Pick goal. Reply with exactly one of them in braces, for example {{Move up}}, and nothing after it."""

# rows, columns, goals and obstacles of the paper's four sizes, with their caps (code)
_PAPER = tuple(
    {"rows": n, "columns": n, "goals": goals, "obstacles": obstacles, "cap": cap}
    for n, goals, obstacles, cap in ((4, 3, 4, 30), (5, 4, 6, 30), (6, 5, 10, 30), (7, 6, 14, 50))
)

GRIDWORLD1 = World(
    environment=Gridworld1,
    instances=partial(_instances, Gridworld1),
    paper=_PAPER,
    prompt=_PROMPT.format(order=", in any order"),
    description="Steer a robot on a grid, one move a round, to pick all goals without meeting an obstacle or the edge.",
)
GRIDWORLD2 = World(
    environment=Gridworld2,
    instances=partial(_instances, Gridworld2),
    paper=_PAPER,
    prompt=_PROMPT.format(
        order=" in the order of their numbers: goal 0 first, then goal 1, and so on. Picking one before its turn ends "
        "everything, too"
    ),
    description="Steer a robot on a grid, one move a round, to pick all goals in the order of their numbers without "
    "meeting an obstacle or the edge.",
)
