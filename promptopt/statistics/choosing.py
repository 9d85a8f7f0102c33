"""Choosing one of several prompts: the one-standard-error rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from promptopt.statistics.arrays import nanmean, standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats


def shortest_within_one_error(per_example: Floats, lengths: Sequence[int]) -> int:
    """Return the shortest row at most one standard error behind the best: the one-standard-error rule.

    The error is that of the paired difference to the best row. Ties go to the higher mean, then to the earlier row.

    Args:
        per_example: [P, E]; NaN entries are left out of their pairs.
        lengths: [P].
    """
    means = nanmean(per_example, axis=1)
    best = int(np.nanargmax(means))
    deficit = per_example[best] - per_example
    gap, error = nanmean(deficit, axis=1), standard_error(deficit)
    eligible = [i for i in range(len(means)) if i == best or gap[i] <= 0 or (error[i] > 0 and gap[i] <= error[i])]
    return min(eligible, key=lambda i: (lengths[i], -means[i], i))
