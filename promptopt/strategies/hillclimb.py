"""Hill climbing: a prompt writer sees scored good and bad prompts and proposes better ones.

After Liu et al., "Language Models as Black-Box Optimizers for Vision-Language Models" (CVPR 2024). First version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from promptopt.errors import InputError
from promptopt.writing import Shown, improve, paraphrase, proposals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Prompt
    from promptopt.run import Run


@dataclass(frozen=True, kw_only=True)
class HillClimb:
    """Ask, score, keep, ask again, from several starts.

    Unlike the paper, the writer sees the task's description, its labels and the scores. The paper's counts of
    restarts, resets, pool and iterations are known from memory and reviews, not from its code, which has no such loop.

    Args:
        restarts: fresh starting pools (paper: 20).
        resets: chains from each pool, each forgetting the one before (paper: 50).
        iterations: messages in a chain (paper: 10).
        pool: starting prompts, the seed and paraphrases of it (paper: 100, from a caption corpus).
        good: best prompts in the message (paper: 15).
        bad: worst prompts in the message (paper: 15); 0 shows positives only.
        proposals: prompts asked for in a message (paper: 1).
    """

    writes: ClassVar[bool] = True

    restarts: int = 2
    resets: int = 2
    iterations: int = 5
    pool: int = 6
    good: int = 4
    bad: int = 4
    proposals: int = 4

    def __post_init__(self) -> None:
        for name in ("restarts", "resets", "iterations", "pool", "good", "proposals"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.bad < 0:
            raise InputError(f"bad must be 0 or more, not {self.bad}")

    @classmethod
    def paper(cls) -> HillClimb:
        """Return the paper's counts."""
        return cls(restarts=20, resets=50, iterations=10, pool=100, good=15, bad=15, proposals=1)

    def search(self, run: Run) -> None:
        """Climb from every pool, several times."""
        for _ in range(self.restarts):
            start = self._start(run)
            for _ in range(self.resets):
                self._climb(run, list(start))

    def _start(self, run: Run) -> list[Shown]:
        """Return a fresh scored pool: the seed prompt and paraphrases of it."""
        seed = run.task.seed_prompt
        replies = run.write(paraphrase(run.task, seed), count=self.pool - 1) if self.pool > 1 else []
        new = dict.fromkeys(prompt for reply in replies for prompt in proposals(run.task, reply, seed))
        return self._scored(run, [seed, *new], [None, *[seed] * len(new)])

    def _climb(self, run: Run, chain: list[Shown]) -> None:
        for _ in range(self.iterations):
            if not chain:  # every reply failed: there is nothing to learn from
                return
            chain.sort(key=lambda shown: -shown.score)
            good, bad = self._ends(chain)
            replies = run.write(improve(run.task, good, bad, self.proposals))
            best, known = good[0].prompt, [shown.prompt for shown in chain]
            new = [prompt for reply in replies for prompt in proposals(run.task, reply, best, known)]
            if new:
                new = new[: self.proposals]
                chain += self._scored(run, new, [best] * len(new))
            run.step(best=max(shown.score for shown in chain), new=len(new))

    def _ends(self, chain: Sequence[Shown]) -> tuple[Sequence[Shown], Sequence[Shown]]:
        """Return the best and the worst of a sorted chain; the two never share a prompt."""
        good = chain[: max(1, min(self.good, len(chain) - len(chain) // 2))]
        worst = min(self.bad, len(chain) - len(good))
        return good, chain[len(chain) - worst :]

    def _scored(self, run: Run, prompts: Sequence[Prompt], parents: Sequence[Prompt | None]) -> list[Shown]:
        """Return the prompts that got a score; one whose replies all failed is not shown to the writer as a bad one."""
        means = run.score(prompts, parents=parents).mean.tolist()
        return [Shown(prompt, mean) for prompt, mean in zip(prompts, means, strict=True) if not math.isnan(mean)]
