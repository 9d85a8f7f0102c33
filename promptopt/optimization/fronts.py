"""The front of a run with several objectives: chosen on training and validation data, then tested.

Depends on the scorer and the archive, not on the strategy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import BudgetExhaustedError
from promptopt.evaluation.objectives import COSTS, measure, signs
from promptopt.evaluation.racing import sizes
from promptopt.optimization.reserves import FRONT, SHORTLIST
from promptopt.optimization.selection import Choice, Validated, cells_measured
from promptopt.results.front import FrontPoint, FrontTest
from promptopt.results.outcomes import SAME
from promptopt.search.archive import adjusted_means
from promptopt.statistics import Interval, clustered_interval, paired_t_interval
from promptopt.statistics.arrays import nanmean
from promptopt.statistics.pareto import nondominated, pareto_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Price
    from promptopt.optimization.objectives import Objectives
    from promptopt.optimization.stages import Stages
    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.archive import Archive
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_ERROR = 0.05  # that any interval of a front misses, all together
_MIN_EXAMPLES = 8  # fewer say nothing of how much costs vary


def front_shortlist(archive: Archive, seed: Prompt, size: int = SHORTLIST) -> list[Prompt]:
    """Return candidates except the seed prompt that span the front, in `pareto_order`, then those of the next front.

    A search may maximize another fitness than the task's reward: then candidates by both are taken in turn.
    """
    known = [c.prompt for c in archive.ranked(prompt for prompt in archive if prompt != seed)]
    orders = [pareto_order(adjusted_means(archive.objective_values(known, by_task=task)).T) for task in (False, True)]
    length = max(map(len, orders), default=0)
    in_turn = dict.fromkeys(order[i] for i in range(length) for order in orders if i < len(order))
    return [known[i] for i in in_turn][:size]


def select_front(run: Run, stages: Stages, objectives: Objectives, notes: list[str]) -> Choice:
    """Choose the front by training and validation data within the budget, and recommend one of its points.

    All prompts of the shortlist and the seed prompt are scored on the same validation examples. A point is on the front if no
    other is as good in all objectives, by the means over training and validation examples together.

    Args:
        run: supplies the candidates.
        stages: sets the budget of validation.
        objectives: of the run.
        notes: receives notes on the choice.
    """
    task, seed, archive = run.task, run.task.seed_prompt, run.archive
    used = run.ledger.total(run.ledger.logical)
    archive.enter(seed, step=len(run.steps), calls=used.calls, dollars=used.dollars)
    listed, scores = front_shortlist(archive, seed), None
    if not task.validation:
        notes.append("no validation data: the front was chosen by the search's own scores")
    elif listed:
        before = cells_measured(run, Choice(seed, {}))
        with stages.validation(len(listed), before) as (size, examples):
            listed = listed[:size] if examples else listed
            scores = _scored(run.scorer, [seed, *listed], examples)
        if scores is None:
            notes.append("the budget ended before validation: the front was chosen by the search's own scores")
    prompts = [seed, *listed]
    values = archive.objective_values(prompts, task.train, by_task=True)
    validated: dict[Prompt, Validated] = {}
    if scores is not None:
        measured = nanmean(measure(scores, objectives.names, run.scorer.model.price), axis=3)
        values = np.concatenate([values, measured * signs(objectives.names)[:, None, None]], axis=2)
        rewards = nanmean(scores.per_example, axis=1).tolist()
        validated = {p: Validated(reward, len(scores.examples)) for p, reward in zip(prompts, rewards, strict=True)}
    return _choice(run, objectives, prompts, adjusted_means(values).T, notes)._replace(validated=validated)


def _choice(run: Run, objectives: Objectives, prompts: Sequence[Prompt], values: Floats, notes: list[str]) -> Choice:
    """Return the front of prompts with these values [P, K], higher is better, and the recommended one of its points."""
    front = nondominated(values)
    if not front:  # every reply failed
        return Choice(run.task.seed_prompt, {})
    spanning = pareto_order(values[front])[: FRONT - 1]  # and the seed prompt
    front = [front[i] for i in sorted(spanning)]
    means = values[front] * signs(objectives.names)
    best, failed = objectives.recommend(means)
    notes += [
        f"no prompt on the front has {condition} on training and validation items: the nearest is recommended"
        for condition in failed
    ]
    points = tuple(
        FrontPoint(
            number=run.archive[prompts[i]].number,
            means={name: _known(value) for name, value in zip(objectives.names, row, strict=True)},
        )
        for i, row in zip(front, means.tolist(), strict=True)
    )
    return Choice(prompts[front[best]], {}, points=points)


def _scored(scorer: Scorer, prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores | None:
    """Score all prompts on growing numbers of the examples, as many as the budget covers; None if it covers none."""
    scores: Scores | None = None
    for size in sizes(len(examples)) if examples else []:
        try:
            scores = scorer.score(prompts, examples[:size])
        except BudgetExhaustedError:
            break
    return scores


def front_tests(
    scores: Scores, front: Sequence[Prompt], names: Sequence[str], price: Price | None
) -> tuple[FrontTest, ...]:
    """Return the test of each prompt of a front.

    Args:
        scores: of the seed prompt, which is the first, and of all prompts of the front.
        front: the prompts.
        names: [K] the objectives.
        price: of the task model.
    """
    values = nanmean(measure(scores, names, price), axis=3)  # [K, P, E]
    seed = values[:, 0]
    others = sum(prompt != scores.prompts[0] for prompt in front)
    confidence = 1 - _ERROR / max(others * len(names), 1)

    def test(prompt: Prompt) -> FrontTest:
        own = values[:, scores.prompts.index(prompt)]
        differences = [
            SAME if prompt == scores.prompts[0] else _difference(name, *pair, confidence, scores.groups)
            for name, pair in zip(names, zip(own, seed, strict=True), strict=True)
        ]
        means = [_known(mean) for mean in nanmean(own, axis=1).tolist()]
        return FrontTest(
            means=dict(zip(names, means, strict=True)), over_seed=dict(zip(names, differences, strict=True))
        )

    return tuple(map(test, front))


def _difference(name: str, first: Floats, second: Floats, confidence: float, groups: Sequence[str] | None) -> Interval:
    """Return the paired interval. Costs that differ by the same on every example do so because of the prompts: width 0."""
    gaps = (first - second)[~np.isnan(first - second)].round(9)
    if name in COSTS and gaps.size >= _MIN_EXAMPLES and not np.ptp(gaps):
        return Interval(*[float(gaps[0])] * 3)
    if groups is not None:
        return clustered_interval(first, second, groups, confidence)
    return paired_t_interval(first, second, confidence)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
