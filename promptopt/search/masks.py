"""Moves over token masks, what each token seems to be worth, and the front of length and score.

Pure functions over boolean arrays; knows nothing of prompts, models or scores. A mask [T] marks the tokens that are
kept; `free` [T] marks those that a move may take or give back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.search.tokens import Mask
    from promptopt.statistics.arrays import Floats

_PENALTIES = np.logspace(-2, 3, 11)  # of the ridge, times the variance of one token's presence


def dropped(mask: Mask, free: Mask, count: int, rng: np.random.Generator, chances: Floats | None = None) -> Mask | None:
    """Return the mask less `count` of its free tokens, or None where none of them would be left.

    Args:
        mask: [T].
        free: [T].
        count: tokens to take.
        rng: the chance.
        chances: [T] above 0, how likely each token is to be drawn beside the others; None draws all alike.
    """
    kept = np.flatnonzero(mask & free)
    return None if count >= kept.size else _flipped(mask, kept, count, rng, chances)


def restored(
    mask: Mask, free: Mask, count: int, rng: np.random.Generator, chances: Floats | None = None
) -> Mask | None:
    """Return the mask with `count` of its missing free tokens back, or None where fewer are missing.

    Args: as of `dropped`.
    """
    missing = np.flatnonzero(~mask & free)
    return None if count > missing.size else _flipped(mask, missing, count, rng, chances)


class Worth(NamedTuple):
    """What keeping each token adds to the score, as far as scored masks tell.

    Args:
        mean: [T] of the linear coefficients; 0 for a token that was always kept or never.
        error: [T] their standard errors.
    """

    mean: Floats
    error: Floats

    @property
    def spoils(self) -> Floats:
        """[T] probability that the score is better without the token (the logistic curve nearest the normal's)."""
        out: Floats = 1 / (1 + np.exp(np.clip(1.702 * self.mean / self.error, -30, 30)))
        return out


def worth(masks: Sequence[Mask], values: Sequence[float]) -> Worth | None:
    """Fit a ridge regression of scores on masks, its penalty chosen by leave-one-out, or None where nothing varies.

    Args:
        masks: [N] of [T].
        values: [N] finite scores.
    """
    x, y = np.array(masks, dtype=np.float64), np.array(values, dtype=np.float64)
    x -= x.mean(axis=0)
    y -= y.mean()
    varying = np.flatnonzero(x.any(axis=0))
    if not varying.size or not y.any():
        return None
    rows, columns = x.shape
    size, axes = np.linalg.eigh(x[:, varying].T @ x[:, varying])
    size = size.clip(0)
    along = x[:, varying] @ axes  # [N, V] the masks in the axes' frame
    target = along.T @ y
    best = (np.inf, 0.0, 0.0)
    for penalty in _PENALTIES * size.mean() / rows:
        leverage = (along**2 / (size + penalty)).sum(axis=1) + 1 / rows
        left_out = (y - along @ (target / (size + penalty))) / (1 - leverage).clip(1e-6)
        best = min(best, (float((left_out**2).mean()), float(penalty), float((left_out**2).mean())))
    _, penalty, noise = best
    mean, error = np.zeros(columns), np.full(columns, np.inf)
    mean[varying] = axes @ (target / (size + penalty))
    error[varying] = np.sqrt(noise * (axes**2 / (size + penalty)).sum(axis=1))
    return Worth(mean, error)


def _flipped(
    mask: Mask,
    among: np.ndarray[Any, np.dtype[np.intp]],
    count: int,
    rng: np.random.Generator,
    chances: Floats | None,
) -> Mask:
    child = mask.copy()
    shares = None if chances is None else chances[among] / chances[among].sum()
    child[rng.choice(among, size=count, replace=False, p=shares)] ^= True
    return child
