"""Which interval of a cross-fitted gain holds, and how wide it is: `python -m benchmarks.cross_fit` prints tables in a quarter of an hour.

With `--groups`, the rows come in groups, such as those of one customer: their difficulties and the prompts' rewards on them are correlated.

Simulated rewards of a seed prompt and its candidates. In each run, the 16 candidates with the best training rewards go on to validation,
and one is chosen by the rule of the package, or the seed prompt is kept. The target is the expected gain of the procedure: the mean, over
data sets of this size, of the true reward of the prompt chosen from all rows minus that of the seed prompt. "Forward" tests the prompt
found on the first half of the rows on the next tenth, that of 60 % on the next, and so on: its target are the gains of these prompts.
"""

from __future__ import annotations

import argparse
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from promptopt.randomness import named_generator
from promptopt.statistics import Interval, cross_fitted_interval, paired_t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from promptopt.statistics.arrays import Floats

    Rows = NDArray[np.int_]  # numbers of rows, or a number for each row
    # rewards [N] of the chosen prompts and of the seed prompt, and the fold of each row [N]
    Method = Callable[[Floats, Floats, Rows], Interval]

SHORTLIST = 16
START, BLOCKS = 0.5, 5  # of the forward test: share of the rows before the first test, and tests
SHARED = 0.7  # correlation of two prompts' latent rewards of one item
TRAIN = 4 / 7  # of the rows that are not for the test, as by default
TEST = 0.3
SIZES = (40, 60, 100)
GROUPS = {"3": (3,), "1 to 6": (1, 1, 2, 3, 5, 6)}  # numbers of rows of the groups in turn; their mean is 3
GROUP_SIZES = (30, 60, 100)
FOLDS = 5


class World(NamedTuple):
    """What is simulated.

    Args:
        binary: whether rewards are 0 and 1, or continuous in 0 to 1.
        spread: whether the candidates' gains are spread evenly from -gain to +gain, or all are 0 but one.
        fresh: whether each run proposes candidates of its own, or all runs the same.
        gain: true gain of the best candidate.
        candidates: number of candidates in each run.
        seed_reward: true reward of the seed prompt.
        alike: correlation within a group of rows, of their difficulty and of all else that decides the reward of a prompt on them.
    """

    binary: bool
    spread: bool
    fresh: bool
    gain: float
    candidates: int = 32
    seed_reward: float = 0.6
    alike: float = 0.0

    def __str__(self) -> str:
        kind = "one good" if not self.spread else "even, new in each run" if self.fresh else "even"
        more = [f"{self.candidates} candidates"] if self.candidates != World._field_defaults["candidates"] else []
        more += [f"seed {self.seed_reward}"] if self.seed_reward != World._field_defaults["seed_reward"] else []
        more += [f"alike {self.alike}"] if self.alike else []
        return ", ".join(["0/1" if self.binary else "continuous", kind, *more, f"{self.gain:+.2f}"])

    @property
    def gains(self) -> Floats:
        """True gains [P] of the candidates over the seed prompt."""
        if self.spread:
            return np.linspace(-self.gain, self.gain, self.candidates)
        return np.where(np.arange(self.candidates) == 0, self.gain, 0.0)

    def normal(self, rng: np.random.Generator, count: int, groups: Rows) -> Floats:
        """Draw standard normal values [count, N], correlated within the groups [N] of the rows."""
        own = rng.standard_normal((count, len(groups)))
        if not self.alike:
            return own
        shared = rng.standard_normal((count, int(groups.max()) + 1))[:, groups]
        return np.asarray(np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * own)

    def rewards(self, rng: np.random.Generator, difficulty: Floats, means: Floats, groups: Rows) -> Floats:
        """Draw rewards [P, N] of prompts with these means [P] on items of this difficulty [N], in groups [N]."""
        own = self.normal(rng, len(means), groups)
        latent = np.sqrt(SHARED) * difficulty + np.sqrt(1 - SHARED) * own
        if self.binary:
            return np.asarray(latent < ndtri(means)[:, None], dtype=float)
        return np.asarray(ndtr(np.sqrt(2) * ndtri(means)[:, None] + latent))


