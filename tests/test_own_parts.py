"""Strategies and callbacks of one's own, named on the command line and in sweeps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import sweep_parts
from shell import promptopt
from sweep_parts import SWEEP, WATCH, write_sweep, write_task

from promptopt import InputError, StoppedError, estimate, optimize
from promptopt.optimization.job import read_strategy
from promptopt.strategies.registry import find_strategy
from promptopt.sweep import run_sweep
from promptopt.tracking import StepFinished

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.tracking import Event

MINE = """
from dataclasses import dataclass

from promptopt import Prompt
from promptopt.tracking import RunFinished, StepFinished

@dataclass(frozen=True, kw_only=True)
class Endings:
    writes = False
    ending: str = "now"

    def search(self, run):
        scores = run.score([run.task.seed_prompt, Prompt("Say yes or no, " + self.ending + ": {text}")])
        run.step(best=scores.mean.max())

class Demanding:
    def __init__(self, count):
        pass

class Empty:
    pass

def tell(event):
    with open("events.txt", "a") as file:
        file.write(type(event).__name__ + "\\n")
"""
MODEL = ("--model", "python:sweep_parts:model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


def test_a_strategy_and_a_callback_beside_the_task_file(folder: Path) -> None:
    own = ("--strategy", "mine:Endings", "--set", "ending=please", "--callback", "mine:tell")
    done = promptopt(folder, "optimize", "toy.toml", *MODEL, *own, "--json", "--no-study")
    result = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert result["strategy"] == {"name": "Endings", "settings": {"ending": "please"}}
    assert any(record["prompt"]["text"].startswith("Say yes or no, please") for record in result["history"])
    assert (folder / "events.txt").read_text().splitlines() == ["RunStarted", "StepFinished", "RunFinished"]


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--strategy", "mine:Endins", "mine has no 'Endins', did you mean 'Endings'"),
        ("--strategy", "other:Endings", "there is no module 'other'; put other.py into"),
        ("--strategy", "mine:Demanding", "give each of its settings a default"),
        ("--strategy", "mine:Empty", "it needs `writes` (bool) and `search(run)`"),
        ("--callback", "mine:tel", "--callback = 'mine:tel': mine has no 'tel', did you mean 'tell'"),
        ("--callback", "tell", "give MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_fix(folder: Path, option: str, name: str, said: str) -> None:
    done = promptopt(folder, "optimize", "toy.toml", *MODEL, option, name, "--no-study")

    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_a_strategy_of_ones_own_is_described_and_estimated(folder: Path) -> None:
    described = promptopt(folder, "strategies", "mine:Endings")
    estimated = promptopt(folder, "optimize", "toy.toml", *MODEL, "--strategy", "mine:Endings", "--dry-run", "--json")

    assert "ending = now" in described.stdout
    assert json.loads(estimated.stdout)["strategy"]["name"] == "Endings"


def test_a_sweep_reads_strategies_from_beside_its_file(folder: Path, tmp_path: Path) -> None:
    (folder / "tasks").mkdir()
    write_task(folder / "tasks")
    text = SWEEP.replace("toy.toml", "tasks/toy.toml").replace('"steepest"', '"mine:Endings"').replace("[0, 1]", "[0]")
    table = run_sweep(write_sweep(folder, text), folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)

    assert [row.strategy for row in table.rows] == ["random prompts=16", "mine:Endings"]
    assert all(row.test is not None for row in table.rows)


def test_a_sweep_calls_the_callbacks_beside_its_file_in_every_run(folder: Path, tmp_path: Path) -> None:
    (folder / "watch.py").write_text(WATCH, encoding="utf-8")
    sweep = write_sweep(folder, 'callbacks = ["watch:tell"]' + SWEEP.replace('"steepest"', '"mine:Endings"'))
    settings: dict[str, Any] = {"folder": tmp_path / "out", "memo": str(tmp_path / "memo"), "workers": 0}
    run_sweep(sweep, **settings)
    told = [line.split() for line in (folder / "told.txt").read_text().splitlines()]

    assert [event for _, event in told if event != "StepFinished"] == ["RunStarted", "RunFinished"] * 4
    assert {process for process, _ in told} == {str(os.getpid())}

    run_sweep(sweep, **settings)
    assert len((folder / "told.txt").read_text().splitlines()) == len(told)  # finished runs are only read


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:tel", "sweep.toml: callbacks = 'mine:tel': mine has no 'tel', did you mean 'tell'"),
        ("other:tell", "sweep.toml: callbacks: there is no module 'other'; put other.py into"),
        ("tell", "callbacks = 'tell' is not a function: give module:function"),
    ],
)
def test_a_sweep_refuses_a_callback_before_anything_is_written(folder: Path, name: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        run_sweep(write_sweep(folder, f"callbacks = [{name!r}]" + SWEEP), folder=folder / "out", workers=0)

    assert said in str(error.value)
    assert not (folder / "out").exists()


def test_a_callback_that_stops_without_a_reason_leaves_an_unfinished_run(folder: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepFinished):
            raise StoppedError

    result = optimize(folder / "toy.toml", sweep_parts.model, "random", memo=folder / "memo", callbacks=[stop])

    assert result.unfinished == "StoppedError"


def test_without_a_folder_the_file_is_in_the_current_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert type(find_strategy(read_strategy("mine:Endings"), {"ending": "here"})).__name__ == "Endings"
    with pytest.raises(InputError, match="has no setting 'end', did you mean 'ending'"):
        estimate("toy.toml", sweep_parts.model, "mine:Endings", settings={"end": "here"})
