"""`compare_prompts`, `check_drift` and `promptopt gate`: decisions, their errors by simulation, and what they print."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from conftest import ROOT
from shell import promptopt
from toys import PROGRAM_TASK

from promptopt import (
    Example,
    FunctionModel,
    InputError,
    Prompt,
    Response,
    Task,
    TransientModelError,
    check_drift,
    compare_prompts,
    optimize,
)
from promptopt.evaluation.ledger import Ledger
from promptopt.models.base import Price
from promptopt.optimization.sequential_test import Aim, Pair, SequentialTest, fewest_items, look_sizes
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Failure
from promptopt.results.gate import GateResult, items_needed
from promptopt.results.saved_prompt import read_prompt
from promptopt.statistics import Interval, late_alpha_spending, paired_interval, paired_score_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from promptopt.models.base import Request


def items(split: str, count: int) -> tuple[Example, ...]:
    return tuple(Example({"text": f"q{i}"}, str(i % 3), f"{split}{i}") for i in range(count))


TASK = Task(
    train=items("train", 4),
    validation=items("validation", 8),
    test=items("test", 400),
    seed_prompt=Prompt("good"),
    name="remainders",
)
OLD, WORSE, SAME_QUALITY = Prompt("good"), Prompt("bad"), Prompt("fine")


def answer(request: Request) -> str:
    """A good prompt is right but for every 50th item, a bad one but for every 5th."""
    text = str(request.context)
    if "Rewrite it" in text:
        return "<prompt>good enough</prompt>"
    number = int(request.context[-1][1][1:])
    wrong = number % (5 if "bad" in text else 50) == 0
    return "none" if wrong else str(number % 3)


MODEL = FunctionModel(answer, name="remainders", version="1")


class Down(FunctionModel):
    """A model that gives no reply to some of the items."""

    def __init__(self, share: float) -> None:
        super().__init__(answer, name="down", version="1")
        self.share = share

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            down = int(request.context[-1][1][1:]) % 100 < 100 * self.share
            yield Arrival(number, Failure("down") if down else Response(answer(request)))


def forbidden(request: Request) -> str:
    raise AssertionError("a call was made")


# ---- decisions


def test_a_much_worse_prompt_is_found_after_part_of_the_items() -> None:
    found = compare_prompts(OLD, WORSE, TASK, MODEL)

    assert (found.decision, found.exit_code) == ("worse", 3)
    assert found.items < found.available == 400
    assert found.looks == tuple(2**n * 16 for n in range(len(found.looks)))
    assert found.difference.low <= found.estimate <= found.difference.high < -found.margin
    assert found.calls == found.calls_made == 2 * found.items
    assert set(found.lost) <= {f"test{i}" for i in range(0, 400, 5)}
    assert not found.won


def test_a_prompt_that_is_as_good_passes_and_is_not_better() -> None:
    found = compare_prompts(OLD, SAME_QUALITY, TASK, MODEL)
    superior = compare_prompts(OLD, SAME_QUALITY, TASK, MODEL, better=True)

    assert found.passed
    assert found.margin == 0.02
    assert found.difference.low > -0.02
    assert (superior.decision, superior.items, superior.calls_made) == ("undecided", 400, 2 * (400 - found.items))


def test_items_in_groups_are_decided_by_intervals_of_groups() -> None:
    grouped = replace(
        TASK, test=tuple(replace(e, group=e.target) for e in TASK.test)
    )  # three customers, all of 133 items or more
    found = compare_prompts(OLD, WORSE, grouped, MODEL)
    assert found.decision == "undecided"
    assert found.difference[1:] == (-math.inf, math.inf)
    many = replace(TASK, test=tuple(replace(e, group=str(i // 2)) for i, e in enumerate(TASK.test)))
    assert compare_prompts(OLD, WORSE, many, MODEL).decision == "worse"


def test_a_better_prompt_passes_as_better() -> None:
    found = compare_prompts(WORSE, OLD, TASK, MODEL, better=True)

    assert found.passed
    assert found.difference.low > 0
    assert "better than the old prompt" in found.headline


@pytest.mark.parametrize(("better", "decision"), [(False, "passed"), (True, "undecided")])
def test_equal_prompts_cost_nothing(*, better: bool, decision: str) -> None:
    model = FunctionModel(forbidden, name="forbidden", version="1")
    found = compare_prompts(OLD, Prompt("good"), TASK, model, better=better)

    assert (found.decision, found.items, found.calls, found.difference) == (decision, 0, 0, Interval(0.0, 0.0, 0.0))


def test_the_outcome_depends_on_its_inputs_and_seed_alone(tmp_path: Path) -> None:
    first = compare_prompts(OLD, WORSE, TASK, MODEL, memo=tmp_path / "a")
    other = compare_prompts(OLD, WORSE, TASK, MODEL, memo=tmp_path / "b")
    again = compare_prompts(OLD, WORSE, TASK, MODEL, memo=tmp_path / "a")
    reseeded = compare_prompts(OLD, WORSE, TASK, MODEL, memo=tmp_path / "a", seed=1)

    assert other == first
    assert again == replace(first, calls_made=0)
    assert reseeded.lost != first.lost


def test_undecided_says_how_many_items_would_decide() -> None:
    small = replace(TASK, test=TASK.test[:60])
    found = compare_prompts(OLD, SAME_QUALITY, small, MODEL)

    assert (found.decision, found.exit_code, found.items) == ("undecided", 4, 60)
    assert any(f"only with {fewest_items(0.02)} items or more" in note for note in found.notes)


def test_the_budget_cuts_the_last_look_which_gets_the_error_that_is_left() -> None:
    found = compare_prompts(OLD, SAME_QUALITY, TASK, MODEL, budget="150 calls")

    assert found.looks == (16, 32, 64, 75)
    assert found.calls == 150
    assert "budget limits the test to 75 of 400 items" in found.notes


def test_a_budget_in_tokens_ends_the_test_between_looks() -> None:
    found = compare_prompts(OLD, SAME_QUALITY, TASK, MODEL, budget="60k tokens")

    assert 16 <= found.items < 400
    assert found.decision == "undecided"


def test_too_many_failed_replies_decide_nothing() -> None:
    found = compare_prompts(OLD, WORSE, TASK, Down(0.1))

    assert found.decision == "undecided"
    assert found.failed
    assert any("down" in note for note in found.notes)


def test_a_model_that_never_answers_is_an_error() -> None:
    with pytest.raises(TransientModelError, match=r"all 32 replies failed; the first: .*down"):
        compare_prompts(OLD, WORSE, TASK, Down(1.0))


def test_prompts_of_a_program_are_compared() -> None:
    seed = PROGRAM_TASK.seed_prompt

    assert compare_prompts(seed, seed, PROGRAM_TASK, MODEL).passed
    with pytest.raises(
        InputError, match="the new prompt holds one prompt, and the task needs the prompts read, answer"
    ):
        compare_prompts(seed, OLD, PROGRAM_TASK, MODEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0}, "margin must be a number above 0"),
        ({"margin": math.nan}, "margin must be a number above 0"),
        ({"margin": 0.1, "better": True}, "contradicts better"),
        ({"error": 1.5}, "error must be a probability"),
        ({"split": "tset"}, "no items in the split 'tset': use one of test, validation, train"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"budget": "20 calls"}, "budget of 20 calls is too small for the first look at 16 items"),
    ],
)
def test_unusable_arguments_name_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_prompts(OLD, WORSE, TASK, MODEL, **options)


def test_a_model_that_costs_money_needs_a_budget() -> None:
    model = FunctionModel(answer, name="remainders", version="1")
    model.price = Price(1.0, 2.0)

    with pytest.raises(InputError, match="the task model costs money and no budget is set"):
        compare_prompts(OLD, WORSE, TASK, model)
    found = compare_prompts(OLD, WORSE, TASK, model, budget="1 dollars")
    assert found.decision == "worse"


# ---- prompts as files


def test_prompts_are_read_from_text_json_and_runs(tmp_path: Path) -> None:
    result = optimize(TASK, MODEL, "random", budget="900 calls", run_dir=tmp_path / "run", tracking=False)
    (tmp_path / "text.md").write_text("bad\r\n", encoding="utf-8")
    (tmp_path / "prompt.json").write_text(json.dumps(WORSE.to_json()), encoding="utf-8")

    assert read_prompt(tmp_path / "text.md") == read_prompt(tmp_path / "prompt.json") == WORSE
    assert read_prompt(tmp_path / "run") == read_prompt(tmp_path / "run" / "result.json") == result.prompt


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1]", "holds no prompt .an object is needed, not list"),
        ("a.json", "{", "holds no prompt"),
        ("a.json", '{"prompt": {"text": "x"}, "labels": ["a"], "bias": [0.0]}', "label bias"),
        ("a.txt", None, "no such file"),
    ],
)
def test_a_file_without_a_prompt_is_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_prompt(tmp_path / name)


def test_a_long_text_in_place_of_a_path_is_refused() -> None:
    with pytest.raises(InputError, match="is no path"):
        compare_prompts("Answer. " * 100, WORSE, TASK, MODEL)


# ---- drift


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test replies are those of `MODEL`."""
    folder = tmp_path_factory.mktemp("drift")
    optimize(TASK, MODEL, "random", budget="1400 calls", run_dir=folder / "run", tracking=False, memo=folder / "memo")
    return folder / "run"


