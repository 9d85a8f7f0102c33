"""Choosing a subset of examples that tells prompts apart. Calls no model."""

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

_MOST_SUBSETS = 1_000_000  # looked at one by one; above, the search is greedy
_CHUNK = 100_000
_SPLITS = 4  # into random halves, the same ones each time


def subset_score(matrix: Floats, subset: tuple[int, ...]) -> float:
    """Return the mean of C over S x S: the variance of system prompts' means over the subset."""
    return float(matrix[list(subset)][:, list(subset)].mean())


def alignment(matrix: Floats, subset: tuple[int, ...]) -> float:
    """Return the mean covariance of a subset with all other user prompts; infinite where there are no others."""
    others = np.setdiff1d(np.arange(len(matrix)), subset)
    return float(matrix[list(subset)][:, others].mean()) if others.size else math.inf


def best_subset(matrix: Floats, size: int, *, aligned: bool = True) -> tuple[int, ...] | None:
    """Return the subset of that size with the highest score.

    Looks at all subsets up to a million, above at the best pair, grown greedily and improved by swaps: greedy from the
    best single user prompt cannot see agreement.

    Args:
        matrix: [K, K], such as `shrunk` returns; user prompts with NaN on the diagonal are left out.
        size: of the subset; it cannot be found by the score, which never grows with it.
        aligned: only subsets that agree with the rest, by `alignment` above 0: else a minority whose taste is opposed
            to all others' may win.

    Returns:
        Indices in order, or None where no subset is aligned.

    Raises:
        InputError: no subset has that size.
    """
    known = np.flatnonzero(np.isfinite(np.diag(matrix)))
    if not 1 <= size <= known.size:
        raise InputError(f"a subset has 1 to {known.size} of the user prompts that were measured, not {size}")
    inner = np.nan_to_num(matrix[np.ix_(known, known)])
    few = math.comb(known.size, size) <= _MOST_SUBSETS
    found = (_exhaustive if few else _greedy)(inner, size, aligned=aligned)
    return None if found is None else tuple(int(known[i]) for i in sorted(found))


def held_out_score(rewards: Floats, choose: Callable[[Floats], tuple[int, ...] | None]) -> float:
    """Return the score of subsets on system prompts that took no part in choosing them (cross-fitting).

    Half of the system prompts choose and the others score, and the other way round, for a few random halves.

    The score of the subset that won is too high, by chance of replies and of system prompts both. This one is that of
    choosing with half of the system prompts, and so rather low; NaN with fewer than four of them.

    Args:
        rewards: [N, K, M].
        choose: from rewards [N', K, M] to a subset, or None.
    """
    if len(rewards) < 4:  # noqa: PLR2004  two halves of two
        return math.nan
    rng, found = named_generator(0, "halves of system prompts"), []
    for _ in range(_SPLITS):
        order = rng.permutation(len(rewards))
        halves = (rewards[order[::2]], rewards[order[1::2]])
        for one, other in (halves, halves[::-1]):
            subset = choose(one)
            if subset is not None:
                found.append(subset_score(covariance(other), subset))
    return float(nanmean(np.array([found], dtype=np.float64), axis=1)[0])


def _exhaustive(matrix: Floats, size: int, *, aligned: bool) -> list[int] | None:
    rows = matrix.sum(axis=1)
    best: tuple[float, list[int] | None] = (-math.inf, None)
    every = combinations(range(len(matrix)), size)
    while (flat := np.fromiter(chain.from_iterable(islice(every, _CHUNK)), dtype=np.intp)).size:
        subsets = flat.reshape(-1, size)
        inside = np.zeros(len(subsets))
        for i, j in np.ndindex(size, size):
            inside += matrix[subsets[:, i], subsets[:, j]]
        if aligned and size < len(matrix):
            inside[rows[subsets].sum(axis=1) - inside <= 0] = -math.inf
        top = int(inside.argmax())
        if inside[top] > best[0]:
            best = (float(inside[top]), subsets[top].tolist())
    return best[1]


def _greedy(matrix: Floats, size: int, *, aligned: bool) -> list[int] | None:
    rows = matrix.sum(axis=1)

    def value(subset: list[int]) -> float:
        inside = float(matrix[np.ix_(subset, subset)].sum())
        return -math.inf if aligned and float(rows[subset].sum()) - inside <= 0 else inside

    found = _exhaustive(matrix, 2, aligned=aligned)
    if found is None:
        return None
    while len(found) < size:
        rest = [k for k in range(len(matrix)) if k not in found]
        found = max(([*found, k] for k in rest), key=value)
    now, improved = value(found), True
    while improved:
        rest = [k for k in range(len(matrix)) if k not in found]
        swaps = [[*found[:i], *found[i + 1 :], k] for i in range(size) for k in rest]
        best = max(swaps, key=value, default=found)
        improved = value(best) > now + 1e-12 * abs(now)
        if improved:
            found, now = best, value(best)
    return found if now > -math.inf else None
