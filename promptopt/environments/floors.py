"""Floors and ceilings of environments: scores of policies that do not use a prompt."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.environment import Choosing
from promptopt.environments.base import play
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from promptopt.environments.base import PlayableEnvironment


class Floors(NamedTuple):
    """Mean scores over the same instances, 0 to 1.

    Args:
        nothing: of no action at all.
        choice: of uniformly random actions, the floor for models that choose by log-probability; None if the environment
            cannot list its actions.
        legal: of uniformly random legal actions. This policy knows rules that a model must be told or discover.
        oracle: of the best known play, which may use hidden state such as BoxLift's weights.
        rounds: mean number of rounds that the oracle takes.
    """

    nothing: float
    choice: float | None
    legal: float
    oracle: float
    rounds: float


def floors(make: Callable[[], PlayableEnvironment], instances: Sequence[Mapping[str, Any]], seed: int = 0) -> Floors:
    """Play each policy once on each instance.

    Args:
        make: creates an environment.
        instances: at least one.
        seed: of the random policies.
    """
    rng = named_generator(seed, "floors")
    nothing, choice, legal, oracle, rounds = [], list[float](), [], [], []
    for instance in instances:
        world = make()
        world.reset(instance, seed)
        nothing.append(world.score())
        legal.append(play(world, instance, partial(world.random_reply, rng), seed).score)
        if isinstance(world, Choosing):
            choice.append(play(world, instance, partial(_random_action, world, rng), seed).score)
        best = play(world, instance, world.oracle, seed)
        oracle.append(best.score)
        rounds.append(len(best.turns))
    return Floors(
        float(np.mean(nothing)),
        float(np.mean(choice)) if choice else None,
        float(np.mean(legal)),
        float(np.mean(oracle)),
        float(np.mean(rounds)),
    )


def table(rows: Mapping[str, Floors]) -> str:
    """Return the floors of named environments as a Markdown table."""
    lines = [
        "| environment | do nothing | any action | random legal | oracle | its rounds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        choice = "-" if row.choice is None else f"{row.choice:.3f}"
        lines.append(
            f"| {name} | {row.nothing:.3f} | {choice} | {row.legal:.3f} | {row.oracle:.3f} | {row.rounds:.1f} |"
        )
    return "\n".join(lines)


def _random_action(world: Choosing, rng: np.random.Generator) -> str:
    actions = world.actions()
    return actions[rng.integers(len(actions))]
