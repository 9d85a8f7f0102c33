"""What a search maximizes: the task's reward, or a finer measure of labelled answers. The choice and the test use the task's reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from promptopt.errors import InputError
from promptopt.rewards import LabelLikelihood, LabelMargin

if TYPE_CHECKING:
    from promptopt.rewards import Reward
    from promptopt.search.run import Run

Fitness: TypeAlias = Literal["margin", "likelihood", "reward"]
"""The label margin, the logarithm of the right label's probability, or the task's own reward."""


def reward_of(run: Run, fitness: Fitness) -> Reward | None:
    """Return the reward that a search maximizes; None for the task's own, which tasks without labels always have."""
    if fitness == "reward" or not run.task.labels:
        return None
    return LabelMargin(run.task.labels) if fitness == "margin" else LabelLikelihood(run.task.labels)


def check_fitness(fitness: str) -> None:
    """Raise InputError if the fitness is unknown."""
    if fitness not in get_args(Fitness):
        raise InputError(f"fitness must be 'margin', 'likelihood' or 'reward', not {fitness!r}")
