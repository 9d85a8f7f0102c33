"""Races: whom they drop, what they cost, and how often they end with the prompt that full evaluation would choose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt import Example, Prompt
from promptopt.errors import InputError
from promptopt.evaluation.racing import race, sizes
from promptopt.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.evaluation.racing import Guarantee
    from promptopt.statistics.arrays import Floats

NAN = math.nan


def run(rewards: Floats, guarantee: Guarantee = "average", top_k: int = 1) -> tuple[list[int], float]:
    """Race the rows of [P, E]; return the survivors and the share of cells run."""
    met = np.zeros(len(rewards), dtype=int)

    def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
        numbers = [int(row.text) for row in rows]
        met[numbers] = len(items)
        none: list[list[list[str]]] = [[] for _ in rows]
        return Scores(tuple(rows), tuple(items), rewards[numbers, : len(items), None], [[] for _ in rows], none)

    prompts = [Prompt(str(p)) for p in range(len(rewards))]
    examples = [Example({"item": str(e)}, None, id=str(e)) for e in range(rewards.shape[1])]
    end = race(score, prompts, examples, 0.95, guarantee=guarantee, top_k=top_k)
    assert end.scores.prompts == tuple(prompts[i] for i in end.survivors)
    return end.survivors, met.sum() / rewards.size


def landscape(seed: int, prompts: int, items: int, spread: float, *, binary: bool) -> Floats:
    rng = np.random.default_rng([seed, prompts, items])
    latent = rng.normal(0, spread, (prompts, 1)) + rng.normal(0.5, 2, items) + rng.normal(0, 1, (prompts, items))
    return (latent > 0).astype(float) if binary else np.tanh(latent / 3)


def outcomes(guarantee: Guarantee, draws: Sequence[Floats]) -> tuple[float, float]:
    """Return the mean cost, and how often a prompt with the highest mean on all items survives."""
    costs, equal = [], []
    for rewards in draws:
        survivors, cost = run(rewards, guarantee)
        means = rewards.mean(axis=1)
        costs.append(cost)
        equal.append(means[survivors].max() >= means.max() - 1e-12)
    return float(np.mean(costs)), float(np.mean(equal))


DRAWS = 30
MISS = 3 * math.sqrt(0.05 * 0.95 / DRAWS)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("items", "cost"), [(64, 0.4), pytest.param(200, 0.27, marks=pytest.mark.wide)])
def test_prompts_that_are_far_apart_cost_less_than_40_percent_of_full_evaluation(
    items: int, cost: float, *, binary: bool
) -> None:
    spent, equal = outcomes("average", [landscape(s, 16, items, 1.0, binary=binary) for s in range(DRAWS)])

    assert spent < cost
    assert equal >= 0.95


@pytest.mark.parametrize("binary", [True, False])
def test_prompts_that_are_close_cost_40_percent_of_200_items(*, binary: bool) -> None:
    spent, equal = outcomes("average", [landscape(s, 16, 200, 0.4, binary=binary) for s in range(DRAWS)])

    assert spent < 0.42
    assert equal >= 0.95


@pytest.mark.parametrize("items", [16, 50, pytest.param(200, marks=pytest.mark.wide)])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("guarantee", ["average", "always"])
def test_equal_prompts_lose_the_best_no_oftener_than_said(items: int, guarantee: Guarantee, *, binary: bool) -> None:
    _, equal = outcomes(guarantee, [landscape(s, 8, items, 0.0, binary=binary) for s in range(DRAWS)])

    assert equal > 0.95 - MISS


def test_what_holds_always_costs_more() -> None:
    draws = [landscape(s, 16, 200, 0.4, binary=True) for s in range(20)]

    assert outcomes("average", draws)[0] < 0.8 * outcomes("always", draws)[0]


@pytest.mark.parametrize("guarantee", ["average", "always"])
def test_the_best_of_several_places_stay(guarantee: Guarantee) -> None:
    kept = []
    for seed in range(20):
        rewards = landscape(seed, 16, 120, 0.5, binary=False)
        survivors, cost = run(rewards, guarantee, top_k=4)
        best = np.argsort(-rewards.mean(axis=1))[:4]
        kept.append(np.isin(best, survivors).sum())
        assert cost < 1
        assert len(survivors) >= 4

    assert np.mean(kept) >= 4 - 0.05 - 3 * np.std(kept) / math.sqrt(20)


@pytest.mark.parametrize("guarantee", ["average", "always"])
def test_a_prompt_without_replies_stays(guarantee: Guarantee) -> None:
    rewards = landscape(0, 3, 64, 3.0, binary=False)
    rewards[1] = NAN

    assert 1 in run(rewards, guarantee)[0]


@pytest.mark.parametrize("guarantee", ["average", "always"])
def test_prompts_that_never_differ_all_stay(guarantee: Guarantee) -> None:
    assert run(np.ones((4, 64)), guarantee) == ([0, 1, 2, 3], 1.0)


def test_one_prompt_and_a_handful_of_examples_are_run_whole() -> None:
    assert run(np.ones((1, 40))) == ([0], 1.0)
    assert run(np.array([[1.0] * 5, [0.0] * 5])) == ([0, 1], 1.0)
    assert sizes(5) == [5]


def test_what_is_no_confidence_no_guarantee_and_no_place_is_refused() -> None:
    def score(rows: Sequence[Prompt], items: Sequence[Example]) -> Scores:
        raise AssertionError

    items = [Example({"item": "a"}, None, id="a")]
    with pytest.raises(InputError, match="confidence must be between 0 and 1, not 95"):
        race(score, [], items, 95)
    with pytest.raises(InputError, match="'average' or 'always', not 'sure'"):
        race(score, [], items, 0.95, guarantee="sure")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_k must be at least 1, not 0"):
        race(score, [], items, 0.95, top_k=0)
