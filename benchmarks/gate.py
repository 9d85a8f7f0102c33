"""How often `promptopt gate` is wrong, and how many items it takes: `python -m benchmarks.gate` prints tables.

`python -m benchmarks.gate --model local:smollm2` draws from replies of a real model instead: the same prompt, sampled again and again.

Simulated rewards, with the test of the package itself. "A/A" prompts have equal means; at the margin, the new prompt is worse
by exactly the margin, where each answer is wrong most often. Kinds of rewards: 0/1 that differ on a share of the items; F1-like ones,
in 0 to 1, with normal differences; and ones that are nearly equal but for rare losses of 1.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt import Demonstrations, Example, Memo, Prompt, load_model, load_task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.optimization.sequential_test import Aim, Pair, SequentialTest, fewest_items
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.results.gate import Decision
    from promptopt.statistics.arrays import Floats

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
    """Run the test on many simulations."""

    def drawn(seed: int) -> Pair:
        return draw(named_generator(seed, f"gate {kind} {items} {difference}"), kind, items, difference)

    return tested(drawn, items, better=better, repeats=repeats)


def tested(draw_one: Callable[[int], Pair], items: int, *, better: bool, repeats: int) -> Rates:
    """Run the test on the draws of many seeds."""
    decisions: list[Decision] = []
    used = []
    aim = Aim(margin=0.0 if better else MARGIN, better=better, error=ERROR)
    examples = [Example({"x": ""}, None, str(i)) for i in range(items)]
    for seed in range(repeats):
        drawn = draw_one(seed)

        def measure(some: Sequence[Example], drawn: Pair = drawn) -> Pair:
            return Pair(drawn.old[: len(some)], drawn.new[: len(some)])

        test = SequentialTest(aim, examples, measure, Ledger())
        test.run()
        decisions.append(test.decision)
        used.append(test.looks[-1])
    count = len(decisions)
    return Rates(decisions.count("passed") / count, decisions.count("worse") / count, float(np.mean(used)))


def real_rewards(model: str, replicates: int) -> Floats:
    """Return rewards [E, R] of one prompt for examples/helpdesk, whose replies are sampled at temperature 1 and read as text.

    The prompt shows 12 training examples, without which so small a model names no label.
    """
    task = load_task(Path(__file__).parent.parent / "examples" / "helpdesk")
    prompt = Prompt(task.seed_prompt.text, Demonstrations(task.train[:12]))
    task = replace(task, logprobs=False, temperature=1.0, max_tokens=4, stop=("\n",))
    with Memo() as memo:
        scorer = Scorer(task, load_model(model), Caller(memo, Ledger()))
        rewards: Floats = scorer.score([prompt], (*task.validation, *task.test), replicates).rewards[0]
    return rewards


def real_rates(rewards: Floats, items: int, *, better: bool, repeats: int) -> Rates:
    """Run the test on draws of items, and of two different replies of the one prompt to each."""

    def drawn(seed: int) -> Pair:
        rng = named_generator(seed, f"gate real {items}")
        rows = rng.choice(len(rewards), items, replace=False)
        old = rng.integers(rewards.shape[1], size=items)
        new = (old + rng.integers(1, rewards.shape[1], size=items)) % rewards.shape[1]
        return Pair(rewards[rows, old], rewards[rows, new])

    return tested(drawn, items, better=better, repeats=repeats)


def print_real(model: str, replicates: int, repeats: int) -> None:
    """Print a row for each aim."""
    rewards = real_rewards(model, replicates)
    differing = float(np.mean(rewards[:, :1] != rewards[:, 1:]))
    print(f"{model}: {len(rewards)} items x {replicates} replies, mean reward {rewards.mean():.3f}; ", end="")
    print(f"two replies differ in reward on {differing:.0%} of the items")
    sizes = [size for size in (50, 100, 200) if size <= len(rewards)]
    print(f"\nA/A ({repeats} draws each): passed, worse, items")
    print("| | " + " | ".join(f"{size} items" for size in sizes) + " |")
    print("|---" + "|---" * len(sizes) + "|")
    for name, better in (("--better", True), (f"margin {MARGIN}", False)):
        found = [real_rates(rewards, size, better=better, repeats=repeats) for size in sizes]
        print(f"| {name} | " + " | ".join(f"{r.passed:.3f}, {r.worse:.3f}, {r.items:.0f}" for r in found) + " |")


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
    parser.add_argument("--model", help="a real model whose sampled replies to draw from, such as local:smollm2")
    parser.add_argument("--replicates", type=int, default=20, help="replies of the real model to each item")
    given = parser.parse_args()
    repeats = given.repeats
    if given.model:
        print_real(given.model, given.replicates, repeats)
        return
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
