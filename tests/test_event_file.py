"""What a run writes while it goes on, for those who watch: its events, its replies, and the request to end."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import toys
from viewing import a_run

from promptopt import Example, FakeModel, InputError, Prompt
from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget, Spending
from promptopt.results.cells import CELLS, CellTable, prompt_key
from promptopt.results.outcomes import Answer
from promptopt.results.summary import RunSummary
from promptopt.search.archive import Archive
from promptopt.tracking.event_file import EVENTS, STOP_REQUEST, EventFile
from promptopt.tracking.events import RunStarted
from promptopt.utils.locks import is_locked

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request
    from promptopt.results.result import Result

STARTED = RunStarted(name="x", task="t", strategy={"name": "S"}, models={}, seed=1, budget="9 calls")


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, a_run(folder)


def test_a_run_writes_its_beginning_its_steps_its_state_and_its_end(run: tuple[Path, Result]) -> None:
    folder, result = run
    first, *between, state, last = events_of(folder)
    steps = [event for event in between if event["event"] == "step"]

    assert (first["event"], first["task"], first["budget"]) == ("started", "task", "600 calls")
    assert [step["facts"] for step in steps] == list(result.steps)
    numbers = [number for step in steps for number, *_ in step["candidates"]]
    assert numbers == list(range(len(numbers)))
    assert state["used"]["task"]["calls"] == result.used["task"].calls
    assert state["left"]["calls"] == 600 - sum(spent.calls for spent in result.used.values())
    assert state["best"]["reward"] == max(record.reward or 0.0 for record in result.history)
    assert state["best"]["low"] <= state["best"]["reward"] <= state["best"]["high"]
    end = {name: value for name, value in last.items() if name not in {"event", "time"}}
    assert RunSummary.from_json(end) == RunSummary.of(result)
    assert not is_locked(folder / EVENTS)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in (EVENTS, CELLS)} == {0o600}


def test_a_run_begun_again_writes_its_events_anew(run: tuple[Path, Result]) -> None:
    folder, result = run
    before = [event["event"] for event in events_of(folder) if event["event"] != "progress"]

    assert a_run(folder) == result
    assert [event["event"] for event in events_of(folder) if event["event"] != "progress"] == before


def test_a_request_in_the_folder_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    folder, asked = tmp_path / "a", list[Any]()
    folder.mkdir()
    (folder / STOP_REQUEST).touch()  # left over: a run that starts removes it

    def answer(request: Request) -> str:
        asked.append(request)
        if len(asked) == 40:
            (folder / STOP_REQUEST).touch()
        while len(asked) >= 40 and (watcher := _watcher()) is not None and watcher.is_alive():
            watcher.join(timeout=1)
        return toys.answer(request)

    result = a_run(folder, model=FakeModel(answer, "asked"), budget="100000 calls")

    assert len(asked) == 40
    assert "stopped" in result.unfinished
    assert result.history
    assert events_of(folder)[-1]["unfinished"] == result.unfinished
    assert not (folder / STOP_REQUEST).exists()


def _watcher() -> Any:
    return next((thread for thread in threading.enumerate() if thread.name == "promptopt stop request"), None)


def test_the_last_reply_before_a_slow_one_is_written_while_the_run_waits(tmp_path: Path) -> None:
    asked, go = list[Any](), threading.Event()

    def answer(request: Request) -> str:
        asked.append(request)
        if len(asked) > 30:
            go.wait()
        return toys.answer(request)

    thread = threading.Thread(target=a_run, args=(tmp_path / "a",), kwargs={"model": FakeModel(answer, "slow")})
    thread.start()
    try:
        seen = _progress_until(tmp_path / "a", calls=30)
    finally:
        go.set()
        thread.join()

    assert seen["used"]["task"]["calls"] == 30
    assert events_of(tmp_path / "a")[-1]["event"] == "finished"


def _progress_until(folder: Path, *, calls: int) -> dict[str, Any]:
    """Return the last progress once it counts some calls; it may take long on a busy machine, but comes by itself."""
    last: dict[str, Any] = {}
    for _ in range(3000):
        lines = events_of(folder) if (folder / EVENTS).exists() else []
        last = next((line for line in reversed(lines) if line["event"] == "progress"), {})
        if last.get("used", {}).get("task", {}).get("calls") == calls:
            break
        time.sleep(0.02)
    return last


def test_progress_is_written_when_it_changes_alone(tmp_path: Path) -> None:
    class Watched(EventFile):
        """Writes when it is asked to, and not by itself."""

        def _watch_progress(self) -> None:
            pass

    ledger = SimpleNamespace(stage_name="search", logical={}, paid={}, failed=0, total=lambda _: Spending())
    state: Any = SimpleNamespace(ledger=ledger, steps=[], archive=Archive(), proposed={}, unusable={})
    with Watched(tmp_path, Budget(calls=9), Stop()) as events:
        events.follow(state)
        for _ in range(3):
            events.write_progress()
        state.steps.append({})
        events.write_progress()

    assert [event["step"] for event in events_of(tmp_path)] == [0, 1]


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from promptopt.evaluation.calls import Stop; "
        "from promptopt.evaluation.ledger import Budget; from promptopt.tracking.event_file import EVENTS, EventFile; "
        "from promptopt.utils.locks import is_locked; folder = Path(sys.argv[1]); "
        "EventFile(folder, Budget(), Stop()).__enter__(); print(is_locked(folder / EVENTS), flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (9, "True"), done.stderr
    assert not is_locked(tmp_path / EVENTS)


def test_a_second_run_in_the_same_folder_leaves_the_events_of_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventFile(tmp_path, Budget(), Stop()) as first:
        first(STARTED)
        with caplog.at_level(logging.WARNING), EventFile(tmp_path, Budget(), Stop()) as second:
            second(replace(STARTED, name="second"))

    assert [event["name"] for event in events_of(tmp_path)] == ["x"]
    assert "another process runs in the same folder" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"), [(InputError("no such key: give one"), "no such key: give one"), (OSError("sk-1"), "OSError")]
)
def test_an_error_is_written_without_what_may_be_a_key(tmp_path: Path, error: Exception, words: str) -> None:
    with pytest.raises(type(error)), EventFile(tmp_path, Budget(), Stop()):
        raise error

    assert events_of(tmp_path)[-1]["error"] == words


# ---------------------------------------------------------------- replies


def test_every_scored_reply_is_recorded_with_its_reward(run: tuple[Path, Result]) -> None:
    folder, result = run
    cells = sqlite3.connect(folder / CELLS)
    query = (
        "SELECT prompts.prompt, avg(reward), count(*) FROM cells JOIN prompts ON prompts.id = cells.prompt JOIN examples "
        "ON examples.id = cells.example WHERE part = 'training' GROUP BY prompts.id"
    )
    means = {text: (mean, count) for text, mean, count in cells.execute(query)}
    cells.close()

    assert means == {
        prompt_key(record.prompt): (pytest.approx(record.reward), record.cells) for record in result.history
    }


def test_a_cell_keeps_its_first_reply_and_a_failed_one_is_filled() -> None:
    connection, prompt = sqlite3.connect(":memory:"), Prompt("p \ud83d")
    table = CellTable(connection, {"b": "test"})
    for example, answer in (
        ("a", Answer(text="", reward=None, finish="failed")),
        ("a", Answer(text="first", reward=1.0)),
        ("a", Answer(text="second", reward=0.0)),
        ("b", Answer(text="\ud83d", reward=0.5, events=("e",))),
    ):
        table.add(prompt, Example({"text": "\ud83d"}, None, example), 0, answer)

    rows = connection.execute("SELECT part, reward, reply, more FROM cells JOIN examples ON id = example").fetchall()
    connection.close()
    assert rows == [("training", 1.0, "first", None), ("test", 0.5, "\\ud83d", '{"events": ["e"], "trace": null}')]


def test_a_table_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a" / CELLS).mkdir(parents=True)
    (tmp_path / "a" / EVENTS).mkdir()
    with caplog.at_level(logging.WARNING):
        result = a_run(tmp_path / "a")

    assert result.finished
    assert caplog.text.count("no longer recorded") == 1
    assert caplog.text.count("tracking stopped") == 1
