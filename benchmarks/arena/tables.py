"""Tables of kept cells. Intervals are 95 % bootstraps over seeds, and over the test examples of each; tasks are fixed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from promptopt.randomness import named_generator
from promptopt.statistics import Interval

from .cells import LABEL_BIAS
from .contestants import METHODS
from .peers.methods import PEERS_BY_METHOD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from promptopt.statistics.arrays import Floats

    from .cells import Cell

_DEMONSTRATED = ("random demonstrations", "nearest demonstrations")
RESAMPLES = 2_000
CONFIDENCE = 0.95

Seeds: TypeAlias = "dict[int, Cell]"
Tasks: TypeAlias = dict[str, Seeds]


@dataclass(frozen=True)
class Mean:
    """A mean over tasks of values by seed and test example.

    Args:
        values: task -> one array of each seed, by test example.
    """

    values: Mapping[str, Sequence[Floats]]

    @property
    def cells(self) -> int:
        """Number of arrays."""
        return sum(map(len, self.values.values()))

    def interval(self) -> Interval:
        """Return the mean with its interval; NaN without cells."""
        if not self.cells:
            return Interval(np.nan, np.nan, np.nan)
        rng = named_generator(0, "arena tables")
        drawn = np.mean([_resampled(seeds, rng) for seeds in self.values.values()], axis=0)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        mean = np.mean([np.mean([seed.mean() for seed in seeds]) for seeds in self.values.values()])
        return Interval(float(mean), float(low), float(high))


def _resampled(seeds: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Return the means of `RESAMPLES` resamples of the seeds, and of the examples of each seed drawn."""
    drawn = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    means = np.empty(drawn.shape)
    for number, values in enumerate(seeds):
        places = drawn == number
        counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=int(places.sum()))
        means[places] = counts @ values / len(values)
    out: Floats = means.mean(axis=1)
    return out


def rewards(cells: Tasks) -> Mean:
    """Return the mean test reward of a method."""
    return Mean({task: [np.array(cell.rewards) for cell in seeds.values()] for task, seeds in cells.items()})


def difference(first: Tasks, second: Tasks) -> Mean:
    """Return the mean difference of two methods on the tasks and seeds that both have."""
    out = {}
    for task in sorted(first.keys() & second.keys()):
        shared = sorted(first[task].keys() & second[task].keys())
        if shared:
            out[task] = [np.array(first[task][s].rewards) - np.array(second[task][s].rewards) for s in shared]
    return Mean(out)


def best_of_each_task(methods: Mapping[str, Tasks], names: Iterable[str]) -> Tasks:
    """Return, for each task, the cells of that method among `names` with the highest mean reward."""
    candidates = [methods[name] for name in names if name in methods]
    tasks = sorted(set().union(*candidates))
    return {task: max((cells[task] for cells in candidates if task in cells), key=mean_reward) for task in tasks}


def mean_reward(seeds: Seeds) -> float:
    """Return the mean reward of one method on one task."""
    return float(np.mean([cell.reward for cell in seeds.values()]))


def area(cell: Cell, start: float) -> float:
    """Return the mean of the best-so-far test reward over the budget; `start` is the seed prompt's, before the first point."""
    tokens = [0, *(min(point.tokens, cell.place.budget) for point in cell.curve), cell.place.budget]
    heights = [start, *(point.reward for point in cell.curve)]
    return float(np.dot(np.diff(tokens), heights)) / cell.place.budget


def tokens_to(cell: Cell, reward: float) -> int | None:
    """Return the tokens after which the best prompt so far reached a test reward and stayed there; None if it never did."""
    reached: int | None = None
    for point in cell.curve:
        if point.reward < reward:
            reached = None
        elif reached is None:
            reached = point.tokens
    return reached


