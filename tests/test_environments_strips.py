"""Blocksworld and Logistics, and each defect of PROMST's released code that is fixed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from promptopt import InputError
from promptopt.environment import Choosing, Trajectory, advice
from promptopt.environments import Event
from promptopt.environments.base import play
from promptopt.environments.blocksworld import BLOCKSWORLD, Blocksworld
from promptopt.environments.blocksworld import instances as blocks
from promptopt.environments.logistics import Logistics
from promptopt.environments.logistics import instances as parcels
from promptopt.environments.strips import plan

Make: TypeAlias = type[Blocksworld] | type[Logistics]

# red on blue, green beside them; to build blue on green
BLOCKS: dict[str, Any] = {
    "objects": ["red", "blue", "green"],
    "init": [
        ["on", "red", "blue"],
        ["ontable", "blue"],
        ["ontable", "green"],
        ["clear", "red"],
        ["clear", "green"],
        ["handempty"],
    ],
    "goal": [["on", "blue", "green"], ["ontable", "green"]],
    "cap": 12,
}
# p0 lies in one city and belongs in the other, p1 has to cross the first
PARCELS: dict[str, Any] = {
    "objects": ["c0", "c1", "x0", "y0", "x1", "t0", "t1", "a0", "p0", "p1"],
    "init": [
        *(["city", city] for city in ("c0", "c1")),
        *(["location", place] for place in ("x0", "y0", "x1")),
        *(["airport", place] for place in ("x0", "x1")),
        *(["in-city", place, city] for place, city in (("x0", "c0"), ("y0", "c0"), ("x1", "c1"))),
        *(["truck", truck] for truck in ("t0", "t1")),
        *(["obj", parcel] for parcel in ("p0", "p1")),
        ["airplane", "a0"],
        *(
            ["at", what, place]
            for what, place in (("t0", "x0"), ("t1", "x1"), ("a0", "x0"), ("p0", "x0"), ("p1", "y0"))
        ),
    ],
    "goal": [["at", "p0", "x1"], ["at", "p1", "x0"]],
    "cap": 20,
}


def played(environment: Blocksworld | Logistics, instance: dict[str, Any], *replies: str, **change: Any) -> Trajectory:
    """Play these replies, and the last of them again until the end."""
    said = iter([*replies, *[replies[-1]] * 100])
    return play(environment, {**instance, **change}, lambda: next(said))


def solution(make: Make, instance: dict[str, Any]) -> list[str]:
    """Return the oracle's replies."""
    world = make()
    return [turn.reply for turn in play(world, instance, world.oracle).turns]


# --- files


def test_the_papers_blocksworld_problems_are_loaded_and_solved(shared_data: Path) -> None:
    loaded = Blocksworld.load(shared_data / "blocksworld")
    lengths = [len(solution(Blocksworld, problem)) for problem in loaded]

    assert len(loaded) == 12
    assert (min(lengths), max(lengths)) == (4, 12)


def test_problems_that_cannot_be_solved_within_the_cap_are_left_out(shared_data: Path) -> None:
    loaded = Logistics.load(shared_data / "logistics")

    assert len(loaded) == 8, "four of the twelve need more than 20 rounds"
    assert len(Logistics.load(shared_data / "logistics", cap=40)) == 12
    assert [len(solution(Logistics, problem)) for problem in loaded] == [
        4,
        3,
        4,
        5,
        5,
        7,
        13,
        18,
    ]


def test_doing_nothing_earned_something_and_earns_nothing_now(shared_data: Path) -> None:
    def floor(make: Make, *, count_given: bool, cap: int) -> float:
        problems = make.load(shared_data / make.__name__.lower(), cap=cap)
        scores = []
        for problem in problems:
            world = make(count_given=count_given)
            world.reset(problem, 0)
            scores.append(world.score())
        return float(np.mean(scores))

    assert floor(Blocksworld, count_given=True, cap=20) == pytest.approx(0.208, abs=5e-4)
    assert floor(Logistics, count_given=True, cap=40) == pytest.approx(0.083, abs=5e-4)
    assert floor(Blocksworld, count_given=False, cap=20) == 0
    assert floor(Logistics, count_given=False, cap=40) == 0


