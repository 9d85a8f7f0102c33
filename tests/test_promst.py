"""PROMST on scripted players and writers (players.py): simulated competence, a real search."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import players
import pytest
import toys

from promptopt import FakeModel, HillClimb, InputError, Prompt, RandomSearch, Request, optimize
from promptopt.environments import WORLDS, instances
from promptopt.environments import task as world_task
from promptopt.strategies import Promst
from promptopt.strategies.registry import find_strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt import Result, Strategy, Task

GOLDEN = Path(__file__).with_name("golden") / "promst.json"
WORLD = "boxlift"


SKILLS = (players.FORMAT, players.CARE, players.PLAN)


@cache
def a_task(*, silent: bool = False) -> Task:
    return players.playable(world_task(WORLD, train=12, validation=10, test=20), silent=silent)


def play(
    strategy: Strategy,
    folder: Path,
    writer: str = "heeding",
    seed: int = 0,
    budget: str = "2500 calls",
    *,
    silent: bool = False,
) -> Result:
    model, memo = players.player(WORLDS[WORLD].environment), folder / f"{writer}{silent}"
    task, writing = a_task(silent=silent), players.writer(writer)
    return optimize(task, model, strategy, writer=writing, seed=seed, budget=budget, memo=memo)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Result, Path]]:
    """Return the result of `Promst()` at a budget, which is run once, and its folder."""

    @cache
    def made(budget: str) -> tuple[Result, Path]:
        folder = tmp_path_factory.mktemp("promst")
        return play(Promst(), folder, budget=budget), folder

    return made


@cache
def competence(text: str) -> float:
    return players.competence(WORLDS[WORLD].environment, text, instances(WORLD, 60, seed=1))


def skilled(text: str) -> bool:
    return all(skill.word in text for skill in SKILLS)


@pytest.mark.proof
def test_what_went_wrong_teaches_what_no_blind_search_finds(tmp_path: Path) -> None:
    """One writer for all; only the first search is told of the kinds of error. One run says little: they differ by 0.2."""

    def found(strategy: Strategy) -> float:
        runs = [play(strategy, tmp_path, seed=seed, budget="1200 calls") for seed in range(24)]
        return sum(competence(run.prompt.text) for run in runs) / len(runs)

    heeding = found(Promst())
    for rival in (RandomSearch(prompts=1000), HillClimb(control="paraphrase", restarts=1, iterations=1000, patience=0)):
        assert heeding > found(rival) + 0.1


def test_without_rules_it_finds_less(once: Callable[..., tuple[Result, Path]], tmp_path: Path) -> None:
    heeding, _ = once("1200 calls")
    without = play(Promst(), tmp_path, budget="1200 calls", silent=True)

    assert competence(heeding.prompt.text) > competence(without.prompt.text) + 0.05


@pytest.mark.proof
def test_racing_and_forecast_find_the_best_with_less_than_half_the_calls(tmp_path: Path) -> None:
    def calls(strategy: Strategy, seed: int) -> int:
        history = play(strategy, tmp_path, seed=seed, budget="4000 calls").history
        best = [r.calls for r in history if skilled(r.prompt.text) and r.cells == len(a_task().train)]
        assert best[0] is not None
        return best[0]

    slow, fast = (
        sum(calls(strategy, seed) for seed in range(8)) for strategy in (Promst(racing=False, forecast="off"), Promst())
    )
    assert fast < slow / 2


def test_a_writer_that_only_adds_noise_makes_nothing_worse(tmp_path: Path) -> None:
    result = play(Promst(), tmp_path, "adversarial")

    assert competence(result.prompt.text) >= competence(result.seed_prompt.text)


@pytest.mark.parametrize("world", WORLDS)
def test_a_careless_player_is_not_taken_for_one_that_cannot_be_read(world: str) -> None:
    environment = WORLDS[world].environment()
    instance = instances(world, 1)[0]
    environment.reset(instance, 0)
    step = environment.step(players.careless(WORLDS[world].environment, json.dumps(instance)))

    assert "FORMAT" not in [event.name for event in step.events]


def test_where_no_rule_speaks_a_lost_episode_is_a_lesson_all_the_same(tmp_path: Path) -> None:
    asked: list[str] = []

    def handler(request: Request) -> str:
        asked.append(toys.text_of(request.context))
        return "<prompt>Act well.</prompt>"

    model = players.player(WORLDS[WORLD].environment)
    strategy = Promst(patience=1)
    optimize(a_task(silent=True), model, strategy, writer=FakeModel(handler, "w"), budget="1000 calls", memo=tmp_path)

    assert any(re.search(r"<criticism>1. wrong: \d+ of 12 episodes", text) for text in asked)


def test_children_meet_first_what_their_parent_lost_and_few_meet_all(tmp_path: Path) -> None:
    task = a_task()
    result = play(Promst(forecast="off"), tmp_path)
    gates = [record.cells for record in result.history if record.parent == 0]

    assert gates.count(4) > gates.count(len(task.train)) > 0
    assert all(4 <= cells <= len(task.train) for cells in gates[:8])


def test_the_trajectory_is_the_golden_one(tmp_path: Path) -> None:
    """The first 40 prompts, at seed 11; after a wanted change, delete the file and run this test once."""
    result = play(Promst(), tmp_path, seed=11, budget="1500 calls")
    found = [
        [r.number, r.parent, r.step, r.fitness and round(r.fitness, 6), r.prompt.text] for r in result.history[:40]
    ]
    if not GOLDEN.exists():
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n", encoding="utf-8")

    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_run_again_it_ends_the_same_and_calls_nothing(once: Callable[..., tuple[Result, Path]]) -> None:
    first, folder = once("1200 calls")
    again = play(Promst(), folder, budget="1200 calls")

    assert first == again
    assert not any(spent.calls for spent in again.paid.values())


def test_an_episode_of_each_kind_is_summed_up_once_for_a_prompt(tmp_path: Path) -> None:
    asked: list[str] = []

    def handler(request: Request) -> str:
        text = toys.text_of(request.context)
        asked.append(text)
        return next(iter(players.writer().generate([request]))).reply.text  # type: ignore[union-attr]  # a fake answers

    model = players.player(WORLDS[WORLD].environment)
    optimize(a_task(), model, Promst(), writer=FakeModel(handler, "w"), budget="1500 calls", memo=tmp_path)
    summaries = [text for text in asked if "Do not write a new prompt" in text]
    mending = [text for text in asked if "<criticism>" in text]

    assert len(set(summaries)) == len(summaries) > 1
    assert len(mending) > 3
    assert all(re.search(r"\d\. [A-Z]+: \d+ of 12 episodes\.", text) for text in mending)
    assert any("Earlier versions of it" in text for text in mending)
    assert not any("Earlier versions of it" in text for text in mending[:1])


def test_in_the_papers_settings_each_child_is_made_from_ten_episodes_drawn_and_summed_up_for_it_alone(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    def handler(request: Request) -> str:
        text = toys.text_of(request.context)
        asked.append(text)
        return next(iter(players.writer().generate([request]))).reply.text  # type: ignore[union-attr]  # a fake answers

    model = players.player(WORLDS[WORLD].environment)
    strategy = replace(Promst.paper(), first=6, children=2, parents=2, shown=5)
    optimize(a_task(), model, strategy, writer=FakeModel(handler, "w"), budget="1500 calls", memo=tmp_path)
    first = next(n for n, text in enumerate(asked) if "<criticism>" in text)
    edits = [text for text in asked[first:] if "<criticism>" in text and "Earlier versions of it" not in text]

    assert sum(text.count("<item>") for text in asked[:first]) == 6 * 5
    assert len(set(asked[:first])) > 2  # no two draws of episodes are alike
    assert len(edits) >= 6


def test_random_feedback_is_for_children_that_mend_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set operators=False"):
        find_strategy("promst", {"feedback": "random"})


def test_what_is_shown_to_the_writer_is_the_advice_of_the_rules(tmp_path: Path) -> None:
    asked: list[str] = []

    def handler(request: Request) -> str:
        asked.append(toys.text_of(request.context))
        return "<prompt>Act well.</prompt>"

    model = players.player(WORLDS[WORLD].environment)
    optimize(a_task(), model, Promst(patience=1), writer=FakeModel(handler, "w"), budget="1000 calls", memo=tmp_path)

    assert any("which ends the episode" in text for text in asked)


def test_the_steps_say_what_the_forecast_is_worth(tmp_path: Path) -> None:
    steps = play(Promst(), tmp_path).steps
    said = [step for step in steps if "correlation" in step]

    assert said
    assert all(-1 <= step["correlation"] <= 1 and step["error"] >= 0 for step in said)
    assert all(step["measured"] == step["proposed"] for step in said if step["correlation"] < 0.2)


def test_the_paper_measures_all_until_its_score_model_sets_in(tmp_path: Path) -> None:
    steps = play(Promst.paper(), tmp_path, budget="5000 calls").steps

    assert steps[0]["proposed"] <= 20
    assert all(step["measured"] == step["proposed"] for step in steps[:3])
    assert all(step["proposed"] <= 40 for step in steps)


def test_where_all_is_won_there_is_nothing_to_learn(tmp_path: Path) -> None:
    words = " ".join(skill.word for skill in SKILLS)
    task = replace(a_task(), seed_prompt=Prompt(words))
    model = players.player(WORLDS[WORLD].environment)
    result = optimize(task, model, Promst(first=1), writer=players.writer(), budget="3000 calls", memo=tmp_path)

    assert result.steps[-1]["ended"] == "no errors left to learn from"


def test_a_task_of_one_step_is_learnt_from_its_lost_items(tmp_path: Path) -> None:
    def writer(request: Request) -> str:
        text = toys.text_of(request.context)
        if "Do not write a new prompt" in text:
            return "It has words that mislead."
        shown = re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL) or [""]
        dropped = toys.SPOILERS[request.replicate % 3]
        return f"<prompt>{shown[0].replace(dropped, '')}</prompt>"

    result = optimize(
        toys.TASK, FakeModel(toys.answer), Promst(first=3, children=3), writer=FakeModel(writer, "w"), memo=tmp_path
    )

    assert result.test is not None
    assert result.test.chosen.estimate == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": "0"}, "first must be at least 1, not 0"),
        ({"forecast": "maybe"}, "forecast cannot be 'maybe'"),
        ({"meta": "nowhere"}, "there is no folder 'nowhere'"),
    ],
)
def test_a_wrong_setting_says_the_mend(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_strategy("promst", settings)


def test_the_paper_s_settings_are_those_known() -> None:
    paper: Any = find_strategy("promst.paper")

    assert (paper.first, paper.children, paper.parents, paper.patience, paper.shown) == (20, 8, 5, 3, 10)
    assert (paper.operators, paper.racing, paper.forecast) == (False, False, "paper")
