"""What a prompt's reward is expected to be once luck is taken off: empirical Bayes over the prompts that were tried.

Reward = item + prompt + noise, fitted by least squares, so that a prompt that met easy items only is not better for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

_SWEEPS, _SETTLED = 50, 1e-12  # of alternating least squares; where no item is missing, two do


class Additive(NamedTuple):
    """Rewards [P, E] taken apart.

    Args:
        items: [E] what an item adds; their mean is the level of all.
        effects: [P] what a prompt adds.
        counts: [P] items that each prompt met.
        noise: variance of what is left over; NaN without degrees of freedom.
        free: degrees of freedom of `noise`.
    """

    items: Floats
    effects: Floats
    counts: Floats
    noise: float
    free: int


def additive(rewards: Floats) -> Additive:
    """Fit reward = item + prompt + noise.

    Args:
        rewards: [P, E], NaN where a prompt did not meet an item; each prompt and each item has one number at least.
    """
    counts = (~np.isnan(rewards)).sum(axis=1).astype(float)
    items, effects = nanmean(rewards, axis=0), np.zeros(len(rewards))
    for _ in range(_SWEEPS):
        before, effects = effects, nanmean(rewards - items, axis=1)
        items = nanmean(rewards - effects[:, None], axis=0)
        if np.abs(effects - before).max() < _SETTLED:
            break
    free = int(counts.sum()) - sum(rewards.shape) + 1
    left = np.nansum((rewards - items - effects[:, None]) ** 2)
    return Additive(items, effects, counts, float(left / free) if free > 0 else np.nan, free)


def shrunk(rewards: Floats) -> Floats:
    """Return scores that are not too high for having been picked as the highest.

    The prompts' effects vary by tau^2 (DerSimonian and Laird's estimate) beyond their errors sigma^2 / n; each keeps
    the share tau^2 / (tau^2 + sigma^2 / n) of its distance from the mean of all, itself weighted by these shares.

    Args:
        rewards: [P, E], NaN where a prompt did not meet an item; each prompt has met one at least.

    Returns:
        [P] expected rewards over all items that any prompt met; the means as measured where there is no telling noise
        from quality (one prompt, one item).
    """
    rewards = rewards[:, ~np.isnan(rewards).all(axis=0)]
    items, effects, counts, noise, free = additive(rewards)
    if len(rewards) < 2 or free < 1:  # noqa: PLR2004  two can differ
        return nanmean(rewards, axis=1)
    spread = (counts * (effects - np.average(effects, weights=counts)) ** 2).sum()  # DerSimonian and Laird's Q
    expected = counts.sum() - (counts**2).sum() / counts.sum()
    between = max(float(spread - noise * (len(rewards) - 1)) / float(expected), 0.0)
    kept = np.divide(between, between + noise / counts, out=np.zeros(len(rewards)), where=between + noise > 0)
    middle = np.average(effects, weights=kept) if between else np.average(effects, weights=counts)
    out: Floats = items.mean() + middle + kept * (effects - middle)
    return out
