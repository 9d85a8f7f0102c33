"""PromptQuine against its paper and the hill climbers beside it: `python -m benchmarks.promptquine --data DIR`.

Every cell is a run of promptopt. Cells that are done are read from `--cells`; one that was stopped goes on from the memo
in `--out`, so that the benchmark may be killed and started again. Prints a table in Markdown.

benchmarks/promptquine.jsonl holds the cells behind docs/strategies/promptquine.md: with `--cells` it prints the tables
again, and runs what is not there. Take the lines of a method out of it when the method is changed.

All methods have the same labelled rows: 8 of each class and 200 more, of which the paper's methods search on the 8 of
each class and choose on the 200; ours and TAPruning search on half of the 200 too, and choose on the other half.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from promptopt import (
    BudgetExhaustedError,
    Demonstrations,
    Example,
    Memo,
    Prompt,
    PromptQuine,
    Run,
    Strategy,
    Task,
    load_model,
    optimize,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.randomness import named_generator
from promptopt.strategies import SteepestAscent, TAPruning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt import Judge, Model, Reward, Scores
    from promptopt.statistics.arrays import Floats

SPLITS = (13, 21, 42, 87, 100)
PER_CLASS = 8  # (paper) training rows of each class
RESAMPLES = 2_000


class DataSet(NamedTuple):
    """How an item is put to the model, and the word of each label (paper)."""

    template: str
    labels: tuple[str, ...]


DATA_SETS = {
    "sst-2": DataSet("Review: {text}\nSentiment:", ("terrible", "great")),
    "subj": DataSet("Sentence: {text}\nViewpoint:", ("subjective", "objective")),
    "agnews": DataSet("Article: {text}\nAnswer:", ("World", "Sports", "Business", "Tech")),
}


class Method(NamedTuple):
    """A row of the table.

    Args:
        strategy: that searches, or None for the seed prompt itself (in-context learning).
        pooled: whether half of the 200 rows are searched on.
        share: of the sequences that the paper's preset scored on the same task and seed; None for no limit of this kind.
    """

    strategy: Strategy | None
    pooled: bool = False
    share: float | None = None


METHODS = {
    "icl": Method(None),
    "tapruning": Method(TAPruning(), pooled=True),
    "steepest": Method(SteepestAscent()),
    "paper": Method(PromptQuine.paper()),
    "ours": Method(PromptQuine(), pooled=True, share=1.0),
    "ours-third": Method(PromptQuine(), pooled=True, share=1 / 3),
}


class Place(NamedTuple):
    """Which model, sizes of the parts, cap of the searches, data, demonstrations, seed and method."""

    model: str
    held: int
    test: int
    cap: int
    data_set: str
    draw: int
    seed: int
    method: str


@dataclass(frozen=True)
class Cell:
    """What came of one run.

    Args:
        right: for each test item 1 or 0, whether it was answered rightly, or - where there was no reply.
        searched: sequences that the search scored; choosing and testing come on top, for every method alike.
        tokens: that the model was shown in all, each distinct request once.
        seconds: of the whole run; 0 where it came from the memo.
        length: tokens of the prompt.
    """

    right: str
    searched: int
    tokens: int
    seconds: float
    length: int

    @property
    def rewards(self) -> Floats:
        """The same as `right`, as numbers."""
        return np.array([math.nan if c == "-" else float(c) for c in self.right])


@dataclass
class Cells:
    """The cells that are done, one a line of a file."""

    file: Path
    done: dict[Place, Cell]

    @classmethod
    def read(cls, file: Path) -> Cells:
        """Read a file of cells; none where there is none yet."""
        done = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            row = json.loads(line)
            place = Place(*(row.pop(name) for name in Place._fields))
            done[place] = Cell(**row)
        return cls(file, done)

    def add(self, place: Place, cell: Cell) -> None:
        """Keep one."""
        self.done[place] = cell
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**place._asdict(), **asdict(cell)}) + "\n")


@dataclass
class CappedRun(Run):
    """A run whose search may score only so many sequences."""

    cap: float = math.inf

    def score(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example] | None = None,
        replicates: int = 1,
        *,
        reward: Reward | Judge | None = None,
        parents: Sequence[Prompt | None] | None = None,
    ) -> Scores:
        """Score as many of the prompts as the cap allows; raise where it is not all."""
        items = len(self.task.train if examples is None else examples) * replicates
        left = self.cap - sum(candidate.cells for candidate in self.archive.values())
        fit = int(min(len(prompts), left // items))
        if fit < 1:
            raise BudgetExhaustedError(f"the cap of {self.cap:,.0f} sequences is reached")
        scores = super().score(
            prompts[:fit], examples, replicates, reward=reward, parents=None if parents is None else parents[:fit]
        )
        if fit < len(prompts):
            raise BudgetExhaustedError(f"the cap of {self.cap:,.0f} sequences is reached")
        return scores


@dataclass(frozen=True)
class Capped:
    """A strategy under a cap of scored sequences."""

    inner: Strategy
    cap: float

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        """Search until the cap."""
        self.inner.search(CappedRun(**{f.name: vars(run)[f.name] for f in fields(run)}, cap=self.cap))


@dataclass(frozen=True)
class Asis:
    """No search: the seed prompt is scored on one item and stands."""

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        """Score the seed prompt."""
        run.score([run.task.seed_prompt], run.task.train[:1])


def read(file: Path) -> list[tuple[str, int]]:
    """Return the (text, label) rows of a table."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(text.strip(), int(label)) for text, label in rows[1:]]


