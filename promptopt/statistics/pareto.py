"""The Pareto front of length and score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


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
