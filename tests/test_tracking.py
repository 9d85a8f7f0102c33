"""Callbacks, the Optuna study of a run, and MLflow: they see all of a run and change nothing in it."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import logging
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import optuna
import pytest
import sqlalchemy
import toys
from conftest import ROOT
from ports import free_port
from typer.testing import CliRunner

from promptopt import (
    FakeModel,
    FunctionModel,
    HillClimb,
    InputError,
    Prompt,
    RandomSearch,
    Request,
    Run,
    optimize,
    tracking,
)
from promptopt.cli import app
from promptopt.errors import StoppedError
from promptopt.strategies import P1
from promptopt.tracking import (
    MLflow,
    OptunaStudy,
    RunFinished,
    RunStarted,
    StepFinished,
    buffer,
    optuna_rows,
    optuna_study,
    run_started,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from promptopt import Result, Strategy
    from promptopt.tracking import Callback, Event

COMPLETE, PRUNED, FAIL = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "PRUNED", "FAIL"))


def search(tmp_path: Path, strategy: Any = "random", **changes: Any) -> Result:
    given: dict[str, Any] = {
        "writer": FakeModel(toys.writer, "writer"),
        "settings": {"prompts": 8, "batch": 2} if strategy == "random" else None,
        "memo": tmp_path / "memo",
        "run_dir": tmp_path / "run",
    }
    return optimize(toys.TASK, changes.pop("model", FakeModel(toys.answer)), strategy, **(given | changes))


@contextmanager
def studies(url: str) -> Generator[list[optuna.Study]]:
    storage = optuna.storages.RDBStorage(url)
    yield [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
    storage.remove_session()
    storage.engine.dispose()


def trials(tmp_path: Path, name: str = "run/study.db") -> list[FrozenTrial]:
    with studies(f"sqlite:///{tmp_path / name}") as (study,):
        return study.get_trials()


def told(trials: Sequence[FrozenTrial]) -> list[Any]:
    return [(trial.number, trial.state, trial.values, trial.user_attrs) for trial in trials]


@pytest.mark.parametrize(
    "strategy", ["promptquine", *(pytest.param(name, marks=pytest.mark.wide) for name in ("random", "hillclimb"))]
)
def test_a_run_is_the_same_with_and_without_a_study(tmp_path: Path, strategy: str) -> None:
    with_study = search(tmp_path / "a", strategy, budget="1500 calls")
    without = search(tmp_path / "b", strategy, tracking=False, budget="1500 calls")

    assert with_study == without
    assert (tmp_path / "a/run/study.db").exists()
    assert not (tmp_path / "b/run/study.db").exists()
    assert len(trials(tmp_path / "a")) == len(with_study.history)


def test_each_candidate_is_a_trial_of_its_number(tmp_path: Path) -> None:
    result = search(tmp_path)
    found = trials(tmp_path)

    assert [trial.values for trial in found] == [[r.reward, r.length] for r in result.history]
    assert [trial.user_attrs for trial in found] == [
        {"prompt": str(r.prompt), "parent": r.parent, "step": r.step, "cells": r.cells}
        | ({"chosen": True} if r.prompt == result.prompt else {})
        for r in result.history
    ]
    assert [trial.params for trial in found] == [
        {"step": r.step, "parent": -1 if r.parent is None else r.parent} for r in result.history
    ]
    assert {trial.state for trial in found} == {COMPLETE}


def test_the_study_says_which_run_it_is_and_how_it_ended(tmp_path: Path) -> None:
    result = search(tmp_path)
    with studies(f"sqlite:///{tmp_path / 'run/study.db'}") as (study,):
        facts = study.user_attrs

        assert study.study_name.startswith("toy RandomSearch seed 0 ")
        assert (facts["task"], facts["seed"], facts["budget"]) == ("toy", 0, "no limit")
        assert facts["strategy"]["settings"]["prompts"] == 8
        assert facts["headline"] == result.headline
        assert result.history[facts["chosen"]].prompt == result.prompt
        assert study.metric_names == ["reward", "tokens"]
        assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]


@dataclass(frozen=True)
class Racing:
    """Races the seed prompt, which is worse, against two others."""

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        seed = run.task.seed_prompt
        run.score([seed])
        run.step(best=0)
        run.race([seed, Prompt("All is lost : {text}"), Prompt("Answer it : {text}")], parents=[None, seed, seed])
        run.step(best=1)


def lost(request: Request) -> str:
    text = toys.text_of(request.context)
    return "neither" if "lost" in text else toys.right_answer(text)


def test_what_a_race_dropped_is_a_pruned_trial(tmp_path: Path) -> None:
    task = replace(toys.TASK, train=toys.splits(40)["train"])
    optimize(task, FakeModel(lost), Racing(), memo=tmp_path / "memo", run_dir=tmp_path / "run")
    found = trials(tmp_path)

    assert [trial.state for trial in found] == [COMPLETE, PRUNED, COMPLETE]
    assert [trial.user_attrs["cells"] < 40 for trial in found] == [False, True, False]
    assert found[1].values[0] == 0.0


@dataclass(frozen=True)
class Halving:
    """Scores all prompts on many items, and the best one on a few only, in its own step."""

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt])
        run.step(best=0)
        best = Prompt("Answer it : {text}")
        run.score([best], run.task.train[:9], parents=[run.task.seed_prompt])
        run.step(best=1)
        run.score([best])


def test_the_chosen_candidate_is_marked_and_complete_with_its_final_reward(tmp_path: Path) -> None:
    for _ in range(2):  # a run that is repeated leaves one mark
        result = optimize(
            toys.TASK, FakeModel(toys.answer), Halving(), memo=tmp_path / "memo", run_dir=tmp_path / "run"
        )
        found = trials(tmp_path)
        assert result.prompt == result.history[1].prompt
        assert [trial.user_attrs.get("chosen", False) for trial in found] == [False, True]
        assert found[1].state == COMPLETE
        assert found[1].values == [result.history[1].reward, result.history[1].length]


@dataclass(frozen=True)
class Stepless:
    """Scores the seed prompt on a few items, then on all of them, and ends no step."""

    steps: int
    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt], run.task.train[:3])
        for _ in range(self.steps):
            run.step(best=0)
        run.score([run.task.seed_prompt])


def test_a_search_without_steps_is_written_at_its_end(tmp_path: Path) -> None:
    result = optimize(toys.TASK, FakeModel(toys.answer), Stepless(0), memo=tmp_path / "memo", run_dir=tmp_path / "run")

    assert [trial.user_attrs["cells"] for trial in trials(tmp_path)] == [record.cells for record in result.history]


def test_a_reward_that_moved_after_its_step_is_told_beside_the_trial(tmp_path: Path) -> None:
    result = optimize(toys.TASK, FakeModel(toys.answer), Stepless(1), memo=tmp_path / "memo", run_dir=tmp_path / "run")
    with studies(f"sqlite:///{tmp_path / 'run/study.db'}") as (study,):
        assert study.get_trials()[0].user_attrs["cells"] == 3
        assert study.user_attrs["reward at the end"] == {"0": result.history[0].reward}


def test_a_candidate_without_any_reply_is_a_failed_trial(tmp_path: Path) -> None:
    class Broken(FakeModel):
        def generate(self, requests: Any) -> Any:
            from promptopt import Arrival, Failure

            for arrival in super().generate(requests):
                bad = "All is lost" in str(arrival.reply)
                yield Arrival(arrival.number, Failure("broken")) if bad else arrival

    model = Broken(lambda request: "All is lost" if "lost" in toys.text_of(request.context) else "yes")
    optimize(toys.TASK, model, Racing(), memo=tmp_path / "memo", run_dir=tmp_path / "run")
    found = trials(tmp_path)

    assert [trial.state for trial in found] == [COMPLETE, FAIL, COMPLETE]
    assert found[1].user_attrs["failed"] > 0


def stopping(at: int, error: Exception) -> Callback:
    def callback(event: Event) -> None:
        if isinstance(event, StepFinished) and event.number == at:
            raise error

    return callback


def test_running_again_doubles_no_trial(tmp_path: Path) -> None:
    search(tmp_path)
    first = trials(tmp_path)
    search(tmp_path)

    assert trials(tmp_path) == first


def test_a_run_that_ended_early_goes_on_in_its_study(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        search(tmp_path / "a", callbacks=[stopping(1, ZeroDivisionError())])
    early = trials(tmp_path / "a")
    search(tmp_path / "a")
    search(tmp_path / "b")

    later = [trial for trial in trials(tmp_path / "a")[: len(early)] if "chosen" not in trial.user_attrs]
    assert 0 < len(early) < len(trials(tmp_path / "b"))
    assert len(early) - 1 <= len(later)
    assert all(trial in early for trial in later)
    assert told(trials(tmp_path / "a")) == told(trials(tmp_path / "b"))


def test_the_last_step_of_an_unfinished_run_waits_for_the_run_to_go_on(tmp_path: Path) -> None:
    calls = 0

    def flaky(request: Request) -> str:
        nonlocal calls
        calls += 1
        if calls == 70:
            raise StoppedError("stopped in the middle of a step")
        return toys.answer(request)

    model = FakeModel(flaky)
    result = search(tmp_path / "a", model=model)
    early = trials(tmp_path / "a")
    search(tmp_path / "a", model=model)
    search(tmp_path / "b")

    assert result.unfinished
    assert {trial.user_attrs["step"] for trial in early} == set(range(len(result.steps)))
    assert told(trials(tmp_path / "a")) == told(trials(tmp_path / "b"))


def stored(url: str) -> dict[str, list[Any]]:
    """The rows of Optuna's tables of trials; of times, whether there is one."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        tables = ("trials", "trial_user_attributes", "trial_system_attributes", "trial_values", "trial_params")
        rows = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().all() for name in tables}  # noqa: S608
    engine.dispose()
    return {
        name: [{k: bool(v) if k.startswith("datetime") else v for k, v in row.items()} for row in found]
        for name, found in rows.items()
    }