def task_of(data: Path, place: Place, *, pooled: bool) -> Task:
    """Return the task of one draw of demonstrations; no row stands in two of its parts."""
    data_set, draw = place.data_set, place.draw
    template, labels = DATA_SETS[data_set]
    rng = named_generator(draw, f"demonstrations of {data_set}")
    few = read(data / data_set / f"fewshot-{SPLITS[draw % len(SPLITS)]}-train.tsv")
    few = [few[i] for i in rng.permutation(len(few)).tolist()]
    by_class = [[row for row in few if row[1] == label] for label in range(len(labels))]
    shown = [rows[0] for rows in by_class]
    train = [row for rows in by_class for row in rows[1 : PER_CLASS + 1]]
    used = {text for text, _ in few}
    held = [row for row in dict(read(data / data_set / "dev200.tsv")).items() if row[0] not in used]
    used |= {text for text, _ in held}
    test = [row for row in dict(read(data / data_set / "test.tsv")).items() if row[0] not in used]
    held = [held[i] for i in rng.permutation(len(held))[: place.held].tolist()]
    test = [test[i] for i in rng.permutation(len(test))[: place.test].tolist()]
    half = len(held) // 2 if pooled else 0

    def items(name: str, rows: Sequence[tuple[str, int]]) -> tuple[Example, ...]:
        return tuple(Example({"text": text}, labels[y], f"{name}{i}") for i, (text, y) in enumerate(rows))

    return Task(
        train=items("train", train + held[:half]),
        validation=items("validation", held[half:]),
        test=items("test", test),
        seed_prompt=Prompt(template, Demonstrations(items("shown", shown))),
        labels=labels,
        template=template,
        format="completion",
        name=f"{data_set}-{draw}",
    )


def run_cell(given: argparse.Namespace, cells: Cells, place: Place) -> Cell:
    """Run one cell, or return it where it is done."""
    if place in cells.done:
        return cells.done[place]
    method = METHODS[place.method]
    cap = float(place.cap or math.inf)
    if method.share is not None:
        cap = min(cap, run_cell(given, cells, place._replace(method="paper")).searched) * method.share
    task = task_of(given.data, place, pooled=method.pooled)
    strategy: Strategy = Asis() if method.strategy is None else Capped(method.strategy, cap)
    model = loaded(next(name for name in given.model if name_of(name) == place.model))
    with Memo(given.out / "memo") as memo:
        found = optimize(task, model, strategy, seed=place.seed, memo=memo)
        # Item by item; the replies are in the memo.
        right = Scorer(task, model, Caller(memo, Ledger())).score([found.prompt], task.test).per_example[0]
    what = "-".join(map(str, place))
    if not found.finished:
        raise SystemExit(f"{what}: {found.headline}")
    cell = Cell(
        right="".join("-" if math.isnan(x) else f"{x:.0f}" for x in right),
        searched=sum(record.cells for record in found.history),
        tokens=found.used["task"].input_tokens,
        seconds=round(found.seconds, 1) if found.paid else 0.0,
        length=found.lengths[1],
    )
    cells.add(place, cell)
    print(f"{what}: {cell.rewards.mean():.3f}, {cell.searched:,} sequences, {cell.seconds:.0f} s", flush=True)
    return cell


