from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shell import promptopt

from promptopt import (
    Arrival,
    Demonstrations,
    Example,
    Failure,
    FakeModel,
    FunctionModel,
    InputError,
    Price,
    Prompt,
    Response,
    Result,
    Task,
    cross_fit,
)
from promptopt.optimization.cross_fitting import FOLDS, cross_fit_jobs, fold_tasks
from promptopt.results.outcomes import SAME
from promptopt.statistics import cross_fitted_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from promptopt import Request
    from promptopt.search.run import Run

WORDS = ("plain", "careful", "brief")
BETTER = {"plain": 3, "careful": 9, "brief": 5}
WORSE = {"plain": 8, "careful": 3, "brief": 1}


def items(numbers: range) -> tuple[Example, ...]:
    return tuple(Example({"text": f"q{n}"}, str(n % 3), f"{n}") for n in numbers)


TASK = Task(
    train=items(range(24)),
    validation=items(range(24, 42)),
    test=items(range(42, 60)),
    seed_prompt=Prompt("plain"),
    name="remainders",
)
ROWS = (*TASK.train, *TASK.validation, *TASK.test)


def model(skill: Mapping[str, int], calls: list[str] | None = None) -> FunctionModel:
    """Right on `skill` of 10 items, by the prompt."""

    def reply(request: Request) -> str:
        prompt, item = (turn.content for turn in request.context)  # type: ignore[union-attr]
        if calls is not None:
            calls.append(f"{prompt} {item}")
        number = int(item[1:])
        return str(number % 3) if number * 7 % 10 < skill.get(prompt, 0) else "none"

    return FunctionModel(reply, name="model", version="1")


@dataclass(frozen=True)
class Fixed:
    """Scores these prompts."""

    writes = False

    def search(self, run: Run) -> None:
        run.score([Prompt(word) for word in WORDS])


def test_each_row_is_tested_once_by_a_prompt_that_was_found_without_it(tmp_path: Path) -> None:
    outcome = cross_fit(TASK, model(BETTER), Fixed(), memo=tmp_path / "memo", run_dir=tmp_path / "runs")
    tests = [fold.test.outcomes for fold in outcome.folds if fold.test]
    pairs = np.array([(o.seed.reward, o.chosen.reward) for test in tests for o in test], dtype=float)

    assert sorted(o.id for test in tests for o in test) == sorted(row.id for row in ROWS)
    assert [len(test) for test in tests] == [12] * 5
    assert outcome.prompt == Prompt("careful")
    assert outcome.gain == cross_fitted_interval(pairs[:, 1], pairs[:, 0], 5)
    assert outcome.gain.estimate == pytest.approx(0.6)  # right on 9 in place of 3 of 10
    assert outcome.improved
    assert outcome.headline.startswith(
        "On this much data, the search finds better prompts than the seed prompt: 0.300 -> 0.900 (+0.600, 95 % interval +0."
    )
    assert (
        "60 rows, cross-fitted in 5 folds). The prompt below was found on all rows, and was not tested itself"
        in str(outcome)
    )
    assert outcome.final is not None
    assert outcome.final.test is None
    assert [Result.load(run.run_dir) for run in (*outcome.folds, outcome.final)] == [*outcome.folds, outcome.final]
    assert outcome.rows()[-1] == ("all", "60", "0.300", "0.900", "+0.600", "candidate 1")


def test_folds_and_their_searches_divide_the_rows() -> None:
    tasks = fold_tasks(TASK, 0)
    assert list(tasks) == ["fold-1", "fold-2", "fold-3", "fold-4", "fold-5", "all"]
    for task in tasks.values():
        assert sorted((*task.train, *task.validation, *task.test), key=ROWS.index) == list(ROWS)
    assert [(len(t.train), len(t.validation), len(t.test)) for t in tasks.values()] == [(27, 21, 12)] * 5 + [
        (34, 26, 0)
    ]
    assert fold_tasks(TASK, 1)["fold-1"].test != tasks["fold-1"].test


def test_without_validation_data_no_run_has_any() -> None:
    tasks = fold_tasks(replace(TASK, validation=(), train=(*TASK.train, *TASK.validation)), 0)
    assert {len(task.validation) for task in tasks.values()} == {0}


