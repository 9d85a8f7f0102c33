"""Code that asks models by itself: `as_program`, `predict` in task files, and `--predict`."""

from __future__ import annotations

import contextvars
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from shell import promptopt as command

from promptopt import (
    Ask,
    Components,
    Example,
    FakeModel,
    InputError,
    Price,
    Prompt,
    Prompts,
    Request,
    Response,
    Result,
    Run,
    Task,
    TransientModelError,
    Usage,
    as_program,
    load_task,
    optimize,
    tool,
)
from promptopt.replies import Call, Failure
from promptopt.results.prompt_files import prompt_diff, prompt_files

if TYPE_CHECKING:
    from collections.abc import Callable

WRITER = FakeModel(lambda _: "<prompt>Reply politely.</prompt><prompt>Reply briefly.</prompt>", "writer")


def polite(prompts: dict[str, str], inputs: dict[str, str]) -> str:
    """Right on two items of four; on all under a polite prompt."""
    return inputs["text"] if "politely" in prompts["reply"] or int(inputs["text"]) % 4 < 2 else "?"


def metered(prompts: dict[str, str], inputs: dict[str, str]) -> Response:
    return Response(polite(prompts, inputs), usage=Usage(100, cached=20, output=10))


def items(numbers: range) -> tuple[Example, ...]:
    return tuple(Example({"text": f"{i}"}, f"{i}", f"{i}") for i in numbers)


def a_task(predict: Callable[..., Any], **program: Any) -> Task:
    return Task(
        train=items(range(8)),
        validation=items(range(8, 16)),
        test=items(range(16, 40)),
        program=as_program(predict, **({"version": "1"} | program)),
        seed_prompts={"reply": Prompt("Reply."), "check": Prompt("Check it.")},
    )


@dataclass(frozen=True)
class OneMore:
    """Scores the seed prompts and polite ones, and keeps the replies."""

    kept: tuple[list[Any], ...] = ()
    writes: bool = False
    programs: bool = True

    def search(self, run: Run) -> None:
        seed = run.task.seed_prompt
        assert isinstance(seed, Prompts)
        scores = run.score([seed, seed.replaced("reply", Prompt("Reply politely."))])
        for kept in self.kept:
            kept += [reply for (reply,) in scores.replies[0]]


def run(memo: Path, task: Task, strategy: Any = None, **more: Any) -> Result:
    return optimize(task, WRITER, strategy or OneMore(), memo=memo, tracking=False, **more)


# ---------------------------------------------------------------- usage


def test_reported_usage_counts_in_tokens_and_at_the_price_and_a_replay_counts_the_same(tmp_path: Path) -> None:
    task = a_task(metered, price=Price(1.0, 2.0))
    result = run(tmp_path, task, budget="500 calls")
    used = result.used["tool"]
    assert used.calls > 60
    assert (used.input_tokens, used.cached_tokens, used.output_tokens) == (
        100 * used.calls,
        20 * used.calls,
        10 * used.calls,
    )
    assert used.dollars == pytest.approx(used.calls * 120e-6)
    assert result.prices["tool"] == Price(1.0, 2.0)
    again = run(tmp_path, task, budget="500 calls")
    assert again == result
    assert "tool" not in again.paid


@pytest.mark.parametrize("budget", ["6500 tokens", "0.007 dollars"])
def test_a_budget_in_tokens_or_dollars_ends_the_search_and_is_kept(tmp_path: Path, budget: str) -> None:
    task = a_task(metered, price=Price(1.0, 2.0), threads=4)
    result = run(tmp_path, task, budget=budget)
    limit, unit = budget.split()
    assert 0 < getattr(result.used["tool"], unit) <= float(limit)
    assert result.used["tool"].calls < 64  # as many as without a limit
    assert result.test is not None
    assert run(tmp_path, task, budget=budget) == result
    with pytest.raises(InputError, match=r"too small to compare even one candidate.*takes"):
        run(tmp_path, task, budget="800 tokens")


