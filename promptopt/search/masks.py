"""Moves over token masks, and estimates of each token's effect on the score.

Pure functions over boolean arrays; knows nothing of prompts or models. A mask [T] marks the tokens that are kept; `free` [T]
marks the tokens that a move may drop or restore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.statistics.ridge import fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.search.tokens import Mask
    from promptopt.statistics.arrays import Floats

_PENALTIES = np.logspace(-2, 3, 11)  # ridge penalties, in units of the variance of one token's presence


def drop_tokens(
    mask: Mask, free: Mask, count: int, rng: np.random.Generator, weights: Floats | None = None
) -> Mask | None:
    """Return the mask without `count` of its free tokens, or None if no free token would remain.

    Args:
        mask: [T] tokens kept.
        free: [T] tokens that may be dropped.
        count: number of tokens to drop.
        rng: random number generator.
        weights: [T] positive sampling weights; None samples uniformly.
    """
    kept = np.flatnonzero(mask & free)
    return None if count >= kept.size else _flip_random(mask, kept, count, rng, weights)


def restore_tokens(
    mask: Mask, free: Mask, count: int, rng: np.random.Generator, weights: Floats | None = None
) -> Mask | None:
    """Return the mask with `count` of its missing free tokens restored, or None if fewer are missing.

    Args: as for `drop_tokens`.
    """
    missing = np.flatnonzero(~mask & free)
    return None if count > missing.size else _flip_random(mask, missing, count, rng, weights)


class TokenEffects(NamedTuple):
    """Estimated effect of keeping each token on the score.

    Args:
        mean: [T] linear coefficients; 0 for tokens that were always or never kept.
        error: [T] standard errors of the coefficients; infinite for tokens that were always or never kept.
    """

    mean: Floats
    error: Floats

    @property
    def prob_harmful(self) -> Floats:
        """[T] probability that the score is better without the token (logistic approximation of the normal CDF)."""
        out: Floats = 1 / (1 + np.exp(np.clip(1.702 * self.mean / self.error, -30, 30)))
        return out


def token_effects(masks: Sequence[Mask], values: Sequence[float]) -> TokenEffects | None:
    """Fit a ridge regression of scores on masks, or return None if masks or scores never vary.

    The penalty is chosen by leave-one-out error.

    Args:
        masks: N masks [T].
        values: [N] finite scores.
    """
    x, y = np.array(masks, dtype=np.float64), np.array(values, dtype=np.float64)
    varying = np.flatnonzero(np.ptp(x, axis=0))
    if not varying.size or not (y - y.mean()).any():
        return None
    ridge = fit_ridge(x[:, varying], y, _PENALTIES / max(len(y), varying.size))
    noise = float((ridge.residuals**2).mean())
    mean, error = np.zeros(x.shape[1]), np.full(x.shape[1], np.inf)
    mean[varying], error[varying] = ridge.weights, np.sqrt(noise * ridge.variance(np.eye(varying.size)))
    return TokenEffects(mean, error)


def _flip_random(
    mask: Mask,
    positions: np.ndarray[Any, np.dtype[np.intp]],
    count: int,
    rng: np.random.Generator,
    weights: Floats | None,
) -> Mask:
    child = mask.copy()
    probabilities = None if weights is None else weights[positions] / weights[positions].sum()
    child[rng.choice(positions, size=count, replace=False, p=probabilities)] ^= True
    return child
