"""Every strategy x toy problems with a known optimum; what all strategies promise is in `test_contracts`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import toys
from toys import TOYS, Toy

from promptopt import (
    Arrival,
    Failure,
    FakeModel,
    HillClimb,
    InputError,
    PromptQuine,
    RandomSearch,
    Request,
    Response,
    Result,
    Strategy,
    optimize,
)
from promptopt.strategies import P1, Joint
from promptopt.strategies.registry import find_strategy, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

STRATEGIES: dict[str, Strategy] = {
    "promptquine": PromptQuine(shortest=3),
    "promptquine.paper": replace(PromptQuine.paper(), shortest=3),
    "hillclimb": HillClimb(),
    "random": RandomSearch(),
    "p1": P1(),
    "joint": Joint(),
}
LONG = {"promptquine.paper", "joint", "p1"}  # p1 runs another strategy inside, which finds the optimum of every toy
BUDGET = "9000 calls"
GOLDEN = Path(__file__).with_name("golden")


def run(toy: Toy, strategy: Strategy, memo: Path, seed: int = 0, budget: str = BUDGET) -> Result:
    return optimize(
        toy.task, toy.model(), strategy, writer=FakeModel(toys.writer, "w"), budget=budget, seed=seed, memo=memo
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Toy], tuple[Result, Path]]:
    """Runs of strategies by name on toys, each made once, with their memos."""
    made: dict[tuple[str, str], tuple[Result, Path]] = {}

    def first_run(name: str, toy: Toy) -> tuple[Result, Path]:
        if (name, toy.name) not in made:
            memo = tmp_path_factory.mktemp("memo")
            made[name, toy.name] = run(toy, STRATEGIES[name], memo), memo
        return made[name, toy.name]

    return first_run


@pytest.mark.parametrize(
    ("name", "toy"),
    [
        pytest.param(
            name,
            toy,
            marks=pytest.mark.wide if name in LONG and toy is not TOYS[0] else (),
            id=f"{name}-{toy.name}",
        )
        for name in STRATEGIES
        for toy in TOYS
    ],
)
def test_finds_the_optimum_within_the_budget(
    name: str, toy: Toy, first: Callable[[str, Toy], tuple[Result, Path]]
) -> None:
    result, _ = first(name, toy)

    assert result.test is not None
    assert result.test.chosen.estimate == toy.optimum
    assert sum(spent.calls for spent in result.used.values()) <= 9000


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_seeds_give_two_searches(name: str, tmp_path: Path) -> None:
    one, other = (run(TOYS[0], STRATEGIES[name], tmp_path, seed=seed, budget="600 calls") for seed in (3, 4))

    assert one.history != other.history


def test_children_only_lose_tokens_and_slots_stay(first: Callable[[str, Toy], tuple[Result, Path]]) -> None:
    result, _ = first("promptquine.paper", TOYS[0])
    texts = {record.number: record.prompt.text for record in result.history}
    children = [record for record in result.history if record.parent is not None]

    assert children
    for record in children:
        assert record.parent is not None
        parent = iter(texts[record.parent])
        assert all(character in parent for character in texts[record.number])  # a subsequence
        assert len(texts[record.number]) < len(texts[record.parent])
        assert "{text}" in record.prompt.text


def test_survivors_come_from_the_newest(tmp_path: Path) -> None:
    """With more offspring than `recent`, no parent survives: every parent is of the step before or the seed."""
    strategy = replace(PromptQuine.paper(), population=5, offspring=8, recent=8, shortest=1, max_prompts=40)
    result = run(TOYS[0], strategy, tmp_path)
    step = {record.number: record.step for record in result.history}
    full = [s for s in set(step.values()) if sum(v == s for v in step.values()) == 8]

    for record in result.history:
        if record.parent is not None and record.step - 1 in full:
            assert step[record.parent] == record.step - 1


def test_draws_are_counted_whether_new_or_not(tmp_path: Path) -> None:
    strategy = replace(PromptQuine.paper(), population=10, offspring=20, shortest=1, max_prompts=61)
    result = run(TOYS[0], strategy, tmp_path)

    assert [step["drawn"] for step in result.steps] == [21, 41, 61]  # the counter starts at 1
    assert len(result.history) <= 61


def test_paper_settings_are_those_of_table_9() -> None:
    assert settings_of(PromptQuine.paper()) == {
        "mode": "gga",
        "population": 30,
        "offspring": 50,
        "most_deletions": 4,
        "tournament": 0.2,
        "recent": 50,
        "max_prompts": 100_000,
        "shortest": 15,
        "fitness": "margin",
        "halving": True,
    }
    assert PromptQuine.paper("ssga").max_prompts == 10_000


def test_settings_are_read_from_text() -> None:
    strategy = find_strategy("promptquine", {"population": "7", "tournament": "0.5"})

    assert strategy == PromptQuine(population=7, tournament=0.5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("promptquin", {}, "did you mean 'promptquine'"),
        ("promptquine", {"populaton": "7"}, "did you mean 'population'"),
        ("promptquine", {"population": "many"}, "population cannot be 'many'"),
        ("promptquine", {"population": "0"}, "population must be at least 1, not 0"),
    ],
)
def test_a_wrong_name_or_setting_says_the_mend(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_strategy(name, settings)


def test_hill_climbing_never_shows_a_prompt_as_good_and_bad() -> None:
    from promptopt import Prompt
    from promptopt.search.writing import ScoredPrompt
    from promptopt.strategies.styles import best_and_worst

    for count in range(1, 12):
        chain = [ScoredPrompt(Prompt(str(i)), float(-i)) for i in range(count)]
        good, bad = best_and_worst(chain, 4, 4)
        assert good
        assert not {shown.prompt for shown in good} & {shown.prompt for shown in bad}


def test_a_prompt_without_anything_to_prune_is_refused(tmp_path: Path) -> None:
    from promptopt import Prompt

    task = replace(toys.TASK, seed_prompt=Prompt("{text}"))
    with pytest.raises(InputError, match="nothing to prune"):
        optimize(task, FakeModel(toys.answer), "promptquine", memo=tmp_path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_trajectory_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """What a search does at a fixed seed: a change here is a change of the algorithm or of its random numbers.

    PROMPTOPT_WRITE_GOLDEN=1 writes the files anew; look at the difference before committing it.
    """
    result = run(TOYS[1], STRATEGIES[name], tmp_path, seed=11, budget="3000 calls")
    found = [
        [r.number, r.parent, r.step, r.fitness and round(r.fitness, 6), r.prompt.text] for r in result.history[:60]
    ]
    file = GOLDEN / f"{name}.json"
    if os.environ.get("PROMPTOPT_WRITE_GOLDEN"):
        file.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")

    assert found == json.loads(file.read_text())


def test_a_prompt_whose_replies_all_failed_is_not_shown_to_the_writer_as_a_bad_one(tmp_path: Path) -> None:
    shown: list[str] = []

    class Failing(FakeModel):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            for number, request in enumerate(requests):
                text = toys.text_of(request.context)
                lost = "perhaps" not in text
                yield Arrival(number, Failure("lost") if lost else Response(toys.answer(request)))

    def writer(request: Request) -> str:
        shown.append(toys.text_of(request.context))
        return toys.writer(request)

    result = optimize(toys.TASK, Failing(toys.answer), HillClimb(), writer=FakeModel(writer, "w"), memo=tmp_path)
    lost = [record.prompt.text for record in result.history if record.fitness is None]

    assert lost
    assert not any("-inf" in message for message in shown)
    assert not any(f"<prompt>{text}</prompt>" in message for text in lost for message in shown)
    assert result.unfinished
