"""The label bias of a run's predictor on a real model: `python -m benchmarks.predictor --data FOLDER` prints a table.

For each data set and seed one search; the prompt that it chose, alone and with the label bias, on the same test replies.
A run that kept no bias counts with a difference of 0, because its predictor is the prompt alone.

`python -m benchmarks.predictor simulation` prints what the fit gains on simulated log-probabilities.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtrit

from promptopt import Demonstrations, Example, Joint, Prompt, PromptQuine, Task, load_model, optimize
from promptopt.randomness import named_generator
from promptopt.results.outcomes import SAME
from promptopt.statistics.label_bias import fit_label_bias, held_out_biases

if TYPE_CHECKING:
    from promptopt import Model, Result, Strategy
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.label_bias import Targets


class DataSet(NamedTuple):
    """How an item is put to the model, and the word of each label."""

    template: str
    labels: tuple[str, ...]


DATA_SETS = {
    "sst-2": DataSet("Review: {text}\nSentiment:", ("terrible", "great")),
    "subj": DataSet("Text: {text}\nThis is", ("subjective", "objective")),
    "agnews": DataSet("News: {text}\nTopic:", ("World", "Sports", "Business", "Tech")),
}
STRATEGIES: dict[str, Strategy] = {"joint": Joint(instructions=1), "promptquine": PromptQuine()}
SIZES = (8, 16, 32, 64, 128)  # of simulated training sets
HEADS = ("data", "seed", "seed prompt", "prompt alone", "with bias", "with bias minus alone", "bias", "calls")


def rows_of(folder: Path, data_set: DataSet, seed: int) -> list[Example]:
    """Return the rows of a data set in an order drawn by the seed."""
    with (folder / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    column = next(name for name in rows[0] if name != "label")
    order = named_generator(seed, "benchmark").permutation(len(rows))
    return [Example({"text": rows[i][column].strip()}, data_set.labels[int(rows[i]["label"])], f"{i}") for i in order]


def task_of(name: str, given: argparse.Namespace, seed: int) -> Task:
    """Return the task of a data set; pruning starts from one demonstration of each label."""
    data_set = DATA_SETS[name]
    rows = rows_of(given.data / name, data_set, seed)
    shown = [next(row for row in rows if row.target == label) for label in data_set.labels]
    rest = [row for row in rows if row not in shown]
    ends = given.train, given.train + given.validation, given.train + given.validation + given.test
    return Task(
        train=tuple(rest[: ends[0]]),
        validation=tuple(rest[ends[0] : ends[1]]),
        test=tuple(rest[ends[1] : ends[2]]),
        seed_prompt=Prompt(
            data_set.template, Demonstrations(tuple(shown)) if given.strategy == "promptquine" else None
        ),
        labels=data_set.labels,
        format="completion",
        name=name,
    )


def difference(result: Result) -> Interval:
    """Return the test reward with the label bias minus that of the prompt alone."""
    if result.test is None or not result.finished:
        raise RuntimeError(result.headline)
    return result.test.predictor.over_prompt if result.test.predictor else SAME


def cells(result: Result) -> list[str]:
    """Return the numbers of a run."""
    if result.test is None:
        raise RuntimeError(result.headline)
    gain, predictor = difference(result), result.test.predictor
    biased = predictor.reward if predictor else result.test.chosen
    span = f" ({gain.low:+.3f} to {gain.high:+.3f})" if predictor else ""
    bias = " ".join(f"{value:+.1f}" for value in result.predictor.bias) if result.predictor else "none kept"
    rewards = [f"{interval.estimate:.3f}" for interval in (result.test.seed, result.test.chosen, biased)]
    return [*rewards, f"{gain.estimate:+.3f}{span}", bias, f"{result.used['task'].calls:,}"]


def measure(name: str, given: argparse.Namespace, seed: int, model: Model) -> float:
    """Print the row of one run, and return the difference."""
    result = optimize(
        task_of(name, given, seed), model, STRATEGIES[given.strategy], seed=seed, memo=given.memo, budget=given.budget
    )
    print(f"| {name} | {seed} | {' | '.join(cells(result))} |", flush=True)
    return difference(result).estimate


def over_runs(gains: list[float]) -> str:
    """Return the mean and its 95 % interval by Student's t, over independent runs."""
    if len(gains) == 1:
        return f"{gains[0]:+.3f}, one run"
    average, half = mean(gains), float(stdtrit(len(gains) - 1, 0.975)) * stdev(gains) / sqrt(len(gains))
    return f"{average:+.3f}, 95 % interval over {len(gains)} runs {average - half:+.3f} to {average + half:+.3f}"


