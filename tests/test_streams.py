"""Text for people: streams that are closed, lost or narrow, characters that steer a terminal, signals that end a run."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from shell import promptopt

from promptopt.cli.output import say_table
from promptopt.optimization.signals import ENDING, stop_on_signals
from promptopt.utils.characters import character_fault, printable, replace_surrogates
from promptopt.utils.streams import failsafe

if TYPE_CHECKING:
    from pathlib import Path

ROWS = "text,label\n" + "".join(f"item {n},{('yes', 'no')[n % 2]}\n" for n in range(30))
MODEL = """
from promptopt import FunctionModel
model = FunctionModel(lambda request: "yes", name="yes", version="1")
"""
SCORE = ["score", "--data", "rows.csv", "--input", "text", "--label", "label", "--model", "python:mine:model"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def command(folder: Path, *words: str, before: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """Run the command line under a shell, which may close or redirect its streams."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": encoding,
        "PYTHONUTF8": "0",
        "COLUMNS": "200",
    }
    line = f'{before} exec "$0" -m promptopt "$@"' if not before.startswith("|") else f'"$0" -m promptopt "$@" {before}'
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {line}", sys.executable, *words],
        cwd=folder, env=environment, capture_output=True, check=False,
    )  # fmt: skip


PROMPT = "判断 😀 yes or no: {text}"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("words", [["--json"], []], ids=["json", "table"])
def test_any_prompt_can_be_printed_in_any_encoding(folder: Path, encoding: str, words: list[str]) -> None:
    done = promptopt(folder, *SCORE, "--prompt", PROMPT, *words, encoding=encoding)
    assert done.returncode == 0, done.stderr
    if words:
        assert json.loads(done.stdout.splitlines()[-1])[0]["prompt"] == PROMPT


def test_a_console_of_another_encoding_gets_what_it_can_hold(folder: Path) -> None:
    done = command(folder, *SCORE, "--prompt", PROMPT, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\u5224\\u65ad \\U0001f600 yes or no" in done.stdout


def test_a_reader_that_leaves_ends_nothing(folder: Path) -> None:
    done = command(folder, *SCORE, before="| head -c 1 > /dev/null")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "streams", [">&- 2>&-", "0<&-", *(pytest.param(one, marks=pytest.mark.wide) for one in (">&-", "2>&-"))]
)
def test_a_closed_stream_is_no_error(folder: Path, streams: str) -> None:
    done = command(folder, *SCORE, before=f"exec {streams};")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_names_in_square_brackets_are_shown_as_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = promptopt(folder, *SCORE, "--prompt", "[red]yes or no[/red]? [v1]")
    assert done.returncode == 0, done.stderr
    assert "[red]yes or no[/red]? [v1]" in done.stdout


def test_a_table_with_many_columns_wraps_instead_of_losing_the_last_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    headers = ["strategy", "seeds", "test examples", "test reward", "gain over seed prompt", "calls", "tokens"]
    say_table(
        headers, [["joint instructions=1", "3 of 3", "31 to 33", *["+0.615\n(+0.449 to +0.780)"] * 2, "284", "38,384"]]
    )
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= 80
    assert {line[-1] for line in lines} <= set("┓┃┩│┘")
    assert any("instructions=1" in line for line in lines)


def test_what_would_steer_a_terminal_is_printed_as_an_escape() -> None:
    assert printable("a\x1b]0;owned\x07b\x9b31m\r\nc\td\u202e") == "a\\x1b]0;owned\\x07b\\x9b31m\nc\td\\u202e"


def test_half_a_surrogate_pair_is_replaced_or_named() -> None:
    assert replace_surrogates("great \ud83d") == "great \ufffd"
    assert "an unpaired surrogate (\\ud83d, at 6)" in character_fault("great \ud83d")
    assert character_fault("great \U0001f600") == ""


def test_a_stream_that_was_closed_drops_what_comes_later() -> None:
    below = io.StringIO()
    stream = failsafe(below)
    stream.write("one")
    assert below.getvalue() == "one"
    below.close()
    assert stream.write("two") == 3
    stream.flush()
    assert not stream.isatty()
    assert failsafe(stream) is stream
    assert failsafe(None).write("three") == 5


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_asks_a_run_to_stop_and_the_handlers_come_back(number: int) -> None:
    handler = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)
    try:
        with stop_on_signals(None) as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_so_and_other_threads_catch_none() -> None:
    handler = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, handler)
    found: list[bool] = []

    def elsewhere() -> None:
        with stop_on_signals(None) as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]
