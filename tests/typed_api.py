"""The public API as users type it. Never runs: mypy (in `make check`) proves what each name is to a type checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, assert_type

import numpy as np

import promptopt
from promptopt import (
    Arrival,
    Budget,
    Diagnosis,
    Estimate,
    Example,
    FakeLabelModel,
    FakeModel,
    Label,
    LabelModel,
    Memo,
    Model,
    Prediction,
    Predictor,
    Price,
    Prompt,
    PromptQuine,
    Request,
    Response,
    Result,
    Run,
    Scores,
    Step,
    Strategy,
    Task,
    TokenModel,
    diagnose,
    estimate,
    load_model,
    load_task,
    optimize,
)
from promptopt.results.result import Record
from promptopt.statistics import Interval
from promptopt.testing import check_environment, check_model, check_reward, check_strategy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from enum import Enum
    from pathlib import Path

    from promptopt import Environment, FeedbackRule, Reward
    from promptopt.models.local import LocalModel

    Floats = np.ndarray[Any, np.dtype[np.float64]]

# ---------------------------------------------------------------- a run


def run_with_names(folder: Path) -> None:
    result = optimize("task.toml", "openai:gpt-4.1-mini", budget="2 dollars")
    assert_type(result, Result)
    assert_type(optimize(folder / "task.toml", "local:smollm2", "hillclimb", settings={"proposals": 4}), Result)
    assert_type(result.prompt, Prompt)
    assert_type(result.improved, bool)
    assert_type(result.gain, Interval | None)
    assert_type(result.predictor, Predictor | None)
    assert_type(Predictor.load(folder).bind(load_model("local:smollm2"))({"text": "Fine."}), Prediction)
    assert_type(result.history, tuple[Record, ...])
    assert_type(Result.load(folder), Result)
    assert_type(result.to_json(), dict[str, Any])


def run_with_values(model: Model, folder: Path) -> None:
    items = [Example({"text": "so good"}, "yes", id="1")]
    task = Task(
        train=tuple(items), seed_prompt=Prompt("Review: {text}"), labels=("yes", "no"), reward=Label(("yes", "no"))
    )
    with Memo(folder) as memo:
        budget = Budget(calls=100)
        assert_type(optimize(task, model, PromptQuine(population=7), budget=budget, memo=memo, seed=3), Result)
        assert_type(estimate(task, model), Estimate)
        assert_type(diagnose(task, model), Diagnosis)
    assert_type(load_task("task.toml"), Task)
    assert_type(load_model("openai:m", price=Price(0.4, 1.6)), Model)
    assert_type(promptopt.__version__, str)


# ---------------------------------------------------------------- parts of one's own


class Shouter:
    unit: Literal["reply"] = "reply"
    price = Price(0.0, 0.0)

    def __init__(self) -> None:
        self.fingerprint: Mapping[str, Any] = {"provider": "mine", "model": "shouter"}

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            yield Arrival(number, Response(str(request.context).upper()))


@dataclass(frozen=True, kw_only=True)
class Endings:
    writes = False
    rounds: int = 2

    def search(self, run: Run) -> None:
        assert_type(run.task, Task)
        scores = run.score([run.task.seed_prompt], run.task.train, 2, parents=[None])
        assert_type(scores, Scores)
        assert_type(scores.rewards, Floats)
        assert_type(run.write("Write a prompt.", count=3), list[str])
        assert_type(run.rng, np.random.Generator)
        assert_type(run.restricted_to(run.task.train[:3]), Run)
        run.step(best=0.5)


class Rope:
    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {}

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        return f"{instance} {seed}"

    def step(self, text: str) -> Step:
        return Step(text, done=True)

    def score(self) -> float:
        return 1.0


def polite(example: Example, response: Response) -> tuple[float, str]:
    return float(str(example.target) in response.text), "why"


model: Model = Shouter()
strategy: Strategy = Endings(rounds=3)
environment: Environment = Rope()
reward: Reward = polite
fake: Model = FakeModel(lambda request: request.context if isinstance(request.context, str) else Response("yes"))
labels: LabelModel = FakeLabelModel(lambda _, labels: [-1.0 for _ in labels])


def a_local_model_is_each_of_these(local: LocalModel) -> tuple[Model, LabelModel, TokenModel]:
    return local, local, local


def check_parts(task: Task) -> None:
    check_model(model, repeatable=False)
    check_strategy(strategy, task, model=fake, calls=300)
    check_environment(Rope, [{"length": 3}], ["left"])
    check_reward(reward, task, bounds=(0.0, 1.0))
    optimize(task, 3)  # type: ignore[arg-type]  # unused ignores are errors, so this shows that wrong types are found
    Task(train=(), seed_prompt="text")  # type: ignore[arg-type]
    HalfModel().generate([])
    half: Model = HalfModel()  # type: ignore[assignment]
    assert_type(half, Model)


class HalfModel:
    """No fingerprint: no model."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        yield from (Arrival(number, Response("")) for number, _ in enumerate(requests))
