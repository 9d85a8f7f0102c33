"""Fronts of the arena: which points are tested, and what area a front has. No model and no library of another project is called."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

fronts = pytest.importorskip("benchmarks.arena.fronts.__main__", reason="benchmarks come with a checkout only")
np = pytest.importorskip("numpy")


def points(*own: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    return [{"prompt": number, "own": list(values)} for number, values in enumerate(own)]


@pytest.mark.parametrize(
    ("rewards", "tokens", "area"),
    [
        ([1.0], [0], 1.0),
        ([0.5], [125], 0.25),
        ([0.8, 0.2], [150, 50], 0.8 * 0.4 + 0.2 * 0.4),
        ([0.2, 0.8], [50, 150], 0.8 * 0.4 + 0.2 * 0.4),
        ([0.8, 0.8, 0.1], [150, 100, 120], 0.8 * 0.6),  # two of them are worse than the second in both
        ([0.9], [400], 0.0),
    ],
)
def test_the_area_of_a_front(rewards: list[float], tokens: list[float], area: float) -> None:
    assert fronts.area(np.array(rewards), np.array(tokens)) == pytest.approx(area)


def test_a_front_is_chosen_by_the_contestants_own_means() -> None:
    posted = points((0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (None, 0.9))
    assert [point["prompt"] for point in fronts.chosen(posted)] == [2, 0]
    spread = points(*((i / 10, 1 - i / 10) for i in range(11)))
    kept = [point["prompt"] for point in fronts.chosen(spread)]
    assert len(kept) == fronts.MOST
    assert {0, 10} <= set(kept)  # both ends are among them


def test_without_any_measurement_the_first_prompt_is_tested() -> None:
    assert [point["prompt"] for point in fronts.chosen(points((None, None), (None, None)))] == [0]


def test_the_table_of_kept_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = {"task": "t", "model": "m", "writer": "w", "seed": 0, "budget": 1000}
    cells = [
        {**key, "method": method, "points": [{"rewards": [reward, reward], "tokens": [125, 125]}], "used": {}}
        for method, reward in (("joint", 1.0), ("gepa", 0.5))
    ]
    file = tmp_path / "cells.jsonl"
    file.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    fronts.table(SimpleNamespace(cells=file))
    *_, joint, gepa = capsys.readouterr().out.splitlines()
    assert joint == "| `joint` | 1.000 at 125 | 0.500 |  | 0 | 0 |"
    assert gepa == "| `gepa` | 0.500 at 125 | 0.250 | -0.250 (-0.250 to -0.250) | 0 | 0 |"
