"""What is shown of a run while it goes: on a terminal, in a notebook, in a log, and not at all."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import toys
from rich.console import Console
from typer.testing import CliRunner

from promptopt import Display, FakeModel, Price, optimize
from promptopt.cli import app
from promptopt.tracking import StepFinished
from promptopt.tracking import display as progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from promptopt import Request, Run
    from promptopt.tracking import Event

PLAIN = {"file": io.StringIO, "width": 200}


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False, force_terminal=terminal, force_jupyter=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def slow(seconds: float, after: int = 0) -> Callable[[Request], str]:
    asked: list[Request] = []

    def answer(request: Request) -> str:
        asked.append(request)
        time.sleep(seconds if len(asked) > after else 0)
        return toys.answer(request)

    return answer


# Validation items of their own: those of the toy read like its training items, and would come from the memo at once.
TASK = replace(
    toys.TASK,
    validation=tuple(replace(e, inputs={"text": f"another {e.inputs['text']}"}) for e in toys.TASK.validation),
)


def search(tmp_path: Path, display: Display, answer: Callable[[Request], str] = toys.answer) -> None:
    optimize(
        TASK,
        FakeModel(answer),
        "random",
        writer=FakeModel(toys.writer, "writer"),
        settings={"prompts": 4, "batch": 4},
        memo=tmp_path,
        display=display,
    )


def test_a_terminal_shows_one_line_that_is_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LIVE_INTERVAL", 0.0)  # whenever there is something to show
    shown = console(terminal=True)
    search(tmp_path, Display(shown), slow(0.05))  # no stage is over before the terminal is drawn again

    assert re.search(r"search \| step \d \| best", written(shown))
    assert "validation | " in written(shown)
    assert written(shown).endswith("\x1b[2K")  # the line is erased


def test_the_line_moves_while_one_reply_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WAITING_THRESHOLD", 0.2)
    shown = console(terminal=True)
    with Display(shown):
        time.sleep(1.5)

    assert "starting: loading local models" in written(shown)
    assert "0:01" in written(shown)
    assert "waiting 1 s | starting" in written(shown)


def test_a_long_wait_names_the_role_that_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WAITING_THRESHOLD", 0.0)
    monkeypatch.setattr(progress, "_HEARTBEAT_INTERVAL", 0.02)
    shown = console(terminal=False)
    search(tmp_path, Display(shown), slow(0.05))

    assert "waiting 0 s for the task model | " in written(shown)


def test_the_line_says_what_is_left_for_the_stage_what_was_rejected_and_who_cost_what(tmp_path: Path) -> None:
    lines = []

    def follow(event: Event) -> None:
        if isinstance(event, StepFinished) and runs:
            lines.append(progress.line(runs[0]))

    runs: list[Run] = []

    class Watched(Display):
        def follow(self, run: Run) -> None:
            runs.append(run)

    writer = FakeModel(lambda request: f"<prompt>{toys.SEED}</prompt>" + toys.writer(request), "writer")
    writer.price = Price(1.0, 1.0)
    optimize(
        TASK, FakeModel(toys.answer), "random", writer=writer, settings={"prompts": 4, "batch": 4}, memo=tmp_path,
        display=Watched(console(terminal=False)), callbacks=[follow], budget="900 calls",
    )  # fmt: skip

    assert re.search(r"^search \| step 1 \| best .* calls left for search \| ", lines[0])
    assert re.search(r" \| writer \$0\.\d{3} \| \d+ of \d+ proposals rejected$", lines[0])


def test_a_log_gets_plain_lines_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.05)
    shown, began = console(terminal=False), time.monotonic()
    search(tmp_path, Display(shown), slow(0.01))
    lines = written(shown).splitlines()

    assert "\x1b" not in written(shown)
    assert 3 < len(lines) <= (time.monotonic() - began) / 0.05 + 2  # a sentence now and then beside them
    assert re.search(
        r"search \| step \d+ \| best [\d.-]+ \((standard error [\d.]+, )?candidate \d+\) \| \d+ prompts scored \| \d+ calls made",
        written(shown),
    )


def test_a_log_says_now_and_then_that_a_silent_run_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_INTERVAL", 0.1)
    shown, began = console(terminal=False), time.monotonic()
    with Display(shown):
        time.sleep(0.6)
    count = len(written(shown).splitlines())
    most = (time.monotonic() - began) / 0.1
    time.sleep(0.3)

    assert 2 <= count <= most
    assert len(written(shown).splitlines()) == count  # and none after its end


def test_quiet_shows_warnings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "_HEARTBEAT_INTERVAL", 0.01)
    shown, log = console(terminal=False), logging.getLogger("promptopt.some")
    display = Display(shown, quiet=True)
    search(tmp_path, display)
    with display:
        log.info("a batch is half done")
        log.warning("the study is not written any more")

    assert written(shown) == "the study is not written any more\n"


def test_what_is_logged_shows_once_however_often_a_display_is_entered() -> None:
    shown, log = console(terminal=False), logging.getLogger("promptopt.some")
    display = Display(shown)
    with display, display:
        log.info("a batch is half done")
    log.info("nobody listens")

    assert written(shown) == "a batch is half done\n"


class Shell:
    """What IPython gives a kernel: `display` with an id, whose handle changes the output in place."""

    def __init__(self) -> None:
        self.kernel = object()
        self.outputs: list[list[str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        output = [data["text/plain"]]
        self.outputs.append(output)
        return SimpleNamespace(update=lambda data, raw: output.append(data["text/plain"]) if raw else None)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell, python, module = Shell(), ModuleType("IPython"), ModuleType("IPython.display")
    vars(python)["get_ipython"] = lambda: shell
    vars(module)["display"] = shell.display
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "_NOTEBOOK_INTERVAL", 0.0)
    return shell


def test_a_notebook_shows_one_output_that_changes_in_place(tmp_path: Path, shell: Shell) -> None:
    search(tmp_path, Display())
    (output,) = shell.outputs

    assert output[0].startswith("starting")
    assert any(text.startswith("search | step") for text in output)
    assert output[-1].startswith("test | ")


def test_ipython_on_a_terminal_is_no_notebook(shell: Shell) -> None:
    shell.kernel = None
    with Display():
        pass

    assert shell.outputs == []


def test_a_notebook_can_be_quiet(tmp_path: Path, shell: Shell) -> None:
    search(tmp_path, Display(quiet=True))

    assert shell.outputs == []


@pytest.mark.parametrize("command", ["optimize", "score", "diagnose"])
def test_commands_show_progress_unless_they_are_to_be_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "told.py").write_text("from promptopt import FakeModel\nmodel = FakeModel(lambda request: 'odd')\n")
    rows = "\n".join(f"{n},{'odd' if n % 2 else 'even'}" for n in range(40))
    (tmp_path / "data.csv").write_text(f"number,answer\n{rows}\n")
    words = [command, "--data", "data.csv", "--input", "number", "--label", "answer", "--labels", "odd,even"]
    words += ["--seed-prompt", "Is it odd or even, the number that comes : {number}", "--model", "python:told:model"]
    more = {"optimize": ["--strategy", "tapruning", "--no-study"], "score": [], "diagnose": ["--pruned"]}[command]

    loud = CliRunner().invoke(app, [*words, *more, "--memo", "a"])
    quiet = CliRunner().invoke(app, [*words, *more, "--memo", "b", "--quiet"])

    assert (loud.exit_code, quiet.exit_code) == (0, 0)
    assert "calls made" in loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout
