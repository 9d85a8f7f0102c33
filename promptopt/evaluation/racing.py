"""Racing: score prompts on growing blocks of examples and drop those that will not be the best on all of them.

Knows a scoring function and nothing below it; used by strategies (`run.race`) and by the harness on validation data.
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

_FIRST_BLOCK = 8  # examples before anyone may be dropped


class Race(NamedTuple):
    """How a race ended.

    Args:
        survivors: indices of the prompts that were not dropped, in order.
        scores: of the survivors, in that order, on all the examples that were run.
    """

    survivors: list[int]
    scores: Scores


def race(
    score: ScoreFunction,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    confidence: float,
    *,
    guarantee: Guarantee = "average",
    places: int = 1,
) -> Race:
    """Run a race; blocks double from 8 examples, and after each but the last prompts may be dropped.

    What is promised is that the prompt with the highest mean over all examples is not dropped, all looks and all prompts
    counted together. "average" drops prompts as long as their chances to be that one, summed over the race, stay below
    1 - confidence: the promise holds on average over races whose prompts differ as these seem to. "always" drops a prompt
    when another is ahead of it by a paired test, with the error shared out among looks (Pocock's alpha_spending function) and
    rivals (Bonferroni): it holds for every set of prompts, at a higher price. The last one runs to the end, so that it is
    known on all examples. Where the budget ends first, the race ends with the blocks that were run.

    Args:
        score: scores prompts on examples; examples of earlier blocks come again and must cost nothing.
        prompts: [P].
        examples: [E], in the order of the blocks; it must have nothing to do with the rewards.
        confidence: that the best prompt is not dropped, in (0, 1).
        guarantee: what that is the probability of.
        places: how many of the best are wanted.

    Raises:
        BudgetExhaustedError: not even the first block fits the budget.
        InputError: there are no examples, or the confidence or the guarantee is none.
    """
    if not examples:
        raise InputError("a race needs at least one example")
    if not 0 < confidence < 1:
        raise InputError(f"the confidence of a race must lie between 0 and 1, not be {confidence}")
    if guarantee not in ("average", "always"):
        raise InputError(f"guarantee must be 'average' or 'always', not {guarantee!r}")
    if places < 1:
        raise InputError(f"places must be at least 1, not {places}")
    blocks = sizes(len(examples))
    errors = alpha_spending(blocks[:-1], 1 - confidence)
    table: Floats = np.full((len(prompts), len(examples)), np.nan)
    alive, unspent = list(range(len(prompts))), 0.0
    out = Race(alive, score(prompts, examples[: blocks[0]]))
    for size, after, error in zip(blocks, blocks[1:], errors, strict=False):
        table[alive, :size] = out.scores.per_example
        if guarantee == "always":
            level = error / (places * max(len(prompts) - 1, 1))
            dropped = _beaten(pairwise_p_values(table[alive, :size], len(examples)) <= level, places)
        else:
            chances = prob_in_top_k(table, len(examples), places)[alive]
            dropped = _unlikely(chances, unspent + error, places)
            unspent += error - float(chances[dropped].sum())
        kept = [n for n in range(len(alive)) if n not in dropped]
        alive = [alive[n] for n in kept]
        out = Race(alive, out.scores.rows(kept))
        try:
            out = Race(alive, score([prompts[i] for i in alive], examples[:after]))
        except BudgetExhaustedError:
            break
    return out


def sizes(examples: int) -> list[int]:
    """Return how many examples have been met after each block."""
    out = [min(_FIRST_BLOCK, examples)]
    while out[-1] < examples:
        out.append(min(2 * out[-1], examples))
    return out


def _beaten(by: Flags, places: int) -> list[int]:
    """Return the rows pairwise_p_values as many others as there are places."""
    return np.flatnonzero(by.sum(axis=1) >= places).tolist()


def _unlikely(chances: Floats, allowed: float, places: int) -> list[int]:
    """Return the rows least likely to have a place, as many as the error allows; the likeliest stay."""
    known = np.flatnonzero(~np.isnan(chances))
    order = known[np.argsort(chances[known], kind="stable")][: max(len(known) - places, 0)]
    out: list[int] = order[np.cumsum(chances[order]) <= allowed].tolist()
    return out
