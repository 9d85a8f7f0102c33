"""Random search: the writer paraphrases the seed prompt and the best paraphrase wins. The null model of every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from promptopt.search.writing import ask, paraphrase
from promptopt.strategies.checks import check_at_least

if TYPE_CHECKING:
    from promptopt.prompt import Context
    from promptopt.search.run import Run


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Paraphrases of the seed prompt, blind to their scores.

    A strategy that does not beat this one at equal budget has learnt nothing from its scores. Each paraphrase is a
    sample of its own: of several in one reply, the later ones avoid the earlier.

    Args:
        prompts: paraphrases asked for in all.
        batch: paraphrases asked for, and scored, at once.
    """

    writes = True

    prompts: int = 64
    batch: int = 8

    def __post_init__(self) -> None:
        check_at_least(self, 1, "prompts", "batch")

    def search(self, run: Run) -> None:
        """Score the seed prompt and its paraphrases."""
        seed = run.task.seed_prompt

        def message(count: int) -> Context:
            return paraphrase(run.task, seed, count)

        best = run.score([seed]).mean.item()
        for start in range(0, self.prompts, self.batch):
            wanted = min(self.batch, self.prompts - start)
            answer = ask(run, message, wanted, each=1, like=seed, known=run.archive)
            if answer.prompts:
                scores = run.score(answer.prompts, parents=[seed] * len(answer.prompts))
                best = np.fmax.reduce([best, *scores.mean]).item()  # leaves out prompts whose replies all failed
            run.step(best=best, **answer.facts())
