"""First paints of the viewer in Chromium: 500 runs, and a run of 10,000 candidates on 500 examples.

    PYTHONPATH=tests python -m benchmarks.view            # prints a table

The command `promptopt view` is started again three times for each page, which is opened five times each: the median of the first times, when
the server has read nothing, and of the others. The paint is the first contentful one; "whole" is when the script of the page is
done: all rows of the list, all of a report but its charts.
"""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from browser import browsing
from results import BETTER, HISTORY, OUTCOMES, a_result

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
    from collections.abc import Generator, Iterable

    from browser import Page

    from promptopt import Result

RUNS, CANDIDATES, EXAMPLES = 500, 10_000, 500
STARTS, TIMES = 3, 4
_WHOLE = (
    "performance.getEntriesByName('first-contentful-paint').length && document.readyState === 'complete' && "
    "(!document.querySelector('script[src]') || document.body.dataset.ready === 'yes')"
)
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
        about: dict[str, Any] = {"strategy": dict(result.strategy), "models": result.models, "budget": result.budget}
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


@contextmanager
def viewing(folder: Path) -> Generator[str]:
    """Start the command `promptopt view`; give the address that it prints."""
    command = [sys.executable, "-m", "promptopt", "view", str(folder), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:  # noqa: S603  our own command
        try:
            yield next(iter(process.stdout or ())).split(" at ")[1].split()[0]
        finally:
            process.terminate()


def measure(folder: Path, run: str, ends: Iterable[tuple[str, str]]) -> None:
    """Print the first paints of some pages of a folder: of each, the first time of several servers, and of later times."""
    with browsing(folder.parent / f"profile-{folder.name}") as page:
        for name, end in ends:
            first, then, whole = list[float](), list[float](), list[float]()
            for _ in range(STARTS):
                with viewing(folder) as address:
                    base, token = address.split("/?")
                    page.open(f"{base}/static/style.css?{token}", ready=False)  # the cookie alone
                    first.append(paint(page, f"{base}{run}{end}"))
                    for _ in range(TIMES):
                        then.append(paint(page, f"{base}{run}{end}"))
                        whole.append(float(page.run("performance.now()")))
                    page.open("about:blank", ready=False)
            cells = (f"{statistics.median(values):.0f} ({min(values):.0f})" for values in (first, then, whole))
            print(f"{name:34}" + "".join(f" {cell:>14}" for cell in cells), flush=True)


def paint(page: Page, address: str) -> float:
    """Open a page, wait until its script is done, and return its first contentful paint in milliseconds."""
    page.send("Page.navigate", url=address)
    page.wait(_WHOLE, 120)
    return float(page.run(_PAINT))


def main() -> None:
    """Write the runs, open their pages, print a table."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        many_runs(folder / "many")
        large_run(folder / "large" / "run")
        (run,) = (entry.id for entry in Library(folder / "large").runs())
        print(f"{'milliseconds, median (fastest)':34} {'first':>14} {'then':>14} {'whole':>14}")
        measure(folder / "many", "", [(f"{RUNS} runs", "/")])
        pages = (("report", ""), ("candidates", "/candidates"), ("side by side", "/items?c=0,17,4711"))
        measure(
            folder / "large", f"/runs/{run}", [(f"{CANDIDATES:,} x {EXAMPLES}, {name}", end) for name, end in pages]
        )


if __name__ == "__main__":
    main()
