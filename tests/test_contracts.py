"""What models, strategies, environments and rewards promise: ours keep it, and what is broken is said."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import toys
from servers.loopback import Loopback

from promptopt import (
    Arrival,
    BudgetExhaustedError,
    Exact,
    Example,
    FakeLabelModel,
    FakeModel,
    FunctionModel,
    Price,
    Progress,
    Prompt,
    Response,
    Run,
    Step,
    load_model,
)
from promptopt.environments import WORLDS, instances, task
from promptopt.environments.base import play
from promptopt.models.local import LocalModel
from promptopt.rewards import reward_named
from promptopt.strategies.registry import BUILT_IN, find_strategy
from promptopt.testing import check_environment, check_model, check_reward, check_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from promptopt.environment import FeedbackRule

# ---------------------------------------------------------------- ours


def test_models_that_are_functions_keep_the_contract() -> None:
    check_model(FakeModel(lambda _: "yes"))
    check_model(FunctionModel(lambda _: "yes", name="yes", version="1"))
    check_model(FakeLabelModel(toys.logprobs), contexts=("item1", "item2 never"))


def test_a_local_model_keeps_the_contract(tiny_llama: Path) -> None:
    check_model(LocalModel(str(tiny_llama)))


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_hosted_model_keeps_the_contract(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{kind.upper()}_API_KEY", "a-key-that-no-result-shows")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Loopback(lambda body: str(len(str(body)))) as server:
        check_model(load_model(f"{kind}:m", base_url=f"{server.url}/v1" if kind == "openai" else server.url))


# Settings of strategies whose own defaults are tested as well, and that take long.
WIDE = {"p1.paper", "hillclimb.paper", "hillclimb.positives_only", "hillclimb.opro", "hillclimb.protegi"}
SMALLER = {"unsupervised.paper": {"samples": "4", "positions": "3"}}  # whole, it takes longer than all others


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.wide if n in WIDE else ()) for n in BUILT_IN])
def test_a_strategy_keeps_the_contract(name: str) -> None:
    check_strategy(
        find_strategy(name, SMALLER.get(name)), task("gridworld1", train=4) if name.startswith("promst") else None
    )


@pytest.mark.parametrize("name", WORLDS)
def test_an_environment_keeps_the_contract(name: str) -> None:
    drawn, solver = instances(name, 2), WORLDS[name].environment()
    best = play(solver, drawn[0], solver.oracle)
    check_environment(WORLDS[name].environment, drawn, [turn.reply for turn in best.turns])
    check_reward(Progress(), task(name, train=1))


@pytest.mark.parametrize("name", ["exact", "contains", "f1", "label", "margin", "number", "regex:(yes|no)"])
def test_a_reward_keeps_the_contract(name: str) -> None:
    numbers = replace(toys.TASK, train=(Example({"text": "6 x 7"}, "42", "1"),), labels=(), reward=Exact())
    given = numbers if name == "number" else toys.TASK
    check_reward(reward_named(name, toys.LABELS), given, bounds=(-180, 200) if name == "margin" else (0, 1))


# ---------------------------------------------------------------- broken models


class Broken(FakeModel):
    def __init__(self, **parts: Any) -> None:
        super().__init__(lambda _: "yes")
        for name, value in parts.items():
            setattr(self, name, value)


def replying(*arrivals: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def generate(requests: Iterable[Any]) -> Iterator[Any]:
        return iter(arrivals if list(requests) else ())

    return generate


def raising(requests: Iterable[Any]) -> Iterator[Arrival]:
    if list(requests):
        raise OSError("no route")
    return iter(())


CHANGES = count()


class Changing(FakeModel):
    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"model": next(CHANGES)}

    @fingerprint.setter
    def fingerprint(self, value: Any) -> None: ...


YES = [Arrival(n, Response("yes")) for n in range(3)]
MODELS: list[tuple[Any, str]] = [
    (object(), "object is not a model: it needs"),
    (Broken(fingerprint={"model": {1, 2}}), "is not plain JSON"),
    (Broken(fingerprint={"model": ("a", "b")}), "is not the same when read twice, or from JSON"),
    (Broken(fingerprint={}), "is empty"),
    (Broken(fingerprint={"model": "m", "key": "sesame-open"}), "holds the value of DOOR_API_KEY"),
    (Changing(lambda _: "yes"), "is not the same when read twice"),
    (Broken(unit="reply by reply"), "not 'reply' or 'batch'"),
    (Broken(price=Price(-1, 0)), r"the price of Broken is Price\(input=-1"),
    (Broken(generate=replying(*YES[:2])), r"3 requests with the numbers \[0, 1\]"),
    (Broken(generate=replying(*YES, YES[0])), r"with the numbers \[0, 1, 2, 0\]"),
    (Broken(generate=replying(*YES[:2], Arrival(2, "yes"))), "gives 'yes': give a Response"),  # type: ignore[arg-type]
    (Broken(generate=replying(*YES[:2], Arrival(2, Response("", finish_reason="end")))), "finish_reason"),  # type: ignore[arg-type]
    (Broken(generate=raising), r"raised OSError \(no route\): yield a Failure"),
    (Broken(generate=lambda _: iter(YES)), "answers although nothing was asked"),
    (FakeModel(lambda _: str(next(CHANGES))), "to the same requests at temperature 0"),
    (FakeLabelModel(lambda _, labels: [-1.0] * (len(labels) - 1)), "give one log-probability for each"),
    (FakeLabelModel(lambda _, __: [0.5, 0.5]), "natural log-probabilities are 0 or less"),
    (FakeLabelModel(lambda _, __: [-1.0, -2.0]), "in their order"),
]


@pytest.mark.parametrize(("model", "message"), MODELS)
def test_a_model_that_breaks_a_promise_is_told_which(model: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_API_KEY", "sesame-open")
    with pytest.raises(AssertionError, match=message):
        check_model(model)


def test_a_tokenizer_that_loses_text_is_found_out() -> None:
    with pytest.raises(AssertionError, match="another text when joined"):
        check_model(Broken(pieces=str.split))


# ---------------------------------------------------------------- broken strategies


@dataclass
class Searching:
    """A strategy whose search is a function."""

    search: Callable[[Run], None]
    writes: bool = False
    tried: int = 0


def by_chance(draw: Callable[[], float]) -> Callable[[Run], None]:
    return lambda run: void(run.score([Prompt(f"{draw()} {{text}}")]))


def void(_: object) -> None: ...


def forever(run: Run) -> None:
    for number in count():
        try:
            run.score([Prompt(f"{number} {{text}}")])
        except BudgetExhaustedError:
            continue


class Counting:
    writes: ClassVar[bool] = False
    prompts = count()

    def search(self, run: Run) -> None:
        run.score([Prompt(f"{next(self.prompts)} {{text}}")])


STRATEGIES: list[tuple[Any, str]] = [
    (Counting, "is not a strategy"),
    (Searching(void, writes=1), "`writes` of Searching is 1"),  # type: ignore[arg-type]
    (Searching(by_chance(random.random)), "draws from the global random numbers|makes calls when a run is repeated"),
    (Searching(by_chance(np.random.default_rng().random)), "makes calls when a run is repeated"),
    (Counting(), "makes calls when a run is repeated"),
    (Searching(forever), "Searching goes on asking after BudgetExhaustedError"),
]


@pytest.mark.parametrize(("strategy", "message"), STRATEGIES)
def test_a_strategy_that_breaks_a_promise_is_told_which(strategy: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)


# ---------------------------------------------------------------- broken environments


class Fall(Enum):
    DOWN = "fell"
    UP = "rose"


class Rope:
    """Three steps; the reply "left" falls."""

    rules: ClassVar[Mapping[Any, FeedbackRule]] = {Fall.DOWN: lambda _: "Do not step left."}

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  the protocol's
        self.steps = 0
        return f"{instance['length']} to go"

    def step(self, text: str) -> Step:
        self.steps += 1
        fallen = text == "left"
        return Step("on", fallen or self.steps == 3, (Fall.DOWN,) if fallen else ())

    def score(self) -> float:
        return self.steps / 3


class Named(Rope):
    rules: ClassVar[Mapping[Any, FeedbackRule]] = {"fell": str}


class Ruleless(Rope):
    def step(self, text: str) -> Step:
        return super().step(text)._replace(events=(Fall.UP,))


class Picky(Rope):
    def step(self, text: str) -> Step:
        return super().step(str(["left", "right"].index(text)))


class Mute(Rope):
    rules: ClassVar[Mapping[Any, FeedbackRule]] = {Fall.DOWN: lambda _: ""}


class Shared(Rope):
    walked: ClassVar[list[str]] = []

    def step(self, text: str) -> Step:
        self.walked.append(text)
        return super().step(text)._replace(observation=f"{len(self.walked)} steps")


class Unreset(Rope):
    steps = 0

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  the protocol's
        return f"{instance['length']} to go"

    def score(self) -> float:
        return min(super().score(), 1)


class Greedy(Rope):
    def score(self) -> float:
        return self.steps


class Eating(Rope):
    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        instance.update(length=instance["length"] - 1)  # type: ignore[attr-defined]
        return super().reset(instance, seed)


class Chancy(Rope):
    def step(self, text: str) -> Step:
        random.random()  # noqa: S311  the mistake
        return super().step(text)


class Choiceless(Rope):
    def actions(self) -> tuple[str, ...]:
        return ("right", "right")


ENVIRONMENTS: list[tuple[Callable[[], Any], str]] = [
    (Named, "give a function for each member of an enum"),
    (Ruleless, "the event Fall.UP has no feedback rule"),
    (Picky, r"Picky raised ValueError \(.*\) for the reply '': turn it into an event"),
    (Mute, "the rule of Mute for Fall.DOWN gives ''"),
    (Shared, "another episode, with an environment that was used before and reset"),
    (Unreset, "another episode, with an environment that was used before and reset"),
    (Greedy, "gives the score 2: keep it between 0 and 1"),
    (Eating, "Eating changes the instance"),
    (Chancy, "Chancy draws from the global random numbers"),
    (Choiceless, "two or more different actions"),
]


def test_an_environment_of_ones_own_may_keep_the_contract() -> None:
    check_environment(Rope, [{"length": 3}], ["right", "left"])


@pytest.mark.parametrize(("make", "message"), ENVIRONMENTS)
def test_an_environment_that_breaks_a_promise_is_told_which(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_environment(make, [{"length": 3}], ["right", "left"])


# ---------------------------------------------------------------- broken rewards


def changing(example: Example, response: Response) -> float:
    example.inputs.clear()  # type: ignore[attr-defined]
    return 0.0


REWARDS: list[tuple[Any, str]] = [
    (lambda _, response: float(response.text[0] == "y"), "raised IndexError"),
    (lambda _, response: len(response.text), "keep it between 0 and 1, or pass bounds"),
    (lambda _, __: float("nan"), "return a finite number"),
    (lambda _, __: (next(CHANGES) % 2, ""), "let it depend on nothing else"),
    (lambda _, __: random.random(), "the reward draws from the global random numbers"),  # noqa: S311  the mistake
    (changing, "the reward changes the example 'train0'"),
]


@pytest.mark.parametrize(("reward", "message"), REWARDS)
def test_a_reward_that_breaks_a_promise_is_told_which(reward: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_reward(reward, replace(toys.TASK, train=toys.splits(3)["train"]))
