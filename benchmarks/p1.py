"""Choosing user prompts: a simulation, and MAWPS with a local model.

`python -m benchmarks.p1` simulates what the choice of a subset is worth: the filter sees N = 16 system
prompts x M = 32 replies, then the best of 16 fresh candidates is taken by B replies each. Numbers are the true gain of
that candidate over the average one, on all user prompts. The regimes are ours, after what the paper's data look like.

`python -m benchmarks.p1 --data FOLDER --model local:NAME` diagnoses MAWPS and narrows it: the p1 choice, with and without
the guard, random subsets of equal size and replies, and all examples, each picking among fresh prompts that took no part
in the choice; compared on held-out problems.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from promptopt import Example, Memo, Number, Prompt, Run, Task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.models import load_model
from promptopt.randomness import named_generator
from promptopt.search.subsets import best_subset, held_out_score
from promptopt.statistics import paired_interval
from promptopt.statistics.arrays import Floats
from promptopt.statistics.components import components, shrunken_covariance
from promptopt.strategies import P1
from promptopt.strategies.p1 import probe

USERS, SYSTEMS, REPLIES, FRESH = 30, 16, 32, 16
Draw: TypeAlias = Callable[[np.random.Generator, int], Floats]


def two_way(system: float, interaction: float) -> Draw:
    """Return qualities that all user prompts share, and preferences of single ones."""

    def draw(rng: np.random.Generator, count: int) -> Floats:
        return rng.normal(0, system, (count, 1)) + rng.normal(0, interaction, (count, USERS))

    return draw


def loaded(loading: Floats, interaction: float) -> Draw:
    """Return one common quality that reaches each user prompt by its loading."""

    def draw(rng: np.random.Generator, count: int) -> Floats:
        return rng.normal(0, 1, (count, 1)) * loading + rng.normal(0, interaction, (count, USERS))

    return draw


FEW = np.array([0.15] * 5 + [0.01] * 25)
CAMPS = np.array([0.12] * 18 + [-0.12] * 12)
REGIMES: dict[str, tuple[Draw, int]] = {
    "homogeneous": (two_way(0.07, 0.03), 32),
    "few prompts carry the common factor": (loaded(FEW, 0.02), 32),
    "few prompts, B = 128": (loaded(FEW, 0.02), 128),
    "weak common factor": (two_way(0.02, 0.08), 128),
    "purely idiosyncratic": (two_way(0.0, 0.08), 128),
    "two opposed camps": (loaded(CAMPS, 0.03), 32),
    "two opposed camps, B = 128": (loaded(CAMPS, 0.03), 128),
}
HEAD = ("regime", "B", "all", "random pair", "p1 pair", "p1 + guard", "4 + guard", "oracle")


def simulate(draws: int, seed: int) -> None:
    """Print one row a regime: mean true gain, and twice its standard error for p1 with the guard."""
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for name, (draw, replies) in REGIMES.items():
        rng = named_generator(seed, name)
        gains = np.array([one_choice(draw, replies, rng) for _ in range(draws)])
        means, errors = gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(draws)
        cells = " | ".join(f"{mean:.4f}" for mean in means)
        print(f"| {name} | {replies} | {cells} | (2 SE {2 * errors[3]:.4f})")


def one_choice(draw: Draw, replies: int, rng: np.random.Generator) -> list[float]:
    """Return the gains of all examples, a random pair, the p1 pair, the same with the guard, four of them, the oracle."""
    base = rng.uniform(0.3, 0.7, USERS)
    chance = np.clip(base + draw(rng, SYSTEMS), 0.02, 0.98)
    seen = (rng.random((SYSTEMS, USERS, REPLIES)) < chance[..., None]).astype(np.float64)
    matrix = shrunken_covariance(seen)
    everything = tuple(range(USERS))
    subsets = [
        everything,
        tuple(rng.choice(USERS, 2, replace=False).tolist()),
        best_subset(matrix, 2, aligned=False) or everything,
        best_subset(matrix, 2) or everything,
        best_subset(matrix, 4) or everything,
    ]
    fresh = np.clip(base + draw(rng, FRESH), 0.02, 0.98)
    truth = fresh.mean(axis=1) - fresh.mean()
    return [*(float(truth[_picked(fresh, subset, replies, rng)]) for subset in subsets), float(truth.max())]


def _picked(fresh: Floats, subset: Sequence[int], replies: int, rng: np.random.Generator) -> int:
    """Return the fresh candidate that `replies` replies over a subset put first."""
    each = np.full(len(subset), replies // len(subset))
    each[: replies % len(subset)] += 1
    shown = rng.binomial(each, fresh[:, list(subset)]).sum(axis=1)
    return int(np.argmax(shown + 1e-6 * rng.random(len(fresh))))  # ties by lot


# ---------------------------------------------------------------- MAWPS

WORDINGS = (
    "Solve the problem and end with the number.",
    "Answer with a number only.",
    "Think step by step, then write the answer as a number.",
    "What is the result? Give the number.",
    "You are a careful mathematician. Work it out and finish with the final number.",
    "Reply with one number and nothing else.",
    "First write the equation, then its result.",
    "Solve.",
    "Explain your reasoning briefly. The last thing that you write is the answer.",
    "Do the arithmetic.",
    "Read the story, find the numbers that matter, compute, and state the result.",
    "You are a pirate. Answer like one.",
    "Write the answer as a word, not as digits.",
    "Write a short poem about the problem, then the number.",
    "Be brief. Number only, no units, no words.",
    "Restate the question in your own words, then answer it with a number.",
    "Give the equation only.",
    "Check your result before you answer. End with: Answer: <number>",
    "Use the format: result = <number>",
    "Answer the question in one full sentence.",
    "List what is known, what is asked, then compute.",
    "Ignore irrelevant numbers. Answer with the number.",
    "Estimate roughly.",
    "Show the calculation on one line, such as 3 + 4 = 7.",
)


def mawps(data: Path, name: str, arguments: argparse.Namespace) -> None:
    """Print components, the choices, and what each is worth on held-out problems."""
    rows = json.loads((data / "mawps" / "dev.json").read_text())
    order = named_generator(arguments.seed, "problems").permutation(len(rows)).tolist()
    items = [Example({"problem": rows[i]["original_text"]}, str(rows[i]["ans"]), str(rows[i]["id"])) for i in order]
    task = Task(
        train=tuple(items[: arguments.examples]),
        test=tuple(items[arguments.examples : arguments.examples + arguments.test]),
        seed_prompt=Prompt(WORDINGS[0]),
        reward=Number(),
        max_tokens=arguments.tokens,
        temperature=0.7,
        name="mawps",
    )
    shuffled = named_generator(arguments.seed, "wordings").permutation(len(WORDINGS)).tolist()
    prompts = [Prompt(WORDINGS[i]) for i in shuffled]
    half = len(prompts) // 2
    with Memo(arguments.memo) as memo:
        scorer = Scorer(task, load_model(name), Caller(memo, Ledger(Budget())))
        run = Run(task, named_generator(arguments.seed, "p1"), arguments.seed, scorer)
        found = probe(run, prompts[:half], arguments.replicates).rewards
        fresh = probe(run, prompts[half:], arguments.replicates, planned=False).rewards
        held_out = scorer.score(prompts[half:], task.test).rewards.mean(axis=2)
    _report(found, fresh, held_out, arguments)


def _report(found: Floats, fresh: Floats, held_out: Floats, arguments: argparse.Namespace) -> None:
    parts = components(found)
    for part in ("system", "interaction", "noise"):
        print(part, "variance {:.5f} ({:.5f} to {:.5f})".format(*getattr(parts, part)))
    print(f"mean reward {np.nanmean(found):.3f}, M* {parts.replicates:.1f}, replicates {found.shape[2]}")
    rng, replies = named_generator(arguments.seed, "control"), arguments.replicates * arguments.subset
    chosen = {}
    for name, aligned in (("p1 + guard", True), ("p1 unguarded", False)):
        strategy = P1(inner="random", subset=arguments.subset, aligned=aligned)
        chosen[name] = strategy.choose(found)
        print(f"{name}: {chosen[name]}, held-out score {held_out_score(found, strategy.choose):.5f}")
    print(
        f"every choice picks among {len(fresh)} fresh prompts by {replies} replies each; test: {held_out.shape[1]} problems"
    )
    average = np.nanmean(held_out, axis=0)
    guarded = chosen["p1 + guard"] or tuple(range(found.shape[1]))
    first = held_out[_best(fresh, guarded, arguments.replicates)]
    for name, subset in chosen.items():
        row = held_out[_best(fresh, subset or tuple(range(found.shape[1])), arguments.replicates)]
        print(f"{name}: {np.nanmean(row):.3f}, over the average prompt", _said(row, average))
    users = found.shape[1]
    each = max(1, round(replies / users))
    row = held_out[_best(fresh, tuple(range(users)), each)]
    print(f"all {users} examples x {each}: {np.nanmean(row):.3f}; p1 + guard minus this", _said(first, row))
    draws = [tuple(rng.choice(users, arguments.subset, replace=False).tolist()) for _ in range(arguments.controls)]
    control = np.mean([held_out[_best(fresh, subset, arguments.replicates)] for subset in draws], axis=0)
    print(
        f"random subsets ({len(draws)} draws): {np.nanmean(control):.3f}; p1 + guard minus these", _said(first, control)
    )


def _best(fresh: Floats, subset: Sequence[int], replicates: int) -> int:
    return int(np.nanargmax(np.nanmean(fresh[:, list(subset), :replicates], axis=(1, 2))))


def _said(first: Floats, second: Floats) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*paired_interval(first, second))


def main() -> None:
    """Simulate, or run on MAWPS where --data is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="of the simulation, for each regime")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder that holds mawps/dev.json")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--memo", type=Path, help="folder of the memo")
    parser.add_argument("--examples", type=int, default=24, help="training problems")
    parser.add_argument("--test", type=int, default=100, help="held-out problems")
    parser.add_argument("--replicates", type=int, default=4)
    parser.add_argument("--subset", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="longest reply")
    parser.add_argument("--controls", type=int, default=200, help="random subsets")
    arguments = parser.parse_args()
    if arguments.data is None:
        simulate(arguments.draws, arguments.seed)
    else:
        mawps(arguments.data, arguments.model, arguments)


if __name__ == "__main__":
    main()
