"""How many rows change sides when rows are added to a file: `python -m benchmarks.splits` prints a table in some minutes.

Simulated files of different texts. "0" puts the borders exactly at the shares (ranks of the hashes), "1" never moves them; the package
uses 0.05. "shuffle" is `split = "shuffle"`.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import numpy as np

from promptopt import Example
from promptopt.data import splits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Split = Callable[[Sequence[Example], int], splits.Splits]

TOLERANCES = (0.0, 0.02, 0.05, 0.1, 1.0)
FILES = ((20, 10), (50, 10), (100, 10), (200, 10), (500, 10), (1000, 10), (1000, 1000))  # rows, and rows added


class Moved(NamedTuple):
    """Means over files: rows that changed sides, those of them that went into test, and the middle 95 % of the test's sizes."""

    moved: float
    into_test: float
    smallest: float
    largest: float


def measure(split: Split, rows: int, added: int, files: int) -> Moved:
    """Split `files` files before and after rows are added at the end."""
    examples = [Example({"text": f"text {i}"}, None, f"{i}") for i in range(rows + added)]
    moved, into_test, sizes = [], [], []
    for seed in range(files):
        before, after = (_sides(split(part, seed)) for part in (examples[:rows], examples))
        moved.append(sum(after[name] != side for name, side in before.items()))
        into_test.append(sum(after[name] != side and after[name] == "test" for name, side in before.items()))
        sizes.append(sum(side == "test" for side in before.values()))
    low, high = np.percentile(sizes, (2.5, 97.5))
    return Moved(float(np.mean(moved)), float(np.mean(into_test)), float(low), float(high))


def _sides(parts: splits.Splits) -> dict[str, str]:
    return {example.id: name for name, part in parts._asdict().items() for example in part}


def _with_tolerance(tolerance: float, examples: Sequence[Example], seed: int) -> splits.Splits:
    with patch.object(splits, "_TOLERANCE", tolerance), patch.object(splits, "_refuse_empty", lambda parts, *_: parts):
        return splits.split_by_hash(examples, seed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.splits", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200, help="simulated files for each cell")
    files = parser.parse_args().files
    ways: dict[str, Split] = {f"{t:g}": partial(_with_tolerance, t) for t in TOLERANCES}
    ways["shuffle"] = splits.split_examples
    print("| rows + added |", " | ".join(ways), "|")
    print("|---|", "---|" * len(ways))
    for rows, added in FILES:
        cells = [measure(split, rows, added, files) for split in ways.values()]
        shown = [f"{c.moved:.1f} ({c.into_test:.1f}), {c.smallest:.0f}-{c.largest:.0f}" for c in cells]
        print(f"| {rows} + {added} |", " | ".join(shown), "|", flush=True)


if __name__ == "__main__":
    main()
