"""`check_judge` and `promptopt judge-check`: numbers, the judge's calls, what is refused before a call, and the output."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shell import promptopt

from promptopt import Example, FakeModel, InputError, Judge, Price, Response, TransientModelError, check_judge
from promptopt.optimization.judge_check import judge_check
from promptopt.randomness import named_generator
from promptopt.statistics import cohen_kappa

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request

JUDGE_FILE = """
from promptopt import FunctionModel


def answer(request):
    reply = request.context[-1].content.partition("Reply to grade:")[2]
    return f"Counted.\\nScore: {reply.count('good')}"


strict = FunctionModel(answer, name="strict", version="1")
"""


def rows(count: int = 40) -> list[dict[str, Any]]:
    """Replies with n times "good", which people score n of 4, with noise, on a scale from 1 to 5."""
    rng = named_generator(0, "rows")
    out = []
    for n in range(count):
        quality = int(rng.integers(0, 5))
        human = min(max(quality + int(rng.integers(-1, 2)), 0), 4) + 1
        out.append(
            {"input: q": f"question {n}", "reply": " ".join(["good"] * quality + ["word"] * (n % 7)), "human": human}
        )
    return out


def counting(request: Request) -> str:
    words = request.texts[-1].partition("Reply to grade:\n")[2].partition("\n\n")[0].split()
    return f"Counted.\nScore: {words.count('good')}"


JUDGE = Judge(FakeModel(counting, "counting"), "Count.", (0, 4))


def test_a_judge_is_asked_and_its_scores_are_compared(tmp_path: Path) -> None:
    data = rows()

    found = check_judge(data, JUDGE, scale=(1, 5), memo=tmp_path)

    human = np.array([(row["human"] - 1) / 4 for row in data])
    judge = np.array([row["reply"].split().count("good") / 4 for row in data])
    assert found.items == found.calls == 40
    assert found.kappa == cohen_kappa(human, judge)
    assert found.kappa.low > 0.5
    assert found.offset.estimate == pytest.approx((judge - human).mean())
    assert found.offset.holds(0)
    assert found.correlation == pytest.approx(np.corrcoef(human, judge)[0, 1])
    assert found.worth == pytest.approx(1 / (1 - found.correlation**2))
    assert found.length is not None
    assert "agrees with people more than by chance" in found.headline


def test_verdicts_are_remembered_and_the_cost_is_said_before(tmp_path: Path) -> None:
    said: list[str] = []

    first = check_judge(rows(), JUDGE, scale=(1, 5), memo=tmp_path, announce=said.append)
    again = check_judge(rows(), JUDGE, scale=(1, 5), memo=tmp_path, announce=said.append)

    assert (first.calls, again.calls) == (40, 0)
    assert again.kappa == first.kappa
    assert said == [
        "40 calls to the judge, 0 of them answered by the memo; the others: at most 0.0000 dollars",
        "40 calls to the judge, 40 of them answered by the memo; the others: at most 0.0000 dollars",
    ]


def test_the_judge_sees_the_inputs_and_the_reference(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: Request) -> str:
        seen.append(request.texts[-1])
        return "Score: 1"

    data = [{"input: q": "why", "topic": "sky", "answer": "blue", "reply": "because", "human": n} for n in (0, 1)]
    judge = Judge(FakeModel(answer, "seeing"), "Be right.")

    check_judge(data, judge, memo=tmp_path / "a")
    check_judge(data, judge, inputs=["topic"], target="answer", memo=tmp_path / "b")

    assert "Input:\nq: why\n\nReply to grade:\nbecause" in seen[0]
    assert "Input:\ntopic: sky\n\nReference answer:\nblue" in seen[-1]


def test_scores_that_are_there_need_no_judge_and_no_replies() -> None:
    data = [{"human": n % 2, "judge": 10 * (n % 2) if n else 0, "other": ""} for n in range(20)]

    found = check_judge(data, judge_scale=(0, 10))

    assert found.kappa.estimate == 1
    assert found.ranks is None  # two values only
    assert found.length is None
    assert found.calls == 0
    assert found.worth == math.inf


def test_rows_without_a_human_score_are_left_out() -> None:
    data = [{"human": "" if n < 5 else n % 2, "judge": 0.5} for n in range(15)]

    assert check_judge(data).items == 10


def test_a_judge_that_likes_length_is_found_out() -> None:
    rng = named_generator(0, "length")
    lengths = np.round(2 ** rng.uniform(4, 9, 300))
    people = rng.integers(0, 5, 300) / 4
    fair = np.clip(people + rng.normal(0, 0.1, 300), 0, 1)
    wordy = fair + 0.03 * np.log2(lengths)

    found = [judge_check(people, judge, lengths).length for judge in (fair, wordy)]

    assert found[0] is not None
    assert found[1] is not None
    assert found[0].holds(0)
    assert found[1].holds(0.03)
    assert found[1].low > 0


def test_failed_verdicts_are_counted_and_left_out(tmp_path: Path) -> None:
    judge = Judge(FakeModel(lambda r: "no idea" if "grade:\nword" in r.texts[-1] else "Score: 3", "shy"), "Be kind.")
    data = [{"input: q": str(n), "reply": "word" if n < 3 else "fine", "human": n % 2} for n in range(20)]

    found = check_judge(data, judge, memo=tmp_path)

    assert (found.items, found.failed) == (17, 3)
    assert found.notes == ("3 replies have no judge score; the first: no score in: no idea",)
    assert "not shown" in found.headline or "Too few" in found.headline


def test_a_judge_without_any_score_is_an_error(tmp_path: Path) -> None:
    judge = Judge(FakeModel(lambda _: "no idea", "silent"), "Be kind.")

    with pytest.raises(
        TransientModelError, match="the judge gave no score of 2 replies; the first: no score in: no idea"
    ):
        check_judge(rows(2), judge, scale=(1, 5), memo=tmp_path)


class Paid(FakeModel):
    price = Price(1.0, 2.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"human": "humen"},
            "there is no column 'humen' for the human scores, did you mean 'human'?; columns: input: q, reply, human",
        ),
        ({"reply": "text"}, "there is no column 'text' for the replies"),
        ({"inputs": ["topic"]}, "item 1: there is no column 'topic' for the judge's input"),
        ({"inputs": []}, "item 1: the judge needs the input of each reply: name its columns with --input"),
        ({"scale": (5, 1)}, "a scale is its lowest and its highest score, such as 1,5, not (5, 1)"),
        ({"scale": (0, 1)}, "item 1: human is"),
        ({}, "the judge model costs money and no budget is set"),
        ({"budget": "39 calls"}, "the budget of 39 calls does not cover 40 calls to the judge"),
    ],
)
def test_mistakes_are_named_before_a_call(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    def never(_: Request) -> str:
        raise AssertionError

    judge = Judge(Paid(never, "paid"), "Be right.")

    with pytest.raises(InputError) as caught:
        check_judge(rows(), judge, memo=tmp_path, **{"scale": (1, 5)} | options)
    assert said in str(caught.value)


def test_too_few_scores_are_refused() -> None:
    with pytest.raises(InputError, match="holds 1 scores: give at least 2"):
        check_judge([{"human": 1, "judge": 1}, {"human": "", "judge": 1}])
    with pytest.raises(InputError, match="0 replies have a judge score and a human score"):
        check_judge([{"human": 1, "judge": ""}, {"human": 1, "judge": ""}])
    with pytest.raises(InputError, match="there is no column 'judge' for the judge's scores"):
        check_judge([{"human": 1}, {"human": 0}])


def test_the_judges_scale_is_said_and_read() -> None:
    asked = JUDGE.context(Example({"q": "why"}, None, "e"), Response("fine"))[-1][1]
    one_to_five = Judge(FakeModel(counting), "Count.", (1, 5))

    assert "N is a whole number from 0 (useless) to 4 (perfect)" in asked
    assert one_to_five.read("Score: 4") == (0.75, "Score: 4")
    assert one_to_five.read("Score: 0") is None
    with pytest.raises(InputError, match="not 5 to 5"):
        Judge(FakeModel(counting), "Count.", (5, 5))


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(data[0]))
        writer.writeheader()
        writer.writerows(data)
    return path


def test_the_command_asks_the_judge_and_prints(tmp_path: Path) -> None:
    (tmp_path / "judges.py").write_text(JUDGE_FILE)
    file = write(tmp_path / "replies.csv", rows())
    words: list[str | Path] = [
        "judge-check",
        file,
        "--scale",
        "1,5",
        "--judge",
        "python:judges:strict",
        "--criteria",
        "Count.",
        "--judge-scale",
        "0,4",
    ]

    shown = promptopt(tmp_path, *words, "--memo", "memo")
    values = promptopt(tmp_path, *words, "--memo", "memo", "--json")

    assert shown.returncode == 0, shown.stderr
    assert "40 calls to the judge, 0 of them answered by the memo" in shown.stderr
    assert "kappa (quadratic weights)" in shown.stdout
    found = json.loads(values.stdout)
    assert found["items"] == 40
    assert found["calls"] == 0
    assert found["headline"] == shown.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "python:judges:strict"], "--judge and --criteria belong together"),
        (["--judge", "python:judges:strict", "--criteria", "x", "--score", "judge"], "remove one"),
        (["--judge", "python:judges:strict", "--criteria", "x", "--judge-scale", "0.5,1"], "whole numbers"),
        (["--scale", "5"], "a scale is its lowest and its highest score, such as 1,5, not '5'"),
    ],
)
def test_the_command_refuses_what_does_not_belong_together(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "judges.py").write_text(JUDGE_FILE)

    done = promptopt(tmp_path, "judge-check", write(tmp_path / "replies.csv", rows(3)), *words)

    assert done.returncode == 2
    assert said in done.stderr