def test_where_no_fold_finds_a_better_prompt_nothing_is_claimed(tmp_path: Path) -> None:
    outcome = cross_fit(TASK, model(WORSE), Fixed(), memo=tmp_path)
    assert outcome.gain == SAME
    assert not outcome.improved
    assert outcome.headline == (
        "No improvement found: the search kept your prompt in each of 5 folds. On all rows, it kept your prompt."
    )
    assert {row[-1] for row in outcome.rows()} == {"seed prompt kept"}


def test_a_gain_whose_interval_holds_zero_is_not_shown(tmp_path: Path) -> None:
    outcome = cross_fit(TASK, model({"plain": 5, "careful": 6}), Fixed(), memo=tmp_path)
    assert outcome.gain is not None
    assert outcome.gain.low < 0 < outcome.gain.estimate
    assert outcome.headline.startswith(
        "No improvement shown: on this much data, the search may find nothing better (+0."
    )


def test_a_second_call_asks_nothing_and_is_equal(tmp_path: Path) -> None:
    calls: list[str] = []
    first, second = (cross_fit(TASK, model(BETTER, calls), Fixed(), memo=tmp_path) for _ in range(2))
    assert first == second
    assert len(calls) == len(set(calls)) == 3 * 60


class Unreliable(FunctionModel):
    """Loses the replies to one item."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for index, request in enumerate(requests):
            lost = request.context[-1].content == "q1"  # type: ignore[union-attr]
            yield Arrival(index, Failure("lost") if lost else Response(str(self.handler(request))))


def test_an_unfinished_run_ends_it_and_nothing_is_claimed(tmp_path: Path) -> None:
    outcome = cross_fit(TASK, Unreliable(model(BETTER).handler, name="m", version="1"), Fixed(), memo=tmp_path)
    assert not outcome.finished
    assert len(outcome.folds) == 1
    assert (outcome.final, outcome.gain, outcome.prompt) == (None, None, None)
    assert outcome.headline.startswith("Unfinished (")
    assert outcome.to_json()["gain"] is None


def test_the_budget_is_shared_equally() -> None:
    jobs = cross_fit_jobs(
        TASK, model(BETTER), Fixed(), writer=None, budget="6001 calls, 3 dollars", seed=0, settings=None
    )
    assert {str(job.budget) for job in jobs.values()} == {"1,000 calls, 0.5 dollars"}
    assert len({job.digest for job in jobs.values()}) == FOLDS + 1


def test_equal_inputs_are_in_one_fold() -> None:
    twins = tuple(Example({"text": f"q{n // 2}"}, str(n % 3), f"{n}") for n in range(60))
    for task in fold_tasks(replace(TASK, train=twins, validation=(), test=()), 0).values():
        searched = {row.inputs["text"] for row in (*task.train, *task.validation)}
        assert not searched & {row.inputs["text"] for row in task.test}


def costly() -> FakeModel:
    made = FakeModel(lambda _: "0", "costly")
    made.price = Price(1.0, 1.0)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": replace(TASK, validation=(), test=(), train=TASK.train[:19])}, "at least 20 rows, not 19"),
        (
            {"task": replace(TASK, test=(Example({"text": "q99"}, None, "99"),))},
            "example '99' has no label, and each row is tested",
        ),
        (
            {"task": replace(TASK, seed_prompt=Prompt("plain", Demonstrations(TASK.test[:2])))},
            "the seed prompt shows rows of the data",
        ),
        ({"budget": "300 calls"}, "the budget of 300 calls is too small for 6 runs, which share it equally"),
        ({"model": costly()}, "the task model costs money and no budget is set"),
        ({"task": replace(TASK, train=tuple(Example({"text": "q"}, "1", f"{n}") for n in range(60)), validation=(), test=())}, "1 different examples do not fill 5 folds"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_any_call(changes: dict[str, Any], message: str) -> None:
    calls: list[str] = []
    arguments: dict[str, Any] = {"task": TASK, "model": model(BETTER, calls), "strategy": Fixed(), **changes}
    with pytest.raises(InputError) as caught:
        cross_fit(**arguments)
    assert message in str(caught.value)
    assert not calls


# ---- the command line

TASK_FILE = """
name = "remainders"
seed_prompt = "plain"
[data]
file = "data.csv"
inputs = ["text"]
label = "answer"
"""
CODE = """
from promptopt import FunctionModel
SKILL = {"plain": 3, "careful": 9, "brief": 5}
def answer(request):
    if "<prompt>" in str(request.context):
        return "<prompt>careful</prompt><prompt>brief</prompt>"
    number, word = int(request.context[-1][1][1:]), request.context[0][1].split()[-1]
    return str(number % 3) if number * 7 % 10 < SKILL.get(word, 0) else "none"
