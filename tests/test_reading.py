"""What is tested is what is used: a label chosen by log-probability, and the text that the model writes, may differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import toys

from promptopt import Budget, FakeLabelModel, FakeModel, InputError, Result, optimize
from promptopt.report.text import markdown
from promptopt.results.result import FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt import Request
    from promptopt.prompt import Context

LABELS = toys.LABELS


def logprobs(context: Context, labels: Sequence[str]) -> list[float]:
    """Be sure of the right label, unless a spoiler is in the prompt."""
    text = toys.text_of(context)
    right = toys.right_answer(text)
    if toys.spoiled(text):
        right = labels[1 - labels.index(right)]
    return [-0.1 if label == right else -2.5 for label in labels]


class Mumbling(FakeLabelModel):
    """Ranks labels, but writes half of its replies in other words, as small models do."""

    def __init__(self) -> None:
        super().__init__(logprobs, "mumbling")
        self.handler = self._say

    def _say(self, request: Request) -> str:
        text = toys.text_of(request.context)
        number = int(text.rpartition("item")[2].split()[0])
        return toys.answer(request) if number % 2 else "It depends."


TASK = replace(toys.TASK, labels=LABELS)


def search(tmp_path: Path, task: Any = TASK, **settings: Any) -> Result:
    given: dict[str, Any] = {"strategy": "tapruning", "memo": tmp_path / "memo", "tracking": False}
    return optimize(task, Mumbling(), **(given | settings))


def test_a_claim_of_choices_among_the_labels_says_so(tmp_path: Path) -> None:
    result = search(tmp_path, run_dir=tmp_path / "run")
    said = "Each answer was chosen among the labels by log-probability, not read from what the model writes."

    assert result.headline.endswith(said)
    assert said in (tmp_path / "run/report.md").read_text("utf-8")
    assert Result.load(tmp_path / "run" / FILE) == result


def test_read_as_text_the_claim_is_of_what_is_written_and_says_where_the_choice_differs(tmp_path: Path) -> None:
    result = search(tmp_path, replace(TASK, read="text"), run_dir=tmp_path / "run")
    test = result.test
    assert test is not None
    assert test.by_labels is not None

    assert test.read == "text"
    assert test.by_labels.chosen.estimate == 1.0
    assert test.chosen.estimate < 0.8  # the mumbled replies are no answers
    assert test.by_labels.chosen_apart.low > 0
    assert (
        "Choosing among the labels, as the search did, scores differently from what the model writes" in result.headline
    )
    assert "for the chosen prompt" in result.headline
    assert {answer.chosen.text for answer in test.outcomes} == {LABELS[1], "It depends."}
    assert Result.load(tmp_path / "run" / FILE) == result
    assert "chosen among the labels" in str(result)


def test_where_both_readings_agree_the_headline_is_of_the_text_alone(tmp_path: Path) -> None:
    model = FakeLabelModel(logprobs, "plain")
    model.handler = toys.answer
    result = optimize(replace(TASK, read="text"), model, "tapruning", memo=tmp_path, tracking=False)
    assert result.test is not None
    assert result.test.by_labels is not None
    assert "among the labels" not in result.headline


@pytest.mark.parametrize("budget", ["500 calls", "700 calls", "1200 calls"])
def test_the_budget_pays_for_both_readings_of_the_test(tmp_path: Path, budget: str) -> None:
    result = search(tmp_path, replace(TASK, read="text"), budget=budget)
    limit = Budget.parse(budget).calls
    assert limit is not None
    assert result.used["task"].calls <= limit
    assert result.test is not None
    assert result.test.by_labels is not None


def test_a_model_that_only_writes_is_read_as_text_anyway(tmp_path: Path) -> None:
    one, other = (
        optimize(task, FakeModel(toys.answer), "tapruning", memo=tmp_path, tracking=False)
        for task in (TASK, replace(TASK, read="text"))
    )
    assert one.test is not None
    assert one.test.read == ""
    assert one.test == other.test


def test_another_way_to_read_is_refused() -> None:
    with pytest.raises(InputError, match="read must be 'labels' or 'text', not 'tokens'"):
        replace(TASK, read="tokens")


def test_the_settings_that_the_claim_depends_on_are_saved_beside_the_prompt(tmp_path: Path) -> None:
    task = replace(TASK, max_tokens=3, stop=("\n",))
    result = search(tmp_path, task)
    assert result.request == {"format": task.format, "max_tokens": 3, "temperature": 0.0, "stop": ["\n"]}
    assert "Use this prompt with the same request settings: " in markdown(result)
    assert Result.from_json(result.to_json()) == result
