"""Rewards of prompts that are combinations of two parts: empirical Bayes over all combinations, measured or not.

Fits reward = mean + example + first part + second part + interaction + noise, where every effect is normal with mean 0, and
their variances are estimated by EM. So a score of one combination informs all that share a part with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

Pairs: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

_SWEEPS = 30  # of EM
_TOLERANCE = 1e-2  # relative change of the variances at which it stops
_PRIOR_EFFECTS = 2.0  # effects that the prior of a variance is worth
_SMALLEST_SCALE = 1e-4  # variance of rewards, which may all be equal
_SMALLEST = 1e-6  # share of the prior variances that a variance never falls below


class Variances(NamedTuple):
    """Variances of the effects and of the noise."""

    first: float
    second: float
    interaction: float
    example: float
    noise: float


# As shares of the rewards' variance. Those of prompts have the order of magnitude that four instructions with five sets of
# demonstrations showed on a real task.
_PRIOR = Variances(first=0.05, second=0.02, interaction=0.01, example=0.2, noise=0.7)


@dataclass(frozen=True)
class Crossed:
    """The posterior of the expected reward of every combination, over the examples that were seen.

    Args:
        mean: [D] posterior mean of level, first parts, second parts and measured interactions.
        root: [D, D] its covariance is root @ root.T.
        pairs: [C, 2] the measured combinations.
        sizes: numbers of first and of second parts.
        variances: estimates of the variances.
    """

    mean: Floats
    root: Floats
    pairs: Pairs
    sizes: tuple[int, int]
    variances: Variances

    def expected(self) -> Floats:
        """Return [F, S]: the expected reward of each combination."""
        out: Floats = self._grid(self.mean[None], np.zeros((1, *self.sizes)))[0]
        return out

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """Return [count, F, S]: draws from the posterior of all combinations' rewards."""
        effects = self.mean + rng.standard_normal((count, len(self.mean))) @ self.root.T
        interactions = rng.standard_normal((count, *self.sizes)) * np.sqrt(self.variances.interaction)
        return self._grid(effects, interactions)

    def _grid(self, effects: Floats, interactions: Floats) -> Floats:
        """Return [count, F, S]: level, parts and interactions added up; `interactions` gets the measured ones."""
        firsts, seconds = self.sizes
        interactions[:, self.pairs[:, 0], self.pairs[:, 1]] = effects[:, 1 + firsts + seconds :]
        first, second = effects[:, 1 : 1 + firsts], effects[:, 1 + firsts : 1 + firsts + seconds]
        out: Floats = effects[:, :1, None] + first[:, :, None] + second[:, None, :] + interactions
        return out


def fit_crossed(
    rewards: Floats, pairs: Sequence[tuple[int, int]], sizes: tuple[int, int], start: Variances | None = None
) -> Crossed:
    """Fit the model.

    Args:
        rewards: [C, E] of each measured combination on each example; NaN where it did not run.
        pairs: [C] the numbers of the first and of the second part of each combination.
        sizes: numbers of first and of second parts, measured or not.
        start: variances to start from, such as those of an earlier fit to fewer rewards.
    """
    chosen = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    design = _design(chosen, sizes)
    system = _System(rewards, design)
    scale = max(float(np.nanvar(rewards)), _SMALLEST_SCALE)
    groups = _groups(len(chosen), sizes)
    prior = Variances(*(scale * share for share in _PRIOR))
    variances = start or prior
    for _ in range(_SWEEPS):
        before, solved = variances, system.solve(_penalties(variances, groups), variances)
        variances = _updated(system, solved, variances, prior, groups)
        if max(abs(new - old) / old for new, old in zip(variances, before, strict=True)) < _TOLERANCE:
            break
    solved = system.solve(_penalties(variances, groups), variances)
    root = np.linalg.cholesky(solved.covariance)
    return Crossed(solved.mean, root.astype(np.float64), chosen, sizes, variances)


