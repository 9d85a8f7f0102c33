"""A task that a Python file makes, where a task file could be named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from shell import promptopt

from promptopt import InputError, load_task

if TYPE_CHECKING:
    from pathlib import Path

MINE = """
from promptopt import Example, FakeModel, Prompt, Task

task = Task(train=[Example({"text": str(n)}, "yes", str(n)) for n in range(4)], seed_prompt=Prompt("Say yes."))

def made():
    return task

def number():
    return 1

model = FakeModel(lambda request: "yes")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["mine:task", "mine:made"])
def test_a_shell_takes_it(folder: Path, name: str) -> None:
    done = promptopt(folder, "score", name, "--model", "python:mine:model", "--split", "train", "--json")

    assert done.returncode == 0, done.stderr
    assert [score["reward"][0] for score in json.loads(done.stdout)] == [1.0]


def test_the_module_may_be_in_another_folder(folder: Path) -> None:
    assert len(load_task(folder / "mine:task").train) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:tsk", "mine has no 'tsk', did you mean 'task'"),
        ("mine:number", "mine:number is no task but int"),
        ("mine:Task", "mine:Task is no task but the class Task: name a Task"),
        ("absent:task", "there is no module 'absent'"),
    ],
)
def test_what_is_no_task_is_refused(folder: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_task(folder / name)


def test_options_that_change_a_task_file_are_refused(folder: Path) -> None:
    done = promptopt(folder, "score", "mine:task", "--model", "python:mine:model", "--reward", "exact")

    assert "mine:task is made in Python, so set reward there" in done.stderr