def test_trials_are_stored_as_optuna_stores_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in "ab"]
    monkeypatch.setattr(optuna_study, "mark_chosen", lambda *_: None)  # Optuna has no such thing
    task = replace(toys.TASK, train=toys.splits(40)["train"])
    for url in urls:
        optimize(task, FakeModel(lost), Racing(), memo=tmp_path / "memo", tracking=url)
        search(tmp_path, tracking=url, run_dir=None)
        monkeypatch.setattr(optuna_rows, "_SCHEMA", "of another Optuna")  # then its own way is taken
    ours, theirs = map(stored, urls)

    assert len(ours["trials"]) == 3 + 9
    assert len(ours["trial_values"]) == 24
    assert ours == theirs
    with studies(urls[0]) as found:
        age = dt.datetime.now() - found[0].get_trials()[0].datetime_start  # type: ignore[operator]  # noqa: DTZ005  as Optuna has it
    assert abs(age.total_seconds()) < 600


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that all end at once, as the study sees them; how many trials it writes each time."""
    batches: list[int] = []
    write = optuna_rows.add_trials

    def counted(study: Any, storage: Any, trials: Any, number: int) -> None:
        batches.append(len(trials))
        write(study, storage, trials, number)

    monkeypatch.setattr(optuna_study, "add_trials", counted)
    monkeypatch.setattr(buffer, "_APART_SECONDS", 1e9)
    monkeypatch.setattr(buffer, "_MOST", 4)
    return batches


def test_steps_that_end_soon_after_one_another_are_written_together(tmp_path: Path, hurried: list[int]) -> None:
    steps = [record.step for record in search(tmp_path).history]

    assert (steps, hurried) == ([0, 0, 0, 1, 1, 2, 2, 3, 3], [3, 4, 2])


def test_what_waits_is_written_where_a_run_crashes(tmp_path: Path, hurried: list[int]) -> None:
    with pytest.raises(ZeroDivisionError):
        search(tmp_path, callbacks=[stopping(1, ZeroDivisionError())])

    assert hurried == [3, 2]


def test_what_a_kill_takes_is_written_by_the_next_run(tmp_path: Path, hurried: list[int]) -> None:
    with pytest.raises(ZeroDivisionError):  # a study that is never closed, as in a killed process
        search(
            tmp_path / "a",
            tracking=False,
            callbacks=[OptunaStudy(tmp_path / "a/run/study.db"), stopping(1, ZeroDivisionError())],
        )
    assert hurried == [3]
    search(tmp_path / "a")
    search(tmp_path / "b")

    assert told(trials(tmp_path / "a")) == told(trials(tmp_path / "b"))


def test_two_that_write_one_study_double_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def other(event: Event) -> None:
        if isinstance(event, StepFinished) and event.number == 1:
            search(tmp_path)

    result = search(tmp_path, callbacks=[other])

    assert "another process is recording the same run" in caplog.text
    assert [trial.number for trial in trials(tmp_path)] == [record.number for record in result.history]


def test_runs_that_differ_are_studies_of_their_own_in_one_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    for changes in ({}, {"seed": 1}, {"budget": "300 calls"}, {"strategy": "tapruning"}, {}):
        search(tmp_path, tracking=url, run_dir=None, **changes)
    with studies(url) as found:
        assert len(found) == 4
        assert all(study.get_trials() for study in found)


@pytest.mark.parametrize(
    "changes", [{"description": "Other."}, {"max_tokens": 9}, {"train": toys.splits(11)["train"]}, {"reward": lost}]
)
def test_another_task_of_the_same_name_is_another_study(changes: dict[str, Any]) -> None:
    def name(task: Any) -> str:
        return run_started(task, Racing(), {"task": {"model": "fake"}}, 0, "1 call").name

    assert name(toys.TASK) == name(replace(toys.TASK))
    assert name(replace(toys.TASK, **changes)) != name(toys.TASK)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (P1(inner=HillClimb()), P1(inner=HillClimb(pool=3))),
        (P1(inner=HillClimb()), P1(inner=RandomSearch())),
        (HillClimb(prompts=("A",)), HillClimb(prompts=("B",))),
    ],
)
def test_another_inner_strategy_or_pool_is_another_study(first: Strategy, second: Strategy) -> None:
    def name(strategy: Strategy) -> str:
        return run_started(toys.TASK, strategy, {"task": {"model": "fake"}}, 0, "1 call").name

    assert name(first) != name(second)
    assert name(first) == name(replace(first))  # type: ignore[type-var]  # a dataclass


def test_a_study_of_another_run_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def other(_: Request) -> str:
        return "<prompt>Now {text}</prompt><prompt>Then {text}</prompt>"

    search(tmp_path, writer=FunctionModel(toys.writer, name="writer", version="1"))
    before = trials(tmp_path)
    tracker = OptunaStudy(tmp_path / "run/study.db")
    edited = FunctionModel(other, name="writer", version="1")  # edited, and the version was forgotten
    search(tmp_path / "b", writer=edited, callbacks=[tracker], run_dir=None)
    tracker.close()

    assert trials(tmp_path) == before
    assert "trial 1 has another prompt: the study is another run's" in caplog.text


def test_a_file_that_is_no_database_costs_one_warning_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/study.db").write_text(
        "This is no database, but a text that is long enough to look like one. " * 20
    )
    result = search(tmp_path)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]

    assert result == search(tmp_path, tracking=False)
    assert len(warnings) == 1
    assert "tracking stopped, the run continues" in warnings[0].getMessage()


def test_a_disk_that_fills_up_costs_one_warning_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optuna_study, "add_trials", full)
    result = search(tmp_path)

    assert result.finished
    assert caplog.text.count("No space left on device") == 1


def test_a_locked_database_costs_one_warning_and_running_again_writes_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_study, "_LOCK_TIMEOUT", 0.01)
    held: list[sqlite3.Connection] = []

    def lock(event: Event) -> None:
        if isinstance(event, StepFinished) and event.number == 1:
            held.append(sqlite3.connect(tmp_path / "run/study.db"))
            held[0].execute("BEGIN EXCLUSIVE")

    result = search(tmp_path, callbacks=[lock])
    held[0].close()

    assert result.finished
    assert caplog.text.count("database is locked") == 1
    assert search(tmp_path) == result
    assert len(trials(tmp_path)) == len(result.history)


def test_a_storage_that_cannot_be_used_is_refused_before_any_call(tmp_path: Path) -> None:
    def paid(request: Request) -> str:
        raise AssertionError("a call was made")

    for url in ("study.db", "nosql://here", "mysql+nodriver://here/x"):
        with pytest.raises(InputError, match="cannot use the study"):
            search(tmp_path, model=FakeModel(paid), tracking=url)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in str(OptunaStudy("sqlite://me:secret@/x.db"))


def test_callbacks_are_told_of_everything_in_order(tmp_path: Path) -> None:
    events: list[Event] = []
    result = search(tmp_path, callbacks=[events.append])
    steps = [event for event in events if isinstance(event, StepFinished)]
    ends = [event for event in events if isinstance(event, RunFinished)]

    assert [type(event) for event in events] == [RunStarted, *[StepFinished] * len(result.steps), RunFinished]
    assert [event.number for event in steps] == list(range(len(result.steps)))
    assert [event.facts for event in steps] == list(result.steps)
    shown = [record for event in steps for record in event.candidates]
    assert [record.prompt for record in shown] == [record.prompt for record in result.history]
    assert ends == [RunFinished(result)]
    assert [event.used.calls for event in steps] == sorted(event.used.calls for event in steps)


def test_what_a_callback_raises_ends_the_run_and_loses_no_reply(tmp_path: Path) -> None:
    asked: list[Request] = []

    def counted(request: Request) -> str:
        asked.append(request)
        return toys.answer(request)

    model = FunctionModel(counted, name="counted", version="1")
    with pytest.raises(ZeroDivisionError):
        search(tmp_path, model=model, callbacks=[stopping(1, ZeroDivisionError())])
    result = search(tmp_path, model=model)

    assert result.finished
    assert len(asked) == len({(request.context, request.replicate) for request in asked})


def test_a_callback_may_ask_the_search_to_end(tmp_path: Path) -> None:
    result = search(tmp_path, callbacks=[stopping(1, StoppedError("good enough"))])

    assert result.unfinished == "good enough"
    assert len(result.steps) == 2


def test_optuna_is_not_loaded_where_no_study_is_written(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import toys, promptopt; from promptopt.tracking import StepFinished;"
        "promptopt.optimize(toys.TASK, promptopt.FakeModel(toys.answer), 'tapruning', memo=sys.argv[1], run_dir=sys.argv[1],"
        " tracking=False, callbacks=[lambda event: None]);"
        "print([name for name in ('optuna', 'sqlalchemy', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def fetched(url: str, seconds: float = 60) -> Any:
    """What a server answers, once it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310  our own
                return json.load(reply)
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@contextmanager
def dashboard(url: str) -> Generator[str]:
    """A server of optuna-dashboard, as its users start it."""
    port = free_port()
    code = "from optuna_dashboard._cli import main; main()"
    command = [sys.executable, "-c", code, url, "--port", str(port), "--host", "127.0.0.1", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/api/studies"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(importlib.util.find_spec("optuna_dashboard") is None, reason="needs optuna-dashboard")
def test_optuna_dashboard_shows_the_run_while_it_goes(tmp_path: Path) -> None:
    asked: list[Request] = []
    seen: list[Any] = []

    def shown() -> Any:
        with dashboard(f"sqlite:///{tmp_path / 'run/study.db'}") as api:
            (study,) = fetched(api)["study_summaries"]
            return fetched(f"{api}/{study['study_id']}?after=0")

    def looking(request: Request) -> str:
        asked.append(request)
        if len(asked) == 80:
            seen.append(shown())
        return toys.answer(request)

    result = search(tmp_path, model=FakeModel(looking))
    after = shown()

    (during,) = seen
    assert 0 < len(during["trials"]) < len(after["trials"]) == len(result.history)
    for trial, record in zip(during["trials"], result.history, strict=False):
        facts = {attr["key"]: attr["value"] for attr in trial["user_attrs"]}
        assert trial["state"] == "Complete"
        assert trial["values"] == [record.reward, record.length]
        assert facts["prompt"] == str(record.prompt)
    assert after["name"].startswith("toy RandomSearch")


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_holds_settings_steps_and_outcome_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(buffer, "_APART_SECONDS", 1e9)  # the run that crashes writes its first step alone
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def tracked(**changes: Any) -> Callable[[], Result]:
        return lambda: search(tmp_path, tracking=False, callbacks=[MLflow(uri), *changes.get("more", ())])

    with pytest.raises(ZeroDivisionError):
        tracked(more=[stopping(1, ZeroDivisionError())])()
    result = tracked()()
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("promptopt").experiment_id])
    points = client.get_metric_history(run.info.run_id, "best")

    assert (run.info.status, run.data.params["prompts"], run.data.params["seed"]) == ("FINISHED", "8", "0")
    assert [point.step for point in points] == list(range(len(result.steps)))
    assert [point.value for point in points] == [step["best"] for step in result.steps]
    assert run.data.tags["headline"] == result.headline
    assert run.data.metrics["test difference"] == pytest.approx(
        result.test.difference.estimate if result.test else None
    )


