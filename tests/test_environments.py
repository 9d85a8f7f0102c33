"""What holds for every environment that comes with the package, beyond what all promise (`test_contracts`)."""

from __future__ import annotations

import json
import re
import runpy
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptopt import FakeModel, InputError, Prompt, optimize
from promptopt.environment import Choosing, advice
from promptopt.environments import WORLDS, Event, instances, task
from promptopt.environments.base import Instance, PlayableEnvironment, World, last_object, play
from promptopt.environments.floors import floors, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from promptopt import Run

NAMES = list(WORLDS)
MISTAKES = {Event.FORMAT, Event.INVALID, Event.BUSY, Event.COLLISION, Event.OUTSIDE, Event.ORDER, Event.OBJECT}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
WORDS = st.lists(
    st.sampled_from(
        re.findall(
            r"\S+",
            """{ } [ ] " : , move Move up down left right Pick goal pick-up put stack unstack the block on of box1 lifter1
            box_red1 agent[0,0] cell[0,1] target_red agent0 truck fly load track 0 1 99""",
        )
    ),
    max_size=30,
).map(" ".join)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def world(name: str) -> World:
    return WORLDS[name]


@pytest.fixture
def some(name: str) -> list[Instance]:
    return instances(name, 6, seed=3)


def said_in_turn(replies: Iterator[str]) -> Callable[[], str]:
    return lambda: next(replies)


def test_the_oracle_solves_every_instance(name: str, world: World) -> None:
    environment = world.environment()
    for instance in instances(name, 24):
        assert play(environment, instance, environment.oracle).score == 1


def test_the_oracle_solves_every_instance_of_the_papers_sizes(name: str, world: World) -> None:
    if not world.paper:
        pytest.skip("the paper's instances are files")
    environment = world.environment()
    for instance in instances(name, 4, seed=1, preset="paper"):
        assert play(environment, instance, environment.oracle).score == 1


def test_instances_are_distinct_plain_json_and_the_same_for_the_same_seed(name: str) -> None:
    drawn = instances(name, 20, seed=5)
    texts = {json.dumps(instance, sort_keys=True) for instance in drawn}
    assert len(texts) == 20
    assert json.loads(json.dumps(drawn)) == drawn
    assert instances(name, 20, seed=5) == drawn
    assert instances(name, 7, seed=5) == drawn[:7], "more instances begin with the same ones"
    assert instances(name, 20, seed=6) != drawn


def test_a_random_legal_reply_makes_no_mistake(world: World, some: list[Instance]) -> None:
    rng = np.random.default_rng(0)
    for instance in some:
        environment = world.environment()
        happened = play(environment, instance, partial(environment.random_reply, rng)).events
        assert not [event for event in happened if event in MISTAKES]


def test_the_actions_that_are_named_can_be_read(world: World, some: list[Instance]) -> None:
    environment = world.environment()
    if not isinstance(environment, Choosing):
        pytest.skip("a reply is of several agents' actions")
    environment.reset(some[0], 0)
    actions = environment.actions()
    assert len(actions) == len(set(actions)) >= 2
    for action in actions:
        environment.reset(some[0], 0)
        assert Event.FORMAT not in environment.step(action).events


@pytest.mark.parametrize("text", ["", "I do not know.", "{", "null", "[1, 2]", "{}}{", "\ud800"])
def test_a_reply_that_cannot_be_read_ends_the_episode_and_keeps_what_was_achieved(
    world: World, some: list[Instance], text: str
) -> None:
    environment = world.environment()
    before = max(_half_done(environment, instance) for instance in some)
    for instance in some:
        if _half_done(environment, instance) == before:
            break
    step = environment.step(text)
    assert 0 < before < 1
    assert environment.score() == before
    assert (step.done, step.events) == (True, (Event.FORMAT,)) or text.endswith("{}}{"), "{} is an empty plan"


def _half_done(environment: PlayableEnvironment, instance: Instance) -> float:
    """Play as the oracle does until the first progress, and return it; 0 where that solves it whole."""
    environment.reset(instance, 0)
    start = environment.score()
    while environment.score() == start:
        environment.step(environment.oracle())
    return environment.score() % 1


def test_nothing_changes_after_the_end(world: World, some: list[Instance]) -> None:
    environment = world.environment()
    environment.reset(some[0], 0)
    while not environment.step(environment.oracle()).done:
        pass
    step = environment.step("anything")
    assert step.done
    assert not step.events
    assert environment.score() == 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(texts=st.lists(st.text() | JSON.map(json.dumps) | WORDS, min_size=1, max_size=8), number=st.integers(0, 3))