def print_tables(cells: Sequence[Cell]) -> None:
    """Print three tables for each pair of models and each budget: by task, over all tasks, and against the baselines."""
    groups: dict[tuple[str, str, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.place.model, cell.place.writer, cell.place.budget].append(cell)
    for (model, writer, budget), members in sorted(groups.items()):
        print(f"\n### Task model {model}, writer {writer}, {budget:,} tokens\n")
        methods = by_method(members)
        print_by_task(methods)
        print_summary(methods)
        print_against_baselines(methods)


def by_method(cells: Iterable[Cell]) -> dict[str, Tasks]:
    """Return method -> task -> seed -> cell, methods in the order of `METHODS`, each followed by itself with label bias."""
    methods: dict[str, Tasks] = {}
    order = [name for method in METHODS for name in (method, f"{method}{LABEL_BIAS}")]
    for cell in sorted(cells, key=lambda cell: (order.index(cell.place.method), cell.place.task, cell.place.seed)):
        methods.setdefault(cell.place.method, {}).setdefault(cell.place.task, {})[cell.place.seed] = cell
    return methods


def print_by_task(methods: Mapping[str, Tasks]) -> None:
    """Print the mean test reward of each method on each task; a peer that beats everything else is bold."""
    tasks = sorted(set().union(*methods.values()))
    ours = best_of_each_task(methods, [name for name in methods if name not in PEERS_BY_METHOD])
    print(f"| method | {' | '.join(tasks)} |\n|---{'|---:' * len(tasks)}|")
    for name, cells in methods.items():
        shown = [_height(cells.get(task), ours.get(task) if name in PEERS_BY_METHOD else None) for task in tasks]
        print(f"| {name} | {' | '.join(shown)} |")
    seeds = max(len(seeds) for cells in methods.values() for seeds in cells.values())
    print(
        f"\nMean test reward; seeds for a method and task: at most {seeds}. Bold where a peer beats everything else.\n"
    )


def _height(seeds: Seeds | None, rival: Seeds | None) -> str:
    if seeds is None:
        return ""
    shown = f"{mean_reward(seeds):.3f}".removeprefix("0")
    return f"**{shown}**" if rival is not None and mean_reward(seeds) > mean_reward(rival) else shown


HEADS = (
    *("method", "cells", "test reward", "minus seed prompt", "minus random", "minus best peer of each task"),
    *(
        "area under curve",
        "cells below the seed prompt",
        "tokens to the best peer's reward",
        "tokens",
        "calls",
        "seconds",
    ),
)


def print_summary(methods: Mapping[str, Tasks]) -> None:
    """Print a row for each method."""
    seed, random = methods.get("seed", {}), methods.get("random", {})
    peer = best_of_each_task(methods, PEERS_BY_METHOD)
    print(f"| {' | '.join(HEADS)} |\n|---{'|---:' * (len(HEADS) - 1)}|")
    for name, tasks in methods.items():
        cells = [cell for seeds in tasks.values() for cell in seeds.values()]
        starts = [_partner(cell, seed) for cell in cells]
        below = [cell.reward < start.reward for cell, start in zip(cells, starts, strict=True) if start is not None]
        areas = [area(cell, start.reward) for cell, start in zip(cells, starts, strict=True) if start is not None]
        row = [
            name,
            str(len(cells)),
            _interval(rewards(tasks)),
            *(_interval(difference(tasks, rival), "+") for rival in (seed, random, peer)),
            f"{np.mean(areas):.3f}" if areas else "",
            f"{sum(below)} of {len(below)}",
            _reached(
                [tokens_to(cell, mean_reward(peer[cell.place.task])) for cell in cells if cell.place.task in peer]
            ),
            *(f"{np.mean(values):,.0f}" for values in zip(*map(_costs, cells), strict=True)),
        ]
        print(f"| {' | '.join(row)} |")
    print()


def print_against_baselines(methods: Mapping[str, Tasks]) -> None:
    """Print each method's mean difference from the baselines that show demonstrations, and from itself without label bias."""
    baselines = [name for name in methods if name.removesuffix(LABEL_BIAS) in _DEMONSTRATED]
    if not baselines:
        return
    print(f"| method | {' | '.join(f'minus {name}' for name in baselines)} | minus without label bias |")
    print(f"|---{'|---:' * (len(baselines) + 1)}|")
    for name, tasks in methods.items():
        rivals = [methods[other] if other != name else {} for other in baselines]
        rivals.append(methods.get(name.removesuffix(LABEL_BIAS), {}) if name.endswith(LABEL_BIAS) else {})
        print(f"| {name} | {' | '.join(_interval(difference(tasks, rival), '+') for rival in rivals)} |")
    print("\nDifferences are over the cells that both have.\n")


def _partner(cell: Cell, tasks: Tasks) -> Cell | None:
    return tasks.get(cell.place.task, {}).get(cell.place.seed)


def _costs(cell: Cell) -> tuple[float, float, float]:
    return cell.tokens, sum(tally["calls"] for tally in cell.used.values()), cell.seconds


def _interval(mean: Mean, sign: str = "") -> str:
    if not mean.cells:
        return ""
    estimate, low, high = mean.interval()
    return f"{estimate:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _reached(tokens: Sequence[int | None]) -> str:
    reached = [count for count in tokens if count is not None]
    return (
        f"{np.median(reached):,.0f} ({len(reached)} of {len(tokens)} cells)"
        if reached
        else f"never ({len(tokens)} cells)"
    )
