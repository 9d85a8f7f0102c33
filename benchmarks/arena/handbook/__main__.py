"""Runs contestants on examples/retrieval, one cell each, and prints the table of the cells that are kept.

    python -m benchmarks.arena.handbook run --models FOLDER --peers FOLDER     # the cells that are missing; stop and start it at will
    python -m benchmarks.arena.handbook table

Tokens of the task model and of the writer are counted, and refused at the end of the budget, by the arena's gate, which also searches for
all of them, free of charge. Peers run in the arena's environments (`python -m benchmarks.arena.peers FOLDER`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse
from starlette.routing import Route

from promptopt import Prompts, Task, load_model, load_task, optimize
from promptopt.rewards import target_of
from promptopt.statistics import paired_interval
from promptopt.tracking import StepFinished

from ..gate import WRITER_TOKENS, Gate, served
from ..models import MODELS, file_of, server
from ..peers.methods import ROOT, python_of
from ..peers.side import Case, Item
from .pipeline import NAMES, run_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt import Example
    from promptopt.tracking import Event

search = importlib.import_module("examples.retrieval.retrieval").search
CELLS = Path(__file__).with_name("cells.jsonl")
METHODS = ("seed", "components", "gepa", "miprov2")
_PATIENCE = 1800.0  # seconds for one reply: a busy processor writes slowly, and a call that is tried again costs twice
_CLOCK = 4 * 3600  # seconds after which a hanging peer is stopped; what it posted counts


class SearchingGate(Gate):
    """The arena's gate, which also searches."""

    def app(self) -> Any:
        """Return the gate's application."""
        app = super().app()
        app.router.routes.append(Route("/search", self._search, methods=["POST"]))
        return app

    @staticmethod
    async def _search(request: Request) -> Response:
        return JSONResponse({"passages": search((await request.json())["query"])})


