"""The published runs of the CAPO paper (github.com/finitearth/capo), as arrays. Knows nothing of rules.

A row of the file is a prompt of the population after a step, with the dev score that the optimiser saw and the score on 500
test items.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.statistics.arrays import Floats

    Row: TypeAlias = Mapping[str, str]

ITEMS, BLOCK = 300, 30  # dev items of each run, and of a block of CAPO's races
_ROUNDING = 5.1e-5  # of scores with four decimals


class Run(NamedTuple):
    """One optimiser run.

    Args:
        name: family, dataset, model, optimiser, seed.
        prompts: [P] hashes, in order of first appearance.
        dev: [P, S] dev score of each prompt after each step; NaN where it was not in the population.
        items: [P] number of dev items in the latest score, a lower bound.
        characters: [P] length.
        test: [P] test score.
    """

    name: tuple[str, str, str, str, str]
    prompts: tuple[str, ...]
    dev: Floats
    items: Floats
    characters: Floats
    test: Floats

    @property
    def cell(self) -> str:
        """Dataset and model."""
        return f"{self.name[1]}, {self.name[2]}"

    @property
    def optimiser(self) -> str:
        """Optimiser; CAPO's ablations and hyperparameters are one group, its paper's setting another."""
        base, _, variant = self.name[3].partition("_")
        return "CAPO variants" if base == "CAPO" and variant else base


def read(path: Path) -> tuple[list[Run], int]:
    """Return the runs of a file, and the number of its rows that lack a score and are left out."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["dev"] and row["test"]:
            groups[tuple(row[key] for key in ("family", "data", "model", "optimizer", "seed"))].append(row)
    return [make_run(group) for group in groups.values()], len(rows) - sum(map(len, groups.values()))


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not the beginning of another one; of equal ones, that of family "main"."""
    kept: list[Run] = []
    for run in sorted(runs, key=lambda run: (-run.dev.shape[1], run.name[0] != "main", run.name)):
        if not any(_begins(run, longer) for longer in kept):
            kept.append(run)
    return sorted(kept, key=lambda run: run.name)


def _begins(run: Run, longer: Run) -> bool:
    """Whether a run is the first steps of another one on the same cell and seed."""
    prompts, steps = run.dev.shape
    alike = run.cell == longer.cell and run.name[-1] == longer.name[-1] and run.prompts == longer.prompts[:prompts]
    return alike and np.array_equal(run.dev, longer.dev[:prompts, :steps], equal_nan=True)


def informative(run: Run) -> bool:
    """Whether dev scores differ at all; where they do not, no rule can choose by them."""
    return bool(np.nanmax(run.dev) > np.nanmin(run.dev))


def make_run(rows: Sequence[Row]) -> Run:
    """Build a run from its rows, in order of steps; of copies of a prompt in one population the best counts."""
    first = rows[0]
    prompts = {row["prompt"]: row for row in rows}
    index, steps = {prompt: p for p, prompt in enumerate(prompts)}, [int(row["step"]) for row in rows]
    dev = np.full((len(prompts), max(steps)), np.nan)
    for row, step in zip(rows, steps, strict=True):
        p = index[row["prompt"]]
        dev[p, step - 1] = np.fmax(dev[p, step - 1], float(row["dev"]))
    races = first["optimizer"].startswith("CAPO") and "no_racing" not in first["optimizer"]
    items = items_seen(dev) if races else np.full(len(prompts), float(ITEMS))
    characters = np.array([float(row["characters"]) for row in prompts.values()])
    test = np.array([float(row["test"]) for row in prompts.values()])
    name = (first["family"], first["data"], first["model"], first["optimizer"], first["seed"])
    return Run(name, tuple(prompts), dev, items, characters, test)


def items_seen(dev: Floats) -> Floats:
    """Infer how many items each latest dev score [P, S] is a mean over: the smallest number that explains all scores.

    Scores are shares of whole blocks; all newcomers of a step ran on the same blocks, everyone else on at least as many;
    a score that changes has taken in at least a block.
    """
    items, latest = np.zeros(len(dev)), np.full(len(dev), np.nan)
    for scores in dev.T:
        here = np.flatnonzero(~np.isnan(scores))
        new = [p for p in here if not items[p]]
        race = _explains([float(scores[p]) for p in new], BLOCK)
        for p in here:
            changed = bool(items[p]) and scores[p] != latest[p]
            items[p] = _explains([float(scores[p])], max(int(items[p]) + BLOCK * changed, race))
            latest[p] = scores[p]
    return items


def _explains(scores: Sequence[float], low: int) -> int:
    """Return the smallest number of items, whole blocks from `low` on, of which all scores are shares; else all items."""
    fits = (n for n in range(low, ITEMS + 1, BLOCK) if all(abs(round(s * n) / n - s) < _ROUNDING for s in scores))
    return next(fits, ITEMS)
