"""Tutorials are followed word by word, with a server on this machine in place of the provider."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from newcomer import PAGE, shell_blocks
from servers.loopback import Loopback
from shell import promptopt

if TYPE_CHECKING:
    from pathlib import Path

EXTENDING = ROOT / "docs" / "extending.md"
HOSTED = ROOT / "docs" / "tutorials" / "hosted.md"
TOPICS = ("computers", "staff", "building", "money")


def reply(text: str) -> str:
    """A writer's proposal; as the task model, a topic by the message's length, better under another wording."""
    if "<prompt>" in text:
        return "<prompt>Choose the topic of the message.</prompt>"
    return TOPICS[len(text) % 4]


def test_fifty_rows_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra 'report'")
    data = next(block for block in shell_blocks(PAGE.read_text(encoding="utf-8")) if "messages.csv" in block)
    subprocess.run(["bash", "-euc", data], cwd=tmp_path, check=True)  # noqa: S607  that of the system
    page = "".join(shell_blocks(HOSTED.read_text(encoding="utf-8"))).replace("\\\n", " ")
    page = page.replace("1 dollar", "120 calls")  # the price of this server is not known

    with Loopback(reply) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
        for command in re.findall(r"^promptopt (.*)$", page, flags=re.MULTILINE):
            done = promptopt(tmp_path, *shlex.split(command))
            assert done.returncode == 0, done.stderr

    assert "</html>" in (tmp_path / "runs" / "messages" / "report.html").read_text(encoding="utf-8")
    assert "sk-canary" not in (tmp_path / "runs" / "messages" / "result.json").read_text(encoding="utf-8")


@pytest.mark.wide  # a quarter of a minute; tests of sweeps and of the page's blocks show the parts
def test_a_strategy_of_your_own_in_a_sweep(tmp_path: Path) -> None:
    start, page = PAGE.read_text(encoding="utf-8"), EXTENDING.read_text(encoding="utf-8")
    for block in shell_blocks(start):
        if block.startswith("cat >"):
            subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)  # noqa: S607  that of the system
    (tmp_path / "fake.py").write_text(
        "from promptopt import FakeModel\n"
        f"topics = {TOPICS!r}\n"
        "model = FakeModel(lambda request: topics[len(str(request.context)) % 4])\n",
        encoding="utf-8",
    )
    strategy, *_ = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    sweep, *_ = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "openings.py").write_text(strategy, encoding="utf-8")
    (tmp_path / "sweep.toml").write_text(
        sweep.replace("local:smollm2", "python:fake:model").replace("[0, 1]", "[0]"), encoding="utf-8"
    )

    checked = subprocess.run(
        [sys.executable, "openings.py"], cwd=tmp_path, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    for command in re.findall(r"^promptopt (.*)$", "".join(shell_blocks(page)), flags=re.MULTILINE):
        words = shlex.split(command.replace("local:smollm2", "python:fake:model"))
        done = promptopt(tmp_path, *words, *(["--no-study"] if words[0] == "optimize" else ["--workers", "0"]))
        assert done.returncode == 0, done.stderr

    assert checked.returncode == 0
    table = (tmp_path / "runs" / "sweep" / "sweep.md").read_text(encoding="utf-8")
    assert "openings:Openings" in table
    assert "joint" in table
