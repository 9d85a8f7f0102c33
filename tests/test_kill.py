"""A run killed with SIGKILL at any moment and started again ends as if nothing had happened, and repeats no completed call."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kill_child
import numpy as np
import pytest
from conftest import ROOT

from promptopt import Memo, Result
from promptopt.memo import memo_key
from promptopt.strategies.registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("kill_child.py")
PAUSE = {
    "fake": 0.01,
    "components": 0.01,
    "local": 0.2,
    "agent": 0.01,
}  # seconds: about ten calls, or one batch, further on


@dataclass
class Runs:
    """Starts runs, each in a process of its own that is forked from one where everything is imported."""

    parent: subprocess.Popen[str]

    def start(self, kind: str, folder: Path, model: str = "", most: float = math.inf) -> int:
        """Return the number of the process; once its log has `most` lines it waits to be killed."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        words = [kind, places(folder), most, model]
        self.parent.stdin.write(json.dumps(words) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def finish(self, kind: str, folder: Path, model: str = "") -> Result:
        """Run to the end, and return the result."""
        wait_for_end(self.start(kind, folder, model))
        return Result.load(folder / "result.json")

    def build(self, folder: Path) -> str:
        """Make a tiny local model, and return its place; what that takes is imported over there already."""
        folder.mkdir()
        wait_for_end(self.start("build", folder, str(folder)))
        return str(folder)


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    command, environment = [sys.executable, str(CHILD)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        yield Runs(parent)
        parent.kill()


def places(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("memo", "result.json", "log")]


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(process: int) -> None:
    while lives(process):
        time.sleep(0.01)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)  # the kill hits a living run
    while lives(process):
        time.sleep(0.001)


def lines(folder: Path) -> list[Any]:
    path = folder / "log"
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # a line may be half written
    return [json.loads(line) for line in whole.splitlines()]


def flat(kind: str, records: list[Any]) -> list[Any]:
    return records if kind != "local" else [cell for batch in records for cell in batch]


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("fake", 10),
        ("components", 10),
        ("local", 2),
        pytest.param("local", 5, marks=pytest.mark.wide),
        ("agent", 1),  # each start is one of an MCP server, too
        pytest.param("agent", 10, marks=pytest.mark.wide),
    ],
)
def test_killed_again_and_again_a_run_ends_the_same_and_repeats_nothing(
    kind: str, kills: int, tmp_path: Path, runs: Runs
) -> None:
    model = runs.build(tmp_path / "model") if kind == "local" else ""
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    expected = runs.finish(kind, calm, model)
    fingerprint = expected.models["task"]
    operation = "generate" if kind != "local" else "label_logprobs"
    rng = np.random.default_rng(7)

    each = len(lines(calm)) // kills  # however fast it is, no start gets further, nor the last one to the end
    repeated = []
    for _ in range(kills):
        seen = len(lines(killed))
        count = seen + int(rng.integers(1, each))
        process = runs.start(kind, killed, model, count + 1)
        wait_for(killed, count, process)
        time.sleep(float(rng.uniform(0, PAUSE[kind])))
        kill(process)
        repeated += completed(kind, killed, seen, fingerprint, operation)
    ended = runs.finish(kind, killed, model)
    with Memo(killed / "memo") as memo:
        keys = [memo_key(fingerprint, operation, body, replicate) for body, replicate in flat(kind, lines(killed))]
        stored = memo.get_many(keys)

    assert ended == expected
    assert set(keys) <= set(stored)
    assert not repeated
    if kind in ("components", "agent"):
        calls = [len((folder / "log.tool").read_text().splitlines()) for folder in (calm, killed)]
        assert calls[0] <= calls[1] <= calls[0] + kills  # a kill cuts off one call at most


# One with a writer, one with label probabilities, one with episodes: the others stop and go on in the same way.
OFTEN = {"hillclimb", "unsupervised", "promst"}


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=[pytest.mark.wide] * (name not in OFTEN)) for name in BUILT_IN]
)
def test_every_strategy_killed_once_ends_the_same(strategy: str, tmp_path: Path, runs: Runs) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    kill_child.main(strategy, places(calm))
    process = runs.start(strategy, killed, most=len(lines(calm)))
    wait_for(killed, len(lines(calm)) // 3, process)
    kill(process)
    kill_child.main(strategy, places(killed))

    assert Result.load(killed / "result.json") == Result.load(calm / "result.json")
    assert len(lines(killed)) <= len(lines(calm)) + 1  # the call that was cut off, and none that was complete


def wait_for(folder: Path, count: int, process: int) -> None:
    """Wait until the run has logged so many calls."""
    while len(lines(folder)) < count and lives(process):
        time.sleep(0.002)


BEFORE: dict[Path, set[str]] = {}


def completed(kind: str, folder: Path, seen: int, fingerprint: Any, operation: str) -> list[str]:
    """Return keys that this start asked for although they were stored before it; remember what is stored now."""
    records = lines(folder)
    asked = [memo_key(fingerprint, operation, body, r) for body, r in flat(kind, records[seen:])]
    again = [key for key in asked if key in BEFORE.get(folder, set())]
    every = [memo_key(fingerprint, operation, body, r) for body, r in flat(kind, records)]
    if (folder / "memo").exists():
        with Memo(folder / "memo") as memo:
            BEFORE[folder] = set(memo.get_many(every))
    return again