def changed_model(every: int) -> FunctionModel:
    """The same name and version, and other replies to some of the items."""

    def handler(request: Request) -> str:
        right = answer(request)
        return "other" if right.isdigit() and int(request.context[-1][1][1:]) % every == 1 else right

    return FunctionModel(handler, name="remainders", version="1")


@pytest.mark.parametrize("task", [TASK, None])
def test_an_unchanged_model_passes(run: Path, task: Task | None) -> None:
    found = check_drift(run, MODEL, task)

    assert found.passed
    assert found.drift
    assert found.changed == 0
    assert found.calls == found.calls_made == found.items  # nothing comes from the memo
    assert not any("another model" in note for note in found.notes)


@pytest.mark.parametrize("task", [TASK, None])
def test_a_changed_model_is_found(run: Path, task: Task | None) -> None:
    found = check_drift(run, changed_model(4), task)

    assert (found.decision, found.exit_code) == ("worse", 3)
    assert found.changed == len(found.lost) > 0
    assert "the model today is worse than the recorded replies by more than 0.02" in found.headline


def test_another_model_is_named(run: Path) -> None:
    found = check_drift(run, FunctionModel(answer, name="remainders", version="2"), TASK)

    assert any("the run used another model" in note for note in found.notes)


def test_what_the_folder_does_not_say_needs_the_task(run: Path, tmp_path: Path) -> None:
    def length(example: Example, response: Response) -> float:
        return float(len(response.text))

    optimize(replace(TASK, reward=length), MODEL, "random", budget="900 calls", run_dir=tmp_path / "r", tracking=False)
    with pytest.raises(InputError, match=r"no built-in reward reproduces .* give the run's task too"):
        check_drift(tmp_path / "r", MODEL)
    with pytest.raises(InputError, match=r"none of the test items .* is in the task"):
        check_drift(run, MODEL, replace(TASK, test=items("other", 3)))


