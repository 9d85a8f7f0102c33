"""BoxNet2: arms in the cells of a grid move boxes between the cells' corners, one box per corner (PROMST, Chen et al. 2024).

`Team` documents the differences from the released code.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from promptopt.environments.base import World, check_range, if_solvable
from promptopt.environments.boxnet import COLOURS, arm_name, cell_name, cell_of, read_arm
from promptopt.environments.events import Event, distinct, rule
from promptopt.environments.team import Team
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance
    from promptopt.environments.boxnet import Cell

Corner: TypeAlias = tuple[int, int]
Move: TypeAlias = "tuple[str, Corner | None]"
"""A box and its destination: a corner, or None for its target."""

_MOVE = re.compile(
    r"\W*(?:move)?\W*(box_[a-z]+)\b\W*(?:to\W+)?(?:corner\W*(\d{1,3})\s*,\s*(\d{1,3})\b|target(?:_([a-z]+))?\b)",
    re.IGNORECASE,
)


class BoxNet2(Team):
    """An instance: rows, columns, boxes as {colour: corner}, targets as {colour: cell}, cap.

    The corners of cell [r,c] are [r,c], [r,c+1], [r+1,c] and [r+1,c+1]; its arm moves boxes between them and onto targets in
    the cell. A corner that is vacated in a round can be entered in the same round; two boxes on one corner collide.
    """

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        **Team.rules,
        Event.COLLISION: rule(
            "Two boxes came to the same corner, which ends the episode: a corner must be free, or be left in the same round, "
            "and no two boxes may go to the same one.",
            Event.COLLISION,
        ),
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        """Begin an episode.

        Raises:
            InputError: there are no boxes, boxes and targets do not match, two boxes share a corner, or one is outside the
                grid.
        """
        self._size = int(instance["rows"]), int(instance["columns"])
        self._boxes = {f"box_{colour}": cell_of(at) for colour, at in sorted(instance["boxes"].items())}
        self._targets = {f"box_{colour}": cell_of(at) for colour, at in sorted(instance["targets"].items())}
        box_outside = any(
            not 0 <= at <= size for corner in self._boxes.values() for at, size in zip(corner, self._size, strict=True)
        )
        target_outside = any(not _inside(cell, self._size) for cell in self._targets.values())
        if (
            box_outside
            or target_outside
            or not self._boxes
            or self._boxes.keys() != self._targets.keys()
            or self._collision()
        ):
            raise InputError("the instance needs boxes on different corners of its grid, each with a target in a cell")
        self._box_count = len(self._boxes)
        return self._begin(instance)

    def score(self) -> float:
        """Return the fraction of boxes that are on their targets."""
        return 1 - len(self._boxes) / self._box_count

    def oracle(self) -> str:
        """Return the round that reduces the total distance most, or a sidestep if none reduces it.

        Distances ignore other boxes, so the plan is good but not always the shortest.
        """
        best: tuple[int, dict[str, tuple[Cell, Corner | None]]] = (0, {})
        boxes = sorted(self._boxes, key=lambda box: -self._rounds_to_target(box, self._boxes[box]))
        moves = {box: self._moves_closer(box) for box in boxes}

        def extend(rest: list[str], plan: dict[str, tuple[Cell, Corner | None]], gain: int) -> None:
            nonlocal best
            if gain + len(rest) <= best[0]:  # a box gains one step a round
                return
            if not rest:
                if not self._collision(plan):
                    best = (gain, dict(plan))
                return
            for cell, to in moves[rest[0]]:
                if all(cell != other for other, _ in plan.values()):
                    extend(rest[1:], plan | {rest[0]: (cell, to)}, gain + 1)
            extend(rest[1:], plan, gain)

        extend(boxes, {}, 0)
        if best[0]:
            return json.dumps({arm_name(cell): _move_text((box, to)) for box, (cell, to) in best[1].items()})
        return json.dumps(self._sidestep())

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random move for each arm, drawn in random order among the moves that cause no collision."""
        plan: dict[str, tuple[Cell, Corner | None]] = {}
        doable = self._possible_moves()
        for number in rng.permutation(len(doable)).tolist():
            cell = list(doable)[number]
            legal = [
                (box, to)
                for box, to in doable[cell]
                if box not in plan and not self._collision(plan | {box: (cell, to)})
            ]
            if legal:
                box, to = legal[rng.integers(len(legal))]
                plan[box] = (cell, to)
        return json.dumps({arm_name(cell): _move_text((box, to)) for box, (cell, to) in sorted(plan.items())})

    def _rounds_to_target(self, box: str, corner: Corner | None) -> int:
        """Return the number of rounds from a corner to the box's target, ignoring other boxes."""
        if corner is None:
            return 0
        gaps = (max(cell - at, at - cell - 1, 0) for at, cell in zip(corner, self._targets[box], strict=True))
        return max(gaps) + 1

    def _moves_closer(self, box: str) -> list[tuple[Cell, Corner | None]]:
        """Return the moves that bring a box closer to its target, as (cell of the arm, corner)."""
        here = self._rounds_to_target(box, self._boxes[box])
        return [
            (cell, to)
            for cell, moves in self._possible_moves().items()
            for other, to in moves
            if other == box and self._rounds_to_target(box, to) < here
        ]

    def _sidestep(self) -> dict[str, str]:
        """Return the single move to a free corner that increases the distance least, or {} if there is none."""
        free = [
            (self._rounds_to_target(box, to), arm_name(cell), _move_text((box, to)))
            for cell, moves in self._possible_moves().items()
            for box, to in moves
            if not self._collision({box: (cell, to)})
        ]
        return dict([min(free)[1:]]) if free else {}

    def _agent_name(self, key: str) -> str | None:
        cell = read_arm(key)
        return arm_name(cell) if cell and _inside(cell, self._size) else None

    def _action_name(self, text: str) -> str | None:
        match = _MOVE.match(text)
        if match is None:
            return None
        box, row, column, colour = match.groups()
        if row is not None:
            return _move_text((box.lower(), (int(row), int(column))))
        return f"move({box.lower()}, target_{colour.lower()})" if colour else _move_text((box.lower(), None))

    def _options(self) -> dict[str, list[str]]:
        doable = self._possible_moves()
        cells = ((row, column) for row in range(self._size[0]) for column in range(self._size[1]))
        return {arm_name(cell): list(map(_move_text, doable.get(cell, []))) for cell in cells}

    def _possible_moves(self) -> dict[Cell, list[Move]]:
        """Return the possible moves of each arm that reaches a box, including moves to occupied corners."""
        out: dict[Cell, list[Move]] = {}
        for cell in ((row, column) for row in range(self._size[0]) for column in range(self._size[1])):
            corners = _corners(cell)
            for box in (box for box, at in self._boxes.items() if at in corners):
                moves: list[Move] = [(box, to) for to in corners if to != self._boxes[box]]
                if self._targets[box] == cell:
                    moves.append((box, None))
                out.setdefault(cell, []).extend(moves)
        return out

    def _act(self, chosen: Mapping[str, str]) -> str:
        moves = {_move_text(move): move for moves in self._possible_moves().values() for move in moves}
        plan: dict[str, tuple[Cell, Corner | None]] = {}
        for action in chosen.values():
            box, to = moves[action]
            plan[box] = ((0, 0), to)
        collision = self._collision(plan)
        self._boxes = self._boxes_after(plan)
        return collision

    def _boxes_after(self, plan: Mapping[str, tuple[Cell, Corner | None]]) -> dict[str, Corner]:
        ends = {box: plan[box][1] if box in plan else at for box, at in self._boxes.items()}
        return {box: end for box, end in ends.items() if end is not None}

    def _collision(self, plan: Mapping[str, tuple[Cell, Corner | None]] | None = None) -> str:
        """Describe two boxes that would be on the same corner, or return ""."""
        on: dict[Corner, str] = {}
        for box, corner in self._boxes_after(plan or {}).items():
            if corner in on:
                return f"{on[corner]} and {box} collided on {_corner(corner)}"
            on[corner] = box
        return ""

    def _state(self) -> Hashable:
        return tuple(self._boxes.items())

    def _observe(self, happened: list[str]) -> str:
        boxes = ", ".join(f"{box} on {_corner(corner)}" for box, corner in self._boxes.items())
        targets = ", ".join(f"{_target(box)} in {cell_name(self._targets[box])}" for box in self._boxes)
        lines = [f"Last round: {'; '.join(happened)}."] if happened else []
        lines += [
            f"Grid: cells [0,0] to [{self._size[0] - 1},{self._size[1] - 1}], one agent in each.",
            f"Boxes left: {boxes or 'none'}.",
            f"Targets left: {targets or 'none'}.",
        ]
        for cell, moves in self._possible_moves().items():
            ends: dict[str, list[str]] = {}
            for box, to in moves:
                ends.setdefault(box, []).append(_target(box) if to is None else _corner(to))
            choices = "; ".join(f"{box} to {', '.join(to)}" for box, to in ends.items())
            lines.append(f"{arm_name(cell)} can move {choices}.")
        return "\n".join([*lines, f"Rounds left: {self._rounds}."])


