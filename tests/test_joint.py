"""Joint search, on the simulated models of its benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import toys

from promptopt import (
    Demonstrations,
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    FunctionModel,
    HillClimb,
    InputError,
    Memo,
    Number,
    Prompt,
    Task,
    optimize,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.replies import Arrival
from promptopt.search.run import Run
from promptopt.strategies import Joint
from promptopt.strategies.joint import _changed
from promptopt.testing import check_strategy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from promptopt.models.base import Request

LABELS = ("yes", "no")
EXAMPLES = tuple(Example({"input": f"item {i}"}, LABELS[i % 2], str(i)) for i in range(12))


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        yield pytest.importorskip("benchmarks.joint", reason="benchmarks come with a checkout only")


def test_it_finds_better_prompts_than_a_search_of_instructions_at_the_same_budget(benchmark: Any) -> None:
    worlds = [benchmark.World(number) for number in range(4)]
    joint, climbed = (
        [world.accuracy(world.run(strategy, "500 calls").prompt) for world in worlds]
        for strategy in (Joint(), HillClimb())
    )

    assert np.mean(joint) > np.mean(climbed) + 0.1


def test_it_keeps_the_promises_of_a_strategy() -> None:
    check_strategy(Joint())
    check_strategy(Joint(instructions=1))


def test_a_finer_fitness_is_searched_by_and_the_reward_is_claimed(tmp_path: Path) -> None:
    model = FakeLabelModel(toys.logprobs, "spoilers-labels")
    strategy = Joint(instructions=1, fitness="likelihood")
    result = optimize(toys.TASK, model, strategy, budget="400 calls", memo=tmp_path, tracking=False)

    assert all(record.fitness < 0 for record in result.history if record.fitness is not None)
    assert all(0 <= record.reward <= 1 for record in result.history if record.reward is not None)
    with pytest.raises(InputError, match="fitness must be 'margin', 'likelihood' or 'reward', not 'x'"):
        Joint(fitness="x")  # type: ignore[arg-type]


def test_with_one_instruction_the_writer_is_never_asked(benchmark: Any) -> None:
    result = benchmark.World(0).run(Joint(instructions=1), "500 calls")

    assert not Joint(instructions=1).writes
    assert "writer" not in result.used or not result.used["writer"].calls
    assert {record.prompt.text for record in result.history} == {benchmark.SEED_PROMPT}
    assert len({record.prompt.demonstrations for record in result.history}) > 5


def test_worked_answers_of_the_model_become_demonstrations(benchmark: Any) -> None:
    numbers = tuple(Example({"input": f"{i} and 1"}, str(i + 1), str(i)) for i in range(40))

    def answer(request: Request) -> str:
        system, shown, query = benchmark.parts(request)
        right = benchmark.uniform(system, tuple(shown), query) < 0.5
        return f"{query} make {int(query.split()[0]) + (1 if right else 2)}."

    task = Task(train=numbers[:24], validation=numbers[24:], seed_prompt=Prompt("Add."), reward=Number())
    model = FunctionModel(answer, name="adder", version="1")
    result = optimize(task, model, Joint(instructions=1), budget="400 calls", tracking=False)
    targets = {item.target for r in result.history if r.prompt.demonstrations for item in r.prompt.demonstrations.items}

    assert any(target is not None and " make " in target for target in targets)


def test_a_model_that_never_replies_ends_the_search(tmp_path: Path) -> None:
    class Failing(FakeModel):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            return (Arrival(number, Failure("no reply")) for number, _ in enumerate(requests))

    task = Task(train=EXAMPLES, seed_prompt=Prompt("Yes or no?"), labels=LABELS)
    with Memo(tmp_path) as memo:
        scorer = Scorer(task, Failing(lambda _: ""), Caller(memo, Ledger()))
        run = Run(task, np.random.default_rng(0), 0, scorer)
        Joint(instructions=1).search(run)

    assert len(run.archive) > 1
    assert all(np.isnan(candidate.fitness) for candidate in run.archive.values())


@pytest.mark.parametrize("seed", range(6))
def test_a_changed_set_is_another_one_without_repetitions(seed: int) -> None:
    shown = Demonstrations(EXAMPLES[:4])
    changed = _changed(shown, EXAMPLES, np.random.default_rng(seed))

    assert 3 <= len(changed.items) <= 5
    assert len(set(changed.items)) == len(changed.items)
    assert changed != shown or seed  # another order may be the same one by chance


def test_a_candidate_comes_from_the_one_that_it_differs_from_by_its_newest_part(benchmark: Any) -> None:
    result = benchmark.World(0).run(Joint(), "500 calls")
    pairs = [(result.history[r.parent].prompt, r.prompt) for r in result.history if r.parent]
    kept_text = [one.text == other.text for one, other in pairs]

    assert len(pairs) > 10
    assert 0 < sum(kept_text) < len(pairs)
    assert all(
        kept or one.demonstrations == other.demonstrations for kept, (one, other) in zip(kept_text, pairs, strict=True)
    )