class DataSet:
    """Rows in groups [N], and what the prompts of the runs earn on them."""

    def __init__(self, world: World, groups: Rows, rng: np.random.Generator) -> None:
        self.world, self.rng, self.groups = world, rng, groups
        self.difficulty = world.normal(rng, 1, groups)[0]
        self.seed = world.rewards(rng, self.difficulty, np.array([world.seed_reward]), groups)[0]
        self.pool = self._propose()

    def _propose(self) -> Floats:
        means = self.world.seed_reward + self.world.gains
        return self.world.rewards(self.rng, self.difficulty, means, self.groups)

    def run(self, searched: Rows) -> tuple[Floats, float]:
        """Return the rewards [N] of the prompt that is chosen from these rows, and its true gain."""
        pool = self._propose() if self.world.fresh else self.pool
        chosen = choose(pool[:, searched] - self.seed[searched])
        return (self.seed, 0.0) if chosen is None else (pool[chosen], float(self.world.gains[chosen]))

    def cross_fit(self, folds: Rows) -> Floats:
        """Return the rewards [N] of the prompts that are chosen without each row's fold [N]."""
        chosen = np.empty(len(folds))
        for fold in np.unique(folds):
            rewards, _ = self.run(np.flatnonzero(folds != fold))
            chosen[folds == fold] = rewards[folds == fold]
        return chosen


def choose(gains: Floats) -> int | None:
    """Return the candidate that the rule of the package chooses by gains [P, N] over the seed prompt; None keeps that."""
    train = round(TRAIN * gains.shape[1])
    listed = np.argsort(-gains[:, :train].mean(axis=1), kind="stable")[:SHORTLIST]
    validation = gains[listed, train:]
    error = validation.std(axis=1, ddof=1) / np.sqrt(validation.shape[1])
    total = gains[listed].sum(axis=1)
    eligible = (validation.mean(axis=1) >= -error) & (total > 0)
    return int(listed[np.argmax(np.where(eligible, total, -np.inf))]) if eligible.any() else None


def over_rows(chosen: Floats, seed: Floats, folds: Rows) -> Interval:  # noqa: ARG001  of the type Method
    """Return the interval of one test, as if rows were independent."""
    return paired_t_interval(chosen, seed, 0.95)


def within_folds(chosen: Floats, seed: Floats, folds: Rows) -> Interval:
    """Return the normal interval with the mean variance within folds (Bayle et al. 2020)."""
    gaps = chosen - seed
    variance = np.mean([gaps[folds == fold].var(ddof=1) for fold in np.unique(folds)])
    half = ndtri(0.975) * np.sqrt(variance / len(gaps))
    return Interval(float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half))


def over_folds(chosen: Floats, seed: Floats, folds: Rows) -> Interval:
    """Return Student's t interval of the folds' means."""
    return _fold_interval(chosen - seed, folds, 0.0)


def corrected(chosen: Floats, seed: Floats, folds: Rows) -> Interval:
    """Return Nadeau and Bengio's corrected t interval (2003): the ratio of test to training rows is added to 1 / k."""
    return _fold_interval(chosen - seed, folds, 1 / (len(np.unique(folds)) - 1))


def _fold_interval(gaps: Floats, folds: Rows, correction: float) -> Interval:
    means = np.array([gaps[folds == fold].mean() for fold in np.unique(folds)])
    k = len(means)
    half = float(stdtrit(k - 1, 0.975) * means.std(ddof=1) * np.sqrt(1 / k + correction))
    return Interval(float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half)


def by_correlation(chosen: Floats, seed: Floats, folds: Rows) -> Interval:
    """Return the interval over rows, widened for a correlation of 1 / k between the means of two folds."""
    k = len(np.unique(folds))
    estimate, low, high = over_rows(chosen, seed, folds)
    factor = np.sqrt(1 + (k - 1) / k)
    return Interval(estimate, estimate - factor * (estimate - low), estimate + factor * (high - estimate))


def taken(chosen: Floats, seed: Floats, folds: Rows) -> Interval:
    """Return the interval of the package: over rows, with Nadeau and Bengio's correction."""
    return cross_fitted_interval(chosen, seed, len(np.unique(folds)))


