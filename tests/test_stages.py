"""Where a budget goes: from the start to the test, and what is said where it is too small."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import toys
from test_harness import SEARCH, Fixed, Watched, a_task, calls, search

from promptopt import Budget, FakeModel, HillClimb, InputError, Judge, Price, Prompt, RandomSearch, Usage
from promptopt.optimization.estimate import estimate

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Result, Run

ONE_BY_ONE = RandomSearch(prompts=24, batch=1)
PLAIN = ("Answer {text}", "Say {text}", "Tell {text} now")


@dataclass(frozen=True)
class Seedless:
    """A strategy that looks at the seed prompt alone."""

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt])


def raced(result: Result) -> list[int]:
    """On how many validation items each candidate was raced."""
    return [record.validated for record in result.history if record.validation is not None]


@pytest.mark.parametrize("strategy", [ONE_BY_ONE, HillClimb(), "tapruning"])
@pytest.mark.parametrize("budget", [76, 100, pytest.param(200, marks=pytest.mark.wide), 450])
def test_a_small_budget_compares_a_candidate_and_is_spent(tmp_path: Path, strategy: Any, budget: int) -> None:
    model = Watched()
    result = search(tmp_path, model, strategy, a_task(20, 20, 20), budget=f"{budget} calls")

    assert 0.8 * budget < calls(result) <= budget
    assert max(raced(result)) >= 8
    assert result.test is not None
    assert result.test.examples >= 8
    assert result == search(tmp_path, Watched(), strategy, a_task(20, 20, 20), budget=f"{budget} calls")


def test_candidates_that_the_budget_measured_on_some_items_are_compared_where_there_are_no_others(
    tmp_path: Path,
) -> None:
    """Hill climbing tries proposals on 3 items first."""
    result = search(tmp_path, strategy=HillClimb(), task=a_task(20, 20, 20), budget="76 calls")

    assert max(record.cells for record in result.history[1:]) < 20
    assert len(raced(result)) > 1


def test_the_search_gets_more_than_half_and_the_choice_gives_back_what_it_did_not_use(tmp_path: Path) -> None:
    model = Watched()
    result = search(tmp_path, model, SEARCH, a_task(60, 120, 120), budget="900 calls")

    assert model.splits.count("train") + result.used["writer"].calls > 450
    assert result.test is not None
    assert result.test.examples == 120  # 104 were held back for
    assert calls(result) > 800


def test_what_an_early_end_of_the_search_leaves_goes_to_choice_and_test(tmp_path: Path) -> None:
    task = a_task(12, 60, 60)
    result = search(tmp_path, strategy=Fixed((toys.SEED, *PLAIN)), task=task, budget="410 calls")

    assert max(raced(result)) == 60
    assert len(raced(result)) == 4  # all candidates, and the seed prompt
    assert result.test is not None
    assert result.test.examples == 60
    assert not any("budget" in note for note in result.notes)


def test_where_the_seed_prompt_is_kept_it_is_tested_once(tmp_path: Path) -> None:
    model = Watched(lambda _: toys.LABELS[0])
    result = search(tmp_path, model, Fixed((toys.SEED, *PLAIN)), a_task(12, 24, 90), budget="250 calls")

    assert result.kept
    assert result.test is not None
    assert result.test.examples == model.splits.count("test") == 90
    assert result.test.difference == result.gain == (0.0, 0.0, 0.0)
    assert result.headline == (
        "No improvement found: your prompt was kept. Its test reward is 0.500, 95 % interval 0.399 to 0.601."
    )


def test_a_search_that_compared_nothing_says_so_and_the_seed_prompt_is_tested(tmp_path: Path) -> None:
    result = search(tmp_path, strategy=Seedless(), budget="300 calls")

    assert result.finished
    assert result.test is not None
    assert result.test.examples == 24
    assert result.headline.startswith(
        "Nothing was compared: the search scored no other prompt, and your prompt was kept."
    )


# ---------------------------------------------------------------- too small


@pytest.mark.parametrize(
    ("task", "strategy", "least"),
    [
        (a_task(20, 20, 20), ONE_BY_ONE, 76),  # 40 + 16 + 16, and the writer
        (a_task(20, 20, 20), "tapruning", 72),
        (a_task(20, 5, 3), "tapruning", 56),
        (a_task(20, 0, 0), "tapruning", 40),
        (a_task(20, 20, 20, reward=Judge(FakeModel(lambda _: "Score: 5", "judge"), "Be right.")), "tapruning", 144),
    ],
)
def test_a_budget_that_cannot_compare_one_candidate_is_refused_before_anything_is_asked(
    tmp_path: Path, task: Any, strategy: Any, least: int
) -> None:
    model = Watched()
    said = f"the budget of {least - 1} calls is too small to compare even one candidate .*: that takes at least {least} calls"
    with pytest.raises(InputError, match=said):
        search(tmp_path, model, strategy, task, budget=f"{least - 1} calls")
    with pytest.raises(InputError, match=said):
        estimate(task, model, strategy, writer=FakeModel(toys.writer, "w"), budget=f"{least - 1} calls", memo=tmp_path)

    assert model.asked == []
    result = search(tmp_path, model, strategy, task, budget=f"{least} calls")
    assert len(result.history) > 1
    assert calls(result) <= least


@pytest.mark.parametrize("unit", ["tokens", "dollars"])
@pytest.mark.parametrize(
    ("share", "asked"),
    [(0.001, 0), (0.3, 1), (0.9, 20)],  # one call is too dear; the first call says enough; all training items do
)
def test_in_tokens_and_dollars_the_calls_of_the_start_say_what_would_do(
    tmp_path: Path, unit: str, share: float, asked: int
) -> None:
    model = Watched(price=Price(1.0, 1.0), usage=Usage(30, 0, 10))
    task = a_task(20, 20, 20, max_tokens=20)
    least = 72 * 40 * {"tokens": 1.0, "dollars": 1e-6}[unit]
    with pytest.raises(
        InputError, match=f"too small to compare even one candidate .*: that takes about ([0-9.,]+) {unit}"
    ) as no:
        search(tmp_path, model, "tapruning", task, budget=Budget(**{unit: share * least}))

    assert len(model.asked) == asked
    said = re.search(rf"about ([0-9.,]+) {unit}", str(no.value))
    assert said
    enough = float(said[1].replace(",", ""))
    assert enough < 2 * least or not asked
    result = search(tmp_path, model, "tapruning", task, budget=Budget(**{unit: enough}))
    assert result.test is not None
    assert raced(result)


def test_a_server_without_usage_is_named_where_the_budget_is_too_small_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the server reports no usage, so each call counts as the most"):
        search(tmp_path, Watched(), "tapruning", a_task(20, 20, 20), budget="3k tokens")


# ---------------------------------------------------------------- other units


@pytest.mark.parametrize("unit", ["tokens", "dollars"])
@pytest.mark.parametrize("budget", [12_000, pytest.param(20_000, marks=pytest.mark.wide), 60_000])
@pytest.mark.parametrize("longest", [20, 2_000])
def test_tokens_and_dollars_are_spent_and_never_overspent(tmp_path: Path, unit: str, budget: int, longest: int) -> None:
    model = Watched(price=Price(1.0, 1.0), usage=Usage(30, 0, 10))
    writer = Watched(toys.writer, price=Price(1.0, 1.0), usage=Usage(80, 0, 50))
    task = a_task(20, 60, 200, max_tokens=longest)
    limit = Budget(tokens=budget) if unit == "tokens" else Budget(dollars=budget * 1e-6)
    result = search(tmp_path, model, ONE_BY_ONE, task, writer=writer, budget=limit)
    spent = sum(used.tokens for used in result.used.values())

    assert spent <= budget
    assert result.test is not None
    assert spent > 0.8 * budget - longest or result.test.examples == 200
    assert result.test.examples >= 8
    assert raced(result)


def test_a_prompt_that_became_dearer_than_the_seed_prompt_leaves_a_test(tmp_path: Path) -> None:
    class Growing(Watched):
        def generate(self, requests: Any) -> Any:
            for arrival in super().generate(requests):
                self.usage = Usage(30, 0, 10 if len(self.asked) < 24 else 45)
                yield arrival

    model = Growing(price=Price(1.0, 1.0), usage=Usage(30, 0, 10))
    task = a_task(20, 30, 30, max_tokens=50)
    result = search(tmp_path, model, Fixed((toys.SEED, *PLAIN)), task, budget="11k tokens")

    assert result.test is not None
    assert result.test.examples >= 8


def test_a_candidate_that_is_refused_on_training_items_is_not_the_end(tmp_path: Path) -> None:
    result = search(tmp_path, strategy=Fixed((toys.SEED, *PLAIN * 9)), task=a_task(20, 20, 20), budget="72 calls")

    assert Prompt(PLAIN[0]) in {record.prompt for record in result.history}
    assert len(raced(result)) == 2
    assert result.test is not None
