"""Racing: score prompts on growing blocks of examples and drop those that are clearly worse.

Knows a scoring function and nothing below it; used by strategies (`run.race`) and by the harness on validation data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.statistics import still_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores

    ScoreFunction: TypeAlias = Callable[[Sequence[Prompt], Sequence[Example]], Scores]

_FIRST_BLOCK = 8  # examples before anyone may be dropped


class Race(NamedTuple):
    """How a race ended.

    Args:
        survivors: indices of the prompts that were not dropped, in order.
        scores: of the survivors, in that order, on all the examples that were run.
    """

    survivors: list[int]
    scores: Scores


def race(score: ScoreFunction, prompts: Sequence[Prompt], examples: Sequence[Example], confidence: float) -> Race:
    """Run a race; blocks double from 8 examples and each ends with one round of paired successive elimination.

    Where the budget ends first, the race ends with the blocks that were run.

    Args:
        score: scores prompts on examples; examples of earlier blocks come again and must cost nothing.
        prompts: [P].
        examples: [E], in the order of the blocks.
        confidence: of each round, that no prompt as good as the best is dropped.

    Raises:
        BudgetExhaustedError: not even the first block fits the budget.
        InputError: there are no examples.
    """
    if not examples:
        raise InputError("a race needs at least one example")
    alive = list(range(len(prompts)))
    size = min(_FIRST_BLOCK, len(examples))
    out = _round(score, prompts, alive, examples[:size], confidence)
    while size < len(examples):
        size = min(2 * size, len(examples))
        try:
            out = _round(score, prompts, out.survivors, examples[:size], confidence)
        except BudgetExhaustedError:
            break
    return out


def _round(
    score: ScoreFunction,
    prompts: Sequence[Prompt],
    alive: Sequence[int],
    examples: Sequence[Example],
    confidence: float,
) -> Race:
    scores = score([prompts[i] for i in alive], examples)
    kept = still_in(scores.per_example, confidence)
    return Race([alive[i] for i in kept], scores.rows(kept))
