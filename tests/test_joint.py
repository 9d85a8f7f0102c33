"""Joint search, on a simulated model whose accuracy depends on instruction and demonstrations."""

from __future__ import annotations

import hashlib
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt import Demonstrations, Example, FunctionModel, HillClimb, Number, Prompt, Task, optimize
from promptopt.strategies import Joint
from promptopt.strategies.joint import _changed
from promptopt.testing import check_strategy

if TYPE_CHECKING:
    from promptopt import Result, Strategy
    from promptopt.models.base import Request

LABELS = ("alpha", "beta", "gamma")
ITEMS = {f"item {i}": LABELS[i % 3] for i in range(120)}


def uniform(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") / 2**64


def normal(*parts: object) -> float:
    return NormalDist().inv_cdf(min(max(uniform(*parts), 1e-9), 1 - 1e-9))


def quality(world: int, instruction: str, shown: tuple[str, ...]) -> float:
    """Return how often a prompt is right: demonstrations help, and the best instruction is another with them."""
    effect = 0.12 * normal(world, instruction, bool(shown))
    return 0.35 + effect + (0.15 + 0.08 * normal(world, *sorted(shown)) if shown else 0.0)


def parts_of(request: Request) -> tuple[str, tuple[str, ...], str]:
    turns = [turn for turn in request.context if not isinstance(turn, str)]
    system = next((turn.content for turn in turns if turn.role == "system"), "")
    *shown, query = (turn.content for turn in turns if turn.role == "user")
    return system, tuple(shown), query


def found_by(strategy: Strategy, world: int, budget: str = "500 calls") -> Result:
    def answer(request: Request) -> str:
        system, shown, query = parts_of(request)
        right = uniform(world, "reply", system, shown, query) < quality(world, system, shown)
        return ITEMS[query] if right else LABELS[int(3 * uniform(world, "wrong", system, shown, query))]

    def write(request: Request) -> str:
        drawn = (int(1e6 * uniform(request.context, request.replicate, i)) for i in range(8))
        return "\n".join(f"<prompt>Sort the item in way {way}.</prompt>" for way in drawn)

    examples = tuple(Example({"input": item}, label, item) for item, label in ITEMS.items())
    task = Task(train=examples[:40], validation=examples[40:70], seed_prompt=Prompt("Sort the item."), labels=LABELS)
    models = FunctionModel(answer, name="sorter", version=str(world)), FunctionModel(write, name="writer", version="1")
    return optimize(task, models[0], strategy, writer=models[1], budget=budget, tracking=False)


def worth(result: Result, world: int) -> float:
    shown = result.prompt.demonstrations
    items = shown.items[: shown.nearest] if shown else ()
    return quality(world, result.prompt.text, tuple(item.inputs["input"] for item in items))


def test_it_finds_better_prompts_than_a_search_of_instructions_at_the_same_budget() -> None:
    joint, climbed = ([worth(found_by(s, world), world) for world in range(4)] for s in (Joint(), HillClimb()))

    assert np.mean(joint) > np.mean(climbed) + 0.1


def test_it_keeps_the_promises_of_a_strategy() -> None:
    check_strategy(Joint())
    check_strategy(Joint(instructions=1))


def test_with_one_instruction_the_writer_is_never_asked() -> None:
    result = found_by(Joint(instructions=1), 0)

    assert not Joint(instructions=1).writes
    assert "writer" not in result.used or not result.used["writer"].calls
    assert {record.prompt.text for record in result.history} == {"Sort the item."}
    assert len({record.prompt.demonstrations for record in result.history}) > 5


def test_worked_answers_of_the_model_become_demonstrations() -> None:
    numbers = tuple(Example({"input": f"{i} and 1"}, str(i + 1), str(i)) for i in range(40))

    def answer(request: Request) -> str:
        system, shown, query = parts_of(request)
        right = uniform(system, shown, query) < 0.5
        return f"{query} make {int(query.split()[0]) + (1 if right else 2)}."

    task = Task(train=numbers[:24], validation=numbers[24:], seed_prompt=Prompt("Add."), reward=Number())
    result = optimize(
        task,
        FunctionModel(answer, name="adder", version="1"),
        Joint(instructions=1),
        budget="400 calls",
        tracking=False,
    )
    targets = {item.target for r in result.history if r.prompt.demonstrations for item in r.prompt.demonstrations.items}

    assert any(target is not None and " make " in target for target in targets)


@pytest.mark.parametrize("seed", range(6))
def test_a_changed_set_is_another_one_without_repetitions(seed: int) -> None:
    train = [Example({"input": item}, label, item) for item, label in list(ITEMS.items())[:12]]
    shown = Demonstrations(tuple(train[:4]))
    changed = _changed(shown, train, np.random.default_rng(seed))

    assert 3 <= len(changed.items) <= 5
    assert len(set(changed.items)) == len(changed.items)
    assert changed != shown or seed  # another order may be the same one by chance
