"""Agreement of two scorers of the same items: Cohen's kappa and rank correlation, with confidence intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from promptopt.errors import InputError
from promptopt.statistics.intervals import Interval

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Weights: TypeAlias = Literal["none", "linear", "quadratic"]

MIN_ITEMS = 8
"""Fewest items of an interval with finite bounds."""

_DIGITS = 9  # scores that differ by less are equal
_CERTAIN = 1 - 1e-9  # largest correlation with a finite Fisher transform


def cohen_kappa(first: Floats, second: Floats, weights: Weights = "quadratic", confidence: float = 0.95) -> Interval:
    """Return Cohen's kappa, or weighted kappa, with its confidence interval.

    Kappa is 1 if the two always agree, and 0 if they agree as often as by chance. Weights are 1 - d for "linear" and 1 - d^2 for
    "quadratic", with d the distance of two scores as a share of the range of all. For scores of two values, all weights give the same.

    The standard error is that of Fleiss, Cohen and Everitt (1969), on Fisher's z scale, with Student's t. One item that agrees by
    chance only is added to the table, so that perfect agreement on a few items has an interval too.

    Args:
        first: [E] scores; NaN in either drops the item.
        second: [E] scores of the same items on the same scale.
        weights: "none", "linear" or "quadratic".
        confidence: confidence level.

    Returns:
        Kappa of the items. The estimate is NaN if both scorers give one score throughout; bounds are infinite then, and with fewer
        than 8 items.
    """
    a, b = _pairs(first, second)
    values, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    if values.size < 2:  # noqa: PLR2004  chance agreement is 1
        return Interval(math.nan, -math.inf, math.inf)
    table = np.zeros((values.size, values.size))
    np.add.at(table, (codes[: a.size], codes[a.size :]), 1.0)
    weight = _weights(values, weights)
    estimate = _kappa(table / a.size, weight)[0]
    if a.size < MIN_ITEMS:
        return Interval(estimate, -math.inf, math.inf)
    from scipy.special import stdtrit  # noqa: PLC0415  loaded when used: importing the package stays light

    rows, columns = ((table.sum(axis=axis) + 1 / values.size) / (a.size + 1) for axis in (1, 0))
    centre, error = _kappa((table + np.outer(rows, columns)) / (a.size + 1), weight)
    error /= math.sqrt(a.size + 1)
    half = float(stdtrit(a.size - 1, (1 + confidence) / 2)) * error / (1 - centre**2)
    return _from_fisher(estimate, math.atanh(centre), half)


def rank_correlation(first: Floats, second: Floats, confidence: float = 0.95) -> Interval:
    """Return Spearman's rank correlation with its confidence interval.

    Fisher's z with the variance (1 + r^2 / 2) / (n - 3) (Bonett and Wright 2000). Ties have their mean rank.

    Args:
        first: [E] scores; NaN in either drops the item.
        second: [E] scores of the same items.
        confidence: confidence level.

    Returns:
        The correlation. The estimate is NaN if one scorer gives one score throughout; bounds are infinite then, and with fewer than 8
        items.
    """
    a, b = _pairs(first, second)
    if a.size < 2 or not np.ptp(a) or not np.ptp(b):  # noqa: PLR2004  a correlation needs two items
        return Interval(math.nan, -math.inf, math.inf)
    estimate = float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])
    if a.size < MIN_ITEMS:
        return Interval(estimate, -math.inf, math.inf)
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    inside = min(max(estimate, -_CERTAIN), _CERTAIN)
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((1 + inside**2 / 2) / (a.size - 3))
    return _from_fisher(estimate, math.atanh(inside), half)


def _pairs(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    if first.shape != second.shape:
        raise InputError(f"{len(first)} and {len(second)} scores: give two scores for every item")
    both = ~(np.isnan(first) | np.isnan(second))
    return first[both].round(_DIGITS), second[both].round(_DIGITS)


def _weights(values: Floats, kind: Weights) -> Floats:
    """Return the agreement weights of each pair of values, [K, K]."""
    if kind not in ("none", "linear", "quadratic"):
        raise InputError(f"unknown weights {kind!r}: use 'none', 'linear' or 'quadratic'")
    distance: Floats = np.abs(values[:, None] - values) / np.ptp(values)
    if kind == "none":
        distance = np.sign(distance)
    weight: Floats = 1 - distance**2 if kind == "quadratic" else 1 - distance
    return weight


def _kappa(shares: Floats, weight: Floats) -> tuple[float, float]:
    """Return weighted kappa of a table of shares [K, K], and its standard error times sqrt(n) (Fleiss et al. 1969, equation 13)."""
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    observed, chance = float((weight * shares).sum()), float(rows @ weight @ columns)
    kappa = (observed - chance) / (1 - chance)
    marginal = (weight @ columns)[:, None] + rows @ weight
    square = float((shares * (weight - marginal * (1 - kappa)) ** 2).sum()) - (kappa - chance * (1 - kappa)) ** 2
    return kappa, math.sqrt(max(square, 0.0)) / (1 - chance)


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return ranks[inverse]


def _from_fisher(estimate: float, centre: float, half: float) -> Interval:
    return Interval(estimate, min(estimate, math.tanh(centre - half)), max(estimate, math.tanh(centre + half)))
