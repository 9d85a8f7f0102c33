"""What it costs to track a candidate: `python benchmarks/tracking.py` prints one table.

2,000 candidates, told to a study as a run tells it, in steps of one size that follow at once; beside it Optuna's own
`Study.add_trials`, on the first 200 alone. Turns interleaved in one process, medians over them. MLflow, where it is
installed, has a row by the step.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from promptopt import Prompt
from promptopt.evaluation.ledger import Spending
from promptopt.results.result import Record
from promptopt.tracking import MLflow, OptunaStudy, RunStarted, StepFinished, optuna_rows

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 3
CANDIDATES = 2000
SLOW = 200  # candidates that Optuna's own way is given
BEGUN = RunStarted(
    name="benchmark", task="reviews", strategy={"name": "None", "settings": {}}, models={}, seed=0, budget=""
)
TEXT = "Label the review of a film as positive or negative; answer in one word. " * 5
FACTS = {"best": 0.9, "mean": 0.7, "pool": 16}


def record(number: int, step: int) -> Record:
    """Return a candidate as a run tells of it, of a prompt of about 400 characters."""
    facts: dict[str, Any] = {"parent": number // 2 if number else None, "fitness": number / CANDIDATES}
    prompt = Prompt(f"{TEXT} ({number}) {{text}}")
    return Record(
        number=number, prompt=prompt, length=80, step=step, reward=number / CANDIDATES, cells=32, failed=0, **facts
    )


def steps(size: int, count: int) -> list[StepFinished]:
    """Return the steps of a search of `count` candidates, `size` in each."""
    return [
        StepFinished(
            number=step,
            facts=FACTS,
            candidates=tuple(record(start + n, step) for n in range(size)),
            used=Spending(calls=32 * (start + size)),
        )
        for step, start in enumerate(range(0, count, size))
    ]


def milliseconds(make: Callable[[Path], Any], told: list[StepFinished], count: int) -> tuple[float, float]:
    """Return what it takes to tell a tracker of steps, by the clock and of the processor, each over `count`."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = make(Path(folder))
        tracker(BEGUN)
        start, used = time.perf_counter(), time.process_time()
        with closing(tracker):
            for event in told:
                tracker(event)
        return 1000 * (time.perf_counter() - start) / count, 1000 * (time.process_time() - used) / count


def study(folder: Path) -> OptunaStudy:
    """Return a study in a folder."""
    return OptunaStudy(folder / "study.db")


def mlflow(folder: Path) -> MLflow:
    """Return a run of MLflow in a folder."""
    return MLflow(f"sqlite:///{folder / 'mlflow.db'}")


def optunas_own() -> tuple[float, float]:
    """Return what Optuna's own way takes a candidate, in steps of ten."""
    with mock.patch.object(optuna_rows, "_SCHEMA", "of no Optuna"):
        return milliseconds(study, steps(10, SLOW), SLOW)


def ours(size: int) -> tuple[float, float]:
    """Return what a candidate takes in steps of a size."""
    return milliseconds(study, steps(size, CANDIDATES), CANDIDATES)


def main() -> None:
    """Measure, and print the table."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.disable(logging.INFO)
    rows: dict[str, Callable[[], tuple[float, float]]] = {"Optuna's own, per candidate": optunas_own}
    rows |= {f"ours, steps of {size}, per candidate": partial(ours, size) for size in (1, 10, 100)}
    if find_spec("mlflow"):
        rows["MLflow, per step"] = lambda: milliseconds(mlflow, steps(10, CANDIDATES), CANDIDATES // 10)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for turn in range(TURNS + 1):
        for name, measure in rows.items():
            took = measure()
            if turn:  # the first one imports
                found[name].append(took)
    sys.stdout.write("| way | ms | of processor time |\n|---|---:|---:|\n")
    for name, times in found.items():
        wall, used = (statistics.median(column) for column in zip(*times, strict=True))
        sys.stdout.write(f"| {name} | {wall:.2f} | {used:.2f} |\n")


if __name__ == "__main__":
    main()
