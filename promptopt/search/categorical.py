"""Search over sequences of discrete tokens; each position has its own categorical distribution p [n, N].

Pure functions; knows nothing of prompts. Sampled token ids are [I, n], one row per sequence; losses are [I], lower is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Chosen: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def uniform(positions: int, tokens: int) -> Floats:
    """Return uniform distributions p [n, N]."""
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
    The released code also puts -1/p at all other tokens, which doubles the centred sum and divides by zero once a projection
    has set a token to 0. A chosen token's probability is never 0, so this form is always finite. NaN losses are left out.
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
    """Return the gradient, scaled down to `norm` if it is longer."""
    current_norm = float(np.linalg.norm(gradient))
    scaled: Floats = gradient * (norm / max(current_norm, norm))
    return scaled


def project_to_simplex(rows: Floats) -> Floats:
    """Return the Euclidean projection of each row [n, N] onto the simplex (Duchi et al. 2008, fig. 1).

    Exact, by sorting. BDPL bisects 20 times instead, and cannot raise a row that sums to less than 1.
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
        p: [n, N] distributions.
        chosen: [I, n] sequences drawn from them.
        losses: [I]; sequences with NaN are never in the elite.
        share: share of the sequences in the elite.
        rate: learning rate; 1 replaces p, 0 leaves it unchanged.
    """
    known = int((~np.isnan(losses)).sum())
    if not known:
        return p
    elite = chosen[np.argsort(losses, kind="stable")[: max(1, min(known, round(share * len(losses))))]]
    frequency = np.zeros_like(p)
    np.add.at(frequency, (np.arange(p.shape[0])[None, :].repeat(len(elite), axis=0), elite), 1.0 / len(elite))
    return (1 - rate) * p + rate * frequency
