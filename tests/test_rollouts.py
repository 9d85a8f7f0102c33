"""Episodes in lock-step: a counter that a model is to bring to a goal."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import toys

from promptopt import (
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    FunctionModel,
    InputError,
    Memo,
    Prompt,
    RandomSearch,
    Request,
    Response,
    Step,
    Task,
    Trajectory,
    Turn,
    optimize,
)
from promptopt.environment import advice
from promptopt.evaluation import rollouts
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt import FeedbackRule, Model, Scores
    from promptopt.prompt import Context


class Event(Enum):
    """What can happen to a counter."""

    WRONG = "neither up nor down"
    LOW = "below zero"


class Steps:
    """Count from `start` up to `goal`; the cap is twice the way."""

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.WRONG: lambda episode: f"{episode.turns[-1].reply!r} is neither up nor down",
        Event.LOW: lambda _: "the counter cannot go below zero",
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing here is left to chance
        self.at, self.goal, self.left = instance["start"], instance["goal"], 2 * (instance["goal"] - instance["start"])
        self.begun = self.at
        if "broken" in instance:
            raise RuntimeError("no such counter")
        return self.seen()

    def seen(self) -> str:
        return f"counter {self.at}, goal {self.goal}"

    def step(self, text: str) -> Step:
        self.left -= 1
        if text not in ("up", "down"):
            return Step(self.seen(), True, (Event.WRONG,))  # noqa: FBT003  done
        if text == "down" and self.at == 0:
            return Step(self.seen(), self.left == 0, (Event.LOW,))
        self.at += 1 if text == "up" else -1
        if self.at == 66:
            raise RuntimeError("a wheel came off")
        return Step(self.seen(), self.at == self.goal or self.left == 0)

    def score(self) -> float:
        return float(max(0.0, (self.at - self.begun) / (self.goal - self.begun)))


class Choosable(Steps):
    """The same, with its actions named."""

    def actions(self) -> tuple[str, ...]:
        return ("down", "up") if self.at else ("up", "wait")


def instances(*pairs: tuple[int, int], name: str = "i", **more: Any) -> tuple[Example, ...]:
    return tuple(
        Example({"instance": json.dumps({"start": start, "goal": goal, **more})}, None, f"{name}{n}")
        for n, (start, goal) in enumerate(pairs)
    )


TASK = Task(
    train=instances((0, 2), (5, 8), (1, 2)),
    validation=instances((3, 5), (2, 3), name="v"),
    test=instances((4, 6), (7, 8), name="t"),
    seed_prompt=Prompt("Bring the counter to its goal ."),
    environment=Steps,
    history=1,
)


def climbing(request: Request) -> str:
    """Goes up where the prompt says how, down where it does not, and talks at a counter of nine."""
    text = toys.text_of(request.context)
    at = int(text.split("counter ")[-1].split(",")[0])
    return "well" if at == 9 else "up" if "up" in text.splitlines()[0] else "down"


def score(
    model: Model, folder: Path, *texts: str, task: Task = TASK, budget: Budget | None = None, replicates: int = 1
) -> Scores:
    with Memo(folder) as memo:
        caller = Caller(memo, Ledger(budget or Budget()))
        return Scorer(task, model, caller).score([Prompt(text) for text in texts], task.train, replicates)


def episode(scores: Scores, p: int, e: int) -> Trajectory:
    reply = scores.replies[p][e][0]
    assert isinstance(reply, Response)
    assert reply.trajectory is not None
    return reply.trajectory


def test_an_episode_goes_to_its_end_and_its_score_is_the_reward(tmp_path: Path) -> None:
    scores = score(FakeModel(climbing), tmp_path, "Say up .", "Do it .")

    assert scores.rewards[:, :, 0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert [turn.reply for turn in episode(scores, 0, 1).turns] == ["up", "up", "up"]
    assert [len(episode(scores, 1, e).turns) for e in range(3)] == [4, 6, 2]
    assert episode(scores, 1, 0).events == (Event.LOW,) * 4
    assert episode(scores, 0, 0).last == "counter 2, goal 2"


def test_all_live_episodes_are_one_batch_a_round(tmp_path: Path) -> None:
    class Counted(FakeModel):
        batches: ClassVar[list[int]] = []

        def generate(self, requests: Any) -> Any:
            listed = list(requests)
            self.batches.append(len(listed))
            yield from super().generate(listed)

    model = Counted(climbing)
    score(model, tmp_path, "Say up .")

    assert model.batches == [3, 2, 1]


def test_the_last_rounds_are_shown_before_what_is_seen_now(tmp_path: Path) -> None:
    seen: list[str] = []

    def handler(request: Request) -> str:
        seen.append(toys.text_of(request.context))
        return "up"

    score(FakeModel(handler), tmp_path, "Say up .")
    longest = [text for text in seen if "counter 7" in text]

    assert longest == [
        "Say up .\nWhat happened so far:\n\nYou saw: counter 6, goal 8\nYou said: up\n\nNow you see:\n\ncounter 7, goal 8"
    ]


def test_a_model_with_log_probabilities_chooses_among_the_actions_of_the_moment(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def logprobs(context: Context, labels: Sequence[str]) -> list[float]:
        asked.append(tuple(labels))
        return [-0.1 if label == "up" else -2.0 for label in labels]

    scores = score(FakeLabelModel(logprobs), tmp_path, "Go .", task=replace(TASK, environment=Choosable))

    assert scores.rewards[0, :, 0].tolist() == [1, 1, 1]
    assert Counter(asked) == {("up", "wait"): 1, ("down", "up"): 5}


def test_a_model_with_log_probabilities_writes_where_actions_have_no_names(tmp_path: Path) -> None:
    class Both(FakeLabelModel):
        def generate(self, requests: Any) -> Any:
            return FakeModel(climbing).generate(requests)

    assert score(Both(toys.logprobs), tmp_path, "Say up .").rewards.mean() == 1


def test_each_replicate_is_an_episode_with_a_seed_of_its_own(tmp_path: Path) -> None:
    class Seeded(Steps):
        seeds: ClassVar[list[int]] = []

        def reset(self, instance: Mapping[str, Any], seed: int) -> str:
            self.seeds.append(seed)
            return super().reset(instance, seed)

    scores = score(FakeModel(climbing), tmp_path, "Say up .", task=replace(TASK, environment=Seeded), replicates=2)

    assert scores.rewards.shape == (1, 3, 2)
    assert Seeded.seeds == [0, 1] * 3


def test_an_environment_that_raises_is_a_failure_of_its_episode_alone(tmp_path: Path) -> None:
    task = replace(TASK, train=(*instances((65, 70), (0, 1)), *instances((0, 1), name="b", broken=True)))
    scores = score(FakeModel(climbing), tmp_path, "Say up .", task=task)
    raised, fine, broken = (cell[0] for cell in scores.replies[0])

    assert [math.isnan(value) for value in scores.rewards[0, :, 0]] == [True, False, True]
    assert isinstance(fine, Response)
    assert raised == Failure("round 1: the environment raised RuntimeError('a wheel came off')")
    assert broken == Failure("the environment could not begin 'b0': RuntimeError('no such counter')")


def test_a_model_that_fails_in_the_middle_is_a_failure_with_its_round(tmp_path: Path) -> None:
    class Fails(FakeModel):
        def generate(self, requests: Any) -> Any:
            for arrival in super().generate(requests):
                reply = arrival.reply
                failed = isinstance(reply, Response) and reply.text == "well"
                yield arrival._replace(reply=Failure("no answer")) if failed else arrival

    task = replace(TASK, train=instances((8, 11), (0, 1)))
    scores = score(Fails(climbing), tmp_path, "Say up .", task=task)

    assert scores.replies[0][0][0] == Failure("round 2: no answer")
    assert scores.rewards[0, 1, 0] == 1


class Endless(Steps):
    """Never done; every observation is a new one."""

    def step(self, text: str) -> Step:
        return super().step(text)._replace(observation=f"counter {self.left}, goal 9", done=False)


ENDLESS = replace(TASK, environment=Endless)


def test_an_environment_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "_MAX_ROUNDS", 20)
    (cell,) = score(FakeModel(climbing), tmp_path, "Go down .", task=ENDLESS).replies[0][0]

    assert isinstance(cell, Failure)
    assert "the episode did not end within 20 rounds: `step` must return `done=True`" in cell.reason


def test_the_tasks_limit_ends_an_episode_with_its_score_so_far(tmp_path: Path) -> None:
    scores = score(FakeModel(climbing), tmp_path, "Say up .", task=replace(ENDLESS, max_rounds=2))

    assert [len(episode(scores, 0, e).turns) for e in range(3)] == [2, 2, 2]
    assert scores.rewards[0, :, 0].tolist() == pytest.approx([1, 2 / 3, 2])


def test_a_budget_that_ends_in_the_first_episode_names_the_end_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"budget of 50 calls ended before the first episode did: `step` must return"):
        optimize(ENDLESS, FakeModel(climbing), "random", memo=tmp_path, budget="50 calls")


def test_a_round_limit_is_the_instances_or_the_tasks() -> None:
    capped = instances((0, 2), (5, 8), cap=6)
    assert rollouts.most_rounds(TASK, capped) == 6
    assert rollouts.most_rounds(replace(TASK, max_rounds=4), capped) == 4
    assert rollouts.most_rounds(replace(TASK, max_rounds=9), [*capped, *TASK.train[:1]]) == 7
    assert rollouts.most_rounds(TASK, [*capped, *TASK.train]) == 0


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    score(FunctionModel(climbing, name="one", version="1"), tmp_path, "Say up .")

    def paid(request: Request) -> str:
        raise AssertionError("a call was made")

    model = FunctionModel(paid, name="one", version="1")
    assert score(model, tmp_path, "Say up .").rewards.mean() == 1


def test_a_reward_may_look_at_the_whole_episode(tmp_path: Path) -> None:
    def thrifty(example: Example, response: Response) -> float:
        assert response.trajectory is not None
        return response.trajectory.score - 0.1 * len(response.trajectory.turns)

    scores = score(FakeModel(climbing), tmp_path, "Say up .", task=replace(TASK, reward=thrifty))

    assert scores.rewards[0, :, 0].tolist() == pytest.approx([0.8, 0.7, 0.9])


def test_a_whole_run_finds_the_prompt_that_says_how(tmp_path: Path) -> None:
    def writer(request: Request) -> str:
        return "<prompt>Bring the counter up to its goal .</prompt>"

    result = optimize(
        TASK, FakeModel(climbing), RandomSearch(prompts=2, batch=1), writer=FakeModel(writer, "w"), memo=tmp_path
    )

    assert result.prompt.text == "Bring the counter up to its goal ."
    assert result.test is not None
    assert (result.test.seed.estimate, result.test.chosen.estimate) == (0, 1)


def test_a_budget_in_calls_holds_back_whole_episodes(tmp_path: Path) -> None:
    def writer(request: Request) -> str:
        return f"<prompt>Bring the counter to its goal , try {request.replicate} .</prompt>"

    result = optimize(
        TASK,
        FakeModel(climbing),
        RandomSearch(prompts=50, batch=1),
        writer=FakeModel(writer, "w"),
        memo=tmp_path,
        budget="150 calls",
    )

    assert sum(spent.calls for spent in result.used.values()) <= 150
    assert result.finished
    assert result.test is not None


def test_every_event_has_its_advice_once() -> None:
    turns = score_of("down", "down")
    assert advice(turns, Steps.rules) == {Event.LOW: "the counter cannot go below zero"}


def test_an_event_without_a_rule_is_refused() -> None:
    with pytest.raises(InputError, match=r"the event Event\.LOW has no feedback rule"):
        advice(score_of("down"), {Event.WRONG: lambda _: "no"})


def score_of(*replies: str) -> Trajectory:
    """Return the episode of a model that says these, from a counter of zero."""
    environment, turns = Steps(), []
    seen = environment.reset({"start": 0, "goal": 9}, 0)
    for reply in replies:
        step = environment.step(reply)
        turns.append(Turn(seen, reply, step.events))
        seen = step.observation
    return Trajectory(tuple(turns), seen, environment.score())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("a", "b")}, "a task with an environment cannot have labels"),
        ({"history": -1}, "history must be 0 or more rounds, not -1"),
        ({"max_rounds": 0}, "max_rounds is 1 or more rounds of an environment's episode, not 0"),
        ({"train": (Example({"text": "x"}, None, "x"),)}, "train example 'x' has no field 'instance'"),
        ({"train": (Example({"instance": "[1]"}, None, "x"),)}, "train example 'x' has no JSON object"),
        ({"seed_prompt": Prompt("Say {instance}")}, "the seed prompt has the slot {instance}"),
    ],
)
def test_a_task_that_cannot_be_played_says_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("{", r"\{").replace("}", r"\}")):
        replace(TASK, **changes)