METHODS: dict[str, Method] = {
    "rows": over_rows,
    "within folds": within_folds,
    "fold means": over_folds,
    "fold means, corrected": corrected,
    "rows, correlation 1/k": by_correlation,
    "rows, corrected": taken,
}


class Drawn(NamedTuple):
    """One data set: intervals, and true gains of the prompts that were chosen.

    Args:
        cross: the cross-fitted intervals by method.
        forward: the forward interval.
        single: the interval of a single split.
        returned: gain of the prompt chosen from all rows.
        of_forward: mean gain of the prompts of the forward test.
    """

    cross: dict[str, Interval]
    forward: Interval
    single: Interval
    returned: float
    of_forward: float


def draw(world: World, rows: int, k: int, rng: np.random.Generator) -> Drawn:
    """Simulate a data set, k runs for the claim, one on all rows, those of the forward test, and one with a single split."""
    numbers = np.arange(rows)
    data, folds = DataSet(world, numbers, rng), numbers % k
    chosen = data.cross_fit(folds)
    tested = round(TEST * rows)
    split, _ = data.run(numbers[tested:])
    forward, of_forward = _forward(data, rows)
    return Drawn(
        cross={name: method(chosen, data.seed, folds) for name, method in METHODS.items()},
        forward=forward,
        single=over_rows(split[:tested], data.seed[:tested], folds),
        returned=data.run(numbers)[1],
        of_forward=of_forward,
    )


def _forward(data: DataSet, rows: int) -> tuple[Interval, float]:
    """Return the interval where each block is tested by the prompt found on all rows before it, and those prompts' mean true gain."""
    borders = np.round(np.linspace(START * rows, rows, BLOCKS + 1)).astype(int)
    chosen, gains = np.empty(rows), np.empty(rows)
    for first, last in pairwise(borders):
        rewards, gain = data.run(np.arange(first))
        chosen[first:last], gains[first:last] = rewards[first:last], gain
    rest = slice(borders[0], None)
    return over_rows(chosen[rest], data.seed[rest], borders), float(gains[rest].mean())


def report(world: World, rows: int, k: int, repeats: int) -> tuple[list[str], list[str]]:
    """Return the cells of a row of the table of coverage, and of that of widths."""
    draws = [draw(world, rows, k, named_generator(seed, f"cross-fit {world} {rows} {k}")) for seed in range(repeats)]
    target = float(np.mean([d.returned for d in draws]))
    coverage = [f"{_share(d.cross[name].holds(target) for d in draws):.3f}" for name in METHODS]
    ours = [d.cross["rows, corrected"] for d in draws]
    low = _share(i.low > target for i in ours)
    returned = _share(i.holds(d.returned) for i, d in zip(ours, draws, strict=True))
    forward = _share(d.forward.holds(d.of_forward) for d in draws)
    cells = [f"{target:+.3f}", *coverage, f"{low:.3f}", f"{returned:.3f}", f"{forward:.3f}"]
    widths, claims = [], []
    for intervals in (ours, [d.forward for d in draws], [d.single for d in draws]):
        widths.append(float(np.mean([i.high - i.low for i in intervals])))
        claims.append(f"{_share(i.low > 0 for i in intervals):.2f}")
    return cells, [*(f"{w:.2f}" for w in widths), f"{widths[0] / widths[-1]:.2f}", *claims]


def groups_of(rows: int, kind: str) -> Rows:
    """Return the group of each row [N]."""
    sizes = cycle(GROUPS[kind])
    return np.concatenate([np.full(next(sizes), number) for number in range(rows)])[:rows]


class DrawnGroups(NamedTuple):
    """One data set in groups: the intervals over rows and over groups, and the true gain of the prompt chosen from all rows."""

    independent: Interval
    clustered: Interval
    returned: float


def draw_groups(world: World, groups: Rows, rng: np.random.Generator) -> DrawnGroups:
    """Simulate a data set in groups [N], the runs of the folds, and one on all rows."""
    data = DataSet(world, groups, rng)
    chosen = data.cross_fit(groups % FOLDS)
    return DrawnGroups(
        cross_fitted_interval(chosen, data.seed, FOLDS),
        cross_fitted_interval(chosen, data.seed, FOLDS, [str(group) for group in groups]),
        data.run(np.arange(len(groups)))[1],
    )


