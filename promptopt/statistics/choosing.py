"""Choosing one of several prompts: the one-standard-error rule, and what the choice itself adds to the chosen score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from promptopt.randomness import named_generator
from promptopt.statistics.arrays import nanmean, standard_error
from promptopt.statistics.shrinkage import shrunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

_RESAMPLES = 2_000


def shortest_within_one_error(per_example: Floats, lengths: Sequence[int]) -> int:
    """The one-standard-error rule: the shortest row that is at most one standard error behind the best.

    The error is that of the paired difference to the best row. Ties go to the higher mean, then to the earlier row.

    Args:
        per_example: [P, E]; NaN entries are left out of their pairs.
        lengths: [P].
    """
    means = nanmean(per_example, axis=1)
    best = int(np.nanargmax(means))
    behind = per_example[best] - per_example
    gap, error = nanmean(behind, axis=1), standard_error(behind)
    near = [i for i in range(len(means)) if i == best or gap[i] <= 0 or (error[i] > 0 and gap[i] <= error[i])]
    return min(near, key=lambda i: (lengths[i], -means[i], i))


def winners_curse(rewards: Floats) -> float:
    """Return by how much the highest mean of a list is expected to be above its own truth, for having been picked.

    A bootstrap over examples in a world where the truth is known: rows keep their residuals, and their means are the
    shrunk ones; with the means as measured, whose spread is partly luck, the curse of equal rows would come out a third
    too small. The same draws each time.

    Args:
        rewards: [P, E], NaN where a prompt did not meet an item; each prompt has met one at least.
    """
    truth = shrunk(rewards)
    present = ~np.isnan(rewards)
    centred = np.where(present, rewards - nanmean(rewards, axis=1)[:, None] + truth[:, None], 0.0)
    examples = rewards.shape[1]
    drawn = named_generator(0, "winner's curse").multinomial(examples, np.full(examples, 1 / examples), size=_RESAMPLES)
    counts = drawn @ present.T
    means = np.divide(drawn @ centred.T, counts, out=np.full(counts.shape, -np.inf), where=counts > 0)  # [draws, P]
    best = means.argmax(axis=1)
    return float((means[np.arange(len(best)), best] - truth[best]).mean())
