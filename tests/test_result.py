from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from results import BETTER, BOUNDLESS, CHOSEN, HISTORY, OUTCOMES, SEED, UNSURE, a_result

from promptopt import InputError, Prompt, Prompts, Result
from promptopt.prompt import Layout
from promptopt.report import markdown, write_report
from promptopt.results.outcomes import read_outcomes, write_outcomes
from promptopt.statistics import Interval

if TYPE_CHECKING:
    from pathlib import Path

# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"test": None},
        {"test": UNSURE, "unfinished": "stopped by the user"},
        {"test": BOUNDLESS},
        {"history": (), "steps": (), "used": {}, "paid": {}, "notes": ()},
    ],
)
def test_a_saved_result_is_loaded_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = a_result(**changes)
    path = tmp_path / "new" / "result.json"
    result.save(path)
    loaded = Result.load(path)

    assert loaded == result
    assert (loaded.paid, loaded.seconds, loaded.run_dir) == (result.paid, result.seconds, result.run_dir)
    assert (str(loaded), markdown(loaded)) == (str(result), markdown(result))
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_saved_result_is_strict_json_in_plain_text(tmp_path: Path) -> None:
    a_result(test=BOUNDLESS).save(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    data = json.loads(text, parse_constant=refuse)
    assert data["format"] == 1
    assert data["test"]["difference"] == [0.25, None, None]
    assert data["prompt"] == CHOSEN.to_json()
    assert "zwölf" in text


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    for seed in (1, 2):
        a_result(seed=seed).save(tmp_path / "result.json")

    assert Result.load(tmp_path / "result.json").seed == 2


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "no format": b"{}",
    "another format": b'{"format": 2}',
    "nothing but a format": b'{"format": 1}',
    "no prompt": b'{"format": 1, "prompt": 5}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_file_that_is_no_result_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(GARBAGE[name])

    with pytest.raises(InputError, match=r"result\.json is not a saved result"):
        Result.load(path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot read .*gone\.json .*: give the folder of a finished run, or its result\.json"
    ):
        Result.load(tmp_path / "gone.json")


def test_a_part_of_the_wrong_kind_is_refused_by_its_name() -> None:
    whole = a_result().to_json()
    texts, numbers = ("task", "unfinished", "budget", "run_dir"), ("failed", "seed", "seconds", "seed_number")
    right = {("test", "null"), ("seed_number", "null"), ("strategy", '{"a": 1}'), ("models", '{"a": 1}')}
    right |= {(name, '"x"') for name in texts} | {(name, "5") for name in numbers}
    for name in whole:
        for broken in ("null", '"x"', "5", "[1]", '{"a": 1}'):
            if (name, broken) not in right:
                with pytest.raises(InputError, match=rf"^cannot read this result.*{name}"):
                    Result.from_json(whole | {name: json.loads(broken)})


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        (("history", 0, "prompt", "text"), 3),
        (("history", 1, "fitness"), "high"),
        (("test", "seed"), [0.5, 0.4]),
        (("test", "difference", 0), "0.25!"),
        (("used", "task", "calls"), None),
        (("prices", "task"), [1]),
    ],
)
def test_a_part_of_a_part_is_refused_by_its_place(place: tuple[Any, ...], broken: Any) -> None:
    data = part = a_result().to_json()
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = broken
    with pytest.raises(InputError, match=r"\.".join(map(str, place))):
        Result.from_json(data)


@pytest.mark.parametrize("name", sorted(set(a_result().to_json()) - {"run_dir", "prices", "seed_number"}))
def test_a_part_that_is_missing_is_refused(name: str) -> None:
    data = a_result().to_json()
    del data[name]
    with pytest.raises(InputError, match="cannot read this result"):
        Result.from_json(data)


# ---------------------------------------------------------------- equality


def test_what_differs_between_a_run_and_its_replay_is_not_compared() -> None:
    assert a_result() == a_result(paid={}, seconds=99.0, run_dir="elsewhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": SEED},
        {"test": UNSURE},
        {"history": HISTORY[:2]},
        {"steps": ()},
        {"used": {}},
        {"failed": 1},
        {"unfinished": "x"},
        {"notes": ()},
        {"seed": 8},
        {"versions": {}},
    ],
)
def test_everything_else_is(changes: dict[str, Any]) -> None:
    assert a_result() != a_result(**changes)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("low", "improved"), [(0.001, True), (0.0, False), (-0.001, False), (-math.inf, False), (math.nan, False)]
)
def test_an_improvement_is_an_interval_wholly_above_zero(low: float, improved: bool) -> None:  # noqa: FBT001  expected
    assert a_result(test=replace(BETTER, difference=Interval(0.25, low, 0.5))).improved is improved
    assert not a_result(test=None).improved


