"""A run killed with SIGKILL at any moment and started again ends as if nothing had happened, and repeats no completed call."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kill_child
import numpy as np
import pytest

from promptopt import Memo, Result
from promptopt.memo import memo_key
from promptopt.strategies import BUILT_IN

CHILD = Path(__file__).with_name("kill_child.py")
KILLS = 10
PAUSE = {"fake": 0.01, "local": 0.2}  # seconds: about ten calls, or one batch, further on


def start(kind: str, folder: Path, model: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, CHILD, kind, folder / "memo", folder / "result.json", folder / "log", model]
    return subprocess.Popen([str(part) for part in command if part], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def lines(folder: Path) -> list[Any]:
    path = folder / "log"
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # a line may be half written
    return [json.loads(line) for line in whole.splitlines()]


def flat(kind: str, records: list[Any]) -> list[Any]:
    return records if kind == "fake" else [cell for batch in records for cell in batch]


@pytest.mark.parametrize("kind", ["fake", "local"])
def test_killed_ten_times_a_run_ends_the_same_and_repeats_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = str(request.getfixturevalue("tiny_llama")) if kind == "local" else ""
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    finish(start(kind, calm, model))
    expected = Result.load(calm / "result.json")
    (fingerprint,) = [expected.models["task"]]
    operation = "generate" if kind == "fake" else "label_logprobs"
    rng = np.random.default_rng(7)

    each = max(len(lines(calm)) // KILLS, 1)
    repeated = []
    for _ in range(KILLS):
        seen = len(lines(killed))
        process = start(kind, killed, model)
        wait_for(killed, seen + int(rng.integers(1, each + 1)), process)
        time.sleep(float(rng.uniform(0, PAUSE[kind])))
        assert process.poll() is None  # the kill hits a living run
        process.kill()
        process.communicate()
        repeated += completed(kind, killed, seen, fingerprint, operation)
    finish(start(kind, killed, model))
    with Memo(killed / "memo") as memo:
        keys = [memo_key(fingerprint, operation, body, replicate) for body, replicate in flat(kind, lines(killed))]
        stored = memo.get_many(keys)

    assert Result.load(killed / "result.json") == expected
    assert set(keys) <= set(stored)
    assert not repeated


@pytest.mark.parametrize("strategy", BUILT_IN)
def test_every_strategy_killed_once_ends_the_same(strategy: str, tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    kill_child.main(strategy, *(str(calm / name) for name in ("memo", "result.json", "log")))
    process = start(strategy, killed)
    wait_for(killed, len(lines(calm)) // 3, process)
    assert process.poll() is None  # the kill hits a living run
    process.kill()
    process.communicate()
    kill_child.main(strategy, *(str(killed / name) for name in ("memo", "result.json", "log")))

    assert Result.load(killed / "result.json") == Result.load(calm / "result.json")
    assert len(lines(killed)) <= len(lines(calm)) + 1  # the call that was cut off, and none that was complete


def wait_for(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the run has logged so many calls."""
    while len(lines(folder)) < count and process.poll() is None:
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
