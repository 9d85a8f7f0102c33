"""BoxNet1: an arm in each cell of a grid moves boxes to adjacent cells and onto targets of their colour, simultaneously.

After PROMST (Chen et al. 2024). Differences from its released code: all moves of a round start from the same state (there
three arms could pass one box across the grid in a round); an unknown arm is reported in the observation (there it ended
the whole search with a KeyError); observations show the state after the round, not before it; boxes of the same colour have
distinct names; and a loop is any state that occurs a fourth time, not 4 rounds without a match, which long routes need.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any, TypeAlias

from promptopt.environments.base import World, check_range, if_solvable
from promptopt.environments.events import distinct
from promptopt.environments.team import Team
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from promptopt.environments.base import Instance

Cell: TypeAlias = tuple[int, int]

COLOURS = ("blue", "red", "green", "purple", "orange")
_LONGEST_NAME = 100  # characters of an agent or an action
_ARM = re.compile(r"\W*(?:agent|arm)[\s_\[(]*(\d{1,3})\s*,\s*(\d{1,3})(?!\d)", re.IGNORECASE)
_MOVE = re.compile(
    r"\W*(?:move)?\W*(box_([a-z]+)\d{1,2})\b\W*(?:to\W+)?(?:cell\W*(\d{1,3})\s*,\s*(\d{1,3})\b|target(?:_([a-z]+))?\b)",
    re.IGNORECASE,
)


class BoxNet1(Team):
    """An instance: rows, columns, boxes and targets as {"colour", "cell"} with as many of each colour, cap."""

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        self._size = int(instance["rows"]), int(instance["columns"])
        self._boxes = _name_boxes(instance["boxes"])
        self._targets = sorted((str(target["colour"]), cell_of(target["cell"])) for target in instance["targets"])
        if not self._boxes or sorted(map(colour_of, self._boxes)) != [colour for colour, _ in self._targets]:
            raise InputError("the instance needs at least one box, and for each box one target of its colour")
        self._box_count = len(self._boxes)
        return self._begin(instance)

    def score(self) -> float:
        """Return the fraction of boxes that are on targets."""
        return 1 - len(self._boxes) / self._box_count

    def oracle(self) -> str:
        """Return for each arm the move of its box with the longest route, with targets assigned to minimize total distance."""
        goals = self._assign_targets()
        plan = dict[Cell, tuple[int, str, Cell | None]]()
        for box, cell in self._boxes.items():
            way = distance(cell, goals[box])
            best = plan.get(cell)
            if best is None or best[0] < way:
                plan[cell] = (way, box, _step_towards(cell, goals[box]) if way else None)
        return json.dumps({arm_name(cell): _move_text(box, to) for cell, (_, box, to) in plan.items()})

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random possible action for each arm that has one."""
        doable = {cell: sorted(moves) for cell, moves in self._possible_moves().items()}
        return json.dumps({arm_name(cell): moves[rng.integers(len(moves))] for cell, moves in doable.items()})

    def _agent_name(self, key: str) -> str | None:
        cell = read_arm(key)
        return arm_name(cell) if cell and self._inside(cell) else None

    def _action_name(self, text: str) -> str | None:
        """Return the canonical form of an action, accepting variants such as "move box_red1 to target"."""
        match = _MOVE.match(text[:_LONGEST_NAME])
        if match is None:
            return None
        box, colour, row, column, target = match.groups()
        to = f"target_{target or colour}".lower() if row is None else cell_name((int(row), int(column)))
        return f"move({box.lower()}, {to})"

    def _options(self) -> dict[str, list[str]]:
        return {arm_name(cell): list(moves) for cell, moves in self._possible_moves().items()}

    def _act(self, chosen: Mapping[str, str]) -> str:
        doable = {move: what for moves in self._possible_moves().values() for move, what in moves.items()}
        for box, to in (doable[move] for move in chosen.values()):
            cell = self._boxes.pop(box)
            if to is None:
                self._targets.remove((colour_of(box), cell))
            else:
                self._boxes[box] = to
        return ""

    def _possible_moves(self) -> dict[Cell, dict[str, tuple[str, Cell | None]]]:
        """Return the possible moves in each cell with boxes, as {text of the move: (box, destination)}."""
        moves_by_cell: dict[Cell, dict[str, tuple[str, Cell | None]]] = {}
        for box, cell in sorted(self._boxes.items(), key=lambda item: (item[1], item[0])):
            ends: list[Cell | None] = [to for to in sorted(neighbours(cell)) if self._inside(to)]
            if (colour_of(box), cell) in self._targets:
                ends.append(None)
            moves_by_cell.setdefault(cell, {}).update({_move_text(box, to): (box, to) for to in ends})
        return moves_by_cell

    def _assign_targets(self) -> dict[str, Cell]:
        """Return the target of each box, chosen to minimize the total distance for each colour."""
        goals: dict[str, Cell] = {}
        for colour in {colour for colour, _ in self._targets}:
            boxes = [box for box in self._boxes if colour_of(box) == colour]
            ways = permutations(cell for name, cell in self._targets if name == colour)
            goals.update(zip(boxes, min(ways, key=partial(self._total_distance, boxes)), strict=True))
        return goals

    def _total_distance(self, boxes: Sequence[str], ends: Sequence[Cell]) -> int:
        return sum(distance(self._boxes[box], end) for box, end in zip(boxes, ends, strict=True))

    def _inside(self, cell: Cell) -> bool:
        return all(0 <= at < size for at, size in zip(cell, self._size, strict=True))

    def _state(self) -> tuple[tuple[str, Cell], ...]:
        return tuple(sorted(self._boxes.items()))

    def _observe(self, happened: list[str]) -> str:
        """Return the observation: the current state and what `happened`."""
        targets = ", ".join(f"target_{colour} in {cell_name(cell)}" for colour, cell in self._targets)
        lines = [f"Last round: {'; '.join(happened)}."] if happened else []
        lines.append(f"Grid: cells [0,0] to [{self._size[0] - 1},{self._size[1] - 1}], one agent in each.")
        lines.append(f"Targets left: {targets or 'none'}.")
        lines += [f"{arm_name(cell)} can do: {', '.join(moves)}." for cell, moves in self._possible_moves().items()]
        if not self._boxes:
            lines.append("All boxes are on targets.")
        return "\n".join([*lines, f"Rounds left: {self._rounds}."])


