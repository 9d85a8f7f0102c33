"""Choosing among the search's best, on validation data, and the one comparison with the seed prompt on test data.

Knows a scorer and the history; the strategy has no say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.racing import race
from promptopt.result import Comparison
from promptopt.statistics import mean_interval, paired_interval, shortest_within_one_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.run import Candidate
    from promptopt.scorer import Scorer
    from promptopt.scores import Scores

SHORTLIST = 16  # candidates re-measured on validation data, beside the seed prompt

_CONFIDENCE = 0.95


class Validated(NamedTuple):
    """Mean reward on validation items, and how many they were."""

    mean: float
    examples: int


class Choice(NamedTuple):
    """The chosen prompt, and what validation showed of each prompt that was raced."""

    prompt: Prompt
    validated: dict[Prompt, Validated]


def shortlist(history: Iterable[Candidate], seed: Prompt, size: int = SHORTLIST) -> list[Prompt]:
    """Return the best candidates by fitness, the seed prompt left out.

    A candidate that a race dropped early was measured on few items, and luck alone may put it on top: those with less
    than half of the most cells are left out.
    """
    ranked = [c for c in history if not math.isnan(c.fitness)]
    most = max((c.cells for c in ranked), default=0)
    whole = [c for c in ranked if 2 * c.cells >= most and c.prompt != seed]
    return [c.prompt for c in sorted(whole, key=lambda c: (-c.fitness, c.number))[:size]]


def choose(
    scorer: Scorer,
    seed: Prompt,
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    length: Callable[[Prompt], int],
) -> Choice:
    """Race the shortlist and the seed prompt on validation items; prefer the shorter within one standard error.

    The rule weighs candidates against each other, those alone whose mean is higher than the seed prompt's; it never
    prefers the seed prompt for being short: what the change is worth is for the test to say.

    Raises:
        BudgetExhaustedError: not even the first block fits the budget.
    """
    validated: dict[Prompt, Validated] = {}

    def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
        scores = scorer.score(rows, items)
        means = scores.mean.tolist()
        validated.update({row: Validated(mean, len(items)) for row, mean in zip(rows, means, strict=True)})
        return scores

    end = race(score, [seed, *prompts], examples, _CONFIDENCE)
    means = end.scores.mean
    floor = next((means[i] for i, prompt in enumerate(end.scores.prompts) if prompt == seed), -math.inf)
    rivals = [i for i, mean in enumerate(means) if mean > floor]
    if not rivals:
        return Choice(seed, validated)
    lengths = [length(end.scores.prompts[i]) for i in rivals]
    best = rivals[shortest_within_one_error(end.scores.per_example[rivals], lengths)]
    return Choice(end.scores.prompts[best], validated)


def compare(scorer: Scorer, seed: Prompt, chosen: Prompt, examples: Sequence[Example]) -> Comparison:
    """Measure the seed prompt and the chosen one on the same test items, in one batch.

    Raises:
        BudgetExhaustedError: they do not fit the budget.
    """
    scores = scorer.score([seed, chosen], examples)
    first, second = scores.per_example
    return Comparison(
        seed=mean_interval(first),
        chosen=mean_interval(second),
        difference=paired_interval(second, first),
        examples=int((~np.isnan(first - second)).sum()),
    )
