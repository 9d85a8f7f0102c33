"""Sweeps on Ray's workers, real ones: as without them, killed and gone on with, recorded in PostgreSQL."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sweep_parts
from conftest import ROOT
from postgres import postgres
from sweep_parts import SWEEP, WATCH, write_sweep
from typer.testing import CliRunner

from promptopt import InputError, Memo
from promptopt.cli import app
from promptopt.memo import memo_key
from promptopt.sweep import run_sweep
from promptopt.sweep.pool import _check_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2


def words(home: Path) -> list[str]:
    """The command that sweeps on Ray."""
    given = ["sweep", home / "sweep.toml", "--run-dir", home / "out", "--memo", home / "memo", "--workers", WORKERS]
    return list(map(str, given))


def start(home: Path) -> subprocess.Popen[str]:
    """Sweep in a process of its own, which starts Ray."""
    pytest.importorskip("ray", reason="needs the extra 'scale'")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        sweep_parts.LOG: str(home / "log"),
        sweep_parts.PAUSE: "0.005",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "promptopt", *words(home)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray, which this process is connected to; the log of what its workers ask."""
    ray = pytest.importorskip("ray", reason="needs the extra 'scale'")
    log = tmp_path_factory.mktemp("workers") / "log"
    with pytest.MonkeyPatch.context() as patch:  # what workers inherit is the environment at Ray's start
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT)]))
        patch.setenv(sweep_parts.LOG, str(log))
        ray.init(
            address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    yield log
    ray.shutdown()


def logged(log: Path) -> list[Any]:
    """The calls so far: body, replicate, process."""
    text = log.read_text() if log.exists() else ""
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
    calm: Path, log: Path, tmp_path: Path
) -> None:
    write_sweep(tmp_path)
    process = start(tmp_path)
    while len(logged(tmp_path / "log")) < 400 and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None  # the kill hits a living sweep
    process.kill()
    process.communicate()
    workers = {call[2] for call in logged(tmp_path / "log")}
    while any(map(alive, workers)):  # Ray ends them with their driver
        time.sleep(0.05)
    before, others = logged(tmp_path / "log"), len(logged(log))
    with Memo(tmp_path / "memo") as memo:
        stored = set(memo.get_many(keys(before)))
    run_sweep(tmp_path / "sweep.toml", folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=WORKERS)
    after = logged(log)[others:]

    assert len(workers) == WORKERS
    assert (tmp_path / "out" / "sweep.json").read_bytes() == (calm / "out" / "sweep.json").read_bytes()
    assert len(stored) > 300
    assert after
    assert not stored & set(keys(after))


def test_postgresql_holds_the_studies_of_all_runs(calm: Path, log: Path, tmp_path: Path) -> None:
    import optuna

    write_sweep(tmp_path)
    others = len(logged(log))
    with postgres() as url:
        ended = CliRunner().invoke(app, [*words(tmp_path), "--study", url])
        assert ended.exit_code == 0, ended.output
        storage = optuna.storages.RDBStorage(url)
        summaries = {one.study_name: one.n_trials for one in optuna.get_all_study_summaries(storage)}
        storage.remove_session()
        storage.engine.dispose()

    assert logged(log)[others:]
    assert (tmp_path / "out" / "sweep.json").read_bytes() == (calm / "out" / "sweep.json").read_bytes()
    assert not (tmp_path / "out" / "study.db").exists()
    assert {name.split()[0]: count for name, count in summaries.items() if name.startswith("sweep ")} == {"sweep": 4}
    assert len([name for name in summaries if name.startswith("toy ")]) == 4
    assert all(summaries.values())


def test_callbacks_are_called_in_the_workers_and_an_error_in_the_users_code_ends_the_sweep(
    log: Path, tmp_path: Path
) -> None:
    (tmp_path / "watch.py").write_text(WATCH, encoding="utf-8")
    write_sweep(tmp_path, 'callbacks = ["watch:tell"]' + SWEEP.replace("sweep_parts:model", "sweep_parts:faulty"))
    ended = CliRunner().invoke(app, words(tmp_path))
    told = [line.split() for line in (tmp_path / "told.txt").read_text().splitlines()]

    assert ended.exit_code == 1
    assert "no such thing" in str(ended.exception)
    assert {event for _, event in told} == {"RunStarted"}
    assert str(os.getpid()) not in {process for process, _ in told}


def nodes(*cpus: float) -> Any:
    """What Ray says of its nodes."""
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": one}} for one in cpus])


def test_files_of_one_machine_are_refused_where_there_are_several() -> None:
    needs = {"CPU": 1.0, "GPU": 0.0}
    _check_cluster(nodes(2.0), "/tmp/memo", Path("study.db"), needs)  # noqa: S108  no file is made
    _check_cluster(nodes(2.0, 2.0), "redis://host", "postgresql+psycopg://host/x", needs)
    with pytest.raises(InputError, match="2 nodes, but the memo in memo is a folder"):
        _check_cluster(nodes(2.0, 2.0), "memo", "postgresql+psycopg://host/x", needs)
    for file in (Path("study.db"), "sqlite:///study.db"):
        with pytest.raises(InputError, match="2 nodes, but the study is a file"):
            _check_cluster(nodes(2.0, 2.0), "redis://host", file, needs)


def test_runs_that_need_more_than_any_machine_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"gpus = 1, but no machine has more than 0: set gpus = 0 or less"):
        _check_cluster(nodes(2.0), "memo", "x", {"CPU": 1.0, "GPU": 1.0})
