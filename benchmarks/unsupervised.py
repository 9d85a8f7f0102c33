"""Unsupervised prompt learning with labels hidden: `python -m benchmarks.unsupervised sst2 --data FOLDER` prints a table.

`python -m benchmarks.unsupervised estimators` compares ways to search token sequences on a synthetic loss.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt import Demonstrations, Example, Memo, Prompt, Run, Task, load_model, optimize, pseudo_labels
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.randomness import named_generator
from promptopt.search.categorical import modal, policy_gradient, project_to_simplex, sample, toward_elite, uniform
from promptopt.search.pseudo_labels import confident
from promptopt.statistics.annotators import calibrated

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.statistics.arrays import Floats

NOISE = 0.05  # standard deviation of one look at a loss
DATA: dict[str, tuple[str, tuple[str, ...], str]] = {
    "sst2": ("sst-2", ("terrible", "great"), "Review: {text}\nSentiment:"),
    "subj": ("subj", ("subjective", "objective"), "Text: {text}\nThis is"),
    "agnews": ("agnews", ("World", "Sports", "Business", "Tech"), "News: {text}\nTopic:"),
}


def landscape(rng: np.random.Generator, positions: int, tokens: int) -> Callable[[Any], Floats]:
    """Return a loss of sequences [I, n]: an effect of each token, and of each pair of neighbours."""
    effect = rng.normal(0, 0.06, (positions, tokens))
    pair = rng.normal(0, 0.03, (positions - 1, tokens, tokens))
    rows = np.arange(positions)

    def loss(chosen: Any) -> Floats:
        pairs = np.stack([pair[i, chosen[:, i], chosen[:, i + 1]] for i in range(positions - 1)]).sum(axis=0)
        out: Floats = 0.69 + effect[rows, chosen].sum(axis=1) + pairs
        return out

    return loss


def softmax_loo(logits: Floats, chosen: Any, losses: Floats, rate: float) -> Floats:
    """One step of the score-function gradient on logits, each sequence's baseline the mean of the others."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    advantage = (losses - losses.mean()) * len(losses) / (len(losses) - 1)
    gradient = -advantage.mean() * p
    rows = np.arange(len(p))[None, :].repeat(len(chosen), axis=0)
    np.add.at(gradient, (rows, chosen), advantage[:, None] / len(losses))
    moved: Floats = logits - rate * gradient / max(float(advantage.std()), 1e-9)
    return moved


class Additive:
    """Bayesian regression of the loss on one effect for each token at each place; draws of it are Thompson's.

    Effects and noise are normal, with `ratio` between their standard deviations; their scale follows from the losses.
    """

    def __init__(self, positions: int, tokens: int, ratio: float) -> None:
        self._shape, self._ratio = (positions, tokens), ratio
        self._rows = np.arange(positions)
        self._seen: tuple[Any, Floats] = (np.empty((0, positions), dtype=int), np.empty(0))
        self._alike = np.empty((0, 0))  # covariance of the losses seen, in units of the noise

    def see(self, chosen: Any, losses: Floats) -> None:
        """Take in sequences [I, n] and their losses [I]."""
        before, known = self._seen
        self._seen = (np.concatenate([before, chosen]), np.concatenate([known, losses]))
        new, old = (self._ratio**2 * (chosen[:, None] == rows[None]).sum(axis=2) for rows in (chosen, before))
        self._alike = np.block([[self._alike, old.T], [old, new + np.eye(len(losses))]])

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        """Return [count, n]: the best sequence under each of so many draws of the effects."""
        prior = rng.normal(size=(count, *self._shape)) * self._ratio
        return self._best(prior, rng.normal(size=(count, len(self._seen[1]))))

    def modal(self) -> Any:
        """Return [n]: the best sequence under the mean of the effects."""
        return self._best(np.zeros((1, *self._shape)), np.zeros((1, len(self._seen[1]))))[0]

    def _best(self, effects: Floats, noise: Floats) -> Any:
        chosen, losses = self._seen
        if len(losses):  # a draw of the prior, moved by what it gets wrong of the losses, is one of the posterior
            unit = max(losses.std() / np.sqrt(1 + self._shape[0] * self._ratio**2), 1e-9)
            wrong = (losses - losses.mean()) / unit - effects[:, self._rows, chosen].sum(axis=2) - noise
            moved = np.linalg.solve(self._alike, wrong.T).T * self._ratio**2
            for place, tokens in enumerate(chosen.T):
                for one, by in zip(effects, moved, strict=True):
                    np.add.at(one[place], tokens, by)
        return effects.argmin(axis=2)


def searched(kind: str, rate: float, seed: int, shape: tuple[int, int, int, int]) -> float:
    """Return the true loss of the modal sequence after a search; `shape` is positions, tokens, steps, samples."""
    positions, tokens, steps, samples = shape
    rng = named_generator(seed, "estimators")
    loss = landscape(rng, positions, tokens)
    p, logits = uniform(positions, tokens), np.zeros((positions, tokens))
    additive = Additive(positions, tokens, rate)
    best, least = modal(p), np.inf
    for _ in range(steps):
        if kind == "softmax":
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
        chosen = additive.draw(samples, rng) if kind == "thompson" else sample(p, samples, rng)
        seen = loss(chosen) + rng.normal(0, NOISE, samples)
        if seen.min() < least:
            best, least = chosen[seen.argmin()], seen.min()
        if kind == "softmax":
            logits = softmax_loo(logits, chosen, seen, rate)
        elif kind == "elite":
            p = toward_elite(p, chosen, seen, 0.25, rate)
        elif kind == "simplex":
            p = project_to_simplex(p - rate * policy_gradient(p, chosen, seen))
        elif kind == "thompson":
            additive.see(chosen, seen)
    ends = {"random": lambda: best, "softmax": lambda: modal(softmax(logits)), "thompson": additive.modal}
    final = ends.get(kind, lambda: modal(p))()
    return float(loss(final[None])[0])


