"""Comparison of runs: pairing, best rewards at equal calls, and notes on other differences."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from results import BETTER, HISTORY, OUTCOMES, a_result, an_outcome
from shell import promptopt
from typer.testing import CliRunner

from promptopt import InputError
from promptopt.cli import app
from promptopt.report.compare import SavedRun, compare_runs, read_run
from promptopt.results.outcomes import write_outcomes

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Result
    from promptopt.results.outcomes import Outcome


def a_run(name: str, outcomes: tuple[Outcome, ...] = OUTCOMES, result: Result | None = None) -> SavedRun:
    return SavedRun(name=name, result=result or a_result(), outcomes=outcomes)


def items(rewards: list[float | None]) -> tuple[Outcome, ...]:
    return tuple(an_outcome(i, 0.0, reward) for i, reward in enumerate(rewards))


def searched(calls: list[int], rewards: list[float]) -> Result:
    records = zip(calls, rewards, strict=True)
    return a_result(
        history=tuple(
            replace(HISTORY[0], number=i, calls=count, reward=reward) for i, (count, reward) in enumerate(records)
        )
    )


def saved(folder: Path, result: Result, outcomes: tuple[Outcome, ...] = OUTCOMES) -> Path:
    result.save(folder / "result.json")
    write_outcomes(outcomes, folder / "test.jsonl")
    return folder


# ---------------------------------------------------------------- numbers


def test_chosen_prompts_are_paired_on_the_test_items_that_both_have() -> None:
    first = items([1.0, 0.0, 1.0, 1.0, None, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    second = (*items([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]), an_outcome(99, 0.0, 1.0))
    (found,) = compare_runs([a_run("a", first), a_run("b", second)]).differences

    assert found.examples == 9
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(-3 / 9)
    assert found.interval.low < found.interval.estimate < found.interval.high


def test_items_of_one_name_and_different_content_are_not_paired() -> None:
    other = tuple(replace(one, inputs={"text": "something else"}) for one in OUTCOMES)
    (found,) = compare_runs([a_run("a"), a_run("b", other)]).differences

    assert (found.interval, found.examples) == (None, 0)


def test_bests_stand_at_calls_that_every_search_made() -> None:
    runs = [
        a_run("short", result=searched([100, 200], [0.5, 0.6])),
        a_run("long", result=searched([50, 150, 400], [0.4, 0.7, 0.9])),
    ]
    compared = compare_runs(runs)

    assert compared.calls == (50, 100, 150, 200)
    assert compared.best == ((None, 0.5, 0.5, 0.6), (0.4, 0.4, 0.7, 0.7))


def test_a_run_that_did_not_count_its_calls_has_no_bests_and_says_so() -> None:
    old = a_result(history=tuple(replace(record, calls=None) for record in HISTORY))
    compared = compare_runs([a_run("new"), a_run("old", result=old)])

    assert compared.calls == ()
    assert any("a run did not record the calls of its candidates" in note for note in compared.notes)


def test_what_differs_beside_the_runs_is_noted() -> None:
    other = a_result(task="other", budget="9 calls", models={"task": {"model": "g"}}, unfinished="stopped")
    notes = compare_runs([a_run("a"), a_run("b", (), other)]).notes

    assert notes == (
        "the runs have different tasks: sums; other",
        "the runs have different task models: f; g",
        "the runs have different budgets: 500 calls; 9 calls",
        "b is unfinished: stopped",
        "b has no replies to test examples: no paired difference",
    )
    assert compare_runs([a_run("a"), a_run("b")]).notes == ()


def test_runs_of_one_name_are_told_apart() -> None:
    assert [run.name for run in compare_runs([a_run("a"), a_run("b"), a_run("a")]).runs] == ["a (1)", "b", "a (3)"]


def test_one_run_alone_is_refused() -> None:
    with pytest.raises(InputError, match="name two or more"):
        compare_runs([a_run("a")])


def test_a_run_without_a_test_has_a_row_of_gaps() -> None:
    compared = compare_runs([a_run("a"), a_run("b", (), a_result(test=None))])
    rows = {row[0]: row[1:] for row in compared.table()[1]}

    assert rows["chosen prompt, test reward"] == ["0.750", ""]
    assert rows["gain over seed prompt (paired)"] == ["+0.250 (+0.125 to +0.375)", ""]
    assert rows["gain over first run (paired)"] == ["", ""]
    assert json.dumps(compared.to_json(), allow_nan=False)


def test_a_kept_seed_prompt_and_one_prompt_in_two_runs_have_no_interval() -> None:
    kept = a_result(prompt=a_result().seed_prompt)
    compared = compare_runs([a_run("a", result=kept), a_run("b", result=kept), a_run("c")])
    rows = {row[0]: row[1:] for row in compared.table()[1]}

    assert rows["gain over seed prompt (paired)"] == ["same prompt", "same prompt", "+0.250 (+0.125 to +0.375)"]
    assert [found.interval == (0.0, 0.0, 0.0) for found in compared.differences] == [True, False]
    assert compared.to_json()["runs"][0]["difference"] == [0.0, 0.0, 0.0]


# ---------------------------------------------------------------- files and the command


def test_a_run_is_read_by_its_folder_or_its_result(tmp_path: Path) -> None:
    saved(tmp_path / "one", a_result())

    assert read_run(tmp_path / "one") == read_run(tmp_path / "one" / "result.json")
    assert read_run(tmp_path / "one").outcomes == OUTCOMES
    assert read_run(tmp_path / "one").name == "one"


def test_the_command_prints_a_table_or_json_and_writes_a_page(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")
    for name in ("one", "two"):
        saved(tmp_path / name, a_result(test=replace(BETTER, outcomes=OUTCOMES)))
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    shown = CliRunner().invoke(app, ["compare", *folders])
    done = promptopt(tmp_path, "compare", *folders, "--json", "--html", "both.html")

    assert shown.exit_code == 0
    assert done.returncode == 0, done.stderr
    assert "+0.000" in shown.stdout
    assert [run["name"] for run in json.loads(done.stdout)["runs"]] == ["one", "two"]
    assert json.loads(done.stdout)["less_the_first"][0]["items"] == 4
    assert "2 runs compared" in (tmp_path / "both.html").read_text(encoding="utf-8")
