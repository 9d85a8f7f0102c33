"""`score_sheet`, `human_claim` and `promptopt claim`: the sheet's secrecy, joined scores, and what is refused."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shell import promptopt

from promptopt import (
    Example,
    FakeModel,
    InputError,
    Judge,
    Prompt,
    Result,
    Task,
    check_judge,
    human_claim,
    optimize,
    score_sheet,
)
from promptopt.results.outcomes import read_outcomes
from promptopt.statistics import prediction_powered_interval
from promptopt.strategies import Strategy

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request, Run


class Better(Strategy):
    """Proposes one prompt."""

    writes = False

    def search(self, run: Run) -> None:
        run.score([Prompt("Answer well.")])


def reply(request: Request) -> str:
    """Answer numbers: right with the better prompt, and with the other one in one case of three."""
    number = int(request.texts[-1].split()[-1])
    well = "well" in request.texts[0]
    return f"{number} is {'right' if well or number % 3 == 0 else 'wrong'}"


def verdict(request: Request) -> str:
    """Score right replies 8 or 9, and wrong ones 2 or 3."""
    text = request.texts[-1].partition("Reply to grade:\n")[2].partition("\n\n")[0]
    return f"Well.\nScore: {(8 if 'right' in text else 2) + len(text.split()[0]) % 2}"


JUDGE = Judge(FakeModel(verdict, "judge"), "Be right.")


def items(split: str, count: int, start: int) -> tuple[Example, ...]:
    return tuple(Example({"n": f"item {k}"}, None, f"{split}{k}") for k in range(start, start + count))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("human") / "run"
    task = Task(
        train=items("train", 12, 0),
        validation=items("validation", 12, 100),
        test=items("test", 80, 200),
        seed_prompt=Prompt("Answer."),
        reward=JUDGE,
        name="numbers",
    )
    result = optimize(
        task, FakeModel(reply), Better(), budget="2000 calls", run_dir=folder, memo=folder.parent / "memo"
    )
    assert not result.kept
    return folder


def filled(sheet: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score the sheet as a person would: 5 for right and 1 or 2 for wrong, from the reply alone."""
    return [row | {"human": 5 if "right" in row["reply"] else 1 + len(row["reply"]) % 2} for row in sheet]


def test_a_sheet_has_both_replies_and_does_not_tell_whose_they_are(run: Path) -> None:
    sheet = score_sheet(run, 30)

    outcomes = {outcome.id: outcome for outcome in read_outcomes(run / "test.jsonl")}
    assert len({row["id"] for row in sheet}) == 30
    same = sum(outcomes[name].seed.text == outcomes[name].chosen.text for name in {row["id"] for row in sheet})
    assert same > 3
    assert len(sheet) == 60 - same  # equal replies are scored once
    assert list(sheet[0]) == ["id", "prompt", "input: n", "target", "reply", "human"]
    assert not {"seed", "chosen"} & {value for row in sheet for value in row.values()}
    assert [row["prompt"] for row in sheet] == sorted(row["prompt"] for row in sheet)


def test_a_larger_sheet_has_the_rows_of_a_smaller_one(run: Path) -> None:
    small, large = score_sheet(run, 20), score_sheet(run, 40)

    assert all(row in large for row in small)
    assert len({row["id"] for row in score_sheet(run)}) == 50


def test_the_claim_joins_human_scores_with_the_rewards(run: Path) -> None:
    sheet = filled(score_sheet(run, 30))

    found = human_claim(run, sheet, scale=(1, 5))

    outcomes = read_outcomes(run / "test.jsonl")
    people = {(row["id"], row["reply"]): (row["human"] - 1) / 4 for row in sheet}
    human = np.array(
        [people.get((o.id, o.chosen.text), math.nan) - people.get((o.id, o.seed.text), math.nan) for o in outcomes]
    )
    rewards = np.array([o.chosen.reward - o.seed.reward for o in outcomes])  # type: ignore[operator]
    scored = ~np.isnan(human)
    expected = prediction_powered_interval(human[scored], rewards[scored], rewards[~scored], bounds=(-1, 1))
    assert found.difference == expected
    assert (expected.items, expected.judged) == (30, 80)
    assert found.improved
    assert found.width_ratio < 0.8
    assert found.rewards == Result.load(run).test.difference  # type: ignore[union-attr]
    assert found.seed.combined.estimate < found.chosen.combined.estimate
    assert found.headline.startswith("Better than the seed prompt by human scores: +")
    assert not found.notes


def test_a_sheet_checks_the_judge_of_the_run_at_no_cost(run: Path) -> None:
    found = check_judge(filled(score_sheet(run, 30)), JUDGE, scale=(1, 5), memo=run.parent / "memo")

    assert found.calls == 0
    assert found.kappa.low > 0.5


def test_names_of_sides_may_stand_for_codes(run: Path) -> None:
    sheet = filled(score_sheet(run, 30))
    outcomes = {outcome.id: outcome for outcome in read_outcomes(run / "test.jsonl")}
    named = [
        {"id": row["id"], "prompt": side, "human": row["human"]}
        for row in sheet
        for side in ("seed", "chosen")
        if getattr(outcomes[row["id"]], side).text == row["reply"]
    ]

    assert human_claim(run, named, scale=(1, 5)) == human_claim(run, sheet, scale=(1, 5))


