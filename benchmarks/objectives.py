"""What several objectives find, on a scripted model for which some phrases of a prompt help and all of them cost (simulated).

Compares, at equal calls: one run with the objectives reward and tokens; the same with parents chosen by reward alone; and three runs at
a third of the calls each, with the weighted sum of both as the reward. A front is judged by the share that it covers of the area under
the true front, which is known: 1 is perfect. `coverage` draws rewards and tokens at random, and counts how often all intervals
of a front hold.

    python -m benchmarks.objectives [search | coverage]
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from promptopt import Example, FakeModel, HillClimb, Prompt, Request, Response, Result, Run, Task, Usage, optimize
from promptopt.optimization.fronts import front_tests
from promptopt.scores import Scores
from promptopt.search.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from promptopt import Strategy
    from promptopt.statistics.arrays import Floats

GAINS = {  # phrase -> the share of the items that it lets the model answer
    "round late": 0.22,
    "check the units": 0.18,
    "think step by step": 0.15,
    "mind the sign of the result": 0.12,
    "read the question twice before you begin": 0.10,
    "name the rule that applies and say why it does": 0.08,
}
FILLER = ("please", "take a deep breath", "you are an expert", "be polite", "this is important", "good luck")
PHRASES = (*GAINS, *FILLER)
BASE, SEED_PROMPT = 0.12, "please; be polite; {text}"
LAMBDAS = (0.002, 0.01, 0.03)  # reward that a token is worth, in a weighted sum
SEEDS, CALLS = 10, 3000
STRATEGY = HillClimb(restarts=1, iterations=400, patience=0, drafts=1)  # one chain, which the budget ends


def chance(*key: object) -> float:
    """Return a number in [0, 1) that depends only on the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6]) / 2**48


def quality(prompt: str) -> float:
    """Return the true reward of a prompt."""
    return BASE + sum(gain for phrase, gain in GAINS.items() if phrase in prompt)


def tokens(prompt: str) -> int:
    """Return the tokens of a prompt without the item."""
    return len(prompt.split()) - 1


def answer(request: Request) -> Response:
    """Answer an item if its difficulty, a little different for each prompt, is below the quality of the prompt."""
    text = request.context if isinstance(request.context, str) else request.context[-1].content
    prompt, item = text.rsplit("; item", 1) if "; item" in text else ("", text)
    difficulty = 0.85 * chance("item", item) + 0.15 * chance(prompt, item)
    return Response("yes" if difficulty < quality(prompt) else "no", usage=Usage(len(text.split()), output=1))


def write(request: Request) -> str:
    """Return eight variants of the first prompt in a message, each with one or two phrases more, less or different."""
    text = "\n".join(turn.content for turn in request.context if not isinstance(turn, str))
    shown = [found for found in re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL) if "{text}" in found]

    def variant(n: int) -> str:
        parts = [part for part in (shown or ["{text}"])[0].split("; ") if part in PHRASES]
        for i in range(1 + (chance(text, request.replicate, n) < 0.5)):  # noqa: PLR2004  one or two
            move, drop, add = (chance(text, request.replicate, n, i, kind) for kind in ("move", "drop", "add"))
            new = [phrase for phrase in PHRASES if phrase not in parts]
            if move < 2 / 3 and parts:
                del parts[int(drop * len(parts))]
            if move > 1 / 3 and new:
                parts.append(new[int(add * len(new))])
        return "; ".join([*parts, "{text}"])

    return "\n".join(f"<prompt>{variant(n)}</prompt>" for n in range(8))


def task_of(seed: int) -> Task:
    """Return a task with items of its own for each seed."""

    def items(split: str, count: int) -> tuple[Example, ...]:
        return tuple(Example({"text": f"item {seed} {split} {i}"}, "yes", f"{split}{i}") for i in range(count))

    return Task(
        train=items("train", 60), validation=items("validation", 60), test=items("test", 100), seed_prompt=Prompt(SEED_PROMPT)
    )  # fmt: skip


def area(points: Iterable[tuple[float, float]]) -> float:
    """Return the area under a front of (tokens, reward), from 0 tokens to those of all phrases that help."""
    most = sum(len(phrase.split()) for phrase in GAINS)
    total, best, last = 0.0, 0.0, 0.0
    for cost, reward in [*sorted(points), (most, 0.0)]:
        total, last = total + best * (min(cost, most) - last), min(cost, most)
        best = max(best, reward)
    return total


def truth(prompts: Iterable[str]) -> list[tuple[float, float]]:
    """Return the true (tokens, reward) of prompts."""
    return [(float(tokens(prompt)), quality(prompt)) for prompt in prompts]


TRUE_AREA = area(truth("; ".join([*some, "{text}"]) for n in range(len(GAINS) + 1) for some in combinations(GAINS, n)))


@dataclass
class Mirrored(Run):
    """A run whose scores are also entered in another one, which has further objectives."""

    outer: Run | None = None

    def score(self, *args: Any, **settings: Any) -> Scores:
        """See `Run`."""
        if self.outer is not None:
            self.outer.score(*args, **settings)
        return super().score(*args, **settings)