def test_a_prompt_is_not_compared_with_itself() -> None:
    """As in results of earlier versions, whose interval is that of two prompts."""
    kept = a_result(prompt=SEED)
    rows = {name: values for name, *values in kept.rows()}

    assert (kept.kept, kept.improved, kept.gain) == (True, False, Interval(0.0, 0.0, 0.0))
    assert rows["difference, paired"] == ["", "0: the same prompt"]
    assert "its 95 % interval" not in rows
    assert "+0.125" not in str(kept)
    assert "+0.125" not in markdown(kept)
    assert a_result().gain == BETTER.difference
    assert a_result(test=None).gain is None


def test_warnings_are_saved_where_there_are_any() -> None:
    warned = a_result(warnings=("3 of 9 replies hold no text.",))

    assert Result.from_json(warned.to_json()) == warned
    assert "warnings" not in a_result().to_json()


def test_a_finished_result_is_one_without_a_reason_against_it() -> None:
    assert a_result().finished
    assert not a_result(unfinished="stopped by the user").finished


def test_the_printed_result_has_the_numbers_and_the_prompt() -> None:
    text = str(a_result(failed=1))

    assert text.startswith(a_result(failed=1).headline)
    assert text.endswith(str(CHOSEN))
    for part in ("0.650 to 0.850", "+0.125 to +0.375", "123 (20 made now, 103 from the memo)", "1,590", "note: a note"):
        assert part in text
    assert re.search(r"dollars +0\.0500 spent, 0\.2000 saved; price unknown: writer", text)
    assert re.search(r"task +20 +100 +100 +0 +50 +0\.0500 +0\.2000\n", text)
    assert re.search(r"writer +0 +3 +0 +0 +0 +unknown +unknown\n", text)
    assert re.search(r"failed replies +1", text)


def test_a_result_without_a_test_prints_no_test_numbers() -> None:
    assert a_result(test=None).rows() == [
        ("training reward", "0.250", "0.700"),
        ("validation reward", "", "0.800"),
        ("tokens in the prompt", "5", "12"),
    ]
    assert "test reward" not in str(a_result(test=None))


def test_the_table_sets_search_beside_test_and_both_prices() -> None:
    names = [row[0] for row in a_result().rows()]

    assert names[:3] == ["training reward", "validation reward", "test reward"]
    assert a_result().rows()[-1] == ("$ per 1,000 replies", "0.0300", "0.0600")
    assert "$ per 1,000 replies" not in str(a_result(test=replace(BETTER, costs=None)))
    assert "$ per 1,000 replies" not in str(a_result(test=replace(BETTER, costs=(0.0, 0.0))))


def test_optimism_is_what_the_gain_lost_between_training_and_test_items() -> None:
    assert a_result().optimism == pytest.approx((0.7 - 0.25) - 0.25)
    assert "+0.200 (training gain minus test gain)" in str(a_result())
    assert a_result(test=None).optimism is None
    assert a_result(history=HISTORY[1:]).optimism is None


def test_a_seed_prompt_whose_demonstrations_were_written_out_is_found_by_its_number() -> None:
    written = replace(HISTORY[0], prompt=Prompt("five -> 5\n\nAnswer {text}."))

    assert a_result(history=(written, *HISTORY[1:])).seed_record is None
    assert a_result(history=(written, *HISTORY[1:]), seed_number=0).seed_record == written


@pytest.mark.parametrize(
    ("gain", "spread", "items"), [(0.1, 0.5, 100), (0.02, 0.4, 40), (0.3, 0.0, 3), (0.05, 0.1, 30)]
)
def test_so_many_more_items_show_the_difference_four_times_in_five(gain: float, spread: float, items: int) -> None:
    test = replace(BETTER, difference=Interval(gain, -1.0, 1.0), spread=spread, examples=items)
    wanted = test.items_wanted

    assert wanted is not None
    assert wanted >= 1
    if spread and wanted > 1:
        drawn = np.random.default_rng(0).normal(gain, spread, (4_000, items + wanted))
        shown = drawn.mean(axis=1) > 1.96 * drawn.std(axis=1, ddof=1) / math.sqrt(items + wanted)
        assert shown.mean() == pytest.approx(0.8, abs=0.03)


# ---------------------------------------------------------------- earlier versions


def test_a_result_of_an_earlier_version_is_loaded_without_what_it_did_not_record() -> None:
    data = a_result().to_json()
    del data["seed_number"], data["prices"], data["test"]["spread"], data["test"]["costs"]
    for record in data["history"]:
        del record["calls"], record["dollars"]
    loaded = Result.from_json(data)

    assert loaded.test == replace(BETTER, spread=None, costs=None)
    assert {record.calls for record in loaded.history} == {None}
    assert loaded.seed_record == loaded.history[0]
    assert loaded.headline == a_result().headline


def test_outcomes_lie_beside_the_result_and_not_in_it(tmp_path: Path) -> None:
    result = a_result(test=replace(BETTER, outcomes=OUTCOMES))
    write_outcomes(OUTCOMES, tmp_path / "test.jsonl")

    assert "outcomes" not in result.to_json()["test"]
    assert read_outcomes(tmp_path / "test.jsonl") == OUTCOMES
    assert len((tmp_path / "test.jsonl").read_text(encoding="utf-8").split("\n")) == len(OUTCOMES) + 1
    assert read_outcomes(tmp_path / "gone.jsonl") == ()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"id": 3}', "null", '{"id": "a", "seed": 5}'])