def _instances(
    count: int,
    rng: np.random.Generator,
    *,
    rows: int = 2,
    columns: int = 2,
    colours: int = 3,
    most: int = 1,
    cap: int = 6,
) -> list[Instance]:
    """Draw 1 to `most` boxes of each colour and as many targets, each in a random cell.

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(rows=(rows, 1, 20), columns=(columns, 1, 20), colours=(colours, 1, len(COLOURS)))
    check_range(most=(most, 1, 5), cap=(cap, 1, 500))

    def placed(colour: str, times: int) -> list[dict[str, Any]]:
        cells = rng.integers(rows * columns, size=times)
        return [{"colour": colour, "cell": list(divmod(int(cell), columns))} for cell in sorted(cells)]

    def draw() -> Instance | None:
        times = [(colour, int(rng.integers(1, most + 1))) for colour in COLOURS[:colours]]
        instance = {
            "rows": rows,
            "columns": columns,
            "boxes": [box for colour, n in times for box in placed(colour, n)],
            "targets": [target for colour, n in times for target in placed(colour, n)],
            "cap": cap,
        }
        return if_solvable(BoxNet1(), instance)

    return distinct(count, draw, f"{rows}x{columns} BoxNet1")


def _name_boxes(boxes: Sequence[Mapping[str, Any]]) -> dict[str, Cell]:
    """Return the cell of each box by name, such as "box_red2", numbered within its colour."""
    cells: dict[str, Cell] = {}
    for box in boxes:
        colour = str(box["colour"])
        number = 1 + sum(colour_of(name) == colour for name in cells)
        cells[f"box_{colour}{number}"] = cell_of(box["cell"])
    return cells


def colour_of(box: str) -> str:
    """Return "red" for "box_red2"."""
    return box.removeprefix("box_").rstrip("0123456789")


def cell_of(pair: Sequence[int]) -> Cell:
    """Return a [row, column] of an instance as a cell."""
    row, column = pair
    return int(row), int(column)


def neighbours(cell: Cell) -> list[Cell]:
    """Return the cells above, below, left and right, even if outside the grid."""
    row, column = cell
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def distance(a: Cell, b: Cell) -> int:
    """Return the number of rounds to move a box from one cell to the other."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _step_towards(cell: Cell, goal: Cell) -> Cell:
    return min(neighbours(cell), key=lambda to: distance(to, goal))


def cell_name(cell: Cell) -> str:
    """Return the name of a cell in observations and replies."""
    return f"cell[{cell[0]},{cell[1]}]"


def arm_name(cell: Cell) -> str:
    """Return the name of a cell's agent in observations and replies."""
    return f"agent[{cell[0]},{cell[1]}]"


def _move_text(box: str, to: Cell | None) -> str:
    return f"move({box}, {f'target_{colour_of(box)}' if to is None else cell_name(to)})"


def read_arm(text: str) -> Cell | None:
    """Return (0, 1) for "agent[0,1]", "Agent[0, 1]" or "arm (0,1)"."""
    match = _ARM.match(text[:_LONGEST_NAME])
    return (int(match[1]), int(match[2])) if match else None


BOXNET1 = World(
    environment=BoxNet1,
    instances=_instances,
    # rows, columns and caps of the paper's four sizes, 5 colours of 1 to 3 boxes (code)
    paper=tuple(
        {"rows": rows, "columns": columns, "colours": 5, "most": 3, "cap": cap}
        for rows, columns, cap in ((2, 2, 30), (2, 4, 30), (4, 4, 30), (4, 8, 40))
    ),
    prompt="""You direct the agents of a grid of cells. In each cell stands one agent; it can reach only the boxes in its \
own cell. Your task is to bring every box onto a target of the same colour, in as few rounds as you can; the number of \
rounds is limited.

In one round each agent can do one action: move a box from its cell to the next cell above, below, left or right, or, if \
a target of the box's colour is in the same cell, move the box onto that target. A box on a target is done. All agents \
act at the same moment, so a box can go one cell a round. You are shown what each agent can do; whatever else is asked \
of it is passed over.

Reply with one JSON object that gives an action for each agent that is to act, for example {"agent[0,0]": \
"move(box_red1, cell[0,1])", "agent[1,0]": "move(box_blue1, target_blue)"}. A reply without such an object ends \
everything, and so does going in circles.""",
    description="Let the agents of a grid of cells, each acting in its own, pass boxes to targets of their colours.",
)
