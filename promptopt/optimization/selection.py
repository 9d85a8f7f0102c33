"""Choosing among the search's best, on validation data, and the one comparison with the seed prompt on test data.

Knows a scorer and the history; the strategy has no say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.evaluation.racing import race
from promptopt.optimization.reserves import SHORTLIST
from promptopt.replies import Response
from promptopt.results.outcomes import SAME, ByLabels, Comparison, outcomes
from promptopt.statistics import mean_interval, paired_interval, shortest_within_one_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Price
    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Candidate
    from promptopt.statistics.arrays import Floats

_CONFIDENCE = 0.95


class Validated(NamedTuple):
    """Mean reward on validation items, and how many they were."""

    mean: float
    examples: int


class Choice(NamedTuple):
    """The chosen prompt.

    Args:
        prompt: itself.
        validated: what validation showed of each prompt that was raced.
        shorter: the shortest that validation shows at most one standard error behind, or None where that is the chosen one.
    """

    prompt: Prompt
    validated: dict[Prompt, Validated]
    shorter: Prompt | None = None


def shortlist(history: Iterable[Candidate], seed: Prompt, size: int = SHORTLIST) -> list[Candidate]:
    """Return the best candidates, the seed prompt left out: by fitness and by the task's own reward in turn, best first.

    A search may go by another fitness than the task's reward, such as a margin; what is best by the one on a few items
    may be at chance by the other. A candidate that a race dropped early was measured on few items, and luck alone may
    put it on top: those with less than half of the most cells are left out. Where a budget ended before any was measured
    on all items, the best of those that were measured on some are better than none.
    """
    ranked = [c for c in history if not math.isnan(c.fitness) and c.prompt != seed]
    most = max((c.cells for c in ranked), default=0)
    whole = [c for c in ranked if 2 * c.cells >= most]
    by_fitness = sorted(whole, key=lambda c: (-c.fitness, c.number))
    by_reward = sorted(by_fitness, key=lambda c: -math.inf if math.isnan(c.reward) else c.reward, reverse=True)
    in_turn = dict.fromkeys(c.number for pair in zip(by_fitness, by_reward, strict=True) for c in pair)
    known = {c.number: c for c in whole}
    return [known[number] for number in in_turn][:size]


def choose(
    scorer: Scorer,
    seed: Prompt,
    candidates: Sequence[Candidate],
    examples: Sequence[Example],
    length: Callable[[Prompt], int],
) -> Choice:
    """Race the shortlist and the seed prompt on validation items; take the best on training and validation items together.

    Of those alone whose mean on validation items is higher than the seed prompt's. Training rewards of a shortlist are too
    high, but for all of it: to rank by, they are as good as so many validation items. The one-standard-error rule, which
    takes the shortest that is not clearly worse, lost about a point of accuracy here (docs/strategies/promptquine.md); what
    it would take is told. Equals go to the shorter.

    Raises:
        BudgetExhaustedError: not even the first block fits the budget.
    """
    validated: dict[Prompt, Validated] = {}

    def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
        scores = scorer.score(rows, items)
        means = scores.mean.tolist()
        validated.update({row: Validated(mean, len(items)) for row, mean in zip(rows, means, strict=True)})
        return scores

    end = race(
        score, [seed, *(candidate.prompt for candidate in candidates)], examples, _CONFIDENCE, guarantee="always"
    )
    means = end.scores.mean
    floor = next((means[i] for i, prompt in enumerate(end.scores.prompts) if prompt == seed), -math.inf)
    rivals = [i for i, mean in enumerate(means) if mean > floor]
    if not rivals:
        return Choice(seed, validated)
    known = {candidate.prompt: candidate for candidate in candidates}
    prompts, per_example = [end.scores.prompts[i] for i in rivals], end.scores.per_example[rivals]
    lengths = [length(prompt) for prompt in prompts]
    together = [_together(known[prompt], row) for prompt, row in zip(prompts, per_example, strict=True)]
    best = min(range(len(prompts)), key=lambda i: (-together[i], lengths[i], i))
    near = shortest_within_one_error(per_example, lengths)
    return Choice(prompts[best], validated, prompts[near] if lengths[near] < lengths[best] else None)


def _together(candidate: Candidate, validation: Floats) -> float:
    """Return the mean reward over training and validation items, each counting alike."""
    came = validation[~np.isnan(validation)]
    if math.isnan(candidate.reward):
        return float(came.mean())
    items = candidate.items
    return (candidate.reward * items + float(came.sum())) / (items + came.size)


def compare(scorer: Scorer, seed: Prompt, chosen: Prompt, examples: Sequence[Example]) -> Comparison:
    """Measure the seed prompt and the chosen one on the same test items, in one batch; once where they are the same.

    Where labels are scored and the task is read as text, what the model writes is the claim, and the labels' choice
    stands beside it.

    Raises:
        BudgetExhaustedError: they do not fit the budget.
    """
    prompts = [seed, chosen] if chosen != seed else [seed]
    written = scorer.tests_text
    scores = scorer.score(prompts, examples, written=written)
    first, second = scores.per_example[0], scores.per_example[-1]
    both = (second - first)[~np.isnan(second - first)]
    return Comparison(
        seed=mean_interval(first),
        chosen=mean_interval(second),
        difference=paired_interval(second, first) if chosen != seed else SAME,
        examples=both.size,
        spread=float(both.std(ddof=1)) if both.size > 1 else None,
        costs=_costs(scores, scorer.model.price),
        read="text" if written else "labels" if scorer.chooses else "",
        by_labels=_by_labels(scorer.score(prompts, examples), first, second) if written else None,
        outcomes=outcomes(scores),
    )


def _by_labels(scores: Scores, first: Floats, second: Floats) -> ByLabels:
    """Return what choosing among the labels gives, given what the texts give."""
    seed, chosen = scores.per_example[0], scores.per_example[-1]
    return ByLabels(
        seed=mean_interval(seed),
        chosen=mean_interval(chosen),
        seed_apart=paired_interval(seed, first),
        chosen_apart=paired_interval(chosen, second),
    )


def _costs(scores: Scores, price: Price | None) -> tuple[float, float] | None:
    """Return the mean price of a thousand replies of each of the two prompts."""
    came = [[reply for cell in row for reply in cell if isinstance(reply, Response)] for row in scores.replies]
    if price is None or not all(came):
        return None
    means = [1000 * sum(price.of(reply.usage) for reply in row) / len(row) for row in came]
    return means[0], means[-1]