def test_a_file_without_outcomes_is_said_to_hold_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "test.jsonl").write_text(text)

    with pytest.raises(InputError, match=r"test\.jsonl does not hold the test replies"):
        read_outcomes(tmp_path / "test.jsonl")


# ---------------------------------------------------------------- the report


def test_the_report_has_the_headline_both_prompts_and_the_way_back() -> None:
    page = markdown(a_result())

    assert page.startswith(f"# sums\n\n{a_result().headline}\n")
    assert "## Chosen prompt\n\n    Think.\n    \n    Then answer {text}" in page
    assert "## Seed prompt\n\n    Answer {text}.\n" in page
    for part in ("* note: a note", "* strategy: RandomSearch", "* prompts: 64", "* seed: 7", "* budget: 500 calls"):
        assert f"{part}\n" in page
    assert '* task model: {"model": "f", "provider": "fake"}' in page
    assert "Candidate 1: step 1, fitness 0.75 on 11 replies, validation 0.800 on 60 examples" in page


def test_the_best_candidates_are_those_of_validation_then_of_the_search() -> None:
    many = tuple(
        replace(
            HISTORY[0], number=i, prompt=Prompt(f"{i} {{text}}"), fitness=i / 100, validation=0.5 if i == 3 else None
        )
        for i in range(40)
    )
    page = markdown(a_result(history=(*many, HISTORY[2])))
    numbers = [int(number) for number in re.findall(r"^Candidate (\d+):", page, flags=re.MULTILINE)]

    assert numbers == [3, *range(39, 20, -1)]


HOSTILE = "# Heading\n<script>alert(1)</script>\n* item\n| a | b |\n```\n[link](x)\rreturn\x0bfeed\u2028line\n\n1. end"


def test_a_prompt_in_the_report_is_text_and_never_markup() -> None:
    prompt = Prompt(HOSTILE)
    record = replace(HISTORY[1], prompt=prompt)
    page = markdown(a_result(prompt=prompt, seed_prompt=Prompt(HOSTILE + "!"), history=(record,)))
    marks = ("# Heading", "<script>", "* item", "| a |", "```", "[link]", "return", "feed", "line", "1. end")

    for number, line in enumerate(lines := page.splitlines()):
        if any(line.strip().startswith(mark) for mark in marks):
            assert line.startswith("    ")
            # Four spaces make a block of code after an empty line alone, and outside lists.
            start = next(i for i in range(number, -1, -1) if not lines[i].startswith("    "))
            assert lines[start] == ""
            assert not re.match(r"\s*([*+-]|\d+[.)])\s", lines[start - 1])
    assert page.count("    <script>") == 3


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(a_result(), tmp_path / "report.md")

    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(a_result())
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]


# ---------------------------------------------------------------- what a model is sent


OLD = "by an earlier version, which did not record the task's template: run the same command again"


def test_the_layout_is_kept_and_results_without_one_load(tmp_path: Path) -> None:
    layout = Layout(("text",), "Say {text}", "completion")
    a_result(layout=layout).save(tmp_path / "run" / "result.json")

    assert Result.load(tmp_path / "run").layout == layout
    assert "layout" not in a_result().to_json()
    assert Result.from_json(a_result().to_json()).layout is None


def test_old_results_render_as_far_as_their_prompts_show_how() -> None:
    slots = a_result(prompt=Prompt("Think. {text} {more}"))

    assert slots.messages({"text": "five"}) == [{"role": "user", "content": "Think. five {more}"}]
    completes = a_result(prompt=Prompt("Think. {text}"), request={"format": "completion"})
    assert completes.render({"text": "five"}) == "Think. five"
    with pytest.raises(InputError, match="sends a text and no messages: use render"):
        completes.messages({"text": "five"})
    with pytest.raises(InputError, match=OLD):
        a_result(prompt=Prompt("Think.")).messages({"text": "five"})


def test_each_prompt_of_a_program_renders_as_the_program_asks() -> None:
    prompts = Prompts({"query": Prompt("Search {question}"), "answer": Prompt("Be short.")})
    found = a_result(prompt=prompts, seed_prompt=prompts, layout=Layout(("question",), "{question}"))
    inputs = {"question": "why?", "notes": "none"}

    assert found.messages(inputs, "query") == [{"role": "user", "content": "Search why?"}]
    assert found.messages(inputs, "answer")[1] == {"role": "user", "content": "question: why?\nnotes: none"}
    assert found.portable("query").layout.fields == ("question",)
    with pytest.raises(InputError, match=r"name one of them \(query, answer\)"):
        found.messages(inputs)
    with pytest.raises(InputError, match="there is no prompt 'anser', did you mean 'answer'"):
        found.messages(inputs, "anser")