def _inside(cell: Cell, size: tuple[int, int]) -> bool:
    return all(0 <= at < most for at, most in zip(cell, size, strict=True))


def _corners(cell: Cell) -> list[Corner]:
    row, column = cell
    return [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]


def _corner(corner: Corner) -> str:
    return f"corner[{corner[0]},{corner[1]}]"


def _target(box: str) -> str:
    return f"target_{box.removeprefix('box_')}"


def _move_text(move: Move) -> str:
    box, to = move
    return f"move({box}, {_target(box) if to is None else _corner(to)})"


def instances(
    count: int, rng: np.random.Generator, *, rows: int = 2, columns: int = 2, colours: int = 3, cap: int = 8
) -> list[Instance]:
    """Draw for each colour a box on a corner of its own and a target in a random cell.

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(rows=(rows, 1, 20), columns=(columns, 1, 20), cap=(cap, 1, 500))
    corners = (rows + 1) * (columns + 1)
    check_range(colours=(colours, 1, min(len(COLOURS), corners - 1)))

    def draw() -> Instance | None:
        taken = rng.permutation(corners)[:colours].tolist()
        cells = rng.integers(rows * columns, size=colours).tolist()
        instance = {
            "rows": rows,
            "columns": columns,
            "boxes": {c: list(divmod(at, columns + 1)) for c, at in zip(COLOURS, taken, strict=False)},
            "targets": {c: list(divmod(at, columns)) for c, at in zip(COLOURS, cells, strict=False)},
            "cap": cap,
        }
        return if_solvable(BoxNet2(), instance)

    return distinct(count, draw, f"{rows}x{columns} BoxNet2")


_PROMPT = """You direct the agents of a grid of cells. In each cell stands one agent; boxes lie on the corners of the cells. An agent reaches the four corners of its own cell. Your task is to bring every box onto the target of its colour, in as few rounds as you can; the number of rounds is limited.

In one round each agent can do one action: move a box from one corner of its cell to another, or, if the target of the box's colour is in its cell, onto that target. A box on its target is done. All agents act at the same moment, and a box can be moved by one agent a round. A corner holds one box: two boxes on one corner collide, which ends everything. What an agent cannot do is passed over.

Reply with one JSON object that gives an action for each agent that is to act, for example {"agent[0,0]": "move(box_red, corner[0,1])", "agent[1,0]": "move(box_blue, target_blue)"}. A reply without such an object ends everything, and so does going in circles."""

BOXNET2 = World(
    environment=BoxNet2,
    instances=instances,
    # rows, columns and caps of the paper's four sizes, 5 colours of one box each (code)
    paper=tuple(
        {"rows": rows, "columns": columns, "colours": 5, "cap": cap}
        for rows, columns, cap in ((2, 2, 30), (2, 4, 30), (4, 4, 30), (4, 8, 40))
    ),
    prompt=_PROMPT,
    description="Let the agents of a grid move boxes from corner to corner to the targets of their colours without two on "
    "one corner.",
)
