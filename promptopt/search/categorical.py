"""Searching over sequences of discrete tokens, each position with its own categorical distribution p [n, N].

Pure functions; knows nothing of prompts. Chosen tokens are [I, n], one row a sequence; losses are [I], lower is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Chosen: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def uniform(positions: int, tokens: int) -> Floats:
    """Return p [n, N] that prefers nothing."""
    return np.full((positions, tokens), 1.0 / tokens)


def sample(p: Floats, count: int, rng: np.random.Generator) -> Chosen:
    """Draw `count` sequences, [I, n]."""
    edges = np.cumsum(p, axis=1)
    edges /= edges[:, -1:]
    drawn = rng.random((count, len(p)))
    return np.stack([np.searchsorted(row, drawn[:, i], side="right") for i, row in enumerate(edges)], axis=1)


def modal(p: Floats) -> Chosen:
    """Return the likeliest token of each position, [n]."""
    likeliest: Chosen = p.argmax(axis=1)
    return likeliest


def policy_gradient(p: Floats, chosen: Chosen, losses: Floats) -> Floats:
    """Variance-reduced policy gradient of the expected loss (BDPL, Diao et al. 2023), [n, N].

    sum_k (L_k - mean L) / (I - 1) * d log p(t_k) / dp, with d log p / dp = 1/p at the chosen token and 0 elsewhere.
    The released code also puts -1/p at all others, which doubles the centred sum and divides by zero once a
    projection has set a token to 0; a chosen token's probability never is 0, so that this form is always finite.
    Losses that are NaN are left out.
    """
    known = ~np.isnan(losses)
    chosen, losses = chosen[known], losses[known]
    gradient = np.zeros_like(p)
    if len(losses) > 1:
        weights = (losses - losses.mean()) / (len(losses) - 1)
        rows = np.arange(p.shape[0])[None, :].repeat(len(chosen), axis=0)
        np.add.at(gradient, (rows, chosen), weights[:, None] / p[rows, chosen])
    return gradient


def clipped(gradient: Floats, norm: float) -> Floats:
    """Return the gradient, shortened to `norm` where it is longer."""
    length = float(np.linalg.norm(gradient))
    shortened: Floats = gradient * (norm / max(length, norm))
    return shortened


def project_to_simplex(rows: Floats) -> Floats:
    """Return the nearest points [n, N] whose entries are not negative and sum to 1 in each row (Duchi et al. 2008, fig. 1).

    Exact, by sorting; BDPL halves an interval 20 times, and cannot raise a row that sums to less than 1.
    """
    largest_first = -np.sort(-rows, axis=1)
    excess = np.cumsum(largest_first, axis=1) - 1.0
    ranks = np.arange(1, rows.shape[1] + 1)
    support = (largest_first - excess / ranks > 0).sum(axis=1)
    threshold = excess[np.arange(len(rows)), support - 1] / support
    out: Floats = np.maximum(rows - threshold[:, None], 0.0)
    out /= out.sum(axis=1, keepdims=True)
    return out


def toward_elite(p: Floats, chosen: Chosen, losses: Floats, share: float, rate: float) -> Floats:
    """One step of the cross-entropy method: move p [n, N] toward the token frequencies of the best sequences.

    Args:
        p: distributions.
        chosen: sequences drawn from them, [I, n].
        losses: [I]; NaN is never among the best.
        share: of the sequences, that are the elite.
        rate: 1 replaces p, 0 leaves it.
    """
    known = int((~np.isnan(losses)).sum())
    if not known:
        return p
    elite = chosen[np.argsort(losses, kind="stable")[: max(1, min(known, round(share * len(losses))))]]
    frequency = np.zeros_like(p)
    np.add.at(frequency, (np.arange(p.shape[0])[None, :].repeat(len(elite), axis=0), elite), 1.0 / len(elite))
    return (1 - rate) * p + rate * frequency