def test_scores_against_the_rewards_show_no_improvement(run: Path) -> None:
    against = [row | {"human": 0 if "right" in row["reply"] else 1} for row in score_sheet(run, 30)]

    found = human_claim(run, against)

    assert not found.improved
    assert found.headline.startswith("Worse than the seed prompt by human scores")
    assert found.rewards.low > 0  # though the rewards claim the opposite


def test_picked_items_are_noticed(run: Path) -> None:
    outcomes = read_outcomes(run / "test.jsonl")
    picked = [o for o in outcomes if o.seed.text != o.chosen.text][:20]
    scores = [{"id": o.id, "prompt": side, "human": k} for o in picked for k, side in enumerate(("seed", "chosen"))]

    assert any("valid only if the items were drawn at random" in note for note in human_claim(run, scores).notes)


def test_few_scores_claim_nothing(run: Path) -> None:
    found = human_claim(run, filled(score_sheet(run, 5)), scale=(1, 5))

    assert found.headline == "Too few human scores to tell (5 of 80 test items scored by people)."
    assert found.to_json()["difference"]["combined"][1:] == [None, None]
    assert "at least 8 items" in found.notes[0]
    assert math.isnan(found.width_ratio)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "test999"}, "item 1: 'test999' is not a test item"),
        ({"prompt": "best"}, "item 1: prompt is 'best', which is not a reply of the run"),
        ({"human": "good"}, "item 1: human is 'good', which is not a number from 1 to 5"),
        ({"human": 6}, "item 1: human is '6', which is not a number from 1 to 5"),
    ],
)
def test_scores_that_do_not_fit_are_named(change: dict[str, Any], said: str, run: Path) -> None:
    sheet = filled(score_sheet(run, 10))

    with pytest.raises(InputError) as caught:
        human_claim(run, [sheet[0] | change, *sheet[1:]], scale=(1, 5))
    assert said in str(caught.value)


def test_two_scores_of_a_reply_none_and_missing_columns_are_refused(run: Path) -> None:
    sheet = filled(score_sheet(run, 10))

    with pytest.raises(InputError, match="has two human scores: keep one"):
        human_claim(run, [*sheet, sheet[0]], scale=(1, 5))
    with pytest.raises(InputError, match="no item has human scores for both prompts"):
        human_claim(run, [row | {"human": ""} for row in sheet[1:]] + [sheet[0] | {"prompt": "seed"}], scale=(1, 5))
    with pytest.raises(InputError, match="there is no column 'human' for the human scores"):
        human_claim(run, score_sheet(run, 10))
    with pytest.raises(InputError, match="the sheet takes 1 to 80 items"):
        score_sheet(run, 81)


def test_a_run_that_kept_its_prompt_or_has_no_test_is_refused(tmp_path: Path) -> None:
    task = Task(
        train=items("train", 4, 0),
        validation=items("validation", 8, 100),
        test=items("test", 8, 200),
        seed_prompt=Prompt("Answer."),
        reward=lambda *_: 1.0,
    )
    optimize(task, FakeModel(reply), Better(), run_dir=tmp_path / "kept", memo=tmp_path / "memo")

    with pytest.raises(InputError, match="kept its seed prompt"):
        score_sheet(tmp_path / "kept")
    (tmp_path / "kept" / "test.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no test\.jsonl"):
        score_sheet(tmp_path / "kept")


def test_the_command_writes_a_sheet_and_reads_it_back(run: Path, tmp_path: Path) -> None:
    drawn = promptopt(tmp_path, "claim", run, "--sheet", "sheet.csv", "--items", "30")
    assert drawn.returncode == 0, drawn.stderr
    assert "fill in the column human" in drawn.stdout
    lines = (tmp_path / "sheet.csv").read_text().splitlines()
    scores = ["human", *("5" if "right" in line else "1" for line in lines[1:])]
    (tmp_path / "scored.csv").write_text(
        "".join(f"{line.removesuffix('human')}{score}\n" for line, score in zip(lines, scores, strict=True))
    )

    words: list[str | Path] = ["claim", run, "--human-scores", "scored.csv", "--scale", "1,5"]
    shown, values = promptopt(tmp_path, *words), promptopt(tmp_path, *words, "--json")

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Better than the seed prompt by human scores: +")
    assert "by human scores alone" in shown.stdout
    found = json.loads(values.stdout)
    assert found["improved"] is True
    assert found["difference"]["items"] == 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of --sheet FILE"),
        (["--sheet", "a.csv", "--human-scores", "b.csv"], "give one of --sheet FILE"),
        (["--human-scores", "b.csv", "--items", "3"], "--items is the size of a --sheet"),
        (["--sheet", "there.csv"], "there.csv exists, perhaps with scores in it"),
        (["--sheet", "nowhere/a.csv"], "cannot write nowhere/a.csv"),
    ],
)
def test_the_command_refuses(words: list[str], said: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("id\n")

    done = promptopt(tmp_path, "claim", run, *words)

    assert done.returncode == 2
    assert said in done.stderr