def test_no_text_raises_and_whatever_happens_has_a_rule(name: str, texts: list[str], number: int) -> None:
    environment = WORLDS[name].environment()
    episode = play(environment, instances(name, 4)[number], said_in_turn(cycle(texts)))
    assert 0 <= episode.score <= 1
    for event, words in advice(episode, environment.rules).items():
        assert words, event
    for seen in (*(turn.observation for turn in episode.turns), episode.last):
        seen.encode()


@pytest.mark.parametrize(
    "text", ['{"a":' * 50_000, "{" * 1_000_000, "a" * 2_000_000, '{"a": ' + "1" * 9_000 + "}", "(" * 1_000_000]
)
def test_a_huge_reply_is_answered(world: World, some: list[Instance], text: str) -> None:
    environment = world.environment()
    environment.reset(some[0], 0)
    assert len(environment.step(text).observation) < 20_000


def test_an_episode_ends_even_if_nothing_good_is_ever_said(world: World, some: list[Instance]) -> None:
    for said in (["{}"], ["Pick goal"], ['{"x": "y"}']):
        environment = world.environment()
        assert len(play(environment, some[0], said_in_turn(cycle(said))).turns) < 200


def test_a_seed_prompt_is_short_and_a_description_is_a_sentence(world: World) -> None:
    assert 80 <= len(world.prompt.split()) <= 200
    assert world.description.endswith(".")
    assert world.description.count(". ") == 0


def test_a_task_has_its_splits_and_the_test_does_not_depend_on_the_others(name: str) -> None:
    made = task(name, train=3, validation=2, test=4, seed=1)
    assert [item.id for item in made.train] == [f"{name}-train-{i}" for i in (1, 2, 3)]
    assert (len(made.validation), len(made.test)) == (2, 4)
    shown = [item.inputs["instance"] for split in (made.train, made.validation, made.test) for item in split]
    assert len(set(shown)) == 9
    assert task(name, train=5, validation=3, test=4, seed=1).test == made.test
    assert made.name == name
    assert made.environment is WORLDS[name].environment


def test_a_task_is_scored_like_any_other(name: str) -> None:
    made = task(name, train=2, validation=2, test=2)
    result = optimize(made, FakeModel(lambda _: "?"), Only(), budget="10000 calls")
    nothing = floors(WORLDS[name].environment, [json.loads(item.inputs["instance"]) for item in made.test]).nothing
    assert result.test is not None
    assert result.test.seed.estimate == pytest.approx(nothing)


class Only:
    """A search that scores the seed prompt and another."""

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt, Prompt("Do something.")])


def test_floors_are_under_the_ceiling(world: World, some: list[Instance]) -> None:
    row = floors(world.environment, some)
    assert 0 <= row.nothing < row.oracle == 1
    assert row.legal < 1
    assert (row.choice is None) == (not isinstance(world.environment(), Choosing))
    assert floors(world.environment, some) == row
    assert "| 1.000 |" in table({"x": row})


def test_floors_and_ceilings_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("promptopt.environments.WORLDS", {"boxnet1": WORLDS["boxnet1"]})
    runpy.run_module("promptopt.environments")
    shown = capsys.readouterr().out
    assert "| boxnet1, small | 0.000 | - |" in shown
    assert "| boxnet1, paper | 0.000 | - |" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gridworld"}, "did you mean 'gridworld"),
        ({"name": "boxlift", "lifter": 3}, "did you mean 'lifters'"),
        ({"name": "boxlift", "preset": "large"}, "'small' or 'paper'"),
        ({"name": "boxlift", "preset": "paper", "boxes": 3}, "remove boxes"),
        ({"name": "boxlift", "boxes": 0}, "boxes must be between 1 and 100, not 0"),
        ({"name": "gridworld1", "rows": 1, "columns": 2, "goals": 1, "obstacles": 0}, "only 2 of 9"),
    ],
)
def test_a_wrong_request_says_what_to_change(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(**{"train": 3, "validation": 3, "test": 3, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('first {"a": 1} then {"b": {"c": 2}} done', {"b": {"c": 2}}),
        ('```json\n{"a": "b"}\n```', {"a": "b"}),
        ('{"a": 1} and a broken {"b": ', {"a": 1}),
        ('{"a": 1, "a": 2}', None),
        ("['a']", None),
        ("{'a': 1}", None),
    ],
)
def test_the_last_object_of_a_reply_is_read(text: str, found: dict[str, object] | None) -> None:
    assert last_object(text) == found
