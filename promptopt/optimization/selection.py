"""Selection among the best candidates on validation data. Depends on the scorer and the archive, not on the strategy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError
from promptopt.evaluation.racing import race
from promptopt.optimization.reserves import SHORTLIST
from promptopt.statistics import shortest_within_one_error
from promptopt.statistics.arrays import nanmean, standard_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from promptopt.evaluation.racing import Race
    from promptopt.evaluation.scorer import Scorer
    from promptopt.optimization.stages import Stages
    from promptopt.prompt import Example, Prompt
    from promptopt.results.front import FrontPoint
    from promptopt.search.archive import Archive, Candidate
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_CONFIDENCE = 0.95


class Validated(NamedTuple):
    """Mean reward on validation examples, and their number."""

    mean: float
    examples: int


class Choice(NamedTuple):
    """The chosen prompt.

    Args:
        prompt: the prompt.
        validated: validation result of each raced prompt.
        shorter: the shortest prompt within one standard error on validation examples; None if no shorter than `prompt`.
        points: the front, in a run with several objectives.
    """

    prompt: Prompt
    validated: dict[Prompt, Validated]
    shorter: Prompt | None = None
    points: tuple[FrontPoint, ...] = ()


def shortlist(archive: Archive, seed: Prompt, size: int = SHORTLIST) -> list[Candidate]:
    """Return the best candidates except the seed prompt, alternately by fitness and by the task's reward, best first.

    A search may maximize another fitness than the task's reward, such as a margin; the best by one on a few examples may
    be at chance level by the other.
    """
    by_fitness = archive.ranked(prompt for prompt in archive if prompt != seed)
    by_reward = sorted(by_fitness, key=lambda c: -math.inf if math.isnan(c.reward) else c.reward, reverse=True)
    in_turn = dict.fromkeys(c.prompt for pair in zip(by_fitness, by_reward, strict=True) for c in pair)
    return [archive[prompt] for prompt in in_turn][:size]


def choose(
    scorer: Scorer,
    seed: Prompt,
    candidates: Sequence[Candidate],
    examples: Sequence[Example],
    length: Callable[[Prompt], int],
    *,
    training: Mapping[Prompt, Floats] | None = None,
) -> Choice:
    """Race the shortlist and the seed prompt on validation examples; choose the best on training and validation together.

    A prompt is eligible if it is ahead of the seed prompt on training and validation examples together, and not behind it by
    more than a standard error on validation examples alone (`python -m benchmarks.choice` compares this with other rules).
    Training rewards of a shortlist are inflated, but for all its prompts alike, so they are as useful for ranking as validation
    rewards. Ties go to the shorter prompt. The one-standard-error rule (the shortest prompt that is not clearly worse) lost about
    a point of accuracy here (docs/strategies/promptquine.md), so its choice is only reported.

    Args:
        scorer: scores prompts.
        seed: the seed prompt.
        candidates: the shortlist, best first.
        examples: for validation.
        length: of a prompt.
        training: candidate -> its reward minus the seed prompt's on each training example; NaN where one of them has none.

    Raises:
        BudgetExhaustedError: the budget does not cover the first block.
    """
    known = {candidate.prompt: candidate for candidate in candidates}
    end = race(scorer.score, [seed, *known], examples, _CONFIDENCE, guarantee="always")
    validated = {prompt: _validated(end, p) for p, prompt in enumerate([seed, *known])}
    rivals = _eligible(end, seed, training or {})
    if not rivals:
        return Choice(seed, validated)
    prompts, per_example = [end.scores.prompts[i] for i in rivals], end.scores.per_example[rivals]
    lengths = [length(prompt) for prompt in prompts]
    together = [_together(known[prompt], row) for prompt, row in zip(prompts, per_example, strict=True)]
    best = min(range(len(prompts)), key=lambda i: (-together[i], lengths[i], i))
    near = shortest_within_one_error(per_example, lengths)
    return Choice(prompts[best], validated, prompts[near] if lengths[near] < lengths[best] else None)


def _eligible(end: Race, seed: Prompt, training: Mapping[Prompt, Floats]) -> list[int]:
    """Return the survivors that may be chosen in place of the seed prompt: all others, if it was dropped."""
    prompts, per_example = end.scores.prompts, end.scores.per_example
    if seed not in prompts:
        return list(range(len(prompts)))
    gains = per_example - per_example[prompts.index(seed)]
    return [i for i, p in enumerate(prompts) if p != seed and is_ahead(gains[i], training.get(p, np.empty(0)))]


def is_ahead(validation: Floats, training: Floats) -> bool:
    """Whether a prompt with these gains over the seed prompt, [V] and [T], may be chosen in its place; NaN is ignored."""
    total, mean = float(np.nansum(validation)), float(nanmean(validation, axis=0))
    is_behind = total < 0 and not mean >= -float(standard_error(validation[None])[0])
    return not is_behind and total + float(np.nansum(training)) > 0


def _validated(end: Race, row: int) -> Validated:
    run = end.examples[row]
    return Validated(float(nanmean(end.rewards[row, :run], axis=0)), run)


def _together(candidate: Candidate, validation: Floats) -> float:
    """Return the mean reward over training and validation examples, weighted equally."""
    rewards = validation[~np.isnan(validation)]
    if math.isnan(candidate.reward):
        return float(rewards.mean())
    total = candidate.reward * candidate.examples + float(rewards.sum())
    return total / (candidate.examples + rewards.size)


def select(run: Run, stages: Stages, notes: list[str]) -> Choice:
    """Choose from the shortlist by validation, within the budget; without validation, by the search's scores.

    Args:
        run: supplies the candidates.
        stages: sets the budget of validation.
        notes: receives notes on the choice.
    """
    task, search_choice = run.task, by_search(run)
    listed = shortlist(run.archive, task.seed_prompt)
    if not listed:
        return search_choice
    if not task.validation:
        notes.append("no validation data: the choice was made by the search's own scores")
        return search_choice
    with stages.validation(len(listed), cells_measured(run, search_choice)) as (size, examples):
        raced, seed = listed[:size], task.seed_prompt
        gains = _training_gains(run, raced)
        try:
            choice = choose(run.scorer, seed, raced, examples, run.length, training=gains) if examples else None
        except BudgetExhaustedError:
            choice = None
    if choice is None:
        notes.append("the budget ended before validation: the choice was made by the search's own scores")
        return search_choice
    if choice.shorter is not None:
        notes.append(
            f"candidate {run.archive[choice.shorter].number} has {run.length(choice.shorter)} tokens instead "
            f"of {run.length(choice.prompt)} and was within one standard error on validation items"
        )
    return choice


def _training_gains(run: Run, candidates: Sequence[Candidate]) -> dict[Prompt, Floats]:
    """Return each candidate's reward minus the seed prompt's on each training example."""
    prompts = [candidate.prompt for candidate in candidates]
    seed, *rewards = run.archive.task_rewards([run.task.seed_prompt, *prompts])
    return {prompt: row - seed for prompt, row in zip(prompts, rewards, strict=True)}


def by_search(run: Run) -> Choice:
    """Return the choice by the search's scores: its best prompt if that beats the seed prompt, else the seed prompt."""
    seed = run.task.seed_prompt
    listed, start = shortlist(run.archive, seed), run.archive.get(seed)
    better = listed and (start is None or listed[0].fitness > start.fitness)
    return Choice(listed[0].prompt if better else seed, {})


def cells_measured(run: Run, choice: Choice) -> int:
    """Return the number of cells measured by search and validation."""
    return sum(c.cells + c.failed for c in run.archive.values()) + sum(v.examples for v in choice.validated.values())