def test_a_run_without_a_test_is_refused(tmp_path: Path) -> None:
    optimize(replace(TASK, test=()), MODEL, "random", budget="300 calls", run_dir=tmp_path / "r", tracking=False)
    with pytest.raises(InputError, match=r"no test.jsonl with test replies"):
        check_drift(tmp_path / "r", MODEL)


def test_a_template_of_its_own_is_recorded(tmp_path: Path) -> None:
    def with_item(request: Request) -> str:
        text = request.context[-1][1]
        if "Rewrite it" in text:
            return "<prompt>good enough</prompt>"
        return str(int(text.removeprefix("Item q")) % 3) if text.startswith("Item") else "?"

    model = FunctionModel(with_item, name="item", version="1")
    task = replace(TASK, template="Item {text}", max_tokens=9)
    result = optimize(task, model, "random", budget="1400 calls", run_dir=tmp_path / "r", tracking=False)

    assert result.layout is not None
    assert result.layout.template == "Item {text}"
    assert check_drift(tmp_path / "r", model).changed == 0


# ---- statistics


def constrained(won: int, lost: int, n: int, difference: float) -> float:
    """The score statistic with its nuisance parameter found by search."""
    grid = np.linspace(max(0.0, -difference), min(1.0, (1 - difference) / 2), 200_001)[1:-1]
    winning, neither = grid + difference, 1 - 2 * grid - difference
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = (won * np.log(winning) if won else 0.0) + lost * np.log(grid)
        likelihood = likelihood + (n - won - lost) * np.log(neither)
    lose = float(grid[np.nanargmax(likelihood)])
    return (won - lost - n * difference) / math.sqrt(n * (2 * lose + difference * (1 - difference)))


