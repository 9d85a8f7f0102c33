"""Built-in multi-step tasks, with instances, seed prompts and baseline scores.

New implementations of the environments of PROMST (Chen et al., EMNLP 2024, arXiv 2402.08702). `python -m
promptopt.environments` prints the floors and the ceiling of each.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Literal, TypeAlias

from promptopt.environments import blocksworld, boxlift, boxnet, boxnet2, gridworld, logistics, warehouse
from promptopt.environments.events import Event as Event
from promptopt.errors import InputError, nearest
from promptopt.prompt import Example, Prompt
from promptopt.randomness import named_generator
from promptopt.task import Task

if TYPE_CHECKING:
    from promptopt.environments.base import Instance, World

Preset: TypeAlias = Literal["small", "paper"]
PRESETS: tuple[Preset, ...] = ("small", "paper")

WORLDS: dict[str, World] = {
    "gridworld1": gridworld.GRIDWORLD1,
    "gridworld2": gridworld.GRIDWORLD2,
    "boxlift": boxlift.BOXLIFT,
    "boxnet1": boxnet.BOXNET1,
    "boxnet2": boxnet2.BOXNET2,
    "warehouse": warehouse.WAREHOUSE,
    "blocksworld": blocksworld.BLOCKSWORLD,
    "logistics": logistics.LOGISTICS,
}


def instances(name: str, count: int, *, seed: int = 0, preset: Preset = "small", **size: int) -> list[Instance]:
    """Return distinct instances that the oracle solves; a larger `count` extends the same list.

    Args:
        name: of the environment, a key of `WORLDS`.
        count: number of instances.
        seed: of the draw.
        preset: "small", or "paper", which cycles through the paper's sizes.
        **size: overrides of the preset "small".

    Raises:
        InputError: an unknown name, preset or size; or there are fewer than `count` instances.
    """
    if name not in WORLDS:
        raise InputError(f"there is no environment {name!r}{nearest(name, WORLDS)}; available: {', '.join(WORLDS)}")
    if preset not in PRESETS:
        raise InputError(f"preset must be 'small' or 'paper', not {preset!r}")
    if preset == "paper" and size:
        raise InputError(f"the preset 'paper' has its own sizes: remove {', '.join(size)}")
    world = WORLDS[name]
    parameters = inspect.signature(world.instances).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for key in size:
        if key not in known:
            raise InputError(f"{name} has no size {key!r}{nearest(key, known)}; it has: {', '.join(known)}")
    sizes = world.paper if preset == "paper" else (size,)
    drawn = [
        world.instances(len(range(i, count, len(sizes))), named_generator(seed, f"{name} {preset} {i}"), **sizes[i])
        for i in range(len(sizes))
    ]
    return [drawn[i % len(sizes)][i // len(sizes)] for i in range(count)]


def task(
    name: str,
    *,
    train: int = 12,
    validation: int = 12,
    test: int = 24,
    seed: int = 0,
    preset: Preset = "small",
    **size: int,
) -> Task:
    """Return a task whose examples are distinct instances; the test split does not depend on the size of the others.

    Args:
        name: of the environment, a key of `WORLDS`.
        train: number of training instances.
        validation: number of validation instances.
        test: number of test instances.
        seed: of the draw.
        preset: "small", or "paper", which cycles through the paper's sizes.
        **size: overrides of the preset "small".

    Raises:
        InputError: as for `instances`.
    """
    remaining = instances(name, test + validation + train, seed=seed, preset=preset, **size)
    examples: dict[str, tuple[Example, ...]] = {}
    for split, count in (("test", test), ("validation", validation), ("train", train)):
        drawn, remaining = remaining[:count], remaining[count:]
        examples[split] = tuple(
            Example({"instance": json.dumps(instance)}, None, f"{name}-{split}-{number}")
            for number, instance in enumerate(drawn, start=1)
        )
    world = WORLDS[name]
    return Task(
        train=examples["train"],
        validation=examples["validation"],
        test=examples["test"],
        seed_prompt=Prompt(world.prompt),
        description=world.description,
        name=name,
        environment=world.environment,
    )
