"""The arena's labelled tasks in one process, where answers are chosen among the labels by log-probability.

    python -m benchmarks.arena.label_choice run --tasks sst2 subj --model smollm2 --writer qwen05
    python -m benchmarks.arena.label_choice table

A gate cannot give this to the peers, so these rows have tables of their own. Splits, budgets and kept cells are as in the arena;
tokens are counted by the run's ledger. A search that was stopped goes on from its memo in `--out`.

Each run makes two cells: the chosen prompt, and the predictor, which is the chosen or another prompt with its label bias. Where
held-out answers do not show that a bias pays, both have the same rewards.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt import BudgetExhaustedError, Memo, Prompt
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.models.local import LocalModel
from promptopt.optimization.api import run_job
from promptopt.optimization.job import prepare
from promptopt.replies import Response
from promptopt.statistics.label_bias import fit_label_bias, held_out_biases, right_answers

from .cells import LABEL_BIAS, Cell, Place, Point, keep, read_cells
from .command import add_options, missing, report
from .contestants import OURS, SHOTS, choice, shown
from .models import file_of
from .tables import print_tables
from .tasks import TASKS, Splits, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt import Example, Model
    from promptopt.scores import Scores
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.label_bias import Targets

CELLS = Path(__file__).with_name("label_choice.jsonl")
"""The kept cells."""

BASELINES = ("seed", "random demonstrations", "nearest demonstrations")
LABELLED = [name for name, source in TASKS.items() if source.labels]


class Biased(NamedTuple):
    """A prompt with a bias for each label."""

    prompt: Prompt
    bias: Floats


class Bout(NamedTuple):
    """One method's turn: the cell, its examples, the models, and where replies are kept."""

    place: Place
    splits: Splits
    task_model: Model
    writer: Model
    memo: Memo

    def scores(self, prompt: Prompt, examples: Sequence[Example], ledger: Ledger) -> Scores:
        """Return the rewards and replies of a prompt."""
        return Scorer(self.splits.task(), self.task_model, Caller(self.memo, ledger)).score([prompt], examples)

    def rewards(self, prompt: Prompt, bias: Floats, examples: Sequence[Example]) -> tuple[float, ...]:
        """Return 1 for each example that a prompt with a label bias answers right, else 0."""
        return tuple(right_answers(*self._answers(prompt, examples, Ledger()), bias).tolist())

    def choose(self, ledger: Ledger) -> tuple[Prompt, Biased | None]:
        """Spend the budget; return the chosen prompt, and what predicts; None for a baseline.

        Raises:
            KeyboardInterrupt: the search was stopped.
        """
        place = self.place
        if place.method in BASELINES:
            return self._baseline(ledger), None
        job = prepare(
            self.splits.task(),
            self.task_model,
            OURS[place.method],
            writer=self.writer,
            budget=f"{place.budget} tokens",
            seed=place.seed,
            settings=None,
        )
        result = run_job(job, memo=self.memo, tracking=False, ledger=ledger)
        chosen, predictor = choice(result), result.predictor
        return chosen, Biased(predictor.prompt, np.array(predictor.bias)) if predictor else Biased(chosen, self.no_bias)

    def fit_bias(self, prompt: Prompt, ledger: Ledger) -> Floats:
        """Return the label bias of a baseline's choice, fitted on validation examples, if it pays on them, each held out."""
        logprobs, targets = self._answers(prompt, self.splits.validation, ledger)
        own = held_out_biases(logprobs, targets)
        biased, alone = (right_answers(logprobs, targets, bias).sum() for bias in (own, self.no_bias))
        return fit_label_bias(logprobs, targets) if biased > alone else self.no_bias

    @property
    def no_bias(self) -> Floats:
        """0 for each label."""
        return np.zeros(len(self.splits.source.labels))

    def _answers(self, prompt: Prompt, examples: Sequence[Example], ledger: Ledger) -> tuple[Floats, Targets]:
        """Return the labels' log-probabilities [E, L] and the numbers of the right ones [E]."""
        labels = self.splits.source.labels
        replies = (reply for (reply,) in self.scores(prompt, examples, ledger).replies[0])
        logprobs = [reply.logprobs_of(labels) for reply in replies if isinstance(reply, Response)]
        return np.array(logprobs), np.array([labels.index(example.target or "") for example in examples])

    def _baseline(self, ledger: Ledger) -> Prompt:
        """Return the seed prompt with as many demonstrations as are best on the validation examples."""
        best, most = self.splits.seed_prompt, -1.0
        counts = SHOTS if self.place.method != "seed" else ()
        with ledger.stage("search", Budget(tokens=self.place.budget)):
            for count in counts:
                demonstrations = shown(
                    self.splits, self.place.seed, count, nearest=self.place.method.startswith("near")
                )
                prompt = Prompt(self.splits.seed_prompt.text, demonstrations)
                try:
                    mean = float(np.mean(self.scores(prompt, self.splits.validation, ledger).per_example))
                except BudgetExhaustedError:
                    break
                if mean > most:
                    best, most = prompt, mean
        return best