@pytest.mark.parametrize(("won", "lost", "n"), [(5, 12, 60), (1, 9, 200), (30, 28, 90)])
def test_the_score_interval_ends_where_the_score_test_rejects(won: int, lost: int, n: int) -> None:
    old, new = np.zeros(n), np.zeros(n)
    new[:won] = old[won : won + lost] = 1.0
    interval = paired_score_interval(new, old, 0.95)

    assert interval.estimate == pytest.approx((won - lost) / n)
    assert constrained(won, lost, n, interval.low) == pytest.approx(1.96, abs=2e-3)
    assert constrained(won, lost, n, interval.high) == pytest.approx(-1.96, abs=2e-3)


def test_the_score_interval_without_differences_is_that_of_wilson() -> None:
    n, z = 200, 1.959964
    interval = paired_score_interval(np.ones(n), np.ones(n), 0.95)

    assert interval.high == pytest.approx(z * z / (n + z * z), rel=1e-5)
    assert interval.low == -interval.high


def test_rewards_of_other_ranges() -> None:
    rng = named_generator(0, "test")
    first, second = rng.random(40), rng.random(40)
    wide = paired_score_interval(10 * first, 10 * second, 0.95)
    nothing = paired_score_interval(np.full(3, np.nan), np.ones(3), 0.95)

    assert wide.low < wide.estimate < wide.high
    assert paired_score_interval(first, second, 0.95).high - paired_interval(first, second).high > 0
    assert math.isinf(nothing.low)


def test_late_spending_adds_up_and_keeps_most_for_the_end() -> None:
    errors = late_alpha_spending([16, 32, 64, 128], 0.05)

    assert sum(errors) == pytest.approx(0.05)
    assert errors[-1] == pytest.approx(0.05 * 0.75)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40, 130, 200, 1000])
def test_looks_end_with_all_items(count: int) -> None:
    looks = look_sizes(count)

    assert looks[-1] == count
    assert looks == sorted(set(looks))
    assert all(look <= 0.75 * count for look in looks[:-1])


def test_the_fewest_items_pass_and_one_fewer_do_not() -> None:
    fewest = fewest_items(0.05)

    assert decided(Pair(np.ones(fewest), np.ones(fewest)), margin=0.05) == "passed"
    assert decided(Pair(np.ones(fewest - 1), np.ones(fewest - 1)), margin=0.05) == "undecided"


def decided(drawn: Pair, margin: float, *, better: bool = False) -> str:
    aim = Aim(margin=margin, better=better, error=0.05)
    examples = [Example({"x": ""}, None, str(i)) for i in range(len(drawn.old))]
    test = SequentialTest(aim, examples, lambda some: Pair(*(row[: len(some)] for row in drawn)), Ledger())
    test.run()
    return test.decision


@pytest.mark.parametrize(("differing", "better"), [(0.3, True), (0.1, True), (0.1, False), (0.02, False)])
def test_a_wrong_decision_has_the_stated_probability(*, differing: float, better: bool) -> None:
    """Equal prompts with `better`, and a loss of exactly the margin without: either decision is then wrong."""
    margin, repeats, decisions = 0.02, 500, []
    for seed in range(repeats):
        uniform = named_generator(seed, f"A/A {differing} {better}").random(200)
        won = uniform < (differing - (0.0 if better else margin)) / 2
        lost = ~won & (uniform < differing)
        decisions.append(decided(Pair(lost.astype(float), won.astype(float)), 0.0 if better else margin, better=better))
    error = math.sqrt(0.025 * 0.975 / repeats)

    assert decisions.count("passed") / repeats <= 0.025 + 3 * error
    assert decisions.count("worse") / repeats <= 0.025 + 3 * error
    assert differing < 0.1 or decisions.count("undecided") < repeats


def test_items_needed_shrink_with_the_gap() -> None:
    narrow, wide = (items_needed(Interval(gap, gap - 0.1, gap + 0.1), 100, 0.0) for gap in (0.05, 0.01))

    assert narrow is not None
    assert wide is not None
    assert 100 < narrow < wide
    assert items_needed(Interval(0.0, -0.1, 0.1), 100, 0.0) is None


# ---- what is printed


HOSTILE = GateResult(
    decision="worse",
    difference=Interval(-0.3, -0.5, -0.1),
    items=64,
    available=100,
    calls=128,
    calls_made=128,
    dollars=0.5,
    margin=0.02,
    better=False,
    error=0.05,
    looks=(16, 32, 64),
    old='a"<b>&.txt',
    new="new|`@team`\x1b[31m",
    task="t]]>",
    model="m",
    lost=("i1", "<script>"),
    notes=("a\x00b",),
)