def simulated(rng: np.random.Generator, items: int, labels: int, tilt: float) -> tuple[Floats, Targets]:
    """Return log-probabilities in which the right label is ahead by 2 nats and the first label by the tilt, and targets."""
    targets = rng.integers(labels, size=items)
    logprobs = rng.normal(0, 1.5, (items, labels))
    logprobs[np.arange(items), targets] += 2
    logprobs[:, 0] += tilt
    return logprobs, targets


def gain(logprobs: Floats, targets: Targets, bias: Floats) -> float:
    """Return the accuracy with a bias minus that without."""
    return float(((logprobs + bias).argmax(1) == targets).mean() - (logprobs.argmax(1) == targets).mean())


def simulation() -> None:
    """Print the mean gain of accuracy by the number of items that the bias was fitted on."""
    print("| labels | tilt | " + " | ".join(f"{items} items" for items in SIZES) + " | possible |")
    print("|---|---|" + "---|" * (len(SIZES) + 1))
    for labels, tilt in product((2, 4), (0.0, 1.0, 3.0)):
        rng = named_generator(0, f"{labels} labels, tilt {tilt}")
        gains = [
            mean(
                gain(*simulated(rng, 4_000, labels, tilt), fit_label_bias(*simulated(rng, items, labels, tilt)))
                for _ in range(100)
            )
            for items in SIZES
        ]
        gains.append(gain(*simulated(rng, 400_000, labels, tilt), -tilt * np.eye(labels)[0]))
        print(f"| {labels} | {tilt:g} | {' | '.join(f'{value:+.3f}' for value in gains)} |", flush=True)


def chosen_prompt(
    rng: np.random.Generator, items: tuple[int, int, int], labels: int, tilt: float
) -> tuple[Floats, Targets]:
    """Return log-probabilities and targets of the best of 16 simulated prompts on training and validation items together.

    Prompts differ in how far the right label is ahead (1 to 3.5 nats or so) and, by `tilt`, in which labels they prefer.
    """
    targets = rng.integers(labels, size=sum(items))
    right, easy = np.eye(labels)[targets], rng.normal(0, 1, (sum(items), labels))
    prompts = [
        easy + rng.normal(0, 1, easy.shape) + right * rng.normal(2.25, 0.75) + rng.normal(0, 1, labels) * tilt
        for _ in range(16)
    ]
    return max(prompts, key=lambda p: (p.argmax(1) == targets)[: items[0] + items[1]].sum()), targets


def rules() -> None:
    """Print the mean gain on new items by rule, and how often each keeps the bias."""
    heads = ("training + validation items", "labels", "spread of tilts", "always", "validation", "both together")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for items, labels, tilt in product(((32, 12, 2_000), (48, 48, 2_000)), (2, 4), (0.0, 1.0, 2.0)):
        rng = named_generator(0, f"{items}, {labels} labels, tilt {tilt}")
        gains, kept = [], []
        for _ in range(200):
            logprobs, targets = chosen_prompt(rng, items, labels, tilt)
            train, validation, test = (
                (logprobs[part], targets[part]) for part in np.split(np.arange(sum(items)), np.cumsum(items)[:2])
            )
            bias = fit_label_bias(*train)
            by_validation = gain(*validation, bias) * items[1]
            together = by_validation + gain(*train, held_out_biases(*train)) * items[0]
            kept.append([True, by_validation > 0.5, together > 0.5])  # whole numbers of answers, but for rounding  # noqa: PLR2004
            gains.append(gain(*test, bias) * np.array(kept[-1]))
        shown = [f"{g:+.3f} ({k:.0%})" for g, k in zip(np.mean(gains, 0), np.mean(kept, 0), strict=True)]
        print(f"| {items[0]} + {items[1]} | {labels} | {tilt:g} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["runs", "simulation"], default="runs")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--sets", default="sst-2,subj,agnews")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--strategy", choices=STRATEGIES, default="joint")
    parser.add_argument("--budget", default="400 calls")
    parser.add_argument("--memo", default=None, help="folder of the memo; what was asked once is not asked again")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--validation", type=int, default=32)
    parser.add_argument("--test", type=int, default=100)
    given = parser.parse_args()
    if given.what == "simulation":
        simulation()
        rules()
        return
    model = load_model(given.model)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    gains = [measure(name, given, seed, model) for name in given.sets.split(",") for seed in range(given.seeds)]
    print(f"\nWith bias minus alone: {over_runs(gains)}.")


if __name__ == "__main__":
    main()
