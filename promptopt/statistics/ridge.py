"""Ridge regression whose penalty has the smallest leave-one-out error. Pure functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

_MIN_SLACK = 1e-6  # leave-one-out errors are residuals divided by the slack
_MIN_SCALE = 1e-12  # keeps penalties positive if no column varies


@dataclass(frozen=True)
class Ridge:
    """A fitted regression, with its leave-one-out diagnostics.

    Args:
        weights: [F].
        intercept: prediction where all columns are 0.
        centre: [F] column means.
        spread: [K, F] principal directions, each scaled by the square root of the share of prior variance that the data
            removed.
        penalty: ratio of the noise variance to the prior variance of the weights.
        residuals: [N] leave-one-out errors: values minus predictions.
        slack: [N] 1 - leverage; a leave-one-out error's variance is the noise variance divided by it.
    """

    weights: Floats
    intercept: float
    centre: Floats
    spread: Floats
    penalty: float
    residuals: Floats
    slack: Floats

    def predict(self, x: Floats) -> Floats:
        """Return predictions [M] for rows [M, F]."""
        out: Floats = x @ self.weights + self.intercept
        return out

    def variance(self, directions: Floats) -> Floats:
        """Return the posterior variance of `directions @ weights`, [M], in units of the noise variance."""
        remaining = (directions**2).sum(axis=1) - ((directions @ self.spread.T) ** 2).sum(axis=1)
        out: Floats = remaining.clip(0) / self.penalty
        return out


def fit_ridge(x: Floats, y: Floats, penalties: Floats) -> Ridge:
    """Fit a ridge regression with an intercept, which is not penalised.

    Args:
        x: [N, F].
        y: [N].
        penalties: positive, in units of the mean squared singular value of the centred `x`.
    """
    centre, mean = x.mean(axis=0), float(y.mean())
    values = y - mean
    u, singular, v = np.linalg.svd(x - centre, full_matrices=False)
    projected = u.T @ values
    best_loss, fitted = math.inf, (0.0, singular, values, values)
    for penalty in penalties * max(float((singular**2).mean()), _MIN_SCALE):
        keep = singular**2 / (singular**2 + penalty)
        leverage = (u**2 * keep).sum(axis=1) + 1 / len(y)
        slack = (1 - leverage).clip(_MIN_SLACK)
        residuals = (values - u @ (keep * projected)) / slack
        loss = float((residuals**2).mean())
        if loss < best_loss:
            best_loss, fitted = loss, (float(penalty), keep, residuals, slack)
    penalty, keep, residuals, slack = fitted
    weights = v.T @ (singular / (singular**2 + penalty) * projected)
    intercept = mean - float(centre @ weights)
    return Ridge(weights, intercept, centre, np.sqrt(keep)[:, None] * v, penalty, residuals, slack)
