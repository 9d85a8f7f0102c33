"""Rules for the final choice of a prompt, replayed on published runs: `python -m benchmarks.arena.published_runs`.

The runs are those of the CAPO paper (github.com/finitearth/capo): each row is a prompt of the population after a step, with
the dev score that the optimiser saw and the test score on 500 other items. No model is asked. A rule sees dev scores, number
of items, steps and lengths, and chooses one prompt of a run; only then its test score is looked up.

Left out: runs that only repeat the beginning of another one, and runs in which all dev scores are equal. Dataset x model pairs ("cells") count alike, whatever their number of
runs, and intervals are over cells. docs/arena.md discusses the results.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from promptopt.statistics import paired_interval
from promptopt.statistics.arrays import Floats, nanmean

from .published_data import Run, distinct, informative, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Chosen: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]
    Score: TypeAlias = Callable[[Run], Floats]
    Rule: TypeAlias = Callable[[Run], Chosen]

_SHORTLIST = 16  # as many as promptopt takes into its choice
_LENGTH_PENALTY = 0.05  # CAPO's own, on length relative to the longest prompt
_KEPT = 1e-4  # share of its distance from the mean that a shrunken score keeps at least
_EQUAL = 1e-9
REFERENCE, FIRST = "last step", "first step"


# What rules see


def latest(run: Run) -> Floats:
    """Return the last score of each prompt [P]: its mean over all items that it ran on."""
    last = run.dev.shape[1] - 1 - np.argmax(~np.isnan(run.dev[:, ::-1]), axis=1)
    return np.asarray(run.dev[np.arange(len(run.dev)), last])


def peak(run: Run, steps: int) -> Floats:
    """Return the highest score of each prompt [P] over the last steps; -inf where it was in the population at none."""
    return np.asarray(np.nan_to_num(run.dev[:, -steps:], nan=-np.inf).max(axis=1))


def error(run: Run) -> Floats:
    """Return the standard error of each latest score, as of 0/1 rewards; one more of each keeps it above 0."""
    share = (latest(run) * run.items + 1) / (run.items + 2)
    return np.asarray(np.sqrt(share * (1 - share) / run.items))


def shrunken(run: Run) -> Floats:
    """Return the latest scores shrunken towards the run's mean by tau^2 / (tau^2 + error^2) (DerSimonian and Laird 1986)."""
    scores, variance = latest(run), error(run) ** 2
    weights = 1 / variance
    mean = np.average(scores, weights=weights)
    excess = float((weights * (scores - mean) ** 2).sum()) - (len(scores) - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(excess / scale, 0.0) if scale > 0 else 0.0
    shares = between / (between + variance)
    centre = np.average(scores, weights=shares) if between else mean
    # Where all are shrunken to one value, the order of the scores remains.
    return np.asarray(centre + np.maximum(shares, _KEPT) * (scores - centre))


def well_measured(run: Run) -> Floats:
    """Return the latest scores of prompts with at least half of the most items, as promptopt's archive ranks."""
    return np.where(2 * run.items >= run.items.max(), latest(run), -np.inf)


def shortest_near_best(run: Run) -> Floats:
    """Rank by length those within one standard error of the best."""
    scores, best = latest(run), int(np.argmax(latest(run)))
    return np.where(scores >= scores[best] - error(run)[best], -run.characters, -np.inf)


# Rules


def tied(score: Score) -> Rule:
    """Choose the best; ties at random, so that all of them are returned."""
    return lambda run: np.flatnonzero(score(run) >= score(run).max() - _EQUAL)


def shortest(score: Score) -> Rule:
    """Choose the best; ties go to the shorter prompt."""
    return lambda run: np.array(sorted(tied(score)(run), key=lambda p: float(run.characters[p]))[:1])


def oldest(score: Score) -> Rule:
    """Choose the best; ties go to the prompt that was there first."""
    return lambda run: tied(score)(run)[:1]


def _penalised(run: Run) -> Floats:
    return np.asarray(latest(run) - _LENGTH_PENALTY * run.characters / run.characters.max())


RULES: dict[str, Rule] = {
    REFERENCE: shortest(lambda run: peak(run, 1)),
    "last step, ties at random": tied(lambda run: peak(run, 1)),
    "last step, ties to the oldest": oldest(lambda run: peak(run, 1)),
    "all steps, latest score": shortest(latest),
    "all steps, highest score": shortest(lambda run: peak(run, run.dev.shape[1])),
    "mean over steps": shortest(lambda run: nanmean(run.dev, axis=1)),
    "highest of last 3 steps": shortest(lambda run: peak(run, 3)),
    "highest of last 10 steps": shortest(lambda run: peak(run, 10)),
    "shrunken": shortest(shrunken),
    "lower bound, 1 SE": shortest(lambda run: latest(run) - error(run)),
    "lower bound, 2 SE": shortest(lambda run: latest(run) - 2 * error(run)),
    "most items, then score": shortest(lambda run: run.items + latest(run)),
    "longest in population": shortest(lambda run: (~np.isnan(run.dev)).sum(axis=1) + latest(run)),
    "shortest within 1 SE": shortest(shortest_near_best),
    "score minus length penalty": shortest(_penalised),
    "promptopt": shortest(well_measured),
    "promptopt, ties to the oldest": oldest(well_measured),
}
BOUNDS: dict[str, Rule] = {
    FIRST: shortest(lambda run: np.nan_to_num(run.dev[:, 0], nan=-np.inf)),
    "random of last step": lambda run: np.flatnonzero(~np.isnan(run.dev[:, -1])),
    "random of all": lambda run: np.arange(len(run.test)),
    "oracle of last step": tied(lambda run: np.where(np.isnan(run.dev[:, -1]), -np.inf, run.test)),
    f"oracle of {_SHORTLIST} best": tied(
        lambda run: np.where(np.argsort(np.argsort(-latest(run), kind="stable")) < _SHORTLIST, run.test, -np.inf)
    ),
    "oracle": tied(lambda run: run.test),
}


# Judging


def judged(runs: Sequence[Run], rule: Rule) -> tuple[Floats, Floats]:
    """Return, for each run, the test score of what the rule chooses and its latest dev score."""
    chosen = [rule(run) for run in runs]
    pairs = [(run.test[c].mean(), latest(run)[c].mean()) for run, c in zip(runs, chosen, strict=True)]
    test, dev = np.array(pairs).T
    return test, dev


def usual_gap(runs: Sequence[Run]) -> Floats:
    """Return dev minus test, averaged over all prompts of each run [runs]: how much easier its dev items are."""
    return np.array([(latest(run) - run.test).mean() for run in runs])


def by_cell(runs: Sequence[Run], values: Floats) -> Floats:
    """Return the mean of a value [runs] in each cell, in alphabetic order."""
    cells = np.array([run.cell for run in runs])
    return np.array([values[cells == cell].mean() for cell in sorted(set(cells))])


def left_out(runs: Sequence[Run], tests: Mapping[str, Floats]) -> tuple[Floats, Counter[str]]:
    """Choose the best rule on all cells but one, for each cell; return its score there [cells], and the rules chosen."""
    names = list(tests)
    means = np.array([by_cell(runs, tests[name]) for name in names])
    others = means.sum(axis=1, keepdims=True) - means
    best = np.argmax(np.round(others, 9), axis=0)
    return means[best, np.arange(means.shape[1])], Counter(names[b] for b in best)


def slope(runs: Iterable[Run], top: int | None = None) -> float:
    """Return what one point of dev is worth on test, within runs: the pooled regression over the `top` prompts by dev."""
    above = below = 0.0
    for run in runs:
        best = np.argsort(-latest(run), kind="stable")[:top]
        dev, test = latest(run)[best], run.test[best]
        above += float(((dev - dev.mean()) * (test - test.mean())).sum())
        below += float(((dev - dev.mean()) ** 2).sum())
    return above / below if below else float("nan")


# Printing


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.published_runs", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    everything, incomplete = read(parser.parse_args().data / "capo" / "runs.csv.gz")
    once = distinct(everything)
    runs = [run for run in once if informative(run)]
    flat = [" ".join(run.name) for run in once if not informative(run)]
    print(f"{len(everything)} runs, {len(everything) - len(once)} of them copies; rows without a score: {incomplete}")
    print(f"without any difference in dev, left out: {', '.join(flat) or 'none'}; {len(runs)} runs remain")
    last, first = (judged(everything, rule)[0] for rule in (RULES[REFERENCE], BOUNDS[FIRST]))
    print(
        f"last step's best tests below the first step's: {(last < first).sum()} of {len(last)}, copies included;",
        end=" ",
    )
    last, first = (judged(runs, rule)[0] for rule in (RULES[REFERENCE], BOUNDS[FIRST]))
    print(f"{(last < first).sum()} of {len(last)} without; equal in {(last == first).sum()}")
    for name in (REFERENCE, "all steps, latest score"):
        items = Counter(int(run.items[RULES[name](run)[0]]) for run in runs)
        print(f"items that the choice rests on, by {name!r}: " + ", ".join(f"{n} in {items[n]}" for n in sorted(items)))
    compare("All runs", runs)
    compare("The paper's main runs", [run for run in runs if run.name[0] == "main"])
    break_down("optimiser", runs, lambda run: run.optimiser)
    break_down("cell", runs, lambda run: run.cell)


def compare(title: str, runs: Sequence[Run]) -> None:
    """Print a table of all rules, and what choosing among them without the judged cell gives."""
    tests = {name: judged(runs, rule)[0] for name, rule in RULES.items()}
    base, usual = tests[REFERENCE], usual_gap(runs)
    print(f"\n{title}: {len(runs)} runs, {len(by_cell(runs, base))} cells\n")
    print(f"| rule | test | minus {REFERENCE} | better, same, worse | dev minus test | beyond the run's mean |")
    print("|---|---|---|---|---|---|")
    for name, rule in {**RULES, **BOUNDS}.items():
        test, dev = judged(runs, rule)
        gap = 100 * by_cell(runs, dev - test).mean(), 100 * by_cell(runs, dev - test - usual).mean()
        print(
            f"| {name} | {100 * by_cell(runs, test).mean():.2f} | {_difference(by_cell(runs, test), by_cell(runs, base))} "
            f"| {_counts(test, base)} | {gap[0]:+.2f} | {gap[1]:+.2f} |"
        )
    chosen, names = left_out(runs, tests)
    print(
        f"\nbest rule of the other cells: {100 * chosen.mean():.2f}, {_difference(chosen, by_cell(runs, base))};",
        end=" ",
    )
    print(", ".join(f"{name} {count}" for name, count in names.most_common()))


def break_down(title: str, runs: Sequence[Run], key: Callable[[Run], str]) -> None:
    """Print a table with a row for each group of runs: differences of rules from the last step; intervals are over runs."""
    print(
        f"\n| {title} | runs | {REFERENCE} | minus {FIRST} | all steps, latest | promptopt | oracle minus {REFERENCE}",
        end=" ",
    )
    print("| dev minus test | beyond the run's mean | slope | of 16 best |\n" + "|---" * 11 + "|")
    for name, members in groupby(sorted(runs, key=key), key):
        group = list(members)
        last, dev = judged(group, RULES[REFERENCE])
        rules = BOUNDS[FIRST], RULES["all steps, latest score"], RULES["promptopt"], BOUNDS["oracle"]
        first, ever, ours, oracle = (judged(group, rule)[0] for rule in rules)
        print(
            f"| {name} | {len(group)} | {100 * last.mean():.2f} | {_difference(last, first)} | {_difference(ever, last)} "
            f"| {_difference(ours, last)} "
            f"| {100 * (oracle - last).mean():+.2f} | {100 * (dev - last).mean():+.2f} "
            f"| {100 * (dev - last - usual_gap(group)).mean():+.2f} "
            f"| {slope(group):.2f} | {slope(group, _SHORTLIST):.2f} |"
        )


def _difference(first: Floats, second: Floats) -> str:
    """Return a mean difference in points, with its interval where anything differs."""
    if np.abs(first - second).max() < _EQUAL:
        return "0"
    estimate, low, high = (100 * end for end in paired_interval(first, second))
    return f"{estimate:+.2f} ({low:+.2f} to {high:+.2f})"


def _counts(test: Floats, base: Floats) -> str:
    better, worse = int((test > base + _EQUAL).sum()), int((test < base - _EQUAL).sum())
    return f"{better}, {len(test) - better - worse}, {worse}"


if __name__ == "__main__":
    main()
