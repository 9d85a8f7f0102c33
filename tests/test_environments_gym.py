"""The bridge to Gymnasium environments, with one in miniature."""

from __future__ import annotations

import json
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptopt import Example, FakeModel, InputError, Prompt, Task, optimize
from promptopt.environment import Choosing, Trajectory, advice
from promptopt.environments import Event
from promptopt.environments.base import play
from promptopt.environments.gym import ChoosingGym, GymEnvironment
from promptopt.environments.gym import instances as seeds


def played(environment: GymEnvironment, instance: dict[str, Any], *replies: str) -> Trajectory:
    """Play these replies, and the last of them again until the end."""
    said = chain(replies, repeat(replies[-1]))
    return play(environment, instance, lambda: next(said))


class Corridor:
    """A Gymnasium environment in miniature: five places, the last wins, the first loses."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        self.seed, self.at = seed, (options or {}).get("at", 2)
        return self.at, {"legal": ["left", "right"]}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.at += action
        return self.at, float(self.at == 4), self.at in {0, 4}, self.at == 3 and action < 0, {"legal": ["left"]}


def corridor(env: Corridor | None = None, **change: Any) -> GymEnvironment:
    read = {"left": -1, "right": 1, "stay": 0}.get
    return GymEnvironment(env or Corridor(), show=lambda at: f"You are at {at}.", read=read, **change)


@pytest.mark.parametrize(
    ("event", "replies", "instance"),
    [
        (Event.FORMAT, ["up"], {}),
        (Event.LOST, ["left", "left"], {}),
        (Event.LIMIT, ["stay", "stay", "stay"], {"cap": 3}),
        (Event.LIMIT, ["left"], {"options": {"at": 4}}),
    ],
)
def test_each_event_of_the_bridge_has_advice(event: Event, replies: list[str], instance: dict[str, Any]) -> None:
    episode = played(corridor(), instance, *replies)
    words = advice(episode, GymEnvironment.rules)

    assert episode.events == (event,)
    assert len(episode.turns) == len(replies)
    assert episode.turns[-1].observation in words[event]
    assert set(GymEnvironment.rules) == {Event.FORMAT, Event.LOST, Event.LIMIT}


def test_an_episode_that_is_won_has_no_event() -> None:
    episode = played(corridor(), {}, "right")

    assert [turn.observation for turn in episode.turns] == ["You are at 2.", "You are at 3."]
    assert (episode.last, episode.score, episode.events) == ("You are at 4.", 1, ())


def test_the_instance_decides_the_seed_and_else_the_episode() -> None:
    env = Corridor()
    corridor(env).reset({"seed": 5}, 1)
    assert env.seed == 5
    corridor(env).reset({}, 1)
    assert env.seed == 1
    with pytest.raises(InputError, match="not size"):
        corridor(env).reset({"size": 5}, 1)


def test_rewards_are_brought_between_0_and_1() -> None:
    assert played(corridor(low=-1, high=3), {}, "right").score == 0.5
    assert played(corridor(low=0.25, high=0.5), {}, "right").score == 1
    assert played(corridor(low=0.25, high=0.5), {}, "left").score == 0
    with pytest.raises(InputError, match="high must be above low"):
        corridor(low=1)


def test_a_reward_that_is_no_number_is_never_a_score() -> None:
    class Broken(Corridor):
        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            return action, float("nan"), True, False, {}

    world = corridor(Broken())
    world.reset({}, 0)
    with pytest.raises(InputError, match="reward nan for 'left'"):
        world.step("left")


def test_a_bridge_that_names_its_actions_can_be_chosen_from() -> None:
    world = ChoosingGym(env=Corridor(), choices=lambda _, info: info["legal"], show=str, read={"left": -1}.get)
    world.reset({}, 0)

    assert isinstance(world, Choosing)
    assert not isinstance(corridor(), Choosing)
    assert world.actions() == ("left", "right")
    world.step("left")
    with pytest.raises(InputError, match="two actions or more"):
        world.actions()


@settings(max_examples=50)
@given(texts=st.lists(st.text(), min_size=1))
def test_no_text_raises_in_the_bridge(texts: list[str]) -> None:
    assert 0 <= played(corridor(), {}, *texts).score <= 1


def test_a_task_in_a_gymnasium_environment_is_optimised_like_any_other() -> None:
    items = [
        Example({"instance": json.dumps(i)}, None, str(n)) for n, i in enumerate(seeds(24, np.random.default_rng(0)))
    ]
    task = Task(
        train=tuple(items[:8]),
        validation=tuple(items[8:16]),
        test=tuple(items[16:]),
        seed_prompt=Prompt("Go left."),
        environment=corridor,
    )
    model = FakeModel(lambda request: "left" if "left" in str(request.context[0]) else "right")
    result = optimize(
        task, model, "random", writer=FakeModel(lambda _: "<prompt>Go on to the right.</prompt>"), budget="9000 calls"
    )

    assert result.test is not None
    assert (result.test.seed.estimate, result.test.chosen.estimate) == (0, 1)
    assert len({item.inputs["instance"] for item in items}) == 24