def test_the_command_line_writes_a_study_elsewhere_or_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "said.py").write_text("from promptopt import FakeModel\nmodel = FakeModel(lambda request: 'odd')\n")
    rows = "\n".join(f"{n},{'odd' if n % 2 else 'even'}" for n in range(40))
    (tmp_path / "data.csv").write_text(f"number,answer\n{rows}\n")
    words = ["optimize", "--data", "data.csv", "--input", "number", "--label", "answer", "--labels", "odd,even"]
    words += ["--model", "python:said:model", "--strategy", "tapruning", "--memo", "memo"]

    def run(*more: str) -> int:
        return CliRunner().invoke(app, [*words, *more]).exit_code

    assert run("--run-dir", "a") == 0
    assert run("--run-dir", "b", "--no-study") == 0
    assert run("--run-dir", "c", "--study", "sqlite:///elsewhere.db", "--quiet") == 0
    assert isinstance(CliRunner().invoke(app, [*words, "--study", "x", "--no-study"]).exception, InputError)
    assert {path.parent.name for path in tmp_path.rglob("study.db")} == {"a"}
    assert trials(tmp_path, "elsewhere.db")


@pytest.mark.parametrize(
    ("old", "new"), [("Begun", "RunStarted"), ("Stepped", "StepFinished"), ("Ended", "RunFinished")]
)
def test_former_names_of_events_work_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now promptopt.tracking.{new}"):
        assert getattr(tracking, old) is getattr(tracking, new)
