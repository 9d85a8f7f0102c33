"""What human scores and a judge's scores give together: `python -m benchmarks.judges` prints tables of coverage and width.

Simulated scores, with the statistics of the package itself. Each item has a normal quality, which humans read as 0/1, as one of five
ratings, or as a skewed number. A judge reads a normal number with the stated correlation to the quality, and gives 0 to 10; or 0 or 1.
For a difference, the qualities of two prompts share the item's difficulty.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr

from promptopt.randomness import named_generator
from promptopt.statistics.agreement import cohen_kappa, rank_correlation
from promptopt.statistics.prediction_powered import PredictionPowered, prediction_powered_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats

SIZES = ((16, 200), (16, 2000), (50, 200), (50, 2000), (200, 2000))
JUDGES = {"0.9": 0.9, "0.7": 0.7, "0.5": 0.5, "0.3": 0.3, "useless": 0.0, "adversarial": -0.7}
HUMANS = ("0/1", "ratings", "skewed")

_CUTS = np.array([-1.8, -1.2, -0.5, 0.3])  # of the ratings 0, 1/4, 1/2, 3/4 and 1
_RIGHT = -0.52  # quality above which a reply is right: 70 %
_GAIN, _SHARED = 0.3, 0.6  # of the better prompt, in standard deviations; share of the item in a quality
_MANY = 1_000_000  # draws for a true value


class Draw(NamedTuple):
    """Human scores and judge scores of items, [E] each."""

    human: Floats
    judge: Floats


def draw(
    rng: np.random.Generator, kind: str, items: int, correlation: float, *, difference: bool, binary: bool = False
) -> Draw:
    """Draw scores, or the paired differences of the scores of two prompts."""
    if not difference:
        return _scores(rng, kind, rng.standard_normal(items), correlation, binary=binary)
    shared = rng.standard_normal(items)
    own = math.sqrt(1 - _SHARED**2)
    old, new = (
        _scores(rng, kind, gain + _SHARED * shared + own * rng.standard_normal(items), correlation, binary=binary)
        for gain in (0.0, _GAIN)
    )
    return Draw(new.human - old.human, new.judge - old.judge)


def _scores(rng: np.random.Generator, kind: str, quality: Floats, correlation: float, *, binary: bool) -> Draw:
    read = correlation * quality + math.sqrt(1 - correlation**2) * rng.standard_normal(quality.size)
    judge = (read > _RIGHT).astype(np.float64) if binary else np.round(np.clip(2.5 * (read + 2), 0, 10)) / 10
    return Draw(_human(kind, quality), judge)


def _human(kind: str, quality: Floats) -> Floats:
    if kind == "0/1":
        return (quality > _RIGHT).astype(np.float64)
    ratings: Floats = np.searchsorted(_CUTS, quality) / len(_CUTS)
    skewed: Floats = -np.exp(quality / 2)
    return ratings if kind == "ratings" else skewed


def prediction_powered(
    kind: str, n: int, others: int, correlation: float, *, difference: bool, binary: bool, repeats: int
) -> tuple[list[PredictionPowered], Floats]:
    """Return the intervals of many draws, and the ends of those of PPI++ as published, [repeats, 2]."""
    rng = named_generator(0, f"judges {kind} {n} {others} {correlation} {difference} {binary}")
    bounds = None if kind == "skewed" else (-1.0, 1.0) if difference else (0.0, 1.0)
    out, plain = [], []
    for _ in range(repeats):
        drawn = draw(rng, kind, n + others, correlation, difference=difference, binary=binary)
        parts = drawn.human[:n], drawn.judge[:n], drawn.judge[n:]
        out.append(prediction_powered_interval(*parts, bounds=bounds))
        plain.append(published(*parts))
    return out, np.array(plain)


def published(human: Floats, judge: Floats, others: Floats) -> tuple[float, float]:
    """Return the 95 % interval of PPI++ as published: power-tuned lambda, normal quantile (Angelopoulos et al. 2023)."""
    n, unlabelled, every = human.size, others.size, np.concatenate([judge, others])
    tuned = float(np.cov(human, judge)[0, 1]) / ((1 + n / unlabelled) * float(every.var(ddof=1)))
    estimate = float(human.mean() - tuned * (judge.mean() - others.mean()))
    variance = float((human - tuned * judge).var(ddof=1)) / n + tuned**2 * float(others.var(ddof=1)) / unlabelled
    half = 1.959964 * math.sqrt(variance)
    return estimate - half, estimate + half


def summary(intervals: list[PredictionPowered], truth: float) -> tuple[float, float, float]:
    """Return the coverage with the judge and of the human scores alone, and the median ratio of the widths."""
    with_judge = np.mean([each.combined.holds(truth) for each in intervals])
    alone = np.mean([each.human.holds(truth) for each in intervals])
    ratios = [(e.combined.high - e.combined.low) / (e.human.high - e.human.low) for e in intervals]
    return float(with_judge), float(alone), float(np.median(ratios))


def true_mean(kind: str, *, difference: bool) -> float:
    """Return the true mean human score, or the difference of the two prompts."""
    return _mean(kind, _GAIN) - _mean(kind, 0.0) if difference else _mean(kind, 0.0)


def _mean(kind: str, quality: float) -> float:
    """Return the mean human score of normal qualities with this mean and standard deviation 1."""
    if kind == "skewed":
        return -math.exp(quality / 2 + 1 / 8)
    cuts = np.array([_RIGHT]) if kind == "0/1" else _CUTS
    return float(ndtr(quality - cuts).mean())


def print_intervals(kind: str, *, difference: bool, binary: bool, repeats: int) -> None:
    """Print a row for each judge: coverage, and the width as a share of that of the human scores alone."""
    what, judge = ("difference" if difference else "mean"), ("0 or 1" if binary else "0 to 10")
    print(f"\n{what}, human scores {kind}, judge {judge}: coverage, relative width ({repeats:,} draws each)")
    print("| judge | " + " | ".join(f"{n} of {n + others:,}" for n, others in SIZES) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    truth, alone, plain = true_mean(kind, difference=difference), [], []
    for name, correlation in JUDGES.items():
        draws = [
            prediction_powered(kind, *size, correlation, difference=difference, binary=binary, repeats=repeats)
            for size in SIZES
        ]
        cells = [summary(intervals, truth) for intervals, _ in draws]
        alone.append([human for _, human, _ in cells])
        plain.append([np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) for _, ends in draws])
        print(f"| {name} | " + " | ".join(f"{held:.3f}, {width:.2f}" for held, _, width in cells) + " |", flush=True)
    print("| humans alone | " + " | ".join(f"{held:.3f}" for held in np.mean(alone, axis=0)) + " |")
    print("| PPI++ as published | " + " | ".join(f"{held:.3f}" for held in np.mean(plain, axis=0)) + " |")


def print_agreement(repeats: int) -> None:
    """Print the coverage of the intervals of quadratically weighted kappa and of the rank correlation."""
    measures: dict[str, Callable[[Floats, Floats], Interval]] = {
        "kappa": cohen_kappa,
        "rank correlation": rank_correlation,
    }
    cases = [(name, kind, name == "kappa" and kind == "0/1") for name in measures for kind in HUMANS[:2]]
    print(f"\nagreement: coverage ({repeats:,} draws each)")
    print(
        "| measure | human scores, judge | correlation | 16 items | 50 items | 200 items |\n|---|---|---|---|---|---|"
    )
    for measure, kind, binary in cases:
        interval = measures[measure]
        for name in ("0.9", "0.5", "useless"):
            rng = named_generator(0, f"agreement {kind} {name} {binary}")
            truth = interval(*draw(rng, kind, _MANY, JUDGES[name], difference=False, binary=binary)).estimate
            held = [
                np.mean(
                    [
                        interval(*draw(rng, kind, n, JUDGES[name], difference=False, binary=binary)).holds(truth)
                        for _ in range(repeats)
                    ]
                )
                for n in (16, 50, 200)
            ]
            shown = " | ".join(f"{share:.3f}" for share in held)
            print(f"| {measure} | {kind}, {'0 or 1' if binary else '0 to 10'} | {name} | {shown} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="draws for each cell")
    repeats = parser.parse_args().repeats
    for difference in (False, True):
        for kind in HUMANS[:2] if difference else HUMANS:
            print_intervals(kind, difference=difference, binary=False, repeats=repeats)
        print_intervals("0/1", difference=difference, binary=True, repeats=repeats)
    print_agreement(repeats)


if __name__ == "__main__":
    main()
