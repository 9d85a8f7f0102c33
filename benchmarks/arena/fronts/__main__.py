"""Fronts of reward and tokens on a task of the arena, at equal tokens; prints the table of the cells that are kept.

    python -m benchmarks.arena.fronts run --server http://127.0.0.1:8811/v1 --tasks larger_animal --seeds 0
    python -m benchmarks.arena.fronts table

The objectives are the reward, and the tokens of a request and its reply. The arena's gate counts and refuses. A method's front is chosen from its own
measurements in the same way for all: the prompts that none of its others equals in both, at most five, which span the front.
A run may be stopped at any moment: cells that are finished are kept, the one in progress is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt import HillClimb, Joint, load_model, optimize
from promptopt.randomness import named_generator
from promptopt.statistics.pareto import nondominated, pareto_order

from ..command import add_options
from ..contestants import Bout, choice, run_script
from ..examination import measure
from ..gate import WRITER_TOKENS, Gate, served
from ..models import file_of
from ..peers.methods import python_of
from ..tasks import TASKS, load
from .points import TOKENS, brevity, point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from promptopt import Strategy
    from promptopt.statistics.arrays import Floats

CELLS = Path(__file__).with_name("cells.jsonl")
KEYS = ("task", "model", "writer", "method", "seed", "budget")
MOST = 5  # points of a front that are tested
_PATIENCE = 1800.0  # seconds for one reply: a call that is tried again costs twice
_DRAWS = 2000  # of the test examples, for the intervals


def seed_alone(bout: Bout) -> None:
    """Post the seed prompt."""
    bout.gate.post_best({"points": [point({"prompt": bout.splits.seed_prompt.to_json()}, 0.0, 0.0)]}, None)


def ours(bout: Bout, *, strategy: Strategy) -> None:
    """Run `optimize` with both objectives, as a user would, and post its front."""
    task, writer = (
        load_model(f"openai:{role}", base_url=f"{bout.url}/v1", concurrency=8, timeout=_PATIENCE)
        for role in ("task", "writer")
    )
    result = optimize(
        bout.splits.task(),
        task,
        strategy,
        writer=writer,
        objectives=("reward", "tokens"),
        budget=f"{bout.gate.budget} tokens",
        seed=bout.seed,
        memo=bout.folder / "memo",
        run_dir=bout.folder / "run",
        tracking=False,
    )
    choice(result)  # raises if the run was stopped
    means = [_numbers(entry.means) for entry in result.points]
    points = [
        point({"prompt": record.prompt.to_json()}, reward, brevity(tokens))
        for record, (reward, tokens) in zip(result.front, means, strict=True)
    ]
    bout.gate.post_best({"points": points}, None)


def _numbers(means: Mapping[str, float | None]) -> tuple[float, float]:
    reward, tokens = (means[name] for name in ("reward", "tokens"))
    return float("nan") if reward is None else reward, float("nan") if tokens is None else tokens


def peer(bout: Bout, *, method: str, script: str) -> None:
    """Run a peer's script in its environment."""
    seed_alone(bout)
    command = [str(python_of(method, bout.peers)), "-m", f"benchmarks.arena.fronts.{script}"]
    run_script(bout, method, command)


METHODS: dict[str, Callable[[Bout], None]] = {
    "seed": seed_alone,
    "hillclimb": partial(ours, strategy=HillClimb()),
    "joint": partial(ours, strategy=Joint()),
    "gepa": partial(peer, method="gepa", script="gepa_side"),
    "capo": partial(peer, method="capo", script="promptolution_side"),
}