def run(method: str, given: argparse.Namespace, models: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Run one contestant and test what it posted last."""
    task = load_task(ROOT / "examples" / "retrieval")
    gate = SearchingGate(
        models=models,
        examples={example.id: example for example in (*task.train, *task.validation)},
        metric=task.reward,  # type: ignore[arg-type]  # a task has one
        max_tokens={"task": task.max_tokens, "writer": WRITER_TOKENS},
        budget=given.budget,
    )
    folder = given.out / f"{method}-{given.model}-{given.seed}-{given.budget}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    gate.post_best({"prompts": task.seed_prompt.to_json()}, None)
    began = time.monotonic()
    with served(gate) as url:
        if method == "components":
            _ours(task, gate, url, given.seed, folder)
        elif method != "seed":
            _peer(method, task, (gate, url), given, folder)
    chosen = dict(gate.best[-1].prompt)
    rewards = run_pipeline(chosen, task, task.test, models["task"], search)
    return {
        "method": method,
        "model": given.model,
        "writer": given.writer,
        "seed": given.seed,
        "budget": given.budget,
        "rewards": [round(reward, 4) for reward in rewards],
        "chosen": chosen,
        "used": gate.usage(),
        "seconds": round(time.monotonic() - began, 1),
    }


def _ours(task: Task, gate: Gate, url: str, seed: int, folder: Path) -> None:
    """Run `components` as a user would: `optimize` over an OpenAI-compatible endpoint."""
    best = -1.0

    def follow(event: Event) -> None:
        nonlocal best
        for record in event.candidates if isinstance(event, StepFinished) else ():
            if record.fitness is not None and record.fitness > best:
                best = record.fitness
                gate.post_best({"prompts": record.prompt.to_json()}, best)

    task_model, writer = (
        load_model(f"openai:{role}", base_url=f"{url}/v1", concurrency=8, timeout=_PATIENCE)
        for role in ("task", "writer")
    )
    result = optimize(
        task,
        task_model,
        writer=writer,
        budget=f"{gate.budget} tokens",
        seed=seed,
        memo=folder / "memo",
        run_dir=folder / "run",
        tracking=False,
        callbacks=[follow],
    )
    gate.post_best({"prompts": result.prompt.to_json()}, None)


def _peer(method: str, task: Task, way: tuple[Gate, str], given: argparse.Namespace, folder: Path) -> None:
    """Run a peer's script in its own environment.

    Raises:
        RuntimeError: it failed while there was budget left.
    """
    seeds, (gate, url) = task.seed_prompt, way
    if not isinstance(seeds, Prompts):
        raise TypeError("the task has a program, so its seed prompt is Prompts")
    case = Case(
        method=method,
        task="retrieval",
        seed=given.seed,
        gate=url,
        description=task.description,
        instruction=json.dumps({name: seeds[name].text for name in NAMES}),
        labels=(),
        train=_items(task.train),
        validation=_items(task.validation),
        max_tokens=task.max_tokens,
        token_budget=gate.budget,
    )
    script = {"gepa": "gepa_side", "miprov2": "dspy_side"}[method]
    command = [str(python_of(method, given.peers)), "-m", f"benchmarks.arena.handbook.{script}"]
    settings = os.environ | {"OPENAI_API_KEY": "none", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("w", encoding="utf-8") as log, suppress(subprocess.TimeoutExpired):
        ended = subprocess.run(  # noqa: S603  our own scripts
            command,
            input=case.to_json(),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=settings,
            timeout=_CLOCK,
            check=False,
        )
        if ended.returncode and not gate.refused:
            raise RuntimeError(f"{method} failed before its budget was spent: see {folder / 'log.txt'}")


def _items(examples: Sequence[Example]) -> tuple[Item, ...]:
    return tuple(Item(example.id, example.inputs["question"], target_of(example)) for example in examples)


def _kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(path: Path) -> None:
    """Print what the kept cells say, each method beside the seed prompts of the same models and seed."""
    cells = _kept(path)
    print(
        "| method | task model | budget | test F1 | minus seed prompts | tokens | calls |\n|---|---|---:|---:|---|---:|---:|"
    )
    for cell in cells:
        base = next(
            (c for c in cells if c["method"] == "seed" and (c["model"], c["seed"]) == (cell["model"], cell["seed"])),
            None,
        )
        rewards = np.array(cell["rewards"])
        gain = "" if base is None or base is cell else _shown(paired_interval(rewards, np.array(base["rewards"])))
        tokens = sum(tally["input"] + tally["output"] for tally in cell["used"].values())
        calls = sum(tally["calls"] for tally in cell["used"].values())
        print(
            f"| `{cell['method']}` | {cell['model']} | {cell['budget']:,} | {rewards.mean():.3f} | {gain} | {tokens:,} | {calls:,} |"
        )


def _shown(interval: Any) -> str:
    return f"{interval.estimate:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.handbook", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--model", choices=MODELS, default="qwen05")
    parser.add_argument("--writer", choices=MODELS, default="qwen05")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=150_000, help="tokens of both roles and directions")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the models' GGUF files")
    parser.add_argument("--peers", type=Path, default=Path("runs/arena/peers"), help="the peers' environments")
    parser.add_argument("--out", type=Path, default=Path("runs/handbook"))
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--dtype", default="w16a32")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")  # the server on this machine takes any
    if given.what == "run":
        files = [file_of(name, given.models) for name in (given.model, given.writer)]
        kept = {(c["method"], c["model"], c["writer"], c["seed"], c["budget"]) for c in _kept(given.cells)}
        with server(files, given.dtype, given.threads) as url:
            models = {role: (url, str(file)) for role, file in zip(("task", "writer"), files, strict=True)}
            for method in given.methods:
                if (method, given.model, given.writer, given.seed, given.budget) in kept:
                    continue
                cell = run(method, given, models)
                with given.cells.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(cell, ensure_ascii=False) + "\n")
                print(f"{method}: {np.mean(cell['rewards']):.3f}, {cell['seconds']} s", flush=True)
    table(given.cells)


if __name__ == "__main__":
    main()
