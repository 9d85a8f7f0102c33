"""Racing: score prompts on growing blocks of examples and drop those that are unlikely to be the best on all of them.

Depends only on a scoring function. Used by strategies (`run.race`) and, on validation data, by the selection stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.statistics import alpha_spending, pairwise_p_values, prob_in_top_k

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.statistics.arrays import Floats

    Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
    ScoreFunction: TypeAlias = Callable[[Sequence[Prompt], Sequence[Example]], Scores]

Guarantee: TypeAlias = Literal["average", "always"]

_FIRST_BLOCK = 8  # examples before any prompt may be dropped


class Race(NamedTuple):
    """How a race ended.

    Args:
        survivors: indices of the prompts that were not dropped, in increasing order.
        scores: scores of the survivors, in that order, on all examples that were run.
        rewards: [P, E] of all prompts, averaged over replicates; NaN where they were not run, or failed.
        examples: [P] number of examples that each prompt was run on, the first ones.
    """

    survivors: list[int]
    scores: Scores
    rewards: Floats
    examples: list[int]


def race(
    score: ScoreFunction,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    confidence: float,
    *,
    guarantee: Guarantee = "average",
    top_k: int = 1,
) -> Race:
    """Run a race: blocks double from 8 examples, and after each block but the last, prompts may be dropped.

    Guarantee: the prompt with the highest mean over all examples is not dropped, with all looks and all prompts counted
    together. "average" drops prompts while their probabilities of being the best, summed over the race, stay below
    1 - confidence: the guarantee holds on average over races whose prompts differ as much as these appear to. "always" drops
    a prompt when another one is ahead of it by a paired test, with the error split among looks (Pocock's spending function)
    and rivals (Bonferroni): the guarantee holds for every set of prompts, at a higher cost. The last surviving prompt runs
    on all examples, so that its score is complete. If the budget runs out, the race ends with the blocks that were run.

    Args:
        score: scores prompts on examples; examples of earlier blocks are passed again and must cost nothing.
        prompts: [P].
        examples: [E], in the order of the blocks; the order must be independent of the rewards.
        confidence: probability that the best prompt is not dropped, in (0, 1).
        guarantee: whether `confidence` holds on "average" over races or "always".
        top_k: number of best prompts to keep.

    Returns:
        The surviving prompts, their scores, and the table of all rewards.

    Raises:
        BudgetExhaustedError: the budget does not cover the first block.
        InputError: there are no examples, or `confidence`, `guarantee` or `top_k` is invalid.
    """
    if not examples:
        raise InputError("a race needs at least one example")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, not {confidence}")
    if guarantee not in ("average", "always"):
        raise InputError(f"guarantee must be 'average' or 'always', not {guarantee!r}")
    if top_k < 1:
        raise InputError(f"top_k must be at least 1, not {top_k}")
    blocks = sizes(len(examples))
    errors = alpha_spending(blocks[:-1], 1 - confidence)
    rewards: Floats = np.full((len(prompts), len(examples)), np.nan)
    run, alive, unspent = np.zeros(len(prompts), dtype=int), list(range(len(prompts))), 0.0
    scores = score(prompts, examples[: blocks[0]])
    for size, after, error in zip(blocks, blocks[1:], errors, strict=False):
        rewards[alive, :size], run[alive] = scores.per_example, size
        if guarantee == "always":
            level = error / (top_k * max(len(prompts) - 1, 1))
            dropped = _beaten(pairwise_p_values(rewards[alive, :size], len(examples)) <= level, top_k)
        else:
            probabilities = prob_in_top_k(rewards, len(examples), top_k)[alive]
            dropped = _unlikely(probabilities, unspent + error, top_k)
            unspent += error - float(probabilities[dropped].sum())
        kept = [n for n in range(len(alive)) if n not in dropped]
        alive, scores = [alive[n] for n in kept], scores.rows(kept)
        try:
            scores = score([prompts[i] for i in alive], examples[:after])
        except BudgetExhaustedError:
            break
    size = len(scores.examples)
    rewards[alive, :size], run[alive] = scores.per_example, size
    return Race(alive, scores, rewards, run.tolist())


def sizes(examples: int, first: int = _FIRST_BLOCK) -> list[int]:
    """Return the cumulative number of examples after each block: the first block, twice as many, and so on."""
    out = [min(first, examples)]
    while out[-1] < examples:
        out.append(min(2 * out[-1], examples))
    return out


def _beaten(is_behind: Flags, top_k: int) -> list[int]:
    """Return the rows that are behind at least `top_k` others; `is_behind` is [P, P]."""
    return np.flatnonzero(is_behind.sum(axis=1) >= top_k).tolist()


def _unlikely(probabilities: Floats, allowed: float, top_k: int) -> list[int]:
    """Return the rows least likely to be in the top k, as many as the error allows; the k likeliest stay."""
    known = np.flatnonzero(~np.isnan(probabilities))
    order = known[np.argsort(probabilities[known], kind="stable")][: max(len(known) - top_k, 0)]
    out: list[int] = order[np.cumsum(probabilities[order]) <= allowed].tolist()
    return out