def chosen(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `MOST` points that span the front of the contestant's own means; without any, the first point."""
    values = np.array([[np.nan if value is None else value for value in entry["own"]] for entry in points])
    front = nondominated(values)
    if not front:
        return [points[0]]
    return [points[front[i]] for i in sorted(pareto_order(values[front])[:MOST])]


def run(key: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Run one contestant and test its front."""
    splits = load(key["task"], given.data, key["seed"])
    models = {role: (given.server, str(file_of(key[name], given.models))) for role, name in (("task", "model"), ("writer", "writer"))}  # fmt: skip
    gate = Gate(
        models=models,
        examples={example.id: example for example in (*splits.train, *splits.validation)},
        metric=splits.metric,
        max_tokens={"task": splits.source.max_tokens, "writer": WRITER_TOKENS},
        budget=key["budget"],
    )
    folder = given.out.resolve() / "-".join(str(key[name]) for name in KEYS)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    began = time.monotonic()
    with served(gate) as url:
        METHODS[key["method"]](Bout(splits, gate, url, key["seed"], folder, given.peers.resolve()))
    seconds = round(time.monotonic() - began, 1)
    posted = gate.best[-1].prompt["points"]
    return {
        **key,
        "posted": len(posted),
        "points": [{**entry, **_tested(entry, splits, models["task"])} for entry in chosen(posted)],
        "used": gate.usage(),
        "seconds": seconds,
        "dtype": given.dtype,
    }


def _tested(entry: Mapping[str, Any], splits: Any, address: tuple[str, str]) -> dict[str, Any]:
    measured = measure(entry["prompt"], splits, splits.test, address)
    return {"rewards": [cell.reward for cell in measured], "tokens": [cell.tokens for cell in measured]}


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells that are kept in a file, which need not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_missing(given: argparse.Namespace) -> None:
    """Run the cells that are missing."""
    os.environ.setdefault("OPENAI_API_KEY", "none")  # the server on this machine takes any
    kept = [[cell[name] for name in KEYS] for cell in read_cells(given.cells)]
    for seed, task, method in product(given.seeds, given.tasks, given.methods):
        key = dict(zip(KEYS, (task, given.model, given.writer, method, seed, given.budget), strict=True))
        if list(key.values()) in kept:
            continue
        cell = run(key, given)
        with given.cells.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell, ensure_ascii=False) + "\n")
        print(f"{method}: {len(cell['points'])} points, {cell['seconds']} s", flush=True)


def area(rewards: Floats, tokens: Floats) -> float:
    """Return the area that a front dominates, as a share of rewards from 0 to 1 times tokens from 0 to `TOKENS`.

    Args:
        rewards: [P] means.
        tokens: [P] means.
    """
    total, last = 0.0, float(TOKENS)
    for i in np.lexsort((tokens, -rewards)):  # from the highest reward down
        if tokens[i] < last:
            total += rewards[i] * (last - tokens[i])
            last = float(tokens[i])
    return float(total) / TOKENS


def areas(cell: Mapping[str, Any], draws: Any) -> Floats:
    """Return the area of a cell's front [D] on each draw of the test examples [D, E]."""
    rewards, tokens = (
        np.array([entry[name] for entry in cell["points"]], dtype=float) for name in ("rewards", "tokens")
    )
    return np.array([area(rewards[:, draw].mean(axis=1), tokens[:, draw].mean(axis=1)) for draw in draws])


def table(given: argparse.Namespace) -> None:
    """Print the fronts, and their areas beside the first method's of the same task, models, seed and budget."""
    cells = read_cells(given.cells)
    print(
        "| method | front on test examples: reward at tokens | area | minus `joint` | tokens spent | calls |\n|---|---|---:|---|---:|---:|"
    )
    for cell in cells:
        print(_row(cell, cells))


def _row(cell: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    size = len(cell["points"][0]["rewards"])
    everything = np.arange(size)[None]
    draws = named_generator(0, "fronts").integers(0, size, (_DRAWS, size))
    others = [other for other in cells if other["method"] == "joint" and _setting(other) == _setting(cell)]
    gap = ""
    if others and others[0] is not cell:
        mean = areas(cell, everything)[0] - areas(others[0], everything)[0]
        low, high = np.quantile(areas(cell, draws) - areas(others[0], draws), (0.025, 0.975))
        gap = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    front = ", ".join(f"{np.mean(entry['rewards']):.3f} at {np.mean(entry['tokens']):.0f}" for entry in cell["points"])
    tokens = sum(tally["input"] + tally["output"] for tally in cell["used"].values())
    calls = sum(tally["calls"] for tally in cell["used"].values())
    return f"| `{cell['method']}` | {front} | {areas(cell, everything)[0]:.3f} | {gap} | {tokens:,} | {calls:,} |"


def _setting(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in KEYS if name != "method")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.fronts", description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="run the cells that are missing")
    running.set_defaults(command=run_missing)
    add_options(running, TASKS, METHODS, out=Path("runs/fronts"))
    running.set_defaults(
        tasks=["larger_animal"], model="smollm2", writer="qwen05", seeds=[0], budget=60_000, dtype="w16a32"
    )
    running.add_argument("--peers", type=Path, default=Path("runs/arena/peers"), help="the peers' environments")
    running.add_argument(
        "--server", required=True, help="base URL, with /v1, of a running `promptopt serve` of both files"
    )
    printing = commands.add_parser("table", help="print the table of the kept cells")
    printing.set_defaults(command=table)
    for command in (running, printing):
        command.add_argument("--cells", type=Path, default=CELLS, help="file of the kept cells")
    given = parser.parse_args()
    given.command(given)


if __name__ == "__main__":
    main()