def softmax(logits: Floats) -> Floats:
    """Return rows that sum to 1."""
    p: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def estimators() -> None:
    """Print mean true losses over 40 landscapes, the best rate of each kind."""
    shapes = [(4, 60, 10, 12), (4, 60, 20, 12), (20, 100, 60, 30)]
    rates = {"random": (0.0,), "simplex": (1e-4, 1e-3, 1e-2), "softmax": (1, 3, 10), "elite": (0.15, 0.3, 0.6)}
    rates["thompson"] = (0.1, 0.3, 1)
    print("| positions x tokens, steps x samples | " + " | ".join(rates) + " |\n|---|" + "---|" * len(rates))
    for shape in shapes:
        cells = []
        for kind, tried in rates.items():
            means = {rate: np.mean([searched(kind, rate, seed, shape) for seed in range(40)]) for rate in tried}
            rate = min(means, key=means.__getitem__)
            cells.append(f"{means[rate]:.3f} ({rate:g})" if rate else f"{means[rate]:.3f}")
        print(f"| {shape[0]} x {shape[1]}, {shape[2]} x {shape[3]} | {' | '.join(cells)} |", flush=True)


def read(path: Path, labels: tuple[str, ...], count: int, seed: int) -> tuple[Example, ...]:
    """Return items drawn by the seed; a label is a number, or the word itself."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    drawn = named_generator(seed, "benchmark").permutation(len(rows))[:count]
    column = next(name for name in rows[0] if name != "label")
    return tuple(Example({"text": rows[i][column]}, labels[int(rows[i]["label"])], f"{i}") for i in drawn)


def without_search(task: Task, given: argparse.Namespace, seed: int) -> list[str]:
    """Return test accuracies of the seed prompt, of its calibrated answers, and of the null model.

    The null model shows two items of each label, of the 30 % that the seed prompt's calibrated answers are surest of,
    drawn by the seed, and labelled by those answers. Nothing is searched, nothing is guarded.
    """
    with Memo(given.memo) as memo:
        scorer = Scorer(task, load_model(given.model), Caller(memo, Ledger(Budget())))
        run = Run(task, named_generator(seed, "null model"), seed, scorer)
        direct = run.label_probabilities([task.seed_prompt], task.test)[0]
        own = calibrated(run.label_probabilities([task.seed_prompt])[0])
        shown = [
            replace(task.train[i], target=label)
            for label, sure in zip(task.labels, confident(own, 0.3), strict=True)
            for i in run.rng.permutation(sure)[:2]
        ]
        prompt = replace(
            task.seed_prompt, demonstrations=Demonstrations(tuple(shown[i] for i in run.rng.permutation(len(shown))))
        )
        null = run.label_probabilities([prompt], task.test)[0]
    right = np.array([task.labels.index(str(item.target)) for item in task.test])
    return [f"{np.mean(said.argmax(axis=1) == right):.3f}" for said in (direct, calibrated(direct), null)]


def measure(name: str, given: argparse.Namespace, seed: int) -> None:
    """Print the accuracy of each strategy's prompt beside that of the seed prompt, and its own estimate of it."""
    folder, labels, text = DATA[name]
    everything = read(given.data / folder / "test.tsv", labels, given.pool + given.test, seed)
    pool, test = everything[: given.pool], everything[given.pool :]
    truth = {item.id: item.target for item in pool}
    task = Task(
        train=tuple(Example(item.inputs, None, item.id) for item in pool),
        test=test,
        seed_prompt=Prompt(text),
        labels=labels,
        format="completion",
        name=name,
    )
    direct, plain, null = without_search(task, given, seed)
    for strategy in given.strategies.split(","):
        kind, *settings = strategy.split("/")
        result = optimize(
            task,
            given.model,
            kind,
            seed=seed,
            memo=given.memo,
            budget=given.budget,
            settings=dict(setting.split("=") for setting in settings),
        )
        if not result.finished:
            raise RuntimeError(result.headline)
        last = result.steps[-1]
        right = np.mean([truth[label.id] == label.label for label in pseudo_labels(result)])
        own = f"{last['accuracy']:.2f} ({last['low']:.2f} to {last['high']:.2f})" if "accuracy" in last else ""
        cells = [name, strategy, seed, direct, plain, null]
        if result.test is None:  # the seed prompt was kept
            cells += [direct, "0"]
        else:
            less = "{:+.3f} ({:+.3f} to {:+.3f})".format(*result.test.difference)
            cells += [f"{result.test.chosen.estimate:.3f}", less]
        cells += [own, f"{right:.3f}", f"{result.used['task'].calls:,}", f"{result.seconds:.0f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        if given.verbose:
            print(result.steps[-2], repr(str(result.prompt)), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["estimators", *DATA])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--strategies", default="unsupervised", help="such as unsupervised,unsupervised/positions=0")
    parser.add_argument("--budget", default=None)
    parser.add_argument("--memo", default=None, help="folder of the memo; what was asked once is not asked again")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pool", type=int, default=200, help="texts to learn from")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--verbose", action="store_true", help="print each prompt")
    given = parser.parse_args()
    if given.what == "estimators":
        estimators()
        return
    heads = ["set", "strategy", "seed", "direct", "calibrated", "null", "found", "minus direct", "its estimate"]
    heads += ["pseudo-labels right", "calls", "seconds"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for seed in range(given.seeds):
        measure(given.what, given, seed)


if __name__ == "__main__":
    main()
