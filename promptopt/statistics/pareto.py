"""Pareto fronts: of length and score, and of any number of objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats


def pareto(values: Sequence[float], lengths: Sequence[int]) -> list[int]:
    """Return the indices of the Pareto front, from the shortest to the one with the highest value.

    Args:
        values: [N]; NaN entries are never on the front.
        lengths: [N].
    """
    front: list[int] = []
    order = sorted(range(len(values)), key=lambda i: (lengths[i], -values[i], i))
    for i in order:
        if values[i] > (values[front[-1]] if front else -np.inf):
            front.append(i)
    return front


def nondominated(values: Floats) -> list[int]:
    """Return the rows that no other row equals or exceeds in every column, from the highest to the lowest first column.

    Of equal rows, only the first is returned.

    Args:
        values: [N, K], higher is better; rows with NaN are never returned.
    """
    front: list[int] = []
    # By the first column, then the second, and so on: no later row dominates an earlier one.
    rest = np.lexsort((-values).T[::-1])
    rest = rest[~np.isnan(values[rest]).any(axis=1)]
    while rest.size:
        front.append(int(rest[0]))
        rest = rest[(values[rest] > values[rest[0]]).any(axis=1)]
    return front


def pareto_order(values: Floats) -> list[int]:
    """Return all rows without NaN: first the front, then the front of the others, and so on (Goldberg 1989).

    Every beginning of a front spans it: the best row by each column, then always the row furthest from those before it, with
    each column scaled to the range of the front.

    Args:
        values: [N, K], higher is better.
    """
    order: list[int] = []
    rest = np.arange(len(values))
    while (layer := nondominated(values[rest])) != []:
        order += [int(rest[layer[i]]) for i in _spanning(values[rest[layer]])]
        rest = np.delete(rest, layer)
    return order


def _spanning(values: Floats) -> list[int]:
    """Return the rows [N, K] of one front, the best by each column first, then always the row furthest from those before it."""
    width = np.ptp(values, axis=0)
    scaled = np.divide(values - values.min(axis=0), width, out=np.zeros(values.shape), where=width > 0)
    order = list(dict.fromkeys(values.argmax(axis=0).tolist()))
    distance = np.min([np.linalg.norm(scaled - scaled[i], axis=1) for i in order], axis=0)
    while len(order) < len(values):
        distance[order] = -1.0
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order
