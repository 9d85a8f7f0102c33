"""Tests for races: which rows can be dropped after part of the examples, with one error for all looks and all rows.

A race asks which row has the highest mean over a known, finite set of examples, not over a population. Only the examples
still to come are uncertain, so standard errors shrink by sqrt(1 - n / N) and vanish at the end. The examples run so far must be a
random sample, for example the first ones of a shuffled order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from promptopt.randomness import named_generator
from promptopt.statistics.shrinkage import additive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

_ROUNDING = 1e-12  # relative to a gap; equal gaps, such as 0.4 - 0.3 and 0.3 - 0.2, differ by less
_TAU_POINTS, _TAU_RANGE = 25, 2.0  # grid of tau: number of points, and upper end in ranges of the effects
_DRAWS = 10_000


def alpha_spending(looks: Sequence[int], error: float) -> list[float]:
    """Split an error over looks at the data with Pocock's spending function (Lan and DeMets 1983).

    Args:
        looks: [K] number of examples at each look, increasing; only looks that may end in a decision.
        error: total to be spent by the last look.

    Returns:
        [K] error of each look. They add up to `error`, so a race that stops early has spent less.
    """
    if not looks:
        return []
    spent = [error * math.log1p((math.e - 1) * look / looks[-1]) for look in looks]
    return [after - before for before, after in zip([0.0, *spent[:-1]], spent, strict=True)]


def late_alpha_spending(looks: Sequence[int], error: float) -> list[float]:
    """Split an error over looks in proportion to the increase of (n / N)^2, a spending function of Kim and DeMets (1987).

    It keeps more of the error for the last looks than `alpha_spending`: for tests that mostly run to the end.

    Args:
        looks: [K] number of examples at each look, increasing.
        error: total to be spent by the last look.

    Returns:
        [K] error of each look; they add up to `error`.
    """
    spent = [error * (look / looks[-1]) ** 2 for look in looks]
    return [after - before for before, after in zip([0.0, *spent], spent, strict=False)]


def pairwise_p_values(rewards: Floats, total: int) -> Floats:
    """Return one-sided p-values of "row p is as good as row q", for all pairs.

    Exact McNemar tests for rewards of 0 and 1, else paired t tests. The p-value of a t test is never below 2^-m, where m is
    the number of examples on which the two differ: with few, chance alone may favour one side every time. The normal score
    is divided by sqrt(1 - n / N), because the examples are drawn without replacement from N.

    Args:
        rewards: [P, E]; NaN entries are left out of their pairs.
        total: N >= E, the number of examples over which the rows are finally compared.

    Returns:
        [P, P] p-values, small where p is behind q; 1 where nothing is known.
    """
    from scipy.special import bdtrc, ndtr, ndtri, stdtr  # noqa: PLC0415  importing the package stays light

    out = np.ones((len(rewards), len(rewards)))
    binary = bool(np.isin(rewards[~np.isnan(rewards)], (0.0, 1.0)).all())
    for p, row in enumerate(rewards):
        gap = rewards - row
        won, lost, n = (gap > 0).sum(axis=1), (gap < 0).sum(axis=1), (~np.isnan(gap)).sum(axis=1)
        if binary:
            p_value = np.where(won > 0, bdtrc(won - 1.0, np.maximum(won + lost, 1), 0.5), 1.0)
        else:
            mean, error = _mean_and_error(gap, n)
            measurable = error > _ROUNDING * np.abs(mean)
            t = np.divide(mean, error, out=np.zeros(len(mean)), where=measurable)
            p_value = np.where(measurable, np.maximum(stdtr(np.maximum(n - 1, 1), -t), 0.5 ** (won + lost)), 1.0)
        unseen = np.sqrt(1 - np.minimum(n, total) / total)
        score = np.divide(ndtri(p_value), unseen, out=np.where(p_value < 1, -np.inf, np.inf), where=unseen > 0)
        out[p] = np.where(won > lost if binary else p_value < 0.5, ndtr(score), 1.0)  # noqa: PLR2004  ahead at all
    return out


def prob_in_top_k(rewards: Floats, total: int, top_k: int = 1) -> Floats:
    """Return the probability that each row is among the `top_k` highest means over all examples, seen and unseen.

    Model: reward = example + row + noise. Row effects are normal around their mean with an unknown variance tau^2; each tau is
    weighted by its restricted likelihood (flat prior on tau). A row's mean over all examples combines what it scored on
    the examples it ran on with a prediction for the others. The noise gets one extra degree of freedom, with the variance
    of all rewards, so that a few equal gaps do not count as proof. Estimated from 10,000 draws with a fixed seed.

    Args:
        rewards: [P, E], of all rows that ever ran; NaN where a row did not run on an example.
        total: N >= E, the number of examples over which the rows are finally compared.
        top_k: how many of the highest means count.

    Returns:
        [P] probabilities, which add up to `top_k` over the rows that have rewards; NaN for the others.
    """
    out: Floats = np.full(len(rewards), np.nan)
    has_rewards = ~np.isnan(rewards).all(axis=1)
    table = rewards[has_rewards][:, ~np.isnan(rewards).all(axis=0)]
    if len(table) <= top_k:
        out[has_rewards] = 1.0
        return out
    _, effects, counts, noise, dof = additive(table)
    residual = noise * dof if dof > 0 else 0.0
    variance = (residual + float(np.nanvar(table))) / (max(dof, 0) + 1)
    if variance <= 0:
        out[has_rewards] = top_k / len(table)
        return out
    error, seen_share = variance / counts, counts / total
    tau = np.linspace(0, _TAU_RANGE * np.ptp(effects), _TAU_POINTS)[:, None]
    precision = 1 / (tau**2 + error)  # [tau, P]
    grand_mean = ((precision * effects).sum(axis=1) / precision.sum(axis=1))[:, None]
    log_likelihood = (
        np.log(precision).sum(axis=1)
        - np.log(precision.sum(axis=1))
        - (precision * (effects - grand_mean) ** 2).sum(axis=1)
    )
    weight = np.exp((log_likelihood - log_likelihood.max()) / 2)
    shrinkage = tau**2 * precision
    means = seen_share * effects + (1 - seen_share) * (grand_mean + shrinkage * (effects - grand_mean))
    # Uncertainty about unseen examples: the row's effect, and the noise of their mean.
    errors = (1 - seen_share) * np.sqrt(shrinkage * error + variance / np.maximum(total - counts, 1))
    rng = named_generator(0, "chance of a place")
    tau_index = rng.choice(len(tau), size=_DRAWS, p=weight / weight.sum())
    draws = means[tau_index] + errors[tau_index] * rng.standard_normal((_DRAWS, len(table)))
    top = np.argpartition(-draws, top_k - 1, axis=1)[:, :top_k]
    out[has_rewards] = np.bincount(top.ravel(), minlength=len(table)) / _DRAWS
    return out


def _mean_and_error(gap: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return the means and standard errors of the rows of [P, E]. NaN is ignored; empty rows give 0."""
    count = np.maximum(n, 1)
    mean = np.nansum(gap, axis=1) / count
    squares = np.nansum((gap - mean[:, None]) ** 2, axis=1)
    return mean, np.sqrt(squares / (count * np.maximum(n - 1, 1)))
