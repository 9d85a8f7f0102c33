"""How often `promptopt gate` is wrong, and how many items it takes: `python -m benchmarks.gate` prints tables.

Simulated rewards, with the test of the package itself. "A/A" prompts have equal means; at the margin, the new prompt is worse
by exactly the margin, where each answer is wrong most often. Kinds of rewards: 0/1 that differ on a share of the items; F1-like ones,
in 0 to 1, with normal differences; and ones that are nearly equal but for rare losses of 1.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt import Example
from promptopt.evaluation.ledger import Ledger
from promptopt.optimization.sequential_test import Aim, Pair, SequentialTest, fewest_items
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.gate import Decision

ERROR, MARGIN = 0.05, 0.02
SIZES = (50, 200, 1000)


class Rates(NamedTuple):
    """Shares of the decisions, and the mean number of items."""

    passed: float
    worse: float
    items: float


def draw(rng: np.random.Generator, kind: str, items: int, difference: float) -> Pair:
    """Draw rewards [E] of an old and a new prompt whose means differ by `difference`."""
    uniform = rng.random(items)
    if kind.startswith("0/1"):
        differing = float(kind.split()[1])
        won = uniform < (differing + difference) / 2
        lost = ~won & (uniform < differing)
        both = rng.random(items) < 0.7  # noqa: PLR2004  share of right answers elsewhere
        return Pair(np.where(won, 0.0, np.where(lost, 1.0, both)), np.where(won, 1.0, np.where(lost, 0.0, both)))
    old = np.clip(0.7 + 0.1 * rng.standard_normal(items), 0.3, 1.0)
    if kind == "F1-like":
        return Pair(old, np.clip(old + difference + 0.1 * rng.standard_normal(items), 0.0, 1.0) - _bias(difference))
    lost = uniform < -difference
    return Pair(np.ones(items), np.where(lost, 0.0, 1.0 - 1e-4 * rng.random(items)))


def _bias(difference: float) -> float:
    """Return how far clipping moves the mean of F1-like rewards from `difference`, from many draws with a fixed seed."""
    if difference not in _BIASES:
        rng = named_generator(0, "gate bias")
        old = np.clip(0.7 + 0.1 * rng.standard_normal(1_000_000), 0.3, 1.0)
        new = np.clip(old + difference + 0.1 * rng.standard_normal(1_000_000), 0.0, 1.0)
        _BIASES[difference] = float((new - old).mean()) - difference
    return _BIASES[difference]


_BIASES: dict[float, float] = {}


def rates(kind: str, items: int, difference: float, *, better: bool, repeats: int) -> Rates:
    """Run the test on many draws."""
    decisions: list[Decision] = []
    used = []
    aim = Aim(margin=0.0 if better else MARGIN, better=better, error=ERROR)
    examples = [Example({"x": ""}, None, str(i)) for i in range(items)]
    for seed in range(repeats):
        drawn = draw(named_generator(seed, f"gate {kind} {items} {difference}"), kind, items, difference)

        def measure(some: Sequence[Example], drawn: Pair = drawn) -> Pair:
            return Pair(drawn.old[: len(some)], drawn.new[: len(some)])

        test = SequentialTest(aim, examples, measure, Ledger())
        test.run()
        decisions.append(test.decision)
        used.append(test.looks[-1])
    count = len(decisions)
    return Rates(decisions.count("passed") / count, decisions.count("worse") / count, float(np.mean(used)))


def print_table(title: str, cases: Sequence[tuple[str, float]], *, better: bool, repeats: int) -> None:
    """Print a row for each kind of reward and difference."""
    print(f"\n{title} ({repeats} simulations each): passed, worse, items")
    print("| rewards | difference | " + " | ".join(f"{size} items" for size in SIZES) + " |")
    print("|---|---" + "|---" * len(SIZES) + "|")
    for kind, difference in cases:
        found = [rates(kind, size, difference, better=better, repeats=repeats) for size in SIZES]
        cells = [f"{r.passed:.3f}, {r.worse:.3f}, {r.items:.0f}" for r in found]
        print(f"| {kind} | {difference:+.2f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000, help="simulations for each false-alarm rate")
    repeats = parser.parse_args().repeats
    kinds = ("0/1 0.03", "0/1 0.1", "0/1 0.3", "F1-like")
    print_table("A/A, --better", [(kind, 0.0) for kind in kinds], better=True, repeats=repeats)
    print_table(f"A/A, margin {MARGIN}", [(kind, 0.0) for kind in kinds], better=False, repeats=repeats)
    at_margin = [*((kind, -MARGIN) for kind in kinds), ("rare losses", -MARGIN)]
    print_table(f"at the margin of {MARGIN}", at_margin, better=False, repeats=repeats)
    worse = [("0/1 0.1", -0.05), ("0/1 0.3", -0.1), ("0/1 0.3", -0.2), ("0/1 0.5", -0.4)]
    print_table(f"worse, margin {MARGIN}", worse, better=False, repeats=max(repeats // 5, 1))
    print_table("better, --better", [("0/1 0.1", 0.05), ("0/1 0.3", 0.1)], better=True, repeats=max(repeats // 5, 1))
    shown = ", ".join(f"{margin:g}: {fewest_items(margin):,}" for margin in (0.01, 0.02, 0.03, 0.05, 0.1))
    print(f"\nfewest items on which 0/1 rewards that never differ pass, by margin: {shown}")


if __name__ == "__main__":
    main()