def test_dollars_need_a_price_and_a_price_needs_usage_and_a_budget(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"price of what 'metered' uses: .*price=Price\(INPUT, OUTPUT\)"):
        run(tmp_path, a_task(metered), budget="1 dollar")
    with pytest.raises(InputError, match="predict has a price and no budget is set"):
        run(tmp_path, a_task(metered, price=Price(1.0, 1.0)))
    with pytest.raises(TransientModelError, match="'polite' has a price, but returned a text without the tokens"):
        run(tmp_path, a_task(polite, price=Price(1.0, 1.0)), budget="1 dollar")
    assert run(tmp_path, a_task(polite, price=Price(0.0, 0.0)), budget="1 dollar").finished  # free
    assert any("price unknown: tool" in value for _, value in run(tmp_path, a_task(metered)).facts())


def test_a_note_says_that_tokens_did_not_limit_code_that_reports_none(tmp_path: Path) -> None:
    assert any(
        "reported no tokens for its" in note for note in run(tmp_path, a_task(polite), budget="9000 tokens").notes
    )
    assert not any("reported no" in note for note in run(tmp_path, a_task(metered), budget="90000 tokens").notes)
    assert not any("reported no" in note for note in run(tmp_path, a_task(polite), budget="900 calls").notes)


def test_a_tool_of_a_program_may_report_usage_and_a_program_its_own_trace(tmp_path: Path) -> None:
    @tool(version="1")
    def agent(text: str) -> Response:
        return Response(json.dumps({"answer": text, "asked": "so?"}), usage=Usage(7, output=3))

    async def program(ask: Ask, prompts: Prompts, example: Example) -> Response:
        found = json.loads(await ask.tool(agent, example.inputs["text"]))
        return Response(found["answer"], trace=(Call("reply", (("asked", found["asked"]),), found["answer"]),))

    seen: list[Any] = []
    task = Task(
        train=items(range(4)), program=program, seed_prompts={"reply": Prompt("Reply."), "check": Prompt("Check.")}
    )
    result = run(tmp_path, task, OneMore((seen,)))
    assert [call.name for call in seen[0].trace] == ["tool:agent", "reply"]
    assert result.used["tool"].tokens == 40


# ---------------------------------------------------------------- failures


def test_a_call_that_takes_too_long_fails_its_cell_only_and_is_never_stored(tmp_path: Path) -> None:
    hangs, waiting = threading.Event(), threading.Event()

    def slow(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        if inputs["text"] == "3" and not hangs.is_set():
            waiting.wait()
        return polite(prompts, inputs)

    kept: list[Any] = []
    started = time.monotonic()
    result = run(tmp_path, a_task(slow, timeout=0.5, threads=2), OneMore((kept,)))
    assert time.monotonic() - started < 60  # it waits for no thread that hangs
    (failure,) = [reply for reply in kept if isinstance(reply, Failure)]
    assert failure.reason == "tool:slow: no result after 0.5 s (its thread cannot be stopped and runs on)"
    assert result.failed == 2  # under both prompts
    assert result.unfinished
    assert result.history[0].failed == 1
    assert result.history[0].reward == pytest.approx(4 / 7)  # items 0, 1, 4 and 5 of 7 are right, 3 is missing
    hangs.set()
    waiting.set()
    again = run(tmp_path, a_task(slow, timeout=0.5, threads=2))
    assert again.finished
    assert again.paid["tool"].calls == 2
    with pytest.raises(InputError, match="a timeout is a number of seconds above 0, or None for no limit, not 0"):
        as_program(slow, version="1", timeout=0)


def test_a_hanging_call_does_not_hold_up_the_end_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import time\n"
        "from promptopt import Example, FakeModel, Prompt, Task, TransientModelError, as_program, optimize\n"
        "def hang(prompts, inputs):\n"
        "    time.sleep(300)\n"
        "program = as_program(hang, version='1', timeout=0.2)\n"
        "task = Task(train=(Example({'a': 'b'}, 'c', '1'),), program=program, seed_prompts={'x': Prompt('y')})\n"
        "try:\n"
        f"    optimize(task, FakeModel(str), 'components', memo={str(tmp_path / 'memo')!r})\n"
        "except TransientModelError as error:\n"
        "    print(error)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert "tool:hang: no result after 0.2 s" in done.stdout


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, r"tool:odd: 'odd' returned None: return a text, or Response\(text, usage="),
        (5, "tool:odd: 'odd' returned 5: return a text"),
        (SystemExit(2), "tool:odd: it raised SystemExit: 2"),
        (InputError("no such index: build it"), "tool:odd: no such index: build it"),
    ],
)
def test_an_output_that_is_no_text_and_an_exit_fail_their_cell_and_are_not_stored(
    tmp_path: Path, output: Any, message: str
) -> None:
    outputs = [output]

    def odd(prompts: dict[str, str], inputs: dict[str, str]) -> Any:
        if isinstance(outputs[0], BaseException):
            raise outputs[0]
        return outputs[0]

    with pytest.raises(TransientModelError, match=message):
        run(tmp_path, a_task(odd))
    outputs[0] = "fine"
    assert run(tmp_path, a_task(odd)).finished