def report_groups(world: World, rows: int, kind: str, repeats: int) -> list[str]:
    """Return the cells of a row of the table of groups."""
    groups = groups_of(rows, kind)
    draws = [
        draw_groups(world, groups, named_generator(seed, f"groups {world} {rows} {kind}")) for seed in range(repeats)
    ]
    target = float(np.mean([d.returned for d in draws]))
    independent, clustered = [d.independent for d in draws], [d.clustered for d in draws]
    covered = [_share(i.holds(target) for i in intervals) for intervals in (independent, clustered)]
    low = _share(i.low > target for i in clustered)
    widths = [float(np.mean([i.high - i.low for i in intervals])) for intervals in (independent, clustered)]
    return [f"{target:+.3f}", *(f"{share:.3f}" for share in (*covered, low)), *(f"{width:.2f}" for width in widths)]


def group_cases() -> Iterator[tuple[World, int, str]]:
    """Yield what is simulated with groups: world, rows and kind of groups."""
    worlds = [World(binary=True, spread=False, fresh=False, gain=gain) for gain in (0.0, 0.1, 0.2)]
    worlds += [worlds[1]._replace(seed_reward=0.88)]
    worlds += [World(binary=False, spread=False, fresh=False, gain=gain) for gain in (0.0, 0.06)]
    for kind in GROUPS:
        for alike in (0.5, 1.0):
            for world in worlds:
                yield from ((world._replace(alike=alike), rows, kind) for rows in GROUP_SIZES)


def print_groups(repeats: int) -> None:
    """Print the table of groups."""
    heads = ["rewards, candidates, correlation within groups, best gain", "rows", "rows of a group", "expected gain"]
    heads += ["rows, corrected", "groups, corrected", "of it above the target", "width of rows", "width of groups"]
    print(_line(heads), _line(["---"] * len(heads)), sep="\n")
    for world, rows, kind in group_cases():
        print(_line([str(world), str(rows), kind, *report_groups(world, rows, kind, repeats)]), flush=True)


def _share(holds: Iterable[bool]) -> float:
    return float(np.mean(list(holds)))


def cases() -> Iterator[tuple[World, int, int]]:
    """Yield what is simulated: world, rows and folds."""
    ours = [World(binary=True, spread=False, fresh=False, gain=gain) for gain in (0.0, 0.05, 0.1, 0.15, 0.2)]
    ours += [World(binary=True, spread=True, fresh=fresh, gain=0.1) for fresh in (False, True)]
    ours += [World(binary=False, spread=False, fresh=False, gain=gain) for gain in (0.0, 0.06, 0.2)]
    one_good = ours[2]
    ours += [one_good._replace(candidates=number) for number in (8, 256)]
    ours += [one_good._replace(seed_reward=0.3), one_good._replace(seed_reward=0.88)]
    for world in ours:
        yield from ((world, rows, 5) for rows in SIZES)
    for world in (ours[0], one_good):
        yield from ((world, rows, 10) for rows in SIZES)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cross_fit", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated data sets for each row of the tables")
    parser.add_argument("--groups", action="store_true", help="rows in groups")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    if arguments.groups:
        print_groups(repeats)
        return
    where = ["rewards, candidates, best gain", "rows", "folds"]
    heads = [*where, "expected gain", *METHODS, "of it above the target", "the returned prompt's gain", "forward"]
    widths = []
    print(f"Coverage of 95 % intervals, {repeats} data sets each\n")
    print(_line(heads), _line(["---"] * len(heads)), sep="\n")
    for world, rows, k in cases():
        covered, wide = report(world, rows, k, repeats)
        print(_line([str(world), str(rows), str(k), *covered]), flush=True)
        widths.append([str(world), str(rows), str(k), *wide])
    heads = [*where, "width", "forward", "single split", "ratio", "shown", "forward", "single split"]
    print("\nMean widths of the interval taken, and how often a gain is shown\n")
    print(_line(heads), _line(["---"] * len(heads)), *map(_line, widths), sep="\n")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