def run(bout: Bout, dtype: str) -> list[Cell]:
    """Run one method's turn and the test of what it chose; return the cells without and with label bias."""
    began, ledger = time.monotonic(), Ledger()
    prompt, predictor = bout.choose(ledger)
    alone = _cell(bout, ledger, Biased(prompt, bout.no_bias), seconds=time.monotonic() - began, dtype=dtype)
    predictor = predictor or Biased(prompt, bout.fit_bias(prompt, ledger))
    biased = _cell(bout, ledger, predictor, seconds=time.monotonic() - began, dtype=dtype)
    return [alone, replace(biased, place=bout.place._replace(method=f"{bout.place.method}{LABEL_BIAS}"))]


def _cell(bout: Bout, ledger: Ledger, chosen: Biased, *, seconds: float, dtype: str) -> Cell:
    prompt, bias = chosen
    rewards = bout.rewards(prompt, bias, bout.splits.test)
    used = {
        role: {"calls": spent.calls, "input": spent.input_tokens, "output": spent.output_tokens}
        for role, spent in ledger.logical.items()
    }
    tokens = sum(spent.tokens for spent in ledger.logical.values())
    return Cell(
        place=bout.place,
        rewards=rewards,
        chosen={"prompt": prompt.to_json(), **({"bias": bias.tolist()} if bias.any() else {})},
        used=used,
        curve=(Point(tokens, sum(rewards) / len(rewards)),),
        seconds=round(seconds, 1),
        versions={"dtype": dtype},
    )


def run_missing(given: argparse.Namespace) -> None:
    """Run the cells that are missing."""
    for place in missing(given):
        task_model, writer = (model(file_of(name, given.models), given.dtype) for name in (given.model, given.writer))
        folder = given.out / "-".join(str(part).replace(" ", "-") for part in place)
        with Memo(folder) as memo:
            cells = run(Bout(place, load(place.task, given.data, place.seed), task_model, writer, memo), given.dtype)
        for cell in cells:
            keep(cell, given.cells)
            report(cell)


@cache
def model(file: Path, dtype: str) -> LocalModel:
    """Return a model, loaded once."""
    return LocalModel(str(file), dtype=dtype)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.label_choice", description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="run the cells that are missing")
    running.set_defaults(command=run_missing)
    add_options(running, LABELLED, [*BASELINES, *OURS], out=Path("runs/arena/label_choice"))
    table = commands.add_parser("table", help="print the tables of the kept cells")
    table.set_defaults(command=lambda given: print_tables(list(read_cells(given.cells).values())))
    for command in (running, table):
        command.add_argument("--cells", type=Path, default=CELLS, help="file of the kept cells")
    given = parser.parse_args()
    given.command(given)


if __name__ == "__main__":
    main()
