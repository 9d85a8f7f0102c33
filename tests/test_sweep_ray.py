"""Sweeps on Ray's workers, real ones: as without them, killed and gone on with, recorded in PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sweep_parts
from conftest import ROOT
from postgres import postgres
from sweep_parts import SWEEP, write_sweep

from promptopt import InputError, Memo
from promptopt.memo import memo_key
from promptopt.sweep import run_sweep
from promptopt.sweep.pool import _check

WORKERS = 2


def start(home: Path, *more: str, pause: float = 0.0) -> subprocess.Popen[str]:
    """Sweep in a process of its own."""
    pytest.importorskip("ray", reason="needs the extra 'scale'")
    words = ["sweep", home / "sweep.toml", "--run-dir", home / "out", "--memo", home / "memo", "--workers", WORKERS]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        sweep_parts.LOG: str(home / "log"),
        sweep_parts.PAUSE: str(pause),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "promptopt", *map(str, words), *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    return printed


def logged(home: Path) -> list[Any]:
    """The calls so far: body, replicate, process."""
    text = (home / "log").read_text() if (home / "log").exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def keys(calls: list[Any]) -> list[str]:
    return [memo_key(sweep_parts.model.fingerprint, "generate", body, replicate) for body, replicate, _ in calls]


def alive(process: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in this process, one run after another."""
    home = tmp_path_factory.mktemp("calm")
    run_sweep(write_sweep(home), folder=home / "out", memo=str(home / "memo"), workers=0)
    return home


def test_two_workers_killed_with_their_driver_and_started_again_end_as_one_process_does(
    calm: Path, tmp_path: Path
) -> None:
    write_sweep(tmp_path)
    process = start(tmp_path, pause=0.005)
    while len(logged(tmp_path)) < 400 and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None  # the kill hits a living sweep
    process.kill()
    process.communicate()
    workers = {call[2] for call in logged(tmp_path)}
    while any(map(alive, workers)):  # Ray ends them with their driver
        time.sleep(0.05)
    before = logged(tmp_path)
    with Memo(tmp_path / "memo") as memo:
        stored = set(memo.get_many(keys(before)))
    finish(start(tmp_path))
    after = logged(tmp_path)[len(before) :]

    assert len(workers) == WORKERS
    assert (tmp_path / "out" / "sweep.json").read_bytes() == (calm / "out" / "sweep.json").read_bytes()
    assert len(stored) > 300
    assert after
    assert not stored & set(keys(after))


def test_postgresql_holds_the_studies_of_all_runs(calm: Path, tmp_path: Path) -> None:
    import optuna

    write_sweep(tmp_path)
    with postgres() as url:
        finish(start(tmp_path, "--study", url))
        storage = optuna.storages.RDBStorage(url)
        summaries = {one.study_name: one.n_trials for one in optuna.get_all_study_summaries(storage)}
        storage.remove_session()
        storage.engine.dispose()

    assert (tmp_path / "out" / "sweep.json").read_bytes() == (calm / "out" / "sweep.json").read_bytes()
    assert not (tmp_path / "out" / "study.db").exists()
    assert {name.split()[0]: count for name, count in summaries.items() if name.startswith("sweep ")} == {"sweep": 4}
    assert len([name for name in summaries if name.startswith("toy ")]) == 4
    assert all(summaries.values())


def test_an_error_in_the_users_code_ends_a_sweep_on_workers_too(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP.replace("sweep_parts:model", "sweep_parts:faulty"))
    process = start(tmp_path)
    _, errors = process.communicate(timeout=1200)

    assert process.returncode == 1
    assert "no such thing" in errors


def nodes(*cpus: float) -> Any:
    """What Ray says of its nodes."""
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": one}} for one in cpus])


def test_files_of_one_machine_are_refused_where_there_are_several() -> None:
    needs = {"CPU": 1.0, "GPU": 0.0}
    _check(nodes(2.0), "/tmp/memo", Path("study.db"), needs)  # noqa: S108  no file is made
    _check(nodes(2.0, 2.0), "redis://host", "postgresql+psycopg://host/x", needs)
    with pytest.raises(InputError, match="2 nodes, and the memo in memo is a folder"):
        _check(nodes(2.0, 2.0), "memo", "postgresql+psycopg://host/x", needs)
    for file in (Path("study.db"), "sqlite:///study.db"):
        with pytest.raises(InputError, match="2 nodes, and the study is a file"):
            _check(nodes(2.0, 2.0), "redis://host", file, needs)


def test_runs_that_need_more_than_any_machine_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"gpus = 1, and no machine here has more than 0: give gpus = 0 or less"):
        _check(nodes(2.0), "memo", "x", {"CPU": 1.0, "GPU": 1.0})
