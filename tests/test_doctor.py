"""`promptopt doctor`, and docs/agents.md followed word by word."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from newcomer import shell_blocks
from shell import promptopt
from sweep_parts import write_task

if TYPE_CHECKING:
    from pathlib import Path

FAKE = """
from promptopt import FakeLabelModel

def logprobs(context, labels):
    return [-0.5 - (sum(map(ord, str(context))) + i) % 3 for i, _ in enumerate(labels)]

def refuse(context, labels):
    raise SystemExit("a call was made")

model = FakeLabelModel(logprobs)
forbidden = FakeLabelModel(refuse)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path)
    (tmp_path / "fake.py").write_text(FAKE, encoding="utf-8")
    return tmp_path


def findings(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = promptopt(folder, "doctor", *words, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_task_that_can_run_gets_the_command_and_no_call(folder: Path) -> None:
    code, found = findings(folder, "toy.toml", "--model", "python:fake:forbidden", "--budget", "300 calls")

    assert (code, found["ready"]) == (0, True)
    assert found["command"] == [
        "promptopt", "optimize", "toy.toml", "--model", "python:fake:forbidden", "--budget", "300 calls"
    ]  # fmt: skip
    texts = {finding["topic"]: finding["text"] for finding in found["findings"]}
    assert texts["model"] == "FakeLabelModel fake: log-probabilities of labels; free"
    assert "memo" not in texts["calls"]  # it has no replies yet
    assert found["task"]["examples"] == {"train": 24, "validation": 24, "test": 24}
    assert found["task"]["targets"]["test"] == {"yes": 12, "no": 12}
    assert found["strategy"]["name"] == "Joint"
    assert 0 < found["estimate"]["asked"]["calls"] <= 300
    assert found["estimate"]["power"]["examples"] == 24
    assert 0.2 < found["estimate"]["power"]["detectable"] < 0.6
    assert not list(folder.glob("runs/*"))


def test_all_faults_are_seen_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, found = findings(
        folder, "toys.toml", "--model", "openai:gpt-4.1-mini", "--writer", "nothing:x", "--strategy", "hillclimbing"
    )
    problems = {topic: text for topic, state, text in map(dict.values, found["findings"]) if state == "problem"}

    assert (code, found["ready"], found["command"], found["estimate"]) == (1, False, None, None)
    assert "toys.toml" in problems["task"]
    assert "set OPENAI_API_KEY" in problems["model"]
    assert "unknown model 'nothing:x'" in problems["writer"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "hillclimbing"), "did you mean 'hillclimb'"),
        (("--strategy", "random", "--set", "promts=3"), "did you mean 'prompts'"),
        (("--budget", "3 calls"), "at least"),
        (("--budget", "much"), "much"),
        (("--budget", "2 dollars"), "--price"),
    ],
)
def test_what_no_run_could_start_with_is_a_problem(folder: Path, words: tuple[str, ...], said: str) -> None:
    (folder / "priceless.py").write_text(f"{FAKE}\nmodel.price = None\n", encoding="utf-8")
    code, found = findings(folder, "toy.toml", "--model", "python:priceless:model", *words)

    assert code == 1
    assert any(finding["state"] == "problem" and said in finding["text"] for finding in found["findings"])


def test_a_memo_that_cannot_be_used_is_one_problem(folder: Path) -> None:
    code, found = findings(folder, "toy.toml", "--model", "python:fake:model", "--memo", "toy.toml")

    assert code == 1
    assert [finding["topic"] for finding in found["findings"] if finding["state"] == "problem"] == ["memo"]


def test_on_a_screen_each_finding_is_a_line(folder: Path) -> None:
    done = promptopt(folder, "doctor", "toy.toml", "--model", "python:fake:model", "--budget", "300 calls")

    assert done.returncode == 0
    assert "ok  data      test: 24 examples (yes 12, no 12)\n" in done.stdout
    assert "\nrun it: promptopt optimize toy.toml --model python:fake:model --budget '300 calls'\n" in done.stdout


def test_the_page_for_agents_works_word_by_word(tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(FAKE, encoding="utf-8")
    rows = re.search(r"<<'CSV'\n(.*?)^CSV$", (ROOT / "docs/getting-started.md").read_text(), re.DOTALL | re.MULTILINE)
    assert rows
    (tmp_path / "messages.csv").write_text(rows[1], encoding="utf-8")
    page = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
    said: dict[str, Any] = {}
    for block in shell_blocks(page):
        text = block.replace("local:smollm2", "python:fake:model")
        if not text.startswith("promptopt"):
            subprocess.run(["bash", "-euc", text], cwd=tmp_path, check=True)  # noqa: S607  that of the system
            continue
        words = shlex.split(text)[1:]
        done = promptopt(tmp_path, *words)
        assert done.returncode in ((0, 4) if words[0] == "gate" else (0,)), done.stderr
        said[words[0]] = json.loads(done.stdout) if "--json" in words else done.stdout

    tables = {command: _keys(page, heading) for command, heading in (("doctor", "2. Check"), ("optimize", "3. Search"))}
    assert len(tables["doctor"]) >= 6
    assert len(tables["optimize"]) >= 9
    for command, keys in tables.items():
        assert [key for key in keys if not _holds(said[command], key)] == []
    assert (tmp_path / "prompt.py").is_file()
    assert set(said) == {"doctor", "optimize", "export", "gate"}


def _keys(page: str, heading: str) -> list[str]:
    """The keys that the table under a heading names."""
    section = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return [key for cell in cells for key in re.findall(r"`([a-z_.]+)`", cell)]


def _holds(value: dict[str, Any], key: str) -> bool:
    *path, last = key.split(".")
    for part in path:
        value = value[part]
    return last in value
