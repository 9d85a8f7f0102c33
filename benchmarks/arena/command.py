"""What the arena's commands share: the options that choose cells, the cells that are missing, and the line of one that is done."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from .cells import Place, read_cells
from .models import MODELS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection

    from .cells import Cell


def add_options(parser: argparse.ArgumentParser, tasks: Collection[str], methods: Collection[str], out: Path) -> None:
    """Add the options of a command that runs cells.

    Args:
        parser: of the command.
        tasks: names to choose from; all by default.
        methods: as `tasks`.
        out: default folder for what methods write.
    """
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks))
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", choices=MODELS, default="qwen05", help="task model")
    parser.add_argument("--writer", choices=MODELS, default="qwen15")
    parser.add_argument("--budget", type=int, default=300_000, help="tokens of all roles and directions")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the models' GGUF files")
    parser.add_argument("--out", type=Path, default=out, help="folder for what methods write")
    parser.add_argument("--dtype", default="float32", help="of the models, see `promptopt serve --dtype`")


def missing(given: argparse.Namespace) -> list[Place]:
    """Return the chosen cells that are not kept yet."""
    kept = read_cells(given.cells)
    places = (
        Place(task, given.model, given.writer, method, seed, given.budget)
        for seed, task, method in product(given.seeds, given.tasks, given.methods)
    )
    return [place for place in places if place not in kept]


def report(cell: Cell) -> None:
    """Print one line."""
    words = [*map(str, cell.place), f"{cell.reward:.3f}", f"{cell.tokens:,} tokens", f"{cell.seconds:.0f} s"]
    print(" | ".join(words), flush=True)
