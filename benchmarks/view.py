"""First paints of the viewer in Chromium: 500 runs, and a run of 10,000 candidates on 500 examples.

    PYTHONPATH=tests python -m benchmarks.view            # prints a table
    PYTHONPATH=tests python -m benchmarks.view --images docs/images

Each page is opened five times; the first is after the server's start, when nothing is in memory.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from contextlib import chdir, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from browser import browsing
from results import BETTER, HISTORY, OUTCOMES, a_result
from viewing import TOKEN, a_run, served

from promptopt import Example, Prompt
from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget
from promptopt.optimization.run_folder import save
from promptopt.results.cells import CELLS, CellTable
from promptopt.results.outcomes import Answer
from promptopt.tracking.event_file import EventFile
from promptopt.tracking.events import RunFinished, RunStarted
from promptopt.view.library import Library

if TYPE_CHECKING:
    from browser import Page

    from promptopt import Result

RUNS, CANDIDATES, EXAMPLES = 500, 10_000, 500
TIMES = 5
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def many_runs(folder: Path) -> None:
    """Write the folders of many finished runs."""
    for number in range(RUNS):
        result = a_result(seed=number, task=f"task {number % 20}", test=replace(BETTER, outcomes=OUTCOMES))
        record(folder / f"run-{number:03}", result)


def record(folder: Path, result: Result) -> None:
    """Write the folder of a run with its event file."""
    folder.mkdir(parents=True)
    with EventFile(folder, Budget(), Stop()) as events:
        about = {"strategy": dict(result.strategy), "models": result.models, "budget": result.budget}
        started = RunStarted(name=result.task, task=result.task, seed=result.seed, **about)
        events(started)
        events(RunFinished(result))
    save(result, folder)


def large_run(folder: Path) -> None:
    """Write the folder of a run with many candidates, and all its cells."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(3_000)])
    rewards = rng.random(CANDIDATES).round(4)
    history = tuple(
        replace(
            HISTORY[0],
            number=n,
            prompt=Prompt(f"{n} " + " ".join(rng.choice(words, 60))),
            parent=int(rng.integers(max(0, n - 100), n)) if n else None,
            length=60,
            reward=float(rewards[n]),
            cells=EXAMPLES,
            calls=EXAMPLES * (n + 1),
        )
        for n in range(CANDIDATES)
    )
    best = max(history, key=lambda each: each.reward or 0.0)
    record(folder, a_result(history=history, prompt=best.prompt, seed_prompt=history[0].prompt, seed_number=0))
    with closing(sqlite3.connect(folder / CELLS)) as connection:
        table = CellTable(connection, {})
        for n in range(CANDIDATES):  # one cell each enters the prompts
            table.add(history[n].prompt, Example({"text": "item 0"}, "5", "e0"), 0, Answer(text="5", reward=1.0))
        for e in range(1, EXAMPLES):
            table.add(history[0].prompt, Example({"text": f"item {e}"}, "5", f"e{e}"), 0, Answer(text="5", reward=1.0))
        cells = (
            (p, e, 0, float((p * e) % 3 > 0), "five", "", "stop", None)
            for p in range(1, CANDIDATES)
            for e in range(1, EXAMPLES)
        )
        connection.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?)", cells)
        connection.commit()


def paints(page: Page, address: str) -> list[float]:
    """Return the first paints of a page in milliseconds, one for each time that it is opened."""
    times = []
    for _ in range(TIMES):
        page.open(address, ready=False)
        page.wait("performance.getEntriesByName('first-contentful-paint').length")
        times.append(float(page.run(_PAINT)))
    return times


def measure(folder: Path) -> None:
    """Print the first paints of the pages of both folders."""
    many_runs(folder / "many")
    large_run(folder / "large" / "run")
    (run,) = (entry.id for entry in Library(folder / "large").runs())
    print(f"{'page':34} {'first':>8} {'then':>8}  (ms to the first contentful paint)")
    with browsing(folder / "profile") as page:
        with served(folder / "many") as address:
            page.open(f"{address}/static/style.css?token={TOKEN}", ready=False)  # the cookie alone
            show(f"{RUNS} runs", paints(page, f"{address}/"))
        with served(folder / "large") as address:
            page.open(f"{address}/static/style.css?token={TOKEN}", ready=False)
            for name, end in (("report", ""), ("candidates", "/candidates"), ("side by side", "/items?c=0,17,4711")):
                show(f"{CANDIDATES:,} x {EXAMPLES}, {name}", paints(page, f"{address}/runs/{run}{end}"))


def show(name: str, times: list[float]) -> None:
    """Print a row."""
    print(f"{name:34} {times[0]:8.0f} {statistics.median(times[1:]):8.0f}", flush=True)


def pictures(folder: Path, images: Path) -> None:
    """Write the pictures of the documentation."""
    for number in range(4):
        a_run(folder / "runs" / f"tickets-{number}", seed=number, budget=f"{400 + 300 * number} calls")
    (first, *_) = Library(folder / "runs").runs()
    with chdir(folder), browsing(folder / "profile") as page, served(Path("runs")) as address:
        page.look(1280, 760)
        page.open(f"{address}/?token={TOKEN}")
        page.picture(images / "view-runs.png")
        page.look(1280, 900, dark=True)
        page.open(f"{address}/runs/{first.id}/items?part=training&outcome=won", ready=False)
        time.sleep(0.3)
        page.picture(images / "view-items-dark.png")


def main() -> None:
    """Measure, or write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if images is None:
            measure(Path(folder))
        else:
            pictures(Path(folder), images.resolve())


if __name__ == "__main__":
    main()
