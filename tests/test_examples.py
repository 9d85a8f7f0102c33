"""Examples run as they stand."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from newcomer import shell_blocks
from typer.testing import CliRunner

from promptopt import Components, FakeModel, Request, Response, Result, optimize
from promptopt.cli import app
from promptopt.data.near_duplicates import near_duplicates
from promptopt.data.rows import read_rows, to_examples
from promptopt.data.splits import split_examples
from promptopt.data.task_file import load_task

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = sorted((ROOT / "examples").glob("custom_*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_runs_and_shows_an_improvement(script: object) -> None:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("Better than the seed prompt")


@pytest.mark.parametrize("name", ["grid", "orders", "sums", "tickets", "topics"])
def test_an_example_with_data_runs_as_its_page_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    (command,) = shell_blocks(page)
    assert f"runs/{name}" in command
    words = shlex.split(command.replace(f"runs/{name}", str(tmp_path)))
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    match words:
        case ["python", "-m", "promptopt", *arguments]:
            study = [] if name == "grid" else ["--no-study"]  # half of the time
            assert CliRunner().invoke(app, [*arguments, *study], catch_exceptions=False).exit_code == 0
        case ["python", "-m", module, *arguments]:
            monkeypatch.setattr(sys, "argv", [module, *arguments])
            runpy.run_module(module, run_name="__main__")
    result = Result.load(tmp_path / "result.json")

    assert result.finished
    # The fakes of these fail in ways that prompts mend, and their writers know how.
    assert result.improved or name in {"tickets", "topics"}


def test_the_retrieval_example_searches_with_question_and_query(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs bm25s")
    task = load_task(ROOT / "examples" / "retrieval")
    asked: list[str] = []

    def model(request: Request) -> str:
        system, user = (turn.content for turn in request.context if not isinstance(turn, str))
        asked.append(user)
        return ("airstrip" if "runway" in user else "boat") if system.startswith("Write search words") else "620 metres"

    seen = (
        example for example in (*task.train, *task.validation, *task.test) if "runway?" in example.inputs["question"]
    )
    task = replace(task, train=(next(seen),), validation=(), test=())
    result = optimize(task, FakeModel(model), Components(instructions=0, patience=1), memo=tmp_path, tracking=False)

    assert result.history[0].reward == 1.0
    assert any("Airstrip: The airstrip is grass, 620 metres long." in text for text in asked)


def test_the_data_of_the_examples_are_whole() -> None:
    folder = ROOT / "examples"
    tickets = to_examples(read_rows(folder / "tickets" / "tickets.csv"), inputs=["text"], label="team")
    orders = load_task(folder / "orders")
    sums = load_task(folder / "sums")
    every = [*orders.train, *orders.validation, *orders.test]
    reward = orders.reward
    assert callable(reward)

    assert Counter(item.target for item in tickets) == dict.fromkeys(
        ("billing", "technical", "delivery", "account"), 18
    )
    assert len(every) == 48
    assert all(reward(item, Response(item.target or "")) == (1.0, "") for item in every)
    assert len({item.inputs["question"] for item in (*sums.train, *sums.validation, *sums.test)}) == 60


def test_the_help_desk_messages_are_as_their_page_says() -> None:
    folder = ROOT / "examples" / "helpdesk"
    task = load_task(folder)
    messages = to_examples(read_rows(folder / "messages.csv"), inputs=["text"], label="topic")
    splits = split_examples(messages, seed=0, shares=(0.17, 0.28, 0.55))
    texts = [message.inputs["text"].lower().split() for message in messages]
    runs = [{tuple(words[i : i + 6]) for i in range(len(words) - 5)} for words in texts]

    assert [len(items) for items in splits] == [61, 101, 198]
    assert [len(items) for items in (task.train, task.validation, task.test)] == [24, 101, 198]
    assert Counter(message.target for message in messages) == dict.fromkeys(task.labels, 90)
    assert not near_duplicates(*splits, threshold=0.2)
    assert not any(a & b for a, b in combinations(runs, 2))
