"""Cells of the arena: what each (task, models, method, seed, budget) led to, kept as one JSON line each."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .contestants import METHODS, Bout
from .examination import examine
from .gate import WRITER_TOKENS, Gate, served
from .tasks import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .gate import Best
    from .tasks import Splits

CELLS = Path(__file__).with_name("cells.jsonl")
"""The cells behind docs/arena.md."""

LABEL_BIAS = ", label bias"
"""After a method's name: its prompt with a bias for each label."""

CURVE = 6  # points of a best-so-far curve that are tested, the first and the last among them
CURVE_TEST = 100  # test examples of a point that is not the last


class Place(NamedTuple):
    """Which cell: task, task model, writer, method, seed, and budget in tokens of all roles."""

    task: str
    model: str
    writer: str
    method: str
    seed: int
    budget: int


@dataclass(frozen=True)
class Point:
    """A point of the best-so-far curve: tokens spent when the prompt became the best, and its mean test reward."""

    tokens: int
    reward: float


@dataclass(frozen=True)
class Cell:
    """What came of one contestant's turn.

    Args:
        place: which cell.
        rewards: of the chosen prompt on each test example, in the order of the split.
        chosen: the chosen prompt.
        used: role -> calls, input tokens and output tokens.
        curve: points of the best-so-far curve, tested on `CURVE_TEST` examples but for the last.
        seconds: of the search, on whatever else the machine did.
        versions: of what was run.
    """

    place: Place
    rewards: tuple[float, ...]
    chosen: dict[str, Any]
    used: dict[str, dict[str, int]]
    curve: tuple[Point, ...]
    seconds: float
    versions: dict[str, str]

    @property
    def reward(self) -> float:
        """Mean test reward."""
        return sum(self.rewards) / len(self.rewards)

    @property
    def tokens(self) -> int:
        """Tokens of all roles and directions."""
        return sum(tally["input"] + tally["output"] for tally in self.used.values())

    def line(self) -> str:
        """Return the cell as a JSON line."""
        rewards = "".join(str(int(reward)) for reward in self.rewards)
        curve = [[point.tokens, point.reward] for point in self.curve]
        data = {**self.place._asdict(), **asdict(self), "rewards": rewards, "curve": curve}
        del data["place"]
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def read(cls, line: str) -> Cell:
        """Return the cell that `line` returned."""
        data = json.loads(line)
        place = Place(**{name: data.pop(name) for name in Place._fields})
        data["rewards"] = tuple(float(digit) for digit in data["rewards"])
        data["curve"] = tuple(Point(*point) for point in data["curve"])
        return cls(place=place, **data)


def read_cells(path: Path) -> dict[Place, Cell]:
    """Return the cells kept in a file, which need not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {cell.place: cell for cell in map(Cell.read, filter(None, lines))}


def keep(cell: Cell, path: Path) -> None:
    """Add a cell to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{cell.line()}\n")


class Setting(NamedTuple):
    """Where cells are run.

    Args:
        data: folder of the data sets.
        models: role -> base URL of the server, and the model's name there.
        out: folder for what contestants write.
        peers: folder of the peers' environments.
        versions: of what is run.
    """

    data: Path
    models: dict[str, tuple[str, str]]
    out: Path
    peers: Path
    versions: dict[str, str]


def run(place: Place, setting: Setting) -> Cell:
    """Run one cell: the contestant's turn, then the test of what it chose."""
    splits = load(place.task, setting.data, place.seed)
    gate = Gate(
        models=setting.models,
        examples={example.id: example for example in (*splits.train, *splits.validation)},
        metric=splits.metric,
        max_tokens={"task": splits.source.max_tokens, "writer": WRITER_TOKENS},
        budget=place.budget,
    )
    folder = setting.out / "-".join(str(part).replace(" ", "-") for part in place)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    began = time.monotonic()
    with served(gate) as url:
        METHODS[place.method](Bout(splits, gate, url, place.seed, folder, setting.peers))
    seconds = time.monotonic() - began
    chosen = dict(gate.best[-1].prompt)
    rewards = examine(chosen, splits, splits.test, setting.models["task"])
    return Cell(
        place=place,
        rewards=tuple(rewards),
        chosen=chosen,
        used=gate.usage(),
        curve=_curve(gate.best, splits, rewards, setting.models["task"]),
        seconds=round(seconds, 1),
        versions=setting.versions,
    )


def _curve(
    best: Sequence[Best], splits: Splits, rewards: Sequence[float], address: tuple[str, str]
) -> tuple[Point, ...]:
    """Test the points of the best-so-far curve."""
    *earlier, last = _spread(best)
    examples = splits.test[:CURVE_TEST]
    points = [Point(point.tokens, _mean(examine(point.prompt, splits, examples, address))) for point in earlier]
    return (*points, Point(last.tokens, _mean(rewards)))


def _spread(best: Sequence[Best]) -> list[Best]:
    """Return at most `CURVE` of the points, evenly spaced, the first and the last among them."""
    if len(best) <= CURVE:
        return list(best)
    return [best[round(i * (len(best) - 1) / (CURVE - 1))] for i in range(CURVE)]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
