"""Strategies that write prompts, with real small models: `python benchmarks/writers.py sst2 --data FOLDER --writer MODEL`.

A classification task is searched by hillclimb and by its two controls, an environment (`gridworld1`, `blocksworld`) by
promst and by the strategy random; each at the same budget of calls, task model and writer together. Prints a row a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unsupervised import DATA, read

from promptopt import HillClimb, Prompt, RandomSearch, Task, load_model, optimize
from promptopt.environments import WORLDS
from promptopt.environments import task as environment_task
from promptopt.strategies import Promst

if TYPE_CHECKING:
    from promptopt.strategies.base import Strategy

TEXTS: dict[str, Strategy] = {
    "hillclimb": HillClimb(proposals=4),
    "paraphrase": HillClimb(proposals=4, control="paraphrase"),
    "random": HillClimb(proposals=4, control="random"),
}
STEPS: dict[str, Strategy] = {"promst": Promst(first=4), "random": RandomSearch()}
HEADS = ("task", "strategy", "seed", "seed prompt", "found", "difference", "calls", "of the writer", "candidates")


def text_task(name: str, data: Path, test: int, seed: int) -> Task:
    """Return a classification task: 40 training, 60 validation items."""
    folder, labels, text = DATA[name]
    items = read(data / folder / "test.tsv", labels, 100 + test, seed)
    return Task(
        train=items[:40],
        validation=items[40:100],
        test=items[100:],
        seed_prompt=Prompt(f"Classify the text as {', '.join(labels[:-1])} or {labels[-1]}."),
        labels=labels,
        template=text,
        format="completion",
        description=f"Each text belongs to one of {len(labels)} classes: {', '.join(labels)}.",
        name=name,
    )


def measure(given: argparse.Namespace, name: str, seed: int) -> None:
    """Run one strategy on one task, and print its row."""
    if given.what in DATA:
        task, strategy = text_task(given.what, given.data, given.test, seed), TEXTS[name]
    else:
        task, strategy = environment_task(given.what, train=12, validation=12, test=given.test, seed=seed), STEPS[name]
    found = optimize(
        task,
        load_model(given.model),
        strategy,
        writer=load_model(given.writer, base_url=given.writer_base_url),
        seed=seed,
        budget=given.budget,
        memo=given.memo,
        run_dir=given.out / f"{given.what}-{name}-{seed}",
    )
    if found.test is None:
        shown = ["", "", f"seed prompt kept: {found.headline}"]
    else:
        shown = [f"{found.test.seed.estimate:.3f}", f"{found.test.chosen.estimate:.3f}"]
        shown.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*found.test.difference))
    calls = [f"{found.used[role].calls:,}" for role in ("task", "writer")]
    print(f"| {' | '.join([given.what, name, str(seed), *shown, *calls, str(len(found.history))])} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks/writers.py", description=__doc__)
    parser.add_argument("what", choices=[*DATA, *WORLDS])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--writer", required=True, help="such as local:FOLDER of an instruction-tuned model")
    parser.add_argument("--writer-base-url", help="endpoint of the writer, such as llama.cpp's server: openai:NAME")
    parser.add_argument("--budget", default="1500 calls")
    parser.add_argument("--test", type=int, default=200, help="test items, or instances")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memo", type=Path, help="folder of the memo")
    parser.add_argument("--out", type=Path, default=Path("runs/writers"))
    given = parser.parse_args()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for seed in range(given.seeds):
        for name in TEXTS if given.what in DATA else STEPS:
            measure(given, name, seed)


if __name__ == "__main__":
    main()