@cache
def loaded(model: str) -> Model:
    """Load a model once."""
    return load_model(model)


def name_of(model: str) -> str:
    """Return the name that cells know a model by: without its provider, folder and ending."""
    return Path(model.partition(":")[2]).stem


def interval(first: Floats, second: Floats) -> tuple[float, float, float]:
    """Return the mean of first - second in points with its 95 % interval.

    Bootstrap of draws, in each of seeds, in each of test items, for each data set apart; the same items on both sides.

    Args:
        first: [data sets, draws, seeds, items].
        second: the same.
    """
    rng = named_generator(0, "bootstrap of the benchmark")
    difference = 100 * (first - second)
    sets, draws, seeds, items = difference.shape
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        total = 0.0
        for s in range(sets):
            for d in (int(rng.integers(draws)) for _ in range(draws)):
                kept = difference[s, d][rng.integers(seeds, size=seeds)]
                total += kept[:, rng.integers(items, size=items)].mean() / (sets * draws)
        means[i] = total
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def table(rows: dict[str, list[Cell]], names: Sequence[str], given: argparse.Namespace) -> None:
    """Print one row a method, over all models that are named."""
    sets = len(given.data_set)
    right: dict[str, Floats] = {}
    for method, cells in rows.items():
        items = min(len(cell.right) for cell in cells)  # a test set may be smaller than asked for
        each = np.array([cell.rewards[:items] for cell in cells])
        right[method] = each.reshape(len(names) * sets, given.draws, given.seeds, -1)
    print(f"\n{', '.join(names)}; {given.draws} draws x {given.seeds} seeds; test accuracy in per cent\n")
    heads = ["method", *given.data_set, "mean", "minus ICL", "minus paper", "searched", "tokens", "seconds", "length"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for method, cells in rows.items():
        means = right[method].mean(axis=(1, 2, 3)).reshape(len(names), sets).mean(axis=0)
        gaps = [
            ""
            if other not in right or other == method
            else "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval(right[method], right[other]))
            for other in ("icl", "paper")
        ]
        sums = [
            f"{np.mean([getattr(cell, what) for cell in cells]):,.0f}"
            for what in ("searched", "tokens", "seconds", "length")
        ]
        accuracies = [f"{100 * mean:.1f}" for mean in (*means, means.mean())]
        print(f"| {' | '.join([method, *accuracies, *gaps, *sums])} |")


def main() -> None:
    """Run the cells, and print a table for each model and one for all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.promptquine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", nargs="+", default=["local:smollm2"])
    parser.add_argument("--data-set", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--draws", type=int, default=3, help="of demonstrations, one of each class")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--held", type=int, default=200, help="labelled rows beside 8 of each class")
    parser.add_argument("--test", type=int, default=500, help="test items")
    parser.add_argument("--cap", type=int, default=0, help="sequences that any search may score; 0 for no cap")
    parser.add_argument("--out", type=Path, default=Path("runs/promptquine"), help="folder of the memo")
    parser.add_argument("--cells", type=Path, help="file of the cells that are done; cells.jsonl in --out by default")
    given = parser.parse_args()
    done = Cells.read(given.cells or given.out / "cells.jsonl")
    rows: dict[str, dict[str, list[Cell]]] = {}
    for model in map(name_of, given.model):
        rows[model] = {method: [] for method in given.methods}
        for data_set, draw, seed in product(given.data_set, range(given.draws), range(given.seeds)):
            for method in given.methods:
                place = Place(model, given.held, given.test, given.cap, data_set, draw, seed, method)
                rows[model][method].append(run_cell(given, done, place))
    for model, own in rows.items():
        table(own, [model], given)
    if len(rows) > 1:
        table(
            {name: [cell for row in rows.values() for cell in row[name]] for name in given.methods}, list(rows), given
        )


if __name__ == "__main__":
    main()
