"""The two hill climbers beside PromptQuine (Wang et al., ICML 2025): TAPruning and steepest ascent.

Both only remove tokens. They depend on `Run` alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt.search.fitness import Fitness, check_fitness, reward_of
from promptopt.search.pruning import seed_tokens
from promptopt.strategies.checks import check_share

if TYPE_CHECKING:
    from promptopt.search.run import Run
    from promptopt.search.tokens import Mask


@dataclass(frozen=True, kw_only=True)
class TAPruning:
    """Left-to-right token pruning: keep a deletion if the score stays above a share of the best so far.

    The paper measures accuracy on 200 examples: use as many training examples. Not for a few examples, where a single one
    changes the score by more than the threshold allows, nor for long prompts on slow models: prompts are scored one at a
    time.

    What differs from the released code: the threshold also works for scores of 0 or below (the best minus a share of its
    absolute value), where the ratio is undefined or reversed; selection considers all prompts, not only the last best.

    Args:
        threshold: share of the best score so far that a deletion must keep, in (0, 1] (paper: 0.96).
        fitness: "reward" prunes by the task's reward (paper: accuracy), "margin" by the label margin, "likelihood" by the
            log-probability of the right label.
    """

    writes = False

    threshold: float = 0.96
    fitness: Fitness = "reward"

    def __post_init__(self) -> None:
        check_share(self, "threshold")
        check_fitness(self.fitness)

    def search(self, run: Run) -> None:
        """Prune in passes over the remaining tokens until a pass removes nothing."""
        reward = reward_of(run, self.fitness)
        tokens = seed_tokens(run)
        prompt = tokens.prompt(tokens.full())
        best = run.score([prompt], reward=reward).mean.item()
        pruned = True
        while pruned:
            pruned, mask = False, tokens.full()
            for position in tokens.prunable.tolist():
                shorter = _without(mask, position)
                child = tokens.prompt(shorter)
                score = run.score([child], reward=reward, parents=[prompt]).mean.item()
                if score >= best - (1 - self.threshold) * abs(best):  # (algorithm 1); the best is never lowered
                    mask, prompt, best, pruned = shorter, child, max(best, score), True
            run.step(best=best, length=run.length(prompt))
            tokens = run.tokens(prompt)  # adjacent tokens may have merged


@dataclass(frozen=True, kw_only=True)
class SteepestAscent:
    """Steepest-ascent hill climbing: make the best single-token deletion, as long as it improves the score.

    Scores on the order of (tokens squared) / 2 prompts. Not for prompts of hundreds of tokens, nor for 0/1 rewards on
    few examples, where ties end the climb at once.

    What differs from the released code: its `SAHCPruner` takes the first improvement; this follows the paper.

    Args:
        fitness: "margin" climbs the label margin and "likelihood" the log-probability of the right label, where the task has
            labels; "reward" the task's reward.
    """

    writes = False

    fitness: Fitness = "margin"

    def __post_init__(self) -> None:
        check_fitness(self.fitness)

    def search(self, run: Run) -> None:
        """Climb until no single deletion improves the score."""
        reward = reward_of(run, self.fitness)
        tokens = seed_tokens(run)
        mask = tokens.full()
        score = run.score([tokens.prompt(mask)], reward=reward).mean.item()
        while (positions := (mask & ~tokens.frozen).nonzero()[0].tolist()) and not math.isnan(score):
            shorter = [_without(mask, position) for position in positions]
            prompts = [tokens.prompt(child) for child in shorter]
            parents = [tokens.prompt(mask)] * len(prompts)
            means = run.score(prompts, reward=reward, parents=parents).mean.tolist()
            best = max(range(len(means)), key=lambda i: -math.inf if math.isnan(means[i]) else means[i])
            run.step(best=max(score, means[best]), length=run.length(prompts[best]))
            if not means[best] > score:
                return
            mask, score = shorter[best], means[best]


def _without(mask: Mask, position: int) -> Mask:
    child = mask.copy()
    child[position] = False
    return child
