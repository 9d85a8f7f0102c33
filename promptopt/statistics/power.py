"""What a paired comparison of two prompts can show: differences and numbers of examples, for rewards of 0 and 1."""

from __future__ import annotations

import math

import numpy as np

DIFFERING = 0.2
"""Default share of the examples on which two prompts get different rewards."""

POWER = 0.8

_STEPS = 30
_MOST = 1_000_000  # examples


def detectable_difference(
    n: int, *, differing: float = DIFFERING, power: float = POWER, confidence: float = 0.95
) -> float | None:
    """Return the smallest true difference of two prompts that a test on n examples shows with a probability of `power`.

    The test is that of a run: the interval of `paired_interval` for rewards of 0 and 1 (Bonett and Price 2012) is entirely above 0.
    The probability is summed over all numbers of wins and losses.

    Args:
        n: number of examples, at least 1.
        differing: expected share of the examples on which the prompts get different rewards, in (0, 1]; at least the difference.
            The larger it is, the larger a difference must be.
        power: probability that the test shows the difference, in (0, 1).
        confidence: confidence level of the interval.

    Returns:
        The difference, in (0, 1], to 1e-9; None if even a difference of 1 would not show.
    """
    if prob_shown(n, 1.0, differing=differing, confidence=confidence) < power:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if prob_shown(n, middle, differing=differing, confidence=confidence) < power:
            low = middle
        else:
            high = middle
    return high


def examples_to_detect(
    difference: float, *, differing: float = DIFFERING, power: float = POWER, confidence: float = 0.95
) -> int | None:
    """Return the fewest examples on which a test shows a true difference with a probability of `power`.

    Args:
        difference: in (0, 1].
        differing: as in `detectable_difference`.
        power: as in `detectable_difference`.
        confidence: as in `detectable_difference`.

    Returns:
        The number, exact but for the steps in which the probability grows; None if it is above a million.
    """

    def is_shown(n: int) -> bool:
        return prob_shown(n, difference, differing=differing, confidence=confidence) >= power

    high = 1
    while not is_shown(high):
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_shown(middle) else (middle, high)
    return high


def prob_shown(n: int, difference: float, *, differing: float = DIFFERING, confidence: float = 0.95) -> float:
    """Return the probability that the interval of a difference on n examples is entirely above 0.

    Args:
        n: number of examples.
        difference: true difference, in 0 to 1.
        differing: as in `detectable_difference`.
        confidence: confidence level of the interval.
    """
    from scipy.special import bdtrc, gammaln, ndtri, xlog1py, xlogy  # noqa: PLC0415  importing the package stays light

    share = max(differing, difference)
    spread = 10 * math.sqrt(n * share * (1 - share)) + 10
    m = np.arange(
        max(0, math.floor(n * share - spread)), min(n, math.ceil(n * share + spread)) + 1
    )  # [M] examples that differ
    log_chance = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1) + xlogy(m, share) + xlog1py(n - m, -share)
    z_squared = float(ndtri((1 + confidence) / 2)) ** 2
    # Bonett and Price's interval is above 0 if and only if wins minus losses is above this lead.
    least_lead = (n + 2) * np.sqrt(z_squared * (m + 2) / (n + 2) / (n + 2 + z_squared))
    wins = np.floor((m + least_lead) / 2)  # one more is enough
    shown = np.where(wins < m, bdtrc(np.minimum(wins, m), np.maximum(m, 1), (share + difference) / (2 * share)), 0.0)
    return float((np.exp(log_chance) * shown).sum())
