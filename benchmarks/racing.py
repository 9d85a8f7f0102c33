"""What a race saves, and how often it chooses what full evaluation would: `python -m benchmarks.racing` prints tables.

Simulated rewards: item difficulties that all prompts share, prompt qualities, and what one prompt makes of one item; so
that paired differences vary less than rewards. "margin" rewards are continuous, "binary" ones their signs. Sets of prompts
differ in how far apart they are; "shortlist" takes the best of 200 by 30 other items, as a search does; "equal" prompts
differ by luck alone.

`python -m benchmarks.racing FILE.npy` (or .npz) races recorded rewards [P, E] or [P, E, R] in random orders of the items.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from promptopt import Example, Prompt
from promptopt.evaluation.racing import race, sizes
from promptopt.randomness import named_generator
from promptopt.scores import Scores
from promptopt.statistics import shortest_within_one_error
from promptopt.statistics.arrays import Floats, nanmean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from promptopt.evaluation.racing import Guarantee

Kind: TypeAlias = Literal["binary", "margin"]

SHAPES = ((16, 64), (16, 200), (64, 400))  # prompts x items
SPREADS = {"far apart": 1.0, "close": 0.4, "shortlist": 0.5, "equal": 0.0}  # of qualities; 2 for items, 1 for cells
SEARCHED, SEARCH_ITEMS = 200, 30
ALPHA = 0.05


class End(NamedTuple):
    """How one race compared with full evaluation.

    Args:
        cost: share of the cells that were run.
        equal: whether the winner's mean over all items is the highest there is.
        regret: what it lacks.
        left: prompts that met all items.
        chosen: whether the one-standard-error rule, for random lengths, takes the same prompt as after full evaluation.
    """

    cost: float
    equal: bool
    regret: float
    left: int
    chosen: bool


def landscape(rng: np.random.Generator, prompts: int, items: int, kind: Kind, name: str) -> Floats:
    """Draw rewards [P, E]."""
    rows, columns = (SEARCHED, items + SEARCH_ITEMS) if name == "shortlist" else (prompts, items)
    latent = (
        rng.normal(0, SPREADS[name], (rows, 1)) + rng.normal(0.5, 2, (1, columns)) + rng.normal(0, 1, (rows, columns))
    )
    rewards: Floats = (latent > 0).astype(float) if kind == "binary" else np.tanh(latent / 3)
    if name != "shortlist":
        return rewards
    best = np.argsort(-rewards[:, :SEARCH_ITEMS].mean(axis=1), kind="stable")[:prompts]
    return rewards[best, SEARCH_ITEMS:]


def raced(rewards: Floats, guarantee: Guarantee, top_k: int = 1) -> tuple[list[int], int]:
    """Race rows of [P, E]; return the survivors and the cells run."""
    prompts = [Prompt(str(p)) for p in range(len(rewards))]
    examples = [Example({"item": str(e)}, None, id=str(e)) for e in range(rewards.shape[1])]
    met = np.zeros(len(rewards), dtype=int)

    def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
        numbers = [int(row.text) for row in rows]
        met[numbers] = len(items)
        empty: list[list[list[str]]] = [[] for _ in rows]
        return Scores(tuple(rows), tuple(items), rewards[numbers, : len(items), None], [[] for _ in rows], empty)

    survivors = race(score, prompts, examples, 1 - ALPHA, guarantee=guarantee, top_k=top_k).survivors
    return survivors, int(met.sum())


def sequence(rewards: Floats, radius: Callable[[Floats, int], Floats]) -> tuple[list[int], int]:
    """Race with a confidence sequence: drop rows that another one leads by more than its radius."""
    total = rewards.shape[1]
    alive, cells, before = np.arange(len(rewards)), 0, 0
    for size in sizes(total):
        cells += len(alive) * (size - before)
        before = size
        if size < total:
            part = rewards[alive, :size]
            out = [((part - row).mean(axis=1) > radius(part - row, total)).any() for row in part]
            alive = alive[~np.array(out)]
    return alive.tolist(), cells


def mixture(prompts: int) -> Callable[[Floats, int], Floats]:
    """Radius by a normal mixture (Robbins), with the variance as estimated, tuned to a quarter of the items."""
    level = ALPHA / (prompts - 1)

    def radius(gap: Floats, total: int) -> Floats:
        n = gap.shape[1]
        clock, tuned = n / (total - n), 1 / 3  # of the bridge to a mean that is known at the end
        bound = math.sqrt((clock + tuned) / clock * (math.log((clock + tuned) / tuned) + 2 * math.log(1 / (2 * level))))
        out: Floats = bound * gap.std(axis=1, ddof=1) * math.sqrt((1 - n / total) / n)
        # Without spread, the largest that m equal gaps leave possible: they are no proof.
        return np.where(out > 0, out, np.inf)

    return radius


def bernstein(prompts: int, width: float) -> Callable[[Floats, int], Floats]:
    """Radius by an empirical Bernstein sequence for bounded rewards (Waudby-Smith and Ramdas 2024, with replacement)."""
    level = ALPHA / (prompts - 1)

    def radius(gap: Floats, total: int) -> Floats:
        unit = (gap + width) / (2 * width)  # into [0, 1]
        n = np.arange(1, gap.shape[1] + 1)
        mean = (0.5 + unit.cumsum(axis=1)) / (n + 1)
        variance = (0.25 + ((unit - mean) ** 2).cumsum(axis=1)) / (n + 1)
        lagged = np.hstack([np.full((len(gap), 1), 0.25), variance[:, :-1]])
        bet = np.minimum(np.sqrt(2 * math.log(1 / level) / (lagged * total / 4)), 0.5)
        psi = (-np.log1p(-bet) - bet) / 4
        guess = np.hstack([np.full((len(gap), 1), 0.5), mean[:, :-1]])
        weighted = (bet * unit).sum(axis=1) / bet.sum(axis=1)
        half = (math.log(1 / level) + (4 * (unit - guess) ** 2 * psi).sum(axis=1)) / bet.sum(axis=1)
        out: Floats = gap.mean(axis=1) - 2 * width * (weighted - half - 0.5)
        return out

    return radius


def rules(prompts: int, width: float) -> dict[str, Callable[[Floats], tuple[list[int], int]]]:
    """Return the ways to race."""
    return {
        "average": lambda rewards: raced(rewards, "average"),
        "average, top 4": lambda rewards: raced(rewards, "average", 4),
        "always": lambda rewards: raced(rewards, "always"),
        "normal mixture": lambda rewards: sequence(rewards, mixture(prompts)),
        "empirical Bernstein": lambda rewards: sequence(rewards, bernstein(prompts, width)),
    }


def judged(rewards: Floats, survivors: Sequence[int], cells: int, lengths: Sequence[int]) -> End:
    """Compare a race with full evaluation."""
    means = nanmean(rewards, axis=1)
    short = shortest_within_one_error(rewards[list(survivors)], [lengths[i] for i in survivors])
    lost = float(means.max() - means[list(survivors)].max())
    same = survivors[short] == shortest_within_one_error(rewards, lengths)
    return End(cells / rewards.size, lost < 1e-12, lost, len(survivors), same)  # noqa: PLR2004  rounding


def table(title: str, draws: Sequence[Floats]) -> None:
    """Race each matrix by each rule and print means."""
    width = float(max(np.ptp(draw) for draw in draws))
    print(f"\n{title}\n{'':22}{'cost':>6}{'equal':>8}{'regret':>9}{'left':>6}{'same by 1 SE':>14}")
    for name, rule in rules(len(draws[0]), width).items():
        lengths = named_generator(0, "lengths")
        ends = [judged(draw, *rule(draw), lengths.permutation(len(draw)).tolist()) for draw in draws]
        cost, equal, regret, left, same = np.array(ends, dtype=float).mean(axis=0)
        print(f"{name:22}{cost:6.2f}{equal:8.3f}{regret:9.4f}{left:6.1f}{same:14.2f}", flush=True)


def recorded(path: Path) -> Iterable[tuple[str, Floats]]:
    """Read matrices of rewards."""
    loaded = np.load(path, allow_pickle=False)
    for name in loaded.files if isinstance(loaded, np.lib.npyio.NpzFile) else [path.stem]:
        matrix = np.asarray(loaded[name] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded, dtype=float)
        yield name, nanmean(matrix, axis=2) if matrix.ndim == 3 else matrix  # noqa: PLR2004  replicates


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="recorded rewards, .npy or .npz")
    parser.add_argument("--draws", type=int, default=300, help="races of each kind")
    given = parser.parse_args()
    if given.file is not None:
        for name, matrix in recorded(given.file):
            rng = named_generator(0, "orders")
            orders = [matrix[:, rng.permutation(matrix.shape[1])] for _ in range(given.draws)]
            table(f"{name}: {matrix.shape[0]} prompts x {matrix.shape[1]} items", orders)
        return
    kinds: tuple[Kind, ...] = ("binary", "margin")
    for kind in kinds:
        for prompts, items in SHAPES:
            for name in SPREADS:
                draws = [
                    landscape(named_generator(seed, "landscape"), prompts, items, kind, name)
                    for seed in range(given.draws)
                ]
                spread = float(np.mean([nanmean(draw, axis=1).std() for draw in draws]))
                table(f"{kind}, {name}: {prompts} prompts x {items} items; their means' SD {spread:.3f}", draws)


if __name__ == "__main__":
    main()
