"""Coverage of a test's intervals if test examples come in groups, such as those of one customer; a simulation, no model.

    python -m benchmarks.groups --repeats 2000

Each example has a difficulty, and both prompts a reward on it. Difficulties, and the prompts' rewards given difficulty, are
correlated within groups: 0 makes examples independent, 1 makes those of a group copies of each other.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from promptopt.randomness import named_generator
from promptopt.statistics import mean_interval, paired_interval

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

SIZES = {"3": (3,), "1 to 6": (1, 1, 2, 3, 5, 6)}  # of the groups in turn; their mean is 3
EXAMPLES = (30, 100, 300)
CORRELATIONS = (0.0, 0.5, 1.0)
REWARDS = {"0 and 1, rare failures": 0.9, "0 and 1": 0.5, "graded": None}


class Case(NamedTuple):
    """What is simulated.

    Args:
        rewards: key of `REWARDS`.
        examples: number of test examples.
        sizes: key of `SIZES`.
        correlation: of examples of a group.
    """

    rewards: str
    examples: int
    sizes: str
    correlation: float


def draw(case: Case, rng: np.random.Generator) -> tuple[Floats, Floats, list[str]]:
    """Return the rewards of two equally good prompts, [E] each, and the groups [E]."""
    sizes = np.resize(SIZES[case.sizes], case.examples)
    groups = np.repeat(np.arange(case.examples), sizes)[: case.examples]

    def normal() -> Floats:
        own, shared = rng.standard_normal(case.examples), rng.standard_normal(case.examples)[groups]
        values: Floats = np.sqrt(1 - case.correlation) * own + np.sqrt(case.correlation) * shared
        return values

    difficulty = normal()
    first, second = ((difficulty + normal()) / np.sqrt(2) for _ in range(2))  # correlation .5 between prompts
    mean, names = REWARDS[case.rewards], [str(group) for group in groups]
    if mean is None:
        return ndtr(first), ndtr(second), names
    return (first < ndtri(mean)).astype(float), (second < ndtri(mean)).astype(float), names


def coverage(case: Case, repeats: int) -> list[float]:
    """Return how often the 95 % intervals cover: of the mean and of the difference, as if independent and of groups."""
    mean, held = REWARDS[case.rewards] or 0.5, []
    for repeat in range(repeats):
        first, second, groups = draw(case, named_generator(repeat, f"groups {case}"))
        held.append(
            [
                interval.holds(target)
                for clusters in (None, groups)
                for interval, target in (
                    (mean_interval(first, clusters=clusters), mean),
                    (paired_interval(first, second, clusters=clusters), 0.0),
                )
            ]
        )
    return [float(share) for share in np.mean(held, axis=0)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="test sets a case")
    parser.add_argument("--rewards", choices=REWARDS, nargs="+", default=[*REWARDS], help="rows of the table")
    given = parser.parse_args()
    heads = ["rewards", "rows of a group", "correlation", "mean, as if independent", "mean, of groups"]
    heads += ["difference, as if independent", "difference, of groups"]
    print(f"| {' | '.join(heads)} |\n|---|---|---|{'---|' * 4}")
    for rewards, sizes, correlation in product(given.rewards, SIZES, CORRELATIONS):
        cells = [coverage(Case(rewards, examples, sizes, correlation), given.repeats) for examples in EXAMPLES]
        columns = [", ".join(f"{cell[i]:.3f}" for cell in cells) for i in (0, 2, 1, 3)]
        print(f"| {rewards} | {sizes} | {correlation:g} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