def test_the_markdown_holds_no_markup_of_names() -> None:
    text = HOSTILE.markdown()

    assert text.startswith("**Worse: ")
    assert "@team" not in text
    assert "\x1b" not in text
    assert "\\<script\\>" in text


def test_the_xml_is_well_formed_and_a_failure_unless_passed() -> None:
    root = ET.fromstring(HOSTILE.junit())  # noqa: S314  our own
    suite = root[0]

    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert [failure.get("type") for failure in root.iter("failure")] == ["worse"]
    passed = ET.fromstring(replace(HOSTILE, decision="passed").junit())  # noqa: S314  our own
    assert passed[0].get("failures") == "0"
    assert not list(passed.iter("failure"))


# ---- the command line


TASK_FILE = """
name = "remainders"
seed_prompt = "good"
[data]
file = "data.csv"
inputs = ["text"]
label = "answer"
shares = [0.1, 0.1, 0.8]
"""
CODE = """
from promptopt import FunctionModel
def answer(request):
    text = str(request.context)
    if "Rewrite it" in text:
        return "<prompt>good enough</prompt>"
    number = int(request.context[-1][1][1:])
    return "none" if number % (5 if "bad" in text else 50) == 0 else str(number % 3)
model = FunctionModel(answer, name="remainders", version="1")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"q{n},{n % 3}\n" for n in range(500))
    (tmp_path / "data.csv").write_text(f"text,answer\n{rows}", encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK_FILE, encoding="utf-8")
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    for name in ("good", "bad", "fine"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n", encoding="utf-8")
    return tmp_path


def gate(folder: Path, *words: str) -> Any:
    return promptopt(folder, "gate", *words, "--model", "python:mine:model", "--quiet")


@pytest.mark.parametrize(
    ("words", "code", "start"),
    [
        (("good.txt", "fine.txt"), 0, "Passed: "),
        (("good.txt", "bad.txt"), 3, "Worse: "),
        (("good.txt", "fine.txt", "--better"), 4, "Undecided: "),
        (("good.txt", "good.txt"), 0, "Passed: the two prompts are the same"),
    ],
)
def test_the_exit_code_is_the_decision(folder: Path, words: tuple[str, ...], code: int, start: str) -> None:
    done = gate(folder, *words, "--task", "task.toml", "--markdown", "out.md", "--junit", "out.xml")

    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(start)
    assert (folder / "out.md").read_text(encoding="utf-8").startswith(f"**{start[:-1].rstrip()}"[:9])
    failures = ET.parse(folder / "out.xml").getroot()[0].get("failures")  # noqa: S314  our own
    assert failures == str(int(code != 0))


def test_a_run_alone_is_checked_for_drift(folder: Path) -> None:
    words = ("--model", "python:mine:model", "--strategy", "random", "--budget", "1500 calls", "--run-dir", "run")
    assert promptopt(folder, "optimize", "task.toml", *words, "--no-study").returncode == 0
    same = gate(folder, "run", "--json")
    code = CODE.replace('"none" if', '"none" if number % 4 == 1 or')
    (folder / "mine.py").write_text(code, encoding="utf-8")
    changed = gate(folder, "run", "--task", "task.toml")

    assert (same.returncode, json.loads(same.stdout)["changed"]) == (0, 0), same.stderr
    assert changed.returncode == 3, changed.stderr
    assert "changed replies" in changed.stdout

    stopping = CODE.replace("def answer(request):", "def answer(request):\n    raise KeyboardInterrupt")
    assert stopping != CODE
    (folder / "mine.py").write_text(stopping, encoding="utf-8")
    stopped = gate(folder, "run")
    assert stopped.returncode == 1
    assert stopped.stderr == "stopped; the next drift check starts from the beginning, because no replies are kept\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("good.txt", "bad.txt"), "give --task FILE"),
        (("good.txt",), "is not a saved result"),
        (("run", "--better"), "--better needs two prompts"),
        (("good.txt", "bad.txt", "--task", "task.toml", "--junit", "no/out.xml"), "there is no folder no"),
        (("good.txt", "absent.txt", "--task", "task.toml"), "absent.txt: no such file"),
    ],
)
def test_usage_errors(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = gate(folder, *words)

    assert done.returncode == 2
    assert message in done.stderr


# ---- the files for CI


CI = ROOT / "examples" / "ci"


def from_yaml(file: Path) -> Any:
    yaml: Any = pytest.importorskip("yaml", reason="comes with the extra 'docs'")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository whose last commit holds good prompts, with the scripts of the example."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    command = bin_folder / "promptopt"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m promptopt "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (folder / "prompts").mkdir()
    for name in ("first", "second"):
        (folder / "prompts" / f"{name}.txt").write_text("good\n", encoding="utf-8")
    shutil.copy(CI / "gate_prompts.sh", folder)
    in_bash(folder, "git init -qb main && git add . && git commit -qm 'good prompts'")
    return folder


def in_bash(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.run(
        ["bash", "-ec", script],  # noqa: S607  that of the system
        cwd=folder,
        env={**os.environ, **dict.fromkeys(names, "a"), **paths, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def change(repository: Path, **texts: str) -> None:
    for name, text in texts.items():
        (repository / "prompts" / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("texts", "code"),
    [({"first": "fine", "third": "new"}, 0), ({"first": "bad", "second": "fine"}, 3)],
)
def test_the_action_gates_the_changed_prompts(repository: Path, texts: dict[str, str], code: int) -> None:
    steps = from_yaml(CI / "prompt-gate.yml")["jobs"]["gate"]["steps"]
    step = next(step for step in steps if step.get("id") == "gate")
    in_bash(repository, "git checkout -qb change")
    change(repository, **texts)
    in_bash(repository, "git add . && git commit -qm change")
    settings = {**step["env"], "MODEL": "python:mine:model", "BASE": "main"}
    done = in_bash(repository, step["run"], **settings)

    assert done.returncode == code, done.stderr
    summary = (repository / "gate-out" / "gate.md").read_text(encoding="utf-8")
    assert "### `prompts/first.txt`" in summary
    assert ("**Worse" in summary) == (code == 3)
    assert ("prompts/third.txt is new" in summary) == ("third" in texts)
    assert ET.parse(repository / "gate-out" / "gate-1.xml").getroot().tag == "testsuites"  # noqa: S314  our own


@pytest.mark.parametrize(("text", "code"), [pytest.param("fine", 0, marks=pytest.mark.wide), ("bad", 3)])
def test_the_hook_gates_the_files_of_a_commit(repository: Path, text: str, code: int) -> None:
    hook = from_yaml(CI / "pre-commit-config.yaml")["repos"][0]["hooks"][0]
    change(repository, first=text)
    entry = hook["entry"].replace("openai:gpt-4.1-mini", "python:mine:model")
    done = in_bash(repository, f"{entry} prompts/first.txt")

    assert done.returncode == code, done.stderr
    assert re.match(hook["files"], "prompts/first.txt")


def test_an_error_is_no_decision(repository: Path) -> None:
    change(repository, first="bad")
    done = in_bash(
        repository, "./gate_prompts.sh HEAD prompts/first.txt", TASK="absent.toml", MODEL="python:mine:model"
    )

    assert done.returncode == 2
    assert "absent.toml: no such file" in done.stderr


@pytest.mark.parametrize("revision", ["", "absent"])
def test_an_unknown_revision_does_not_pass(repository: Path, revision: str) -> None:
    change(repository, first="bad")
    done = in_bash(repository, f"./gate_prompts.sh '{revision}' prompts/first.txt", MODEL="python:mine:model")

    assert done.returncode == 2
    assert f"git does not know the revision '{revision}'" in done.stderr


def test_the_script_names_the_endpoint(repository: Path) -> None:
    (repository / "bin" / "promptopt").write_text('#!/bin/sh\necho "$@"\n: > gate-out/part.md\n', encoding="utf-8")
    change(repository, first="fine")
    settings = {"TASK": "task.toml", "MODEL": "openai:some-model", "OUT": "gate-out"}
    command = "./gate_prompts.sh HEAD prompts/first.txt"

    assert "--base-url" not in in_bash(repository, command, **settings).stdout
    done = in_bash(repository, command, BASE_URL="http://localhost:8000/v1", **settings)
    assert done.stdout.startswith("gate gate-out/old/prompts/first.txt prompts/first.txt")
    assert "--model openai:some-model --base-url http://localhost:8000/v1" in done.stdout
