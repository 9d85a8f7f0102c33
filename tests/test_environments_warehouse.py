"""BoxNet2 and Warehouse, and each defect of PROMST's released code that is fixed here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from promptopt import InputError
from promptopt.environment import Environment, Trajectory, advice
from promptopt.environments import Event
from promptopt.environments.base import play
from promptopt.environments.boxnet2 import BOXNET2, BoxNet2
from promptopt.environments.warehouse import WAREHOUSE, Warehouse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.environments.base import World

HOUSE: dict[str, Any] = {"tracks": 2, "columns": 3, "robots": 2, "boxes": [[0, 1], [1, 2], [2, 2]], "cap": 20}
NET: dict[str, Any] = {
    "rows": 1,
    "columns": 3,
    "boxes": {"red": [0, 0], "blue": [0, 1]},
    "targets": {"red": [0, 2], "blue": [0, 0]},
    "cap": 12,
}
Plan = dict[str, Any]


def played(environment: Environment, instance: dict[str, Any], *replies: str | Plan, **change: Any) -> Trajectory:
    """Play these replies, and the last of them again until the end."""
    texts = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
    said = iter([*texts, *[texts[-1]] * 100])
    return play(environment, {**instance, **change}, lambda: next(said))


def begun(instance: dict[str, Any], *replies: Plan) -> Warehouse | BoxNet2:
    """Return an environment in the middle of an episode."""
    world = Warehouse() if "tracks" in instance else BoxNet2()
    world.reset(instance, 0)
    for reply in replies:
        assert not world.step(json.dumps(reply)).events
    return world


ENTER = {"robot0": "move to track_1"}
FOLLOW = [ENTER, {"robot0": "move right", "robot1": "move to track_1"}]
SCENES: list[tuple[type[Warehouse | BoxNet2], Event, Sequence[str | Plan], bool]] = [
    (Warehouse, Event.FORMAT, ["robot0 goes to track 1"], True),
    (Warehouse, Event.INVALID, [{"robot0": "move right"}], False),
    (Warehouse, Event.INVALID, [{"robot7": "move to track_1"}], False),
    (Warehouse, Event.BUSY, ['{"robot0": "move to track_1", "Robot 0": "move to track_2"}'], False),
    (Warehouse, Event.COLLISION, [ENTER, {"robot1": "move to track_1"}], True),
    (Warehouse, Event.COLLISION, [*FOLLOW, {"robot0": "move left", "robot1": "move right"}], True),
    (Warehouse, Event.LOOP, [ENTER, {"robot0": "move to target"}] * 3, True),
    (Warehouse, Event.LOOP, [{}], True),
    (BoxNet2, Event.FORMAT, ["[]"], True),
    (BoxNet2, Event.INVALID, [{"agent[0,0]": "move(box_red, corner[0,3])"}], False),
    (BoxNet2, Event.INVALID, [{"agent[4,4]": "move(box_red, corner[0,1])"}], False),
    (BoxNet2, Event.BUSY, ['{"agent[0,0]": "move(box_red, corner[1,0])", "arm 0,0": "move(box_blue, target)"}'], False),
    (BoxNet2, Event.COLLISION, [{"agent[0,0]": "move(box_red, corner[0,1])"}], True),
    (BoxNet2, Event.LOOP, ["{}"], True),
]


@pytest.mark.parametrize(("make", "event", "replies", "last"), SCENES)
def test_each_event_has_advice_that_shows_it(
    make: type[Warehouse | BoxNet2], event: Event, replies: Sequence[str | Plan], *, last: bool
) -> None:
    episode = played(make(), HOUSE if make is Warehouse else NET, *replies)
    first = next(turn for turn in episode.turns if event in turn.events)
    words = advice(episode, make.rules)[event]

    assert first.reply in words
    assert first.observation in words
    assert (first is episode.turns[-1]) == last


@pytest.mark.parametrize(("make", "instance"), [(Warehouse, HOUSE), (BoxNet2, NET)])
def test_the_step_limit_ends_the_episode(make: type[Warehouse | BoxNet2], instance: dict[str, Any]) -> None:
    world = make()
    world.reset({**instance, "cap": 2}, 0)
    steps = [world.step(world.oracle()), world.step(world.oracle())]

    assert [step.events for step in steps] == [(), (Event.LIMIT,)]
    assert steps[-1].done


@pytest.mark.parametrize("make", [Warehouse, BoxNet2])
def test_every_rule_is_of_an_event_that_is_shown_above_to_happen(make: type[Warehouse | BoxNet2]) -> None:
    assert set(make.rules) == {event for world, event, _, _ in SCENES if world is make} | {Event.LIMIT}


@pytest.mark.parametrize("world", [BOXNET2, WAREHOUSE])
def test_random_rounds_never_collide_and_are_never_refused(world: World) -> None:
    rng = np.random.default_rng(0)
    for size in ({}, *world.paper):
        (instance,) = world.instances(1, rng, **size)
        environment = world.environment()
        events = play(environment, instance, lambda e=environment: e.random_reply(rng)).events  # type: ignore[misc]
        assert set(events) <= {Event.LOOP, Event.LIMIT}


@pytest.mark.parametrize("world", [BOXNET2, WAREHOUSE])
def test_the_oracle_goes_on_from_where_others_led(world: World) -> None:
    rng = np.random.default_rng(1)
    solved = 0
    for instance in world.instances(30, rng):
        environment = world.environment()
        environment.reset({**instance, "cap": 60}, 0)
        if any(environment.step(environment.random_reply(rng)).done for _ in range(4)):
            continue
        step = environment.step(environment.oracle())
        while not step.done:
            assert not step.events
            step = environment.step(environment.oracle())
        assert environment.score() == 1
        solved += 1
    assert solved > 10


# --- warehouse


def test_a_track_that_does_not_exist_is_refused_and_not_entered() -> None:
    for track in (0, 3, 99):
        world = begun(HOUSE)
        step = world.step(json.dumps({"robot0": f"move to track_{track}"}))

        assert step.events == (Event.INVALID,)
        assert f"robot0 could not do 'move to track_{track}'" in step.observation
        assert "robot0 is at the target" in step.observation


def test_all_that_is_offered_is_done() -> None:
    rng = np.random.default_rng(0)
    world = Warehouse()
    for instance in WAREHOUSE.instances(10, rng):
        world.reset(instance, 0)
        done = False
        while not done:
            options = world._options()["robot0"]
            step = world.step(json.dumps({"robot0": options[rng.integers(len(options))]}))
            assert Event.INVALID not in step.events
            done = step.done


def test_track_0_is_not_offered() -> None:
    seen = Warehouse().reset(HOUSE, 0)

    assert "robot0 is at the target, empty. It can do: move to track_1, move to track_2." in seen


def test_a_warehouse_shows_the_state_after_the_round() -> None:
    world = begun(HOUSE)
    step = world.step(json.dumps({"robot0": "move to track_1", "robot1": "move to track_2"}))

    assert "Last round: robot0: move to track_1 done; robot1: move to track_2 done." in step.observation
    assert (
        "robot0 is on track_1 in column 1, empty. It can do: pick box_0_1, move to target, move right."
        in step.observation
    )
    assert "Rounds left: 19." in step.observation


def test_a_box_is_delivered_at_the_target_and_not_before() -> None:
    world = begun(HOUSE, ENTER, {"robot0": "pick box_0_1"})
    assert world.score() == 0
    step = world.step('{"robot0": "move to target"}')

    assert world.score() == pytest.approx(1 / 3)
    assert "Delivered: 1 of 3." in step.observation
    assert "robot0 is at the target, empty" in step.observation


def test_a_robot_holds_one_box() -> None:
    world = begun(HOUSE, ENTER, {"robot0": "pick box_0_1"}, {"robot0": "move right"})
    step = world.step('{"robot0": "pick box_1_2"}')

    assert step.events == (Event.INVALID,)
    assert "robot0 is on track_1 in column 2, carries box_0_1. It can do: move left, move right." in step.observation


def test_two_robots_cannot_take_one_box() -> None:
    both = {"robot0": "move right", "robot1": "move right"}
    world = begun(HOUSE, {"robot0": "move to track_1", "robot1": "move to track_2"}, both)
    step = world.step('{"robot1": "pick box_1_2", "robot0": "pick box_1_2"}')

    assert step.events == (Event.INVALID,)
    assert "robot1 is on track_2 in column 2, carries box_1_2" in step.observation
    assert "robot0 is on track_1 in column 2, empty" in step.observation


def test_robots_follow_each_other_on_a_track_and_meet_freely_at_the_target() -> None:
    world = begun(HOUSE, *FOLLOW, {"robot0": "move left", "robot1": "move to target"})
    step = world.step('{"robot0": "move to target"}')

    assert step.events == ()
    assert step.observation.count("at the target") == 2


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Move Left", "move left"),
        ("left", "move left"),
        ("go to the target", "move to target"),
        ("move to track 2", "move to track_2"),
        ("track_2", "move to track_2"),
        ("pick up box_1_2", "pick box_1_2"),
        ("pick(BOX_1_2)", None),
        ("move to left of the target", "move left"),
        ("moved", None),
        ("move to track_20x", None),
    ],
)
def test_a_robots_action_is_read_in_many_writings(said: str, meant: str | None) -> None:
    assert Warehouse()._action_name(said) == meant


def test_a_warehouse_that_makes_no_sense_is_refused() -> None:
    changes: list[dict[str, Any]] = [{"boxes": boxes} for boxes in ([], [[3, 1]], [[0, 4]], [[0, 0]])]
    for change in [*changes, {"robots": 0}]:
        with pytest.raises(InputError, match="shelves 0 to 2 in columns 1 to 3"):
            Warehouse().reset({**HOUSE, **change}, 0)


def test_the_oracles_plan_is_at_most_a_third_over_what_any_plan_needs() -> None:
    needed = taken = 0
    for instance in WAREHOUSE.instances(40, np.random.default_rng(2)):
        trips = [2 * column + 1 for _, column in instance["boxes"]]  # in, out and the picking, whichever track it is
        needed += max(*trips, -(-sum(trips) // instance["robots"]))
        world = Warehouse()
        taken += len(play(world, instance, world.oracle).turns)

    assert taken <= needed * 4 / 3


def test_robots_on_one_track_get_out_of_each_others_way() -> None:
    deep = {"tracks": 1, "columns": 3, "robots": 2, "boxes": [[0, 2], [0, 3]], "cap": 20}
    world = begun(deep, *FOLLOW)
    while not (step := world.step(world.oracle())).done:
        assert not step.events

    assert world.score() == 1


# --- BoxNet2


def test_all_arms_start_from_the_same_state() -> None:
    plan = {f"agent[0,{cell}]": f"move(box_red, corner[1,{cell + 1}])" for cell in range(3)}
    step = begun(NET).step(json.dumps(plan))

    assert step.events == (Event.INVALID,), "the second and third arm had no box when the round began"
    assert "box_red on corner[1,1]" in step.observation


def test_a_corner_that_is_left_in_the_round_is_free() -> None:
    plan = {"agent[0,0]": "move(box_red, corner[0,1])", "agent[0,1]": "move(box_blue, corner[0,2])"}
    step = begun(NET).step(json.dumps(plan))

    assert step.events == ()
    assert "Boxes left: box_blue on corner[0,2], box_red on corner[0,1]." in step.observation


def test_two_arms_cannot_move_one_box() -> None:
    plan = {"agent[0,0]": "move(box_blue, target_blue)", "agent[0,1]": "move(box_blue, corner[0,2])"}
    world = begun(NET)
    step = world.step(json.dumps(plan))

    assert step.events == (Event.INVALID,)
    assert world.score() == 0.5
    assert "another took box_blue" in step.observation


def test_a_collision_keeps_what_was_achieved() -> None:
    boxes = {"red": [0, 0], "blue": [0, 1], "green": [0, 2]}
    instance = {**NET, "boxes": boxes, "targets": {"red": [0, 0], "blue": [0, 0], "green": [0, 0]}}
    plan = {"agent[0,0]": "move(box_red, target_red)", "agent[0,1]": "move(box_green, corner[0,1])"}
    episode = played(BoxNet2(), instance, plan)

    assert episode.events == (Event.COLLISION,)
    assert episode.score == pytest.approx(1 / 3)
    assert "box_blue and box_green collided on corner[0,1]" in episode.last


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("move(box_red, corner[0, 1])", "move(box_red, corner[0,1])"),
        ("Move box_red to corner (0,1)", "move(box_red, corner[0,1])"),
        ("move(BOX_RED, target)", "move(box_red, target_red)"),
        ("move(box_red, target_blue)", "move(box_red, target_blue)"),
        ("move(box_red)", None),
    ],
)
def test_an_arms_action_is_read_in_many_writings(said: str, meant: str | None) -> None:
    assert BoxNet2()._action_name(said) == meant


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": {}, "targets": {}},
        {"boxes": {"red": [0, 0]}},
        {"boxes": {"red": [0, 0], "blue": [0, 0]}},
        {"boxes": {"red": [0, 0], "blue": [2, 0]}},
        {"targets": {"red": [0, 2], "blue": [1, 0]}},
    ],
)
def test_a_net_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="boxes on different corners"):
        BoxNet2().reset({**NET, **change}, 0)
