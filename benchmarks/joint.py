"""Joint search on simulated models: `python -m benchmarks.joint --budget '1000 calls' --worlds 8` prints a table.

A simulated model's accuracy is the sum of effects of the instruction, the demonstrations and their interaction, with the
spreads that were measured on six question types with a 0.5B model: .114, .057 and .039. So the search's own model of
rewards holds here; the table says nothing about real models. With `--weak-writer`, each instruction that the writer makes is worse than the
seed prompt's, by 0.08 on average with a spread of 0.04.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from promptopt import Example, FunctionModel, HillClimb, Joint, Prompt, RandomSearch, Task, optimize
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt import Result
    from promptopt.models.base import Request
    from promptopt.strategies.base import Strategy

SEED_PROMPT = "Sort."
LABELS = ("alpha", "beta", "gamma")
INPUTS = {f"item {i}": LABELS[i % 3] for i in range(200)}
METHODS: dict[str, Strategy] = {
    "joint": Joint(),
    "joint, demonstrations alone": Joint(instructions=1),
    "hillclimb": HillClimb(),
    "random": RandomSearch(),
}
INSTRUCTION, DEMONSTRATIONS, INTERACTION, INPUT = 0.114, 0.057, 0.039, 0.2  # standard deviations
WEAK, WEAK_SPREAD = -0.08, 0.04  # effect of what a weak writer makes, and its standard deviation


def uniform(*parts: object) -> float:
    """Return a number between 0 and 1 that depends on nothing but the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") / 2**64


def normal(*parts: object) -> float:
    """Return a standard normal number that depends on nothing but the parts."""
    return NormalDist().inv_cdf(min(max(uniform(*parts), 1e-9), 1 - 1e-9))


def parts(request: Request) -> tuple[str, list[str], str]:
    """Return the instruction, the demonstrations' inputs and the input of a chat."""
    turns = [turn for turn in request.context if not isinstance(turn, str)]
    system = next((turn.content for turn in turns if turn.role == "system"), "")
    *shown, query = (turn.content for turn in turns if turn.role == "user")
    return system, shown, query


@dataclass(frozen=True)
class World:
    """A simulated model and writer.

    Args:
        number: which one.
        weak: whether the writer makes worse instructions than the seed prompt's.
    """

    number: int
    weak: bool = False

    def quality(self, instruction: str, shown: Sequence[str]) -> float:
        """Return how often a prompt is right on the average input."""
        wording = INSTRUCTION * normal(self.number, instruction, bool(shown))
        if self.weak:
            drawn = normal(self.number, instruction, bool(shown))
            wording = 0.0 if instruction == SEED_PROMPT else WEAK + WEAK_SPREAD * drawn
        if not shown:
            return 1 / 3 + wording
        each = np.mean([normal(self.number, "shown", item) for item in shown]) * np.sqrt(len(shown))
        whole = normal(self.number, "set", tuple(sorted(shown)))
        together = normal(self.number, "together", instruction, tuple(sorted(shown)))
        effect = DEMONSTRATIONS * (each + whole) / np.sqrt(2) + INTERACTION * together
        return float(0.5 + 0.03 * np.log2(len(shown)) + wording + effect)

    def answer(self, request: Request) -> str:
        """Return the simulated reply of the task model."""
        system, shown, query = parts(request)
        chance = self.quality(system, shown) + INPUT * normal(self.number, "input", query)
        if uniform(self.number, system, shown, query) < chance:
            return INPUTS[query]
        return LABELS[int(3 * uniform(self.number, "wrong", system, query))]

    def write(self, request: Request) -> str:
        """Return eight new instructions."""
        drawn = (int(1e6 * uniform(self.number, request.context, request.replicate, i)) for i in range(8))
        return "\n".join(f"<prompt>Sort the item in way {way}.</prompt>" for way in drawn)

    def run(self, strategy: Strategy, budget: str) -> Result:
        """Search for a prompt on 50 training and 50 validation examples."""
        examples = self._examples()
        task = Task(train=examples[:50], validation=examples[50:100], seed_prompt=Prompt(SEED_PROMPT), labels=LABELS)
        version = f"{self.number}, weak writer" if self.weak else str(self.number)  # the memo knows a world by it
        model = FunctionModel(self.answer, name="simulated", version=version)
        writer = FunctionModel(self.write, name="simulated writer", version=version)
        return optimize(task, model, strategy, writer=writer, budget=budget, seed=self.number, tracking=False)

    def accuracy(self, prompt: Prompt) -> float:
        """Return how often a prompt is right on inputs of the average difficulty."""
        if prompt.demonstrations is None:
            return self.quality(prompt.text, [])
        sets = [prompt.demonstrations.for_example(example) for example in self._examples()[100:]]
        return float(np.mean([self.quality(prompt.text, [item.inputs["input"] for item in items]) for items in sets]))

    def _examples(self) -> tuple[Example, ...]:
        order = named_generator(self.number, "split").permutation(len(INPUTS))
        examples = [Example({"input": text}, label, text) for text, label in INPUTS.items()]
        return tuple(examples[i] for i in order)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joint", description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="1000 calls")
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--weak-writer", action="store_true")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=[*METHODS])
    given = parser.parse_args()
    print("| strategy | simulated accuracy of its choice | standard error |\n|---|---:|---:|")
    worlds = [World(number, given.weak_writer) for number in range(given.worlds)]
    for name in given.methods:
        runs = [world.run(METHODS[name], given.budget) for world in worlds]
        accuracies = np.array([world.accuracy(run.prompt) for world, run in zip(worlds, runs, strict=True)])
        error = accuracies.std(ddof=1) / np.sqrt(len(accuracies))
        print(f"| {name} | {accuracies.mean():.3f} | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
