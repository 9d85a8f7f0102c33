"""The command line's options of a search, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.options import Settings, StrategyName, WriterName, WriterPrice, WriterUrl, read_settings
from promptopt.cli.output import say, say_json
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import read_strategy
from promptopt.strategies.auto import AUTO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from promptopt.cli.model_options import CallOptions
    from promptopt.optimization.job import Job


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search is done."""

    strategy: StrategyName = AUTO
    set_: Settings = None
    writer: WriterName = None
    writer_base_url: WriterUrl = None
    writer_price: WriterPrice = None
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0

    def read(self, folder: Path, calls: CallOptions) -> dict[str, Any]:
        """Return strategy, settings, writer and seed as `optimize` takes them.

        Args:
            folder: where the file of a strategy of one's own is looked for.
            calls: the limits of the writer's calls.
        """
        return {
            "strategy": read_strategy(self.strategy, folder),
            "settings": read_settings(self.set_),
            "writer": calls.load_writer(self.writer, self.writer_base_url, self.writer_price),
            "seed": self.seed,
        }


def print_costs(jobs: Iterable[tuple[str, Job]], heading: str, memo: str | None, *, as_json: bool) -> None:
    """Print what each of several runs will need, under its name."""
    for name, job in jobs:
        cost = estimate(
            job.task, job.model, job.strategy, writer=job.writer, budget=job.budget, seed=job.seed, memo=memo
        )
        say_json({heading: name, **cost.to_json()}) if as_json else say(f"{name}\n{cost}\n")