async def coroutine(prompts: dict[str, str], inputs: dict[str, str]) -> str:
    return "?"


@pytest.mark.parametrize(
    ("predict", "changed", "message"),
    [
        ("polite", {}, r"predict = 'polite' is not a function: give a function predict\(prompts, inputs\)"),
        (dict, {}, "is not a function"),
        (lambda _: "", {}, r"takes \(_\): give a function predict\(prompts, inputs\)"),
        (coroutine, {}, r"is an async def, which no event loop runs: .* asyncio\.run"),
        (polite, {"price": (1, 2)}, r"price of predict must be a Price, such as Price\(0\.4, 1\.6\), not \(1, 2\)"),
        (polite, {"version": ""}, "version of a tool must be a text"),
    ],
)
def test_code_that_cannot_be_called_is_refused_before_a_run(
    predict: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        a_task(predict, **changed)


def test_the_memo_and_the_folder_of_a_run_know_such_code_by_name_and_version(tmp_path: Path) -> None:
    def other(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        return inputs["text"]

    first = run(tmp_path / "memo", a_task(polite), run_dir=tmp_path / "run")
    assert run(tmp_path / "memo", a_task(other)).rows() != first.rows()
    assert run(tmp_path / "memo", a_task(other, name="polite")).rows() == first.rows()  # taken for the same code
    assert run(tmp_path / "memo", a_task(other, version="2", name="polite")).rows() != first.rows()
    with pytest.raises(InputError, match="holds the result of another run"):
        run(tmp_path / "memo", a_task(polite, version="2"), run_dir=tmp_path / "run")


def test_threads_see_the_context_variables_of_the_caller(tmp_path: Path) -> None:
    setting = contextvars.ContextVar("setting", default="")

    def reads(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        return setting.get() and inputs["text"]

    setting.set("on")
    assert run(tmp_path, a_task(reads)).history[0].reward == 1.0


def test_without_a_writer_there_is_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need a writer, which proposes others: give --writer MODEL"):
        run(tmp_path, a_task(polite), "auto")
    result = run(tmp_path, a_task(polite), "auto", writer=WRITER, budget="500 calls")
    assert isinstance(result.prompt, Prompts)
    assert result.prompt["reply"] == Prompt("Reply politely.")


# ---------------------------------------------------------------- prompt files


def test_a_diff_shows_the_files_that_changed_and_only_those() -> None:
    seed = Prompts({"a": Prompt("one\ntwo"), "b": Prompt("same"), "c": Prompt("plain")})
    shown = Prompt("plain").from_json({"text": "plain", "turns": [{"role": "user", "content": "é"}]})
    chosen = seed.replaced("a", Prompt("one\n2")).replaced("c", shown)
    lines = prompt_diff(seed, chosen).splitlines()
    assert lines[:6] == ["--- a/a.txt", "+++ b/a.txt", "@@ -1,2 +1,2 @@", " one", "-two", "+2"]
    assert lines[6:8] == ["--- /dev/null", "+++ b/c.json"]
    assert '+   "content": "é"' in lines
    assert "b.txt" not in prompt_diff(seed, chosen)
    assert prompt_diff(seed, seed) == prompt_diff(Prompt("a"), Prompt("b")) == ""


def test_names_that_would_share_a_file_get_files_of_their_own() -> None:
    files = prompt_files(Prompts({"a/b": Prompt("1"), "a-b": Prompt("2"), "A-B": Prompt("3")}))
    assert files == {"a-b.txt": "1\n", "a-b-2.txt": "2\n", "A-B-3.txt": "3\n"}


# ---------------------------------------------------------------- the command line

CODE = """
import time

from promptopt import FakeModel, Response, Usage


def reply(prompts, inputs):
    right = "politely" in prompts["reply"] or int(inputs["text"]) % 4 < 2
    return Response(inputs["text"] if right else "?", usage=Usage(100, output=10))


def slow(prompts, inputs):
    time.sleep(300)


def unmetered(prompts, inputs):
    return "?"


writer = FakeModel(lambda _: "<prompt>Reply politely.</prompt>", "writer")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "project"
    (place / "texts").mkdir(parents=True)
    (place / "chain.py").write_text(CODE, encoding="utf-8")
    (place / "rows.csv").write_text("text,n\n" + "".join(f"{i},{i}\n" for i in range(60)), encoding="utf-8")
    (place / "texts" / "reply.md").write_bytes(b"Be a clerk.\r\nReply.\r\n")
    (place / "texts" / "check.txt").write_text("Check it.\n", encoding="utf-8")
    (place / "task.toml").write_text('[data]\nfile = "rows.csv"\ninputs = ["text"]\nlabel = "n"\n', encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "chain", raising=False)
    return place


DATA = ["--data", "rows.csv", "--input", "text", "--label", "n"]
PREDICT = ["--predict", "chain:reply", "--predict-version", "1", "--prompts", "texts"]
WRITES = ["--writer", "python:chain:writer", "--budget", "2000 calls", "--no-study", "--quiet"]


@pytest.mark.parametrize("source", [DATA, ["task.toml"]])
def test_a_folder_of_prompts_goes_in_and_better_ones_and_a_diff_come_out(folder: Path, source: list[str]) -> None:
    done = command(folder, "optimize", *source, *PREDICT, *WRITES, "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    assert (
        f"changes in the prompts, in {Path('run') / 'chosen-prompts'}:\n--- a/reply.txt\n+++ b/reply.txt\n@@ -1,2 +1 @@\n"
        "-Be a clerk.\n-Reply.\n+Reply politely.\n\nBetter than the seed prompt"
    ) in done.stdout
    assert "check" not in done.stdout.partition("changes in the prompts")[2]
    assert (folder / "run" / "chosen-prompts" / "reply.txt").read_text(encoding="utf-8") == "Reply politely.\n"
    result = Result.load(folder / "run")
    assert result.used["tool"].input_tokens == 100 * result.used["tool"].calls
    assert Result.load(folder / "run").prompt != result.seed_prompt


def test_options_replace_the_keys_of_a_task_file(folder: Path) -> None:
    text = (folder / "task.toml").read_text(encoding="utf-8")
    head = 'predict = "chain:slow"\nversion = "1"\nthreads = 2\ntimeout = 0.5\nprice = [1, 2.5]\nprompts = "texts"\n'
    (folder / "task.toml").write_text(head + text, encoding="utf-8")
    program: Any = load_task(folder / "task.toml").program
    assert program.fingerprint == {"predict": "chain:slow", "version": "1"}
    assert program.price == Price(1.0, 2.5)
    slow = command(folder, "optimize", "task.toml", *WRITES)
    assert slow.returncode == 1
    assert "tool:chain:slow: no result after 0.5 s" in slow.stderr
    faster = [*WRITES, "--predict-timeout", "0.25", "--predict-threads", "1", "--predict-price", "0,0"]
    assert "no result after 0.25 s" in command(folder, "optimize", "task.toml", *faster).stderr
    other = command(folder, "optimize", "task.toml", *PREDICT[:4], *WRITES, "--run-dir", "run")
    assert other.returncode == 0, other.stderr
    assert Result.load(folder / "run").used["tool"].dollars > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*DATA, *PREDICT[:2], *PREDICT[4:]], "--predict needs --predict-version, which identifies its code in the memo"),
        ([*DATA, *PREDICT[:4]], "--predict needs --prompts FOLDER, a folder with a .txt or .md file for each prompt"),
        ([*DATA, *PREDICT[4:]], "--prompts needs the code that uses them: give --predict MODULE:FUNCTION"),
        ([*DATA, *PREDICT[2:4]], "--predict-version needs --predict MODULE:FUNCTION"),
        ([*DATA, "--predict-threads", "3"], "--predict-threads needs --predict"),
        ([*DATA, *PREDICT, "--predict-timeout", "0"], "--predict-timeout must be a number of seconds above 0, not 0"),
        ([*DATA, *PREDICT, "--predict-price", "x"], "cannot read --predict-price 'x': write INPUT,OUTPUT"),
        ([*DATA, *PREDICT, "--seed-prompt", "Say."], "it has both seed_prompt and a program"),
        ([*DATA, *PREDICT[:4], "--prompts", "none"], "there is no folder"),
        ([*DATA, "--predict", "chain:repyl", *PREDICT[2:]], "has no 'repyl', did you mean 'reply'?"),
        ([*DATA, "--predict", "chian:reply", *PREDICT[2:]], "predict: there is no module 'chian'; put chian.py into"),
        (["task.toml", *PREDICT[:4]], "it has a program, but no prompts"),
        (["task.toml", *PREDICT[2:4]], "it has version, but no predict that it belongs to"),
        (["task.toml", *PREDICT[4:]], "it has prompts, but no program that asks them: add program = 'module:function', or predict"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_say_what_to_give(folder: Path, options: list[str], message: str) -> None:
    done = command(folder, "optimize", *options, *WRITES)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("timeout = 5", "it has timeout, but no predict that it belongs to"),
        ('predict = "chain:reply"\nversion = "1"\nprompts = "texts"\ntimeout = 0', "timeout = 0"),
        ('predict = "chain:reply"\nversion = "1"\nprompts = "texts"\nprice = [1]', "price"),
        ('predict = "chain:reply"\nversion = "1"\nprompts = "texts"\nthreads = 0', "threads = 0"),
    ],
)
def test_keys_that_do_not_fit_say_so(folder: Path, line: str, message: str) -> None:
    text = (folder / "task.toml").read_text(encoding="utf-8")
    (folder / "task.toml").write_text(f"{line}\n{text}", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_task(folder)


def test_a_dry_run_calls_nothing(folder: Path) -> None:
    slow = ["--predict", "chain:slow", *PREDICT[2:]]
    done = command(folder, "optimize", *DATA, *slow, *WRITES, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "tool" in done.stdout


def test_components_searches_the_prompts_that_a_trace_names(tmp_path: Path) -> None:
    @tool(version="1", threads=2)
    def agent(text: str, prompt: str) -> str:
        return text if "politely" in prompt or int(text) % 4 < 2 else "?"

    async def program(ask: Ask, prompts: Prompts, example: Example) -> Response:
        text = example.inputs["text"]
        reply = await ask.tool(agent, text, prompts["reply"].text)
        return Response(reply, trace=(Call("reply", (("text", text),), reply),))

    task = Task(
        train=items(range(8)), validation=items(range(8, 16)), test=items(range(16, 40)), program=program,
        seed_prompts={"reply": Prompt("Reply."), "unasked": Prompt("Never.")},
    )  # fmt: skip
    asked: list[str] = []

    def writes(request: Request) -> str:
        asked.append(str(request.context))
        return "<prompt>Reply politely.</prompt>"

    result = optimize(task, FakeModel(writes, "w"), Components(), memo=tmp_path, tracking=False, budget="2000 calls")
    assert isinstance(result.prompt, Prompts)
    assert result.improved
    assert "politely" in result.prompt["reply"].text
    assert {step["prompt"] for step in result.steps} == {"reply"}
    assert any(
        prompt["reply"].demonstrations
        for prompt in (record.prompt for record in result.history)
        if isinstance(prompt, Prompts)
    )
