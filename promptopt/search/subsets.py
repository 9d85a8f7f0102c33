"""Selects subsets of examples (user prompts) that best distinguish system prompts. Asks no model."""

from __future__ import annotations

import math
from itertools import chain, combinations, islice
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError
from promptopt.randomness import named_generator
from promptopt.statistics.arrays import nanmean
from promptopt.statistics.components import covariance

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.statistics.arrays import Floats

_MAX_SUBSETS = 1_000_000  # evaluated exhaustively; beyond that the search is greedy
_CHUNK = 100_000
_SPLITS = 4  # random halves, from a fixed seed


def subset_score(matrix: Floats, subset: tuple[int, ...]) -> float:
    """Return the mean of C over S x S: the variance of system prompts' means over the subset."""
    return float(matrix[list(subset)][:, list(subset)].mean())


def alignment(matrix: Floats, subset: tuple[int, ...]) -> float:
    """Return the mean covariance of a subset with all other user prompts; infinity if there are no others."""
    others = np.setdiff1d(np.arange(len(matrix)), subset)
    return float(matrix[list(subset)][:, others].mean()) if others.size else math.inf


def best_subset(matrix: Floats, size: int, *, aligned: bool = True) -> tuple[int, ...] | None:
    """Return the subset of that size with the highest score.

    Evaluates all subsets if there are at most a million. Otherwise grows the best pair greedily and improves it by swaps; it
    starts from a pair because a single user prompt shows no agreement.

    Args:
        matrix: [K, K], such as `shrunken_covariance` returns; user prompts with NaN on the diagonal are left out.
        size: size of the subset; it cannot be chosen by the score, which never grows with it.
        aligned: only consider subsets with `alignment` above 0; otherwise a minority opposed to all others may win.

    Returns:
        Indices in increasing order, or None if no subset is aligned.

    Raises:
        InputError: no subset has that size.
    """
    known = np.flatnonzero(np.isfinite(np.diag(matrix)))
    if not 1 <= size <= known.size:
        raise InputError(f"a subset has 1 to {known.size} of the user prompts that were measured, not {size}")
    inner = np.nan_to_num(matrix[np.ix_(known, known)])
    is_small = math.comb(known.size, size) <= _MAX_SUBSETS
    subset = (_exhaustive if is_small else _greedy)(inner, size, aligned=aligned)
    return None if subset is None else tuple(int(known[i]) for i in sorted(subset))


def held_out_score(rewards: Floats, choose: Callable[[Floats], tuple[int, ...] | None]) -> float:
    """Return the score of subsets on system prompts that were not used to choose them (cross-fitting).

    Half of the system prompts choose and the other half scores, and vice versa, for a few random splits.

    The score of the winning subset is biased upwards, by the noise of both replies and system prompts. The cross-fitted score
    is somewhat low, because it chooses with half of the system prompts.

    Args:
        rewards: [N, K, M].
        choose: maps rewards [N', K, M] to a subset, or None.

    Returns:
        The mean score; NaN with fewer than four system prompts.
    """
    if len(rewards) < 4:  # noqa: PLR2004  two halves of two
        return math.nan
    rng, scores = named_generator(0, "halves of system prompts"), []
    for _ in range(_SPLITS):
        order = rng.permutation(len(rewards))
        halves = (rewards[order[::2]], rewards[order[1::2]])
        for chooser, scorer in (halves, halves[::-1]):
            subset = choose(chooser)
            if subset is not None:
                scores.append(subset_score(covariance(scorer), subset))
    return float(nanmean(np.array([scores], dtype=np.float64), axis=1)[0])


def _exhaustive(matrix: Floats, size: int, *, aligned: bool) -> list[int] | None:
    row_sums = matrix.sum(axis=1)
    best: tuple[float, list[int] | None] = (-math.inf, None)
    all_subsets = combinations(range(len(matrix)), size)
    while (flat := np.fromiter(chain.from_iterable(islice(all_subsets, _CHUNK)), dtype=np.intp)).size:
        subsets = flat.reshape(-1, size)
        inside = np.zeros(len(subsets))
        for i, j in np.ndindex(size, size):
            inside += matrix[subsets[:, i], subsets[:, j]]
        if aligned and size < len(matrix):
            inside[row_sums[subsets].sum(axis=1) - inside <= 0] = -math.inf
        top = int(inside.argmax())
        if inside[top] > best[0]:
            best = (float(inside[top]), subsets[top].tolist())
    return best[1]


def _greedy(matrix: Floats, size: int, *, aligned: bool) -> list[int] | None:
    row_sums = matrix.sum(axis=1)

    def value(indices: list[int]) -> float:
        inside = float(matrix[np.ix_(indices, indices)].sum())
        return -math.inf if aligned and float(row_sums[indices].sum()) - inside <= 0 else inside

    subset = _exhaustive(matrix, 2, aligned=aligned)
    if subset is None:
        return None
    while len(subset) < size:
        rest = [k for k in range(len(matrix)) if k not in subset]
        subset = max(([*subset, k] for k in rest), key=value)
    current, improved = value(subset), True
    while improved:
        rest = [k for k in range(len(matrix)) if k not in subset]
        swaps = [[*subset[:i], *subset[i + 1 :], k] for i in range(size) for k in rest]
        best = max(swaps, key=value, default=subset)
        improved = value(best) > current + 1e-12 * abs(current)
        if improved:
            subset, current = best, value(best)
    return subset if current > -math.inf else None
