"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from results import a_result
from servers.loopback import Loopback
from shell import promptopt

from promptopt import Demonstrations, Example, Prompt, Prompts
from promptopt.cli.run import _print_result
from promptopt.optimization.signals import ENDING
from promptopt.prompt import Layout
from promptopt.results.portable import PortablePrompt

TASK = """
name = "numbers"
description = "Odd or even?"
seed_prompt = "Say wrongly odd or even: {number}"
labels = ["odd", "even"]
[data]
file = "data.csv"
split = "shuffle"
inputs = ["number"]
label = "answer"
"""
MODEL = """
import re, sys
from promptopt import FakeModel, FunctionModel

def handler(request):
    text = str(request.context[-1][1])
    if "<prompt>" in text:
        return "<prompt>Say odd or even: {number}</prompt>"
    number = int(re.findall(r"\\\\d+", text)[-1])
    return "odd" if "wrongly" in text or number % 2 else "even"

def paid(request):
    raise SystemExit("a call was made")

model = FunctionModel(handler, name="numbers", version="1")
mumbling = FakeModel(lambda request: "hm", "mumbling")
forbidden = FunctionModel(paid, name="numbers", version="1")
costly = FakeModel(handler, "costly")
costly.price = None
nothing = 3

def length(example, response):
    return float(len(response.text) == 3), "three letters wanted"
""".replace("\\\\", "\\")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "\n".join(f"{n},{'odd' if n % 2 else 'even'}" for n in range(80))
    (tmp_path / "data.csv").write_text(f"number,answer\n{rows}\n")
    (tmp_path / "task.toml").write_text(TASK)
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def in_a_process(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "promptopt", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def optimize(folder: Path, *words: str, model: str = "python:mine:model") -> subprocess.CompletedProcess[str]:
    given = ("--strategy", "promptquine", *words, "--model", model, "--set", "shortest=4")
    return promptopt(folder, "optimize", *given)


def test_optimize_prints_a_table_and_writes_result_and_report(folder: Path) -> None:
    done = optimize(folder, "task.toml", "--run-dir", "run", "--budget", "900 calls")

    assert done.returncode == 0, done.stderr
    assert "Better than the seed prompt" in done.stdout
    assert "test reward" in done.stdout
    assert json.loads((folder / "run" / "result.json").read_text())["task"] == "numbers"
    assert "Better than the seed prompt" in (folder / "run" / "report.md").read_text()


def test_a_second_run_makes_no_call_and_prints_the_same_result(folder: Path) -> None:
    first = optimize(folder, "task.toml", "--json", "--budget", "1500 calls", "--no-study")
    again = in_a_process(
        folder, "optimize", "task.toml", "--json", "--budget", "1500 calls", "--no-study",
        "--strategy", "promptquine", "--model", "python:mine:forbidden", "--set", "shortest=4",
    )  # fmt: skip
    one, other = json.loads(first.stdout), json.loads(again.stdout)

    assert again.returncode == 0, again.stderr
    assert other["paid"] == {}
    assert {k: v for k, v in one.items() if k not in ("date", "paid", "seconds", "run_dir")} == {
        k: v for k, v in other.items() if k not in ("date", "paid", "seconds", "run_dir")
    }


def test_a_data_file_and_options_stand_in_for_a_task_file(folder: Path) -> None:
    done = optimize(
        folder, "--data", "data.csv", "--input", "number", "--label", "answer", "--labels", "odd,even", "--json",
        "--seed-prompt", "Say wrongly odd or even: {number}", "--strategy", "random", "--budget", "900 calls",
    )  # fmt: skip

    assert done.returncode == 2  # `shortest` is no setting of this strategy
    assert "has no setting 'shortest'" in done.stderr
    done = promptopt(
        folder, "optimize", "--data", "data.csv", "--input", "number", "--label", "answer", "--labels", "odd,even",
        "--json", "--seed-prompt", "Say wrongly odd or even: {number}", "--strategy", "random",
        "--model", "python:mine:model",
    )  # fmt: skip
    result = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert result["prompt"] == {"text": "Say odd or even: {number}"}


def test_columns_say_which_rows_belong_together_and_where_they_go(folder: Path) -> None:
    rows = "".join(f"{n},{'odd' if n % 2 else 'even'},{n // 20},{'test' if n < 7 else 'train'}\n" for n in range(80))
    (folder / "data.csv").write_text(f"number,answer,series,part\n{rows}")
    options = ("--data", "data.csv", "--input", "number", "--label", "answer", "--model", "python:mine:model", "--json")

    def scored(*more: str) -> int:
        return int(json.loads(promptopt(folder, "score", *options, "--split", "test", *more).stdout)[0]["examples"])

    assert scored("--split-column", "part") == 7
    assert scored("--group-column", "series") % 20 == 0
    refused = promptopt(folder, "score", "task.toml", "--group-column", "series")
    assert "give either a task file or --data with its columns, not both" in refused.stderr


def test_score_says_how_many_replies_named_no_label(folder: Path) -> None:
    table = promptopt(folder, "score", "task.toml", "--model", "python:mine:mumbling")
    as_json = promptopt(folder, "score", "task.toml", "--model", "python:mine:mumbling", "--json")
    note = "note: 24 of 24 replies named no label, such as 'hm': "

    assert note in table.stdout
    assert note in as_json.stderr
    assert json.loads(as_json.stdout)[0]["reward"][0] == 0.0


def test_a_reward_of_ones_own_by_name(folder: Path) -> None:
    done = promptopt(
        folder, "score", "task.toml", "--model", "python:mine:model", "--reward", "mine:length", "--json",
        "--prompt", "Say odd or even: {number}", "--prompt", "Say wrongly odd or even: {number}",
    )  # fmt: skip
    first, second = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert first["reward"][0] == 0.5
    assert second["reward"][0] == 1.0
    assert second["less_first"][0] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimize"], "give a task file, or --data FILE"),
        (["optimize", "nosuch.toml"], "nosuch.toml"),
        (["optimize", "task.toml", "--model", "opanai:x"], "did you mean 'openai'"),
        (["optimize", "task.toml", "--model", "python:mine:nothing"], "is a int, not a model"),
        (["optimize", "task.toml", "--model", "python:mine:absent"], "has no 'absent'"),
        (["optimize", "task.toml", "--model", "python:mine:model", "--strategy", "promptqine"], "did you mean"),
        (["optimize", "task.toml", "--model", "python:mine:model", "--budget", "much"], "write '500 calls'"),
        (
            ["optimize", "task.toml", "--model", "python:mine:model", "--budget", "3 calls"],
            "too small to compare even one candidate",
        ),
        (["optimize", "task.toml", "--model", "python:mine:costly"], "no budget is set"),
        (["optimize", "task.toml", "--model", "python:mine:costly", "--budget", "$2"], "needs the price"),
        (["optimize", "--data", "data.csv", "--input", "numbr"], "number"),
        (["score", "task.toml", "--model", "python:mine:model", "--prompt", "{numbr}"], "did you mean 'number'"),
        (["optimize", "task.toml", "--model", "openai:x", "--price", "cheap", "--budget", "9 calls"], "INPUT,OUTPUT"),
        (["optimize", "task.toml", "--model", "openai:x", "--price", "1", "--budget", "9 calls"], "INPUT,OUTPUT"),
        (["optimize", "task.toml", "--model", "openai:x", "--price", "1,2,3,4,5", "--budget", "9 calls"], "WRITTEN"),
        (
            ["optimize", "task.toml", "--model", "openai:x", "--price", "1,-2", "--budget", "9 calls"],
            "must be finite and not negative",
        ),
        (["optimize", "task.toml", "--model", "openai:x", "--price", "1,nan", "--budget", "9 calls"], "finite"),
        (["score", "task.toml", "--model", "python:mine:costly", "--budget", "$2"], "needs the price"),
        (["models", "fetch", "smollm3"], "did you mean 'smollm2'"),
        (["memo", "prune", "--older-than", "soon"], "30d"),
        (["strategies", "promptquin"], "did you mean 'promptquine'"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_mend(folder: Path, words: list[str], message: str) -> None:
    done = promptopt(folder, *words)

    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("model", ["forbidden", "costly"])
def test_a_dry_run_prints_what_a_run_needs_and_leaves_nothing(folder: Path, model: str) -> None:
    done = optimize(folder, "task.toml", "--dry-run", model=f"python:mine:{model}")
    as_json = optimize(folder, "task.toml", "--dry-run", "--json", model=f"python:mine:{model}")

    assert done.returncode == as_json.returncode == 0, done.stderr + as_json.stderr
    assert "validation  task" in done.stdout
    assert "note: simulated" in done.stdout
    assert json.loads(as_json.stdout)["asked"]["calls"] > 0
    assert not (folder / "runs").exists()
    assert json.loads(promptopt(folder, "memo", "stats", "--json").stdout)["entries"] == 0


def test_an_unknown_price_is_noted_and_stands_in_the_table_and_the_report(folder: Path) -> None:
    done = optimize(folder, "task.toml", "--budget", "900 calls", "--run-dir", "run", model="python:mine:costly")

    assert done.returncode == 0, done.stderr
    assert "note: the price of the task model is unknown" in done.stdout
    assert re.search(r"task .* unknown +unknown *\n", done.stdout)
    report = (folder / "run" / "report.md").read_text()
    assert "price of the task model: unknown" in report
    assert "| unknown |" in report


@pytest.mark.parametrize(
    ("unfinished", "times"),
    [("stopped by the user", 1), ("3 of 9 replies failed; run again to retry them", 0), ("", 0)],
)
def test_an_unfinished_run_says_once_how_to_resume(
    unfinished: str, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result(a_result(unfinished=unfinished))

    assert capsys.readouterr().out.count("To resume, run the same command again") == times


def test_debug_shows_the_stack(folder: Path) -> None:
    done = promptopt(folder, "--debug", "optimize", "nosuch.toml")

    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_refused_key_exits_with_1_and_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers.loopback import Fault

    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key-000")
    with Loopback(fault=Fault(401)) as server:
        done = optimize(
            folder, "task.toml", "--budget", "300 calls", "--base-url", f"{server.url}/v1", model="openai:some-model"
        )

        assert len(server.requests) == 1
    assert done.returncode == 1
    assert "OPENAI_API_KEY" in done.stderr
    assert "sk-not" not in done.stderr + done.stdout


def test_a_hosted_model_is_optimised_through_a_real_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key-000")

    def answer(text: str) -> str:
        return "odd" if "wrongly" in text or int(re.findall(r"\d+", text)[-1]) % 2 else "even"

    with Loopback(answer) as server:
        words = ["task.toml", "--budget", "300 calls", "--base-url", f"{server.url}/v1", "--json", "--no-study"]
        first = optimize(folder, *words, model="openai:some-model")
        asked = len(server.requests)
        again = optimize(folder, *words, model="openai:some-model")

        assert len(server.requests) == asked
    assert first.returncode == again.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert 0 < sum(role["calls"] for role in result["used"].values()) <= 300
    assert result["paid"]["task"]["calls"] == asked
    assert "sk-not" not in first.stdout + first.stderr


def test_memo_commands(folder: Path) -> None:
    promptopt(folder, "score", "task.toml", "--model", "python:mine:model")
    stats = json.loads(promptopt(folder, "memo", "stats", "--json").stdout)
    path = promptopt(folder, "memo", "path").stdout.strip()
    exported = promptopt(folder, "memo", "export", "all.jsonl")
    imported = promptopt(folder, "memo", "import", "all.jsonl", "--memo", "other")
    pruned = promptopt(folder, "memo", "prune", "--older-than", "30d")

    assert stats["entries"] == 24
    assert stats["place"] == path
    assert exported.stdout.startswith("24 entries written")
    assert imported.stdout.startswith("24 new entries")
    assert pruned.stdout.startswith("0 entries deleted")


def test_strategies_and_models_are_listed(folder: Path) -> None:
    strategies = promptopt(folder, "strategies")
    one = promptopt(folder, "strategies", "promptquine.paper")
    models = promptopt(folder, "models")

    lines = dict(line.split(maxsplit=1) for line in strategies.stdout.splitlines())

    assert lines["hillclimb.paper"].startswith("hillclimb with restarts=20, ")
    assert lines["promptquine.ssga"] == "promptquine.paper with mode=ssga, max_prompts=10000"
    assert lines["hillclimb"].startswith("Propose, score")
    assert "population = 30" in one.stdout
    assert "local:smollm2" in models.stdout


def test_the_version_is_that_of_the_package() -> None:
    import promptopt as package

    assert promptopt(ROOT, "--version").stdout.strip() == package.__version__


@pytest.mark.parametrize(
    "words",
    [
        ["optimize", "nosuch.toml"],
        pytest.param(["--version"], marks=pytest.mark.wide),
        pytest.param(["--debug", "optimize", "nosuch.toml"], marks=pytest.mark.wide),
    ],
)
def test_a_process_of_its_own_prints_the_same_and_has_the_same_exit_code(folder: Path, words: list[str]) -> None:
    there, here = in_a_process(folder, *words), promptopt(folder, *words)

    assert there.returncode == here.returncode
    assert there.stdout == here.stdout
    assert there.stderr.splitlines()[-1:] == here.stderr.splitlines()[-1:]


def test_the_command_line_in_a_test_leaves_its_process_as_it_was(folder: Path) -> None:
    def state() -> list[Any]:
        return [
            Path.cwd(), list(sys.path), sys.argv, sys.stdout, sys.stderr, dict(os.environ), list(logging.root.handlers),
            [signal.getsignal(number) for number in ENDING], list(warnings.filters), "mine" in sys.modules,
        ]  # fmt: skip

    (folder / "mine.py").write_text(f"import os\nos.environ['LEFT'] = '1'\n{MODEL}")
    before = state()
    first = promptopt(folder, "score", "task.toml", "--model", "python:mine:model")
    (folder / "mine.py").write_text("import logging\nlogging.warning('another')\nmodel = 3")
    second = promptopt(folder, "score", "task.toml", "--model", "python:mine:model")

    assert (first.returncode, second.returncode) == (0, 2), first.stderr
    assert "another" in second.stderr
    assert state() == before


# ---------------------------------------------------------------- from a prompt that was found


def test_a_search_and_a_score_start_from_what_a_run_found(folder: Path) -> None:
    options = ("--budget", "300 calls", "--no-study", "--quiet", "--json")
    first = json.loads(optimize(folder, "task.toml", "--run-dir", "run", "--budget", "900 calls", "--json").stdout)
    exported = promptopt(folder, "export", "run", "--as", "json", "-o", "found.json")
    again = json.loads(optimize(folder, "task.toml", "--prompt-from", "run", *options).stdout)
    file = json.loads(optimize(folder, "task.toml", "--prompt-from", "found.json", *options).stdout)
    score = ("score", "task.toml", "--model", "python:mine:model", "--json")
    scored = promptopt(folder, *score, "--prompt-from", "run", "--prompt-file", "found.json")

    assert first["prompt"] != first["seed_prompt"]
    assert exported.returncode == 0, exported.stderr
    assert again["seed_prompt"] == file["seed_prompt"] == first["prompt"]
    assert [row["prompt"] for row in json.loads(scored.stdout)] == [first["prompt"]["text"]] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt-from", "nowhere"], "nowhere: no such file"),
        (["--prompt-from", "text.txt", "--seed-prompt", "x"], "--prompt-from and --seed-prompt both give the prompt"),
        (["--prompt-from", "text.txt"], "text.txt has the slot {nunber}"),
        (["--prompt-from", "broken.json"], "broken.json is not a saved prompt"),
        (
            ["--prompt-from", "run"],
            "run holds the prompts a, b, but the task needs one prompt: give a run of this task",
        ),
    ],
)
def test_a_prompt_that_cannot_be_started_from_is_refused(folder: Path, words: list[str], message: str) -> None:
    (folder / "text.txt").write_text("Odd or even? {nunber}")
    (folder / "broken.json").write_text('{"promptopt_prompt": 1}')
    prompts = Prompts({"a": Prompt("x"), "b": Prompt("y")})
    a_result(prompt=prompts, seed_prompt=prompts).save(folder / "run" / "result.json")

    done = optimize(folder, "task.toml", *words)

    assert done.returncode == 2
    assert message in done.stderr


def test_demonstrations_from_held_out_examples_are_noted(folder: Path) -> None:
    shown = Demonstrations(tuple(Example({"number": str(n)}, "odd", f"x{n}") for n in range(80)))
    prompt = PortablePrompt(prompt=Prompt("Odd or even?", shown), layout=Layout(("number",), "{number}"))
    prompt.save(folder / "found.json")

    done = optimize(folder, "task.toml", "--prompt-from", "found.json", "--budget", "200 calls", "--no-study", "--json")

    notes = json.loads(done.stdout)["notes"]
    assert any("the prompt shows 24 of the test examples: scores on them may be inflated" in note for note in notes)