model = FunctionModel(answer, name="model", version="1")
def no(request):
    raise SystemExit("a call was made")
silent = FunctionModel(no, name="model", version="1")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"q{n},{n % 3},{n % 7}\n" for n in range(60))
    (tmp_path / "data.csv").write_text(f"text,answer,customer\n{rows}", encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK_FILE, encoding="utf-8")
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    return tmp_path


def test_the_command_prints_the_claim_and_writes_runs(folder: Path) -> None:
    search = ("--strategy", "random", "--set", "prompts=4", "--set", "batch=4", "--budget", "1500 calls")
    words = ("cross-fit", "task.toml", *search, "--quiet", "--model")
    free = promptopt(folder, *words, "python:mine:silent", "--dry-run", "--json")
    done, again = (promptopt(folder, *words, "python:mine:model", *more) for more in ((), ("--json",)))
    values = json.loads(again.stdout)

    assert free.returncode == 0, free.stderr
    assert re.findall(r'"run": "(.+?)"', free.stdout) == [*(f"fold-{number}" for number in range(1, 6)), "all"]
    assert done.returncode == 0, done.stderr
    assert "the search finds better prompts than the seed prompt: 0.300 -> 0.900" in done.stdout
    assert "\ncareful\n" in done.stdout
    assert values["improved"]
    assert values["prompt"] == {"text": "careful"}
    assert Result.load(folder / values["run_dir"]).prompt == Prompt("careful")
    assert [Result.load(folder / fold["run_dir"]).test.examples for fold in values["folds"]] == [12] * 5  # type: ignore[union-attr]


def test_the_claim_for_a_task_file_with_a_group_column_is_that_of_groups(folder: Path) -> None:
    rows = "".join(f"q{n},{n % 3},{n // 3}\n" for n in range(60))
    (folder / "data.csv").write_text(f"text,answer,customer\n{rows}", encoding="utf-8")
    (folder / "task.toml").write_text(f'{TASK_FILE}group_column = "customer"\n', encoding="utf-8")
    outcome = cross_fit(folder, model(BETTER), Fixed(), memo=folder / "memo")
    tests = [fold.test.outcomes for fold in outcome.folds if fold.test]
    customers = [{customer(o.id) for o in test} for test in tests]
    pairs = np.array([(o.seed.reward, o.chosen.reward) for test in tests for o in test], dtype=float)
    groups = [customer(o.id) for test in tests for o in test]

    assert [len(test) for test in tests] == [12] * 5
    assert sum(map(len, customers)) == len(set.union(*customers)) == 20  # no customer is in two folds
    assert outcome.gain == cross_fitted_interval(pairs[:, 1], pairs[:, 0], 5, groups)
    assert outcome.gain != cross_fitted_interval(pairs[:, 1], pairs[:, 0], 5)
    assert "60 rows in 20 groups, cross-fitted in 5 folds" in outcome.headline
    assert outcome.to_json()["groups"] == 20


def customer(row: str) -> str:
    """Three lines each, from line 2 on."""
    return str((int(row.removeprefix("data:")) - 2) // 3)


def with_groups(group: Callable[[int], str | None]) -> Task:
    def grouped(part: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(replace(e, group=group(int(e.id))) for e in part)

    return replace(TASK, train=grouped(TASK.train), validation=grouped(TASK.validation), test=grouped(TASK.test))


def test_searches_divide_no_group_either() -> None:
    tasks = fold_tasks(with_groups(lambda n: f"customer {n % 23}"), 0)  # of three rows, some of two
    assert sorted(row.id for task in list(tasks.values())[:FOLDS] for row in task.test) == sorted(
        row.id for row in ROWS
    )
    for task in tasks.values():
        parts = [{row.group for row in part} for part in (task.train, task.validation, task.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 23
        assert len(task.train) / (len(task.train) + len(task.validation)) == pytest.approx(24 / 42, abs=0.05)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (lambda n: f"{n % 9}", "needs rows of at least 10 groups, not 9"),
        (lambda n: f"{min(n, 47)}", "group '47' has 13 of 60 rows, more than a fold of 12"),
        (lambda n: None if n == 7 else "a", "example '7' has no group, but others have one"),
    ],
)
def test_groups_that_folds_cannot_hold_are_refused(group: Callable[[int], str | None], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cross_fit(with_groups(group), FakeModel(lambda _: pytest.fail("a call was made")), Fixed())