def test_files_of_another_domain_are_refused(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differ from Logistics"):
        Logistics.load(shared_data / "blocksworld")
    with pytest.raises(InputError, match=r"no domain\.pddl"):
        Blocksworld.load(tmp_path)


def test_a_problem_that_stands_in_two_files_is_loaded_once(tmp_path: Path) -> None:
    problem = "(define (problem x) (:objects a b) (:init (ontable a) (on b a) (clear b) (handempty)) (:goal (on a b)))"
    actions = "(define (domain d) (:action stay :parameters (?x) :precondition (here ?x) :effect (and (here ?x))))"
    (tmp_path / "domain.pddl").write_text(actions)
    (tmp_path / "one.pddl").write_text(problem)
    with pytest.raises(InputError, match=r"the actions in .* differ from"):
        Blocksworld.load(tmp_path)
    source = Path(__file__).parent.parent / "promptopt" / "environments" / "blocksworld.py"
    (tmp_path / "domain.pddl").write_text(source.read_text().split('parse_domain("""')[1].split('"""')[0])
    (tmp_path / "two.pddl").write_text(problem.replace("problem x", "problem y"))

    assert len(Blocksworld.load(tmp_path)) == 1


# --- episodes


@pytest.mark.parametrize(
    ("make", "event", "replies"),
    [
        (Blocksworld, Event.FORMAT, ["unstack red from blue", "now I put it down, I think"]),
        (Blocksworld, Event.FORMAT, ["unstack red from blue\nput down red"]),
        (Blocksworld, Event.INVALID, ["pick up blue"]),
        (Blocksworld, Event.OBJECT, ["pick up purple"]),
        (Blocksworld, Event.LOOP, ["unstack red from blue", "stack red on blue"] * 3),
        (Logistics, Event.FORMAT, ["wait"]),
        (Logistics, Event.INVALID, ["load p1 into t0"]),
        (Logistics, Event.OBJECT, ["load p0 into t7"]),
        (Logistics, Event.OBJECT, ["drive a0 to x1"]),
        (Logistics, Event.LOOP, ["drive t0 to y0", "drive t0 to x0"] * 3),
    ],
)
def test_each_event_ends_the_episode_and_has_advice_that_shows_it(make: Make, event: Event, replies: list[str]) -> None:
    episode = played(make(), BLOCKS if make is Blocksworld else PARCELS, *replies)
    words = advice(episode, make.rules)

    assert episode.events == (event,)
    assert len(episode.turns) == len(replies)
    assert episode.turns[-1].reply in words[event]
    assert episode.turns[-1].observation in words[event]


@pytest.mark.parametrize(("make", "instance"), [(Blocksworld, BLOCKS), (Logistics, PARCELS)])
def test_the_step_limit_ends_the_episode(make: Make, instance: dict[str, Any]) -> None:
    world = make()
    world.reset({**instance, "cap": 2}, 0)
    steps = [world.step(world.oracle()), world.step(world.oracle())]

    assert [step.events for step in steps] == [(), (Event.LIMIT,)]
    assert steps[-1].done


@pytest.mark.parametrize("make", [Blocksworld, Logistics])
def test_every_rule_is_of_an_event_that_is_shown_above_to_happen(make: Make) -> None:
    assert set(make.rules) == {Event.FORMAT, Event.INVALID, Event.OBJECT, Event.LOOP, Event.LIMIT}


def test_the_released_codes_loop_detector_is_blind_after_progress_and_this_one_is_not() -> None:
    solution = ["unstack red from blue", "put down red"]
    episode = played(Blocksworld(), BLOCKS, *solution, *["pick up blue", "put down blue"] * 4)

    assert episode.events == (Event.LOOP,)
    assert len(episode.turns) == 8, "the state after the second round came again in rounds 4, 6 and 8"


@pytest.mark.parametrize(
    "text",
    [
        "unstack red from blue",
        "  Unstack the red block from on top of the blue block.  ",
        "**Action:** `unstack red from blue`",
        "1. unstack red from blue",
        "(unstack red blue)",
        '{"action": "unstack red from blue"}',
        "Red is in the way, so it goes first.\n\nunstack red from blue",
        "unstack red from blue\nUNSTACK RED FROM BLUE",
    ],
)
def test_an_action_is_read_in_many_writings(text: str) -> None:
    world = Blocksworld()
    world.reset(BLOCKS, 0)

    assert world.step(text).events == ()
    assert world.actions() == ("put down red", "stack red on blue", "stack red on green")


@pytest.mark.parametrize("text", ["load p0 in plane a0", "LOAD-AIRPLANE p0 a0 x0", "load the package p0 into a0!"])
def test_logistics_reads_plain_words_and_pddl(text: str) -> None:
    world = Logistics()
    world.reset(PARCELS, 0)

    assert "p0 in a0" in world.step(text).observation


def test_a_block_named_like_a_filler_word_can_be_moved() -> None:
    names = {"red": "top", "blue": "the", "green": "a"}
    renamed = {key: [[names.get(word, word) for word in fact] for fact in BLOCKS[key]] for key in ("init", "goal")}
    world = Blocksworld()
    world.reset({**BLOCKS, **renamed, "objects": list(names.values())}, 0)

    assert not world.step("unstack top from the").events
    assert play(world, {**BLOCKS, **renamed, "objects": list(names.values())}, world.oracle).score == 1


def test_partial_credit_is_kept_when_a_mistake_ends_the_episode() -> None:
    done = ["drive t0 to y0", "load p1 into t0", "drive t0 to x0", "unload p1 from t0", "fly p0 to x1"]
    episode = played(Logistics(), PARCELS, *done)

    assert episode.events == (Event.OBJECT,)
    assert episode.score == 0.5


def test_undoing_what_held_at_the_start_is_never_worth_less_than_nothing() -> None:
    world = Blocksworld()
    world.reset(BLOCKS, 0)
    assert world.score() == 0
    for text in ("pick up green", "stack green on red"):
        world.step(text)

    assert world.score() == 0
    paper = Blocksworld(count_given=True)
    paper.reset(BLOCKS, 0)
    assert paper.score() == 0.5
    assert played(Blocksworld(), BLOCKS, *solution(Blocksworld, BLOCKS)).score == 1


def test_what_is_seen_is_the_state_after_the_action() -> None:
    world = Blocksworld()
    assert "you hold" not in world.reset(BLOCKS, 0)
    step = world.step("unstack red from blue")

    assert "Last action: unstack red from blue: done." in step.observation
    assert "you hold red" in step.observation
    assert "Rounds left: 11." in step.observation
    assert "Possible actions: put down red; stack red on blue; stack red on green" in step.observation


def test_a_choice_has_two_actions_even_where_one_is_possible() -> None:
    tower = {
        **BLOCKS,
        "init": [["on", "red", "blue"], ["on", "blue", "green"], ["ontable", "green"], ["clear", "red"], ["handempty"]],
        "goal": [["on", "green", "red"]],
    }
    world = Blocksworld()
    observation = world.reset(tower, 0)

    assert isinstance(world, Choosing)
    assert "Possible actions: unstack red from blue\n" in observation + "\n"
    assert len(world.actions()) == 2
    assert world.actions()[0] == "unstack red from blue"


def test_a_goal_that_holds_already_is_refused() -> None:
    with pytest.raises(InputError, match="holds at the start"):
        Blocksworld().reset({**BLOCKS, "goal": [["on", "red", "blue"]]}, 0)


def test_an_impossible_goal_leaves_the_oracle_with_any_action() -> None:
    world = Blocksworld()
    world.reset({**BLOCKS, "goal": [["on", "red", "blue"], ["on", "blue", "red"]]}, 0)

    assert world.oracle() in world.actions()


@pytest.mark.parametrize("seed", range(3))
def test_the_estimates_keep_plans_shortest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn: list[tuple[Make, dict[str, Any]]] = [(Blocksworld, instance) for instance in blocks(6, rng)]
    drawn += [(Logistics, instance) for instance in parcels(4, rng, packages=1, planes=2, cap=20)]
    for make, instance in drawn:
        world = make()
        world.reset(instance, 0)
        shortest = plan(world._actions, world._state, world._goal)
        assert shortest is not None
        assert len(solution(make, instance)) == len(shortest)
        estimate, state = world._estimate(), world._state
        for number, action in enumerate(shortest):
            assert estimate(state) <= len(shortest) - number
            state = action.after(state)


def test_the_oracle_plans_anew_where_others_led() -> None:
    world = Blocksworld()
    world.reset(BLOCKS, 0)
    for text in ("pick up green", "stack green on red"):
        world.step(text)
    while not (step := world.step(world.oracle())).done:
        pass

    assert world.score() == 1
    assert not step.events


def test_splits_of_drawn_instances_share_none() -> None:
    drawn = [repr(instance) for instance in BLOCKSWORLD.instances(60, np.random.default_rng(0))]

    assert len(set(drawn)) == 60
    assert not set(drawn[:20]) & set(drawn[20:40]) | set(drawn[20:40]) & set(drawn[40:])


def test_more_instances_than_there_are_say_so() -> None:
    with pytest.raises(InputError, match="different 2-block instances"):
        blocks(9, np.random.default_rng(0), blocks=2)