@dataclass(frozen=True)
class ByReward:
    """A strategy that does not see the objectives beside the reward."""

    writes: ClassVar[bool] = True

    inner: Strategy

    def search(self, run: Run) -> None:
        """Search by reward alone."""
        values = {name: value for name, value in vars(run).items() if name != "archive"}
        self.inner.search(Mirrored(**values, archive=Archive(), outer=run))


@dataclass(frozen=True)
class Weighted:
    """Whether the answer is right, minus what its tokens are worth."""

    price: float

    def __call__(self, example: Example, response: Response) -> float:
        return float(response.text == example.target) - self.price * response.usage.total


def run(seed: int, strategy: Strategy, calls: int, **settings: Any) -> Result:
    """Run a search of the scripted model."""
    task = replace(task_of(seed), **settings.pop("task", {}))
    writer = FakeModel(write, "writer")
    with tempfile.TemporaryDirectory() as folder:
        return optimize(
            task,
            FakeModel(answer),
            strategy,
            writer=writer,
            budget=f"{calls} calls",
            seed=seed,
            memo=folder,
            **settings,
        )


def one_front(seed: int, strategy: Strategy) -> list[str]:
    """Return the prompts of the front of one run."""
    result = run(seed, strategy, CALLS, objectives=("reward", "tokens"))
    return [record.prompt.text for record in result.front]


def weighted(seed: int) -> list[str]:
    """Return the chosen prompts of three runs, each with another weight of tokens."""
    runs = [run(seed, STRATEGY, CALLS // len(LAMBDAS), task={"reward": Weighted(price)}) for price in LAMBDAS]
    return [result.prompt.text for result in runs]


def search() -> None:
    """Print the share of the true area that each way covers, over seeds."""
    print(
        f"{SEEDS} seeds, {CALLS} calls: share of the area under the true front, best true reward (mean, standard error), points"
    )
    ways: dict[str, Callable[[int], Sequence[str]]] = {
        "objectives": lambda seed: one_front(seed, STRATEGY),
        "objectives, parents by reward": lambda seed: one_front(seed, ByReward(STRATEGY)),
        "three weighted sums": weighted,
    }
    shares: dict[str, Floats] = {}
    for name, way in ways.items():
        fronts = [truth(way(seed)) for seed in range(SEEDS)]
        shares[name] = np.array([area(front) / TRUE_AREA for front in fronts])
        best = np.array([max(reward for _, reward in front) for front in fronts])
        points = np.mean([len(set(front)) for front in fronts])
        print(f"{name:32} {shown(shares[name])}   {shown(best)}   {points:.1f}", flush=True)
        if name != "objectives":
            print(
                f"{'  objectives minus this, paired':32} {shown(shares['objectives'] - shares[name], '+')}", flush=True
            )


def shown(values: Floats, sign: str = "") -> str:
    """Format a mean and its standard error."""
    return f"{values.mean():{sign}.3f} ({values.std(ddof=1) / np.sqrt(len(values)):.3f})"


def coverage() -> None:
    """Print how often all intervals of a front of five prompts hold the true differences."""
    repeats, rng = 2000, np.random.default_rng(0)
    for examples in (24, 50, 100):
        hold = sum(_all_hold(rng, examples) for _ in range(repeats))
        error = np.sqrt(hold / repeats * (1 - hold / repeats) / repeats)
        print(
            f"{examples:4} test items: all 10 intervals hold in {hold / repeats:.3f} ({error:.3f}) of {repeats} draws"
        )


def _all_hold(rng: np.random.Generator, examples: int) -> bool:
    """Draw replies to a seed prompt and five others, and test whether all intervals hold the true differences."""
    qualities, lengths = np.array([0.5, 0.45, 0.55, 0.6, 0.7, 0.8]), np.array([30, 10, 25, 40, 80, 160])
    difficulty = rng.random(examples)
    right = 0.8 * difficulty + 0.2 * rng.random((6, examples)) < qualities[:, None]
    written = rng.geometric(1 / 20, (6, examples))  # replies of 20 tokens in the mean
    replies = [
        [[Response("", usage=Usage(int(n), output=int(w)))] for w in row]
        for n, row in zip(lengths, written, strict=True)
    ]
    prompts = tuple(Prompt(f"prompt {i}") for i in range(6))
    items = tuple(Example({"text": str(e)}, None, str(e)) for e in range(examples))
    scores = Scores(prompts, items, right[:, :, None].astype(float), replies, [[[""]] * examples] * 6)
    true = _true_rewards(qualities)
    for i, test in enumerate(front_tests(scores, prompts[1:], ("reward", "tokens"), None), 1):
        if not test.over_seed["reward"].holds(float(true[i] - true[0])):
            return False
        if not test.over_seed["tokens"].holds(float(lengths[i] - lengths[0])):
            return False
    return True


def _true_rewards(qualities: Floats) -> Floats:
    """Return P(0.8 U + 0.2 V < q) for uniform U and V, by quadrature."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    out: Floats = np.clip((qualities[:, None] - 0.2 * grid) / 0.8, 0, 1).mean(axis=1)
    return out


if __name__ == "__main__":
    ways = {"search": search, "coverage": coverage}
    for way in sys.argv[1:] or ways:
        ways[way]()
