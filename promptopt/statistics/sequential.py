"""Tests for races: who can be dropped after a part of the examples, with an error that counts all looks and all rows.

The question of a race is which row has the highest mean over all of a known number of examples, not over a population:
what is still unknown is the examples not yet met, so that all errors shrink by 1 - n / N and are nothing at the end. The
examples of a part must be drawn at random, as by a shuffled order.
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

_ROUNDING = 1e-12  # of a gap; equal gaps, such as 0.4 - 0.3 and 0.3 - 0.2, vary by less
_SPREADS, _WIDEST = 25, 2.0  # values of tau that are averaged over, up to so many times the range of the effects
_DRAWS = 10_000


def spending(looks: Sequence[int], error: float) -> list[float]:
    """Share out an error over looks at the data: Pocock's spending function (Lan and DeMets 1983).

    Args:
        looks: [K] how many examples each look sees, rising; all that may end in a decision.
        error: to be spent by the last one.

    Returns:
        [K] what each look may spend; they add up to `error`, so that a race that stops early has spent less.
    """
    if not looks:
        return []
    spent = [error * math.log1p((math.e - 1) * look / looks[-1]) for look in looks]
    return [after - before for before, after in zip([0.0, *spent[:-1]], spent, strict=True)]


def behind(rewards: Floats, total: int) -> Floats:
    """Return how likely each row is as far behind each other one, were it as good on all examples.

    For rewards of 0 and 1 the one-sided exact McNemar test, else the paired t test, but never below 2^-m where m
    examples tell the two apart: with fewer, chance alone may give all of them to one side. The normal score of either
    is stretched by 1 / sqrt(1 - n / N), for examples drawn without replacement from N.

    Args:
        rewards: [P, E]; NaN entries are left out of their pairs.
        total: N >= E, the examples over which the rows are compared in the end.

    Returns:
        [P, P] p-values of "row p is as good as row q", small where p is behind; 1 where nothing is known.
    """
    from scipy.special import bdtrc, ndtr, ndtri, stdtr  # noqa: PLC0415  importing the package stays light

    out = np.ones((len(rewards), len(rewards)))
    binary = bool(np.isin(rewards[~np.isnan(rewards)], (0.0, 1.0)).all())
    for p, row in enumerate(rewards):
        gap = rewards - row
        won, lost, n = (gap > 0).sum(axis=1), (gap < 0).sum(axis=1), (~np.isnan(gap)).sum(axis=1)
        if binary:
            chance = np.where(won > 0, bdtrc(won - 1.0, np.maximum(won + lost, 1), 0.5), 1.0)
        else:
            mean, error = _mean_and_error(gap, n)
            told = error > _ROUNDING * np.abs(mean)
            t = np.divide(mean, error, out=np.zeros(len(mean)), where=told)
            chance = np.where(told, np.maximum(stdtr(np.maximum(n - 1, 1), -t), 0.5 ** (won + lost)), 1.0)
        left = np.sqrt(1 - np.minimum(n, total) / total)
        score = np.divide(ndtri(chance), left, out=np.where(chance < 1, -np.inf, np.inf), where=left > 0)
        out[p] = np.where(won > lost if binary else chance < 0.5, ndtr(score), 1.0)  # noqa: PLR2004  ahead at all
    return out


def chance_of_place(rewards: Floats, total: int, places: int = 1) -> Floats:
    """Return how likely each row is among the highest means over all examples, most of which may be still to come.

    Reward = item + row + noise. The rows' effects are normal around their mean with a variance tau^2 that is not known:
    each tau counts by its likelihood (restricted; flat prior on tau). A row's mean over all examples is what it has on
    those that it met, and a prediction of the others. The noise gets one degree of freedom more, with the variance of all
    rewards, so that a few equal gaps are no proof. From 10,000 draws, the same ones each time.

    Args:
        rewards: [P, E], of all rows that ever ran; NaN where one did not meet an example.
        total: N >= E.
        places: how many of the highest count.

    Returns:
        [P], which add up to `places` over the rows that have rewards; NaN for the others.
    """
    out: Floats = np.full(len(rewards), np.nan)
    met = ~np.isnan(rewards).all(axis=1)
    table = rewards[met][:, ~np.isnan(rewards).all(axis=0)]
    if len(table) <= places:
        out[met] = 1.0
        return out
    _, effects, counts, noise, free = additive(table)
    left_over = noise * free if free > 0 else 0.0
    variance = (left_over + float(np.nanvar(table))) / (max(free, 0) + 1)
    if variance <= 0:
        out[met] = places / len(table)
        return out
    error, seen = variance / counts, counts / total
    tau = np.linspace(0, _WIDEST * np.ptp(effects), _SPREADS)[:, None]
    precision = 1 / (tau**2 + error)  # [tau, P]
    middle = ((precision * effects).sum(axis=1) / precision.sum(axis=1))[:, None]
    fit = (
        np.log(precision).sum(axis=1)
        - np.log(precision.sum(axis=1))
        - (precision * (effects - middle) ** 2).sum(axis=1)
    )
    weight = np.exp((fit - fit.max()) / 2)
    kept = tau**2 * precision
    means = seen * effects + (1 - seen) * (middle + kept * (effects - middle))
    # Of the examples to come: what is not known of the row's effect, and the noise of their mean.
    errors = (1 - seen) * np.sqrt(kept * error + variance / np.maximum(total - counts, 1))
    rng = named_generator(0, "chance of a place")
    drawn = rng.choice(len(tau), size=_DRAWS, p=weight / weight.sum())
    draws = means[drawn] + errors[drawn] * rng.standard_normal((_DRAWS, len(table)))
    best = np.argpartition(-draws, places - 1, axis=1)[:, :places]
    out[met] = np.bincount(best.ravel(), minlength=len(table)) / _DRAWS
    return out


def _mean_and_error(gap: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return means and standard errors of the rows of [P, E], NaN left out; 0 where there is nothing."""
    many = np.maximum(n, 1)
    mean = np.nansum(gap, axis=1) / many
    squares = np.nansum((gap - mean[:, None]) ** 2, axis=1)
    return mean, np.sqrt(squares / (many * np.maximum(n - 1, 1)))
