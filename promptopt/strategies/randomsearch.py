"""Random search: the writer paraphrases the seed prompt and the best paraphrase wins. The null model of every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from promptopt.errors import InputError
from promptopt.writing import paraphrase, proposals

if TYPE_CHECKING:
    from promptopt.run import Run


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Paraphrases of the seed prompt, blind to their scores.

    A strategy that does not beat this one at equal budget has learnt nothing from its scores.

    Args:
        prompts: paraphrases asked for in all.
        batch: paraphrases asked for, and scored, at once.
    """

    writes: ClassVar[bool] = True

    prompts: int = 64
    batch: int = 8

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.batch < 1:
            raise InputError(f"prompts and batch must be at least 1, not {self.prompts} and {self.batch}")

    def search(self, run: Run) -> None:
        """Score the seed prompt and its paraphrases."""
        seed = run.task.seed_prompt
        best = run.score([seed]).mean.item()
        for start in range(0, self.prompts, self.batch):
            replies = run.write(paraphrase(run.task, seed), count=min(self.batch, self.prompts - start))
            new = [prompt for reply in replies for prompt in proposals(run.task, reply, seed, run.history)]
            new = list(dict.fromkeys(new))
            if new:
                scores = run.score(new, parents=[seed] * len(new))
                best = np.fmax.reduce([best, *scores.mean]).item()  # leaves out prompts whose replies all failed
            run.step(best=best, new=len(new))
