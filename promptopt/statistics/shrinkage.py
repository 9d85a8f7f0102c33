"""Expected rewards of prompts, corrected for luck: empirical Bayes over the prompts that were tried.

Fits reward = example + prompt + noise by least squares, so that a prompt gets no credit for having run on easy examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

_MAX_SWEEPS, _TOLERANCE = 50, 1e-12  # of alternating least squares; a complete table needs two sweeps


class Additive(NamedTuple):
    """The additive fit to rewards [P, E].

    Args:
        example_effects: [E] effect of each example; their mean is the overall level.
        prompt_effects: [P] effect of each prompt.
        counts: [P] number of examples that each prompt ran on.
        noise: residual variance; NaN without degrees of freedom.
        dof: degrees of freedom of `noise`.
    """

    example_effects: Floats
    prompt_effects: Floats
    counts: Floats
    noise: float
    dof: int


def additive(rewards: Floats) -> Additive:
    """Fit reward = example + prompt + noise.

    Args:
        rewards: [P, E], NaN where a prompt did not run on an example; each row and each column has at least one number.
    """
    counts = (~np.isnan(rewards)).sum(axis=1).astype(float)
    example_effects, prompt_effects = nanmean(rewards, axis=0), np.zeros(len(rewards))
    for _ in range(_MAX_SWEEPS):
        before, prompt_effects = prompt_effects, nanmean(rewards - example_effects, axis=1)
        example_effects = nanmean(rewards - prompt_effects[:, None], axis=0)
        if np.abs(prompt_effects - before).max() < _TOLERANCE:
            break
    dof = int(counts.sum()) - sum(rewards.shape) + 1
    residual = np.nansum((rewards - example_effects - prompt_effects[:, None]) ** 2)
    return Additive(example_effects, prompt_effects, counts, float(residual / dof) if dof > 0 else np.nan, dof)


def shrunken_means(rewards: Floats) -> Floats:
    """Return mean rewards without the winner's curse: shrunken towards the overall mean.

    Prompt effects have variance tau^2 (DerSimonian and Laird's estimate) beyond their errors sigma^2 / n. Each effect keeps
    the share tau^2 / (tau^2 + sigma^2 / n) of its distance from the overall mean, which is weighted by these shares.

    Args:
        rewards: [P, E], NaN where a prompt did not run on an example; each prompt ran on at least one.

    Returns:
        [P] expected rewards over all examples that any prompt ran on; the measured means where noise cannot be separated
        from quality (one prompt or one example).
    """
    rewards = rewards[:, ~np.isnan(rewards).all(axis=0)]
    example_effects, prompt_effects, counts, noise, dof = additive(rewards)
    if len(rewards) < 2 or dof < 1:  # noqa: PLR2004  two can differ
        return nanmean(rewards, axis=1)
    weighted_mean = np.average(prompt_effects, weights=counts)
    heterogeneity = (counts * (prompt_effects - weighted_mean) ** 2).sum()  # DerSimonian and Laird's Q
    scale = counts.sum() - (counts**2).sum() / counts.sum()
    between = max(float(heterogeneity - noise * (len(rewards) - 1)) / float(scale), 0.0)
    weights = np.divide(between, between + noise / counts, out=np.zeros(len(rewards)), where=between + noise > 0)
    centre = np.average(prompt_effects, weights=weights) if between else weighted_mean
    out: Floats = example_effects.mean() + centre + weights * (prompt_effects - centre)
    return out