class _Solved(NamedTuple):
    """Posterior of the effects of prompts and of examples."""

    mean: Floats  # [D]
    covariance: Floats  # [D, D]
    examples: Floats  # [E]
    examples_variance: Floats  # [E]


class _System:
    """The normal equations, with the effects of the examples eliminated: their block is diagonal."""

    def __init__(self, rewards: Floats, design: Floats) -> None:
        scored = ~np.isnan(rewards)
        self.rewards, self.scored, self.design = np.where(scored, rewards, 0.0), scored, design
        counts = scored.astype(float)
        self.per_example = counts.sum(axis=0)
        self.gram = design.T @ (counts.sum(axis=1)[:, None] * design)
        self.cross = design.T @ counts  # [D, E]
        self.sums = design.T @ self.rewards.sum(axis=1)
        self.example_sums = self.rewards.sum(axis=0)
        self.total = float(counts.sum())

    def solve(self, penalties: Floats, variances: Variances) -> _Solved:
        weight = 1 / variances.noise
        own = self.per_example * weight + 1 / variances.example
        scaled = self.cross * (weight / own)
        precision = self.gram * weight + np.diag(penalties) - scaled @ self.cross.T * weight
        covariance = np.linalg.inv(precision)
        covariance = (covariance + covariance.T) / 2
        mean = covariance @ (self.sums * weight - scaled @ (self.example_sums * weight))
        examples = (self.example_sums - self.cross.T @ mean) * weight / own
        spread = (scaled * (covariance @ scaled)).sum(axis=0)
        return _Solved(mean, covariance, examples, 1 / own + spread)

    def residual(self, solved: _Solved) -> float:
        fitted = (self.design @ solved.mean)[:, None] + solved.examples
        return float(((self.rewards - fitted)[self.scored] ** 2).sum())


def _design(pairs: Pairs, sizes: tuple[int, int]) -> Floats:
    """Return [C, D]: level, first part, second part and interaction of each combination."""
    count = len(pairs)
    design = np.zeros((count, 1 + sum(sizes) + count))
    rows = np.arange(count)
    design[:, 0] = 1
    design[rows, 1 + pairs[:, 0]] = 1
    design[rows, 1 + sizes[0] + pairs[:, 1]] = 1
    design[rows, 1 + sum(sizes) + rows] = 1
    return design


def _groups(count: int, sizes: tuple[int, int]) -> tuple[slice, slice, slice]:
    ends = np.cumsum([1, *sizes, count]).tolist()
    return slice(ends[0], ends[1]), slice(ends[1], ends[2]), slice(ends[2], ends[3])


def _penalties(variances: Variances, groups: tuple[slice, slice, slice]) -> Floats:
    penalties = np.full(groups[-1].stop, 1e-6 / variances.noise)  # the level is free
    for group, variance in zip(groups, variances, strict=False):
        penalties[group] = 1 / variance
    return penalties


def _updated(
    system: _System,
    solved: _Solved,
    variances: Variances,
    prior: Variances,
    groups: tuple[slice, slice, slice],
) -> Variances:
    """Return the variances after a step of EM; those of effects have a prior worth a few effects."""
    diagonal = np.diag(solved.covariance)
    squares = [(solved.mean[group] ** 2 + diagonal[group]) for group in groups]
    squares.append(solved.examples**2 + solved.examples_variance)
    effects = [
        float(values.sum() + _PRIOR_EFFECTS * before) / (len(values) + _PRIOR_EFFECTS)
        for values, before in zip(squares, prior, strict=False)
    ]
    shrunk = [diagonal[group].sum() / variance for group, variance in zip(groups, variances, strict=False)]
    shrunk.append(solved.examples_variance.sum() / variances.example)
    free = 1 + sum(len(values) for values in squares) - sum(shrunk)  # effective number of parameters
    noise = (system.residual(solved) + variances.noise * free) / system.total
    return Variances(*(max(value, _SMALLEST * sum(prior)) for value in (*effects, noise)))
