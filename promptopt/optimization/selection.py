"""Choosing among the search's best on validation data. Knows a scorer and the history; the strategy has no say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError
from promptopt.evaluation.racing import race
from promptopt.optimization.reserves import SHORTLIST
from promptopt.statistics import shortest_within_one_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from promptopt.evaluation.scorer import Scorer
    from promptopt.optimization.stages import Stages
    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Candidate, Run
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


def select(run: Run, stages: Stages, notes: list[str]) -> Choice:
    """Race the shortlist on validation items, as far as the budget goes.

    Args:
        run: whose history is chosen from.
        stages: say what validation may use.
        notes: what a reader should know of the choice is added.
    """
    task, before = run.task, by_search(run)
    listed = shortlist(run.history.values(), task.seed_prompt)
    if not listed:
        return before
    if not task.validation:
        notes.append("no validation data: the choice was made by the search's own scores")
        return before
    places, items = stages.validation(len(listed), cells_measured(run, before))
    try:
        choice = choose(run.scorer, task.seed_prompt, listed[:places], items, run.length) if items else None
    except BudgetExhaustedError:
        choice = None
    if choice is None:
        notes.append("the budget ended before validation: the choice was made by the search's own scores")
        return before
    if choice.shorter is not None:
        notes.append(
            f"candidate {run.history[choice.shorter].number} has {run.length(choice.shorter)} tokens in place "
            f"of {run.length(choice.prompt)} and was within one standard error on validation items"
        )
    return choice


def by_search(run: Run) -> Choice:
    """Return what the search says, until validation says more: its best prompt, if that is better than the seed prompt."""
    seed = run.task.seed_prompt
    listed, start = shortlist(run.history.values(), seed), run.history.get(seed)
    better = listed and (start is None or listed[0].fitness > start.fitness)
    return Choice(listed[0].prompt if better else seed, {})


def cells_measured(run: Run, choice: Choice) -> int:
    """Return how many cells were measured: by the search, and by the choice."""
    return sum(c.cells + c.failed for c in run.history.values()) + sum(v.examples for v in choice.validated.values())
