"""Variance components of scores: system prompts, their interaction with user prompts, and noise.

Two-way random effects, r[n, k, m] = mu + S_n + U_k + (SU)_nk + e, and what follows from them for choosing user prompts
(Gao et al. 2026, "Better Prompt Optimization with Fewer Prompts"; the unbiased forms are ours). Pure functions over
rewards [N, K, M]: N system prompts, K user prompts, M replicates, NaN for missing replies. Knows nothing of
models or prompts. Variance estimates may be negative: clipping them would bias their means upwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from promptopt._moved import renamed as _renamed
from promptopt.errors import InputError
from promptopt.statistics import Interval
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats


class Cells(NamedTuple):
    """Means and variances over the replicates of each system prompt and user prompt.

    Args:
        mean: [N, K]; NaN if there are no replies.
        noise: [N, K] unbiased variance s^2 with divisor m - 1; with only one reply, the user prompt's mean of it.
        replies: [N, K] number of replies, m.
    """

    mean: Floats
    noise: Floats
    replies: Floats


class Components(NamedTuple):
    """Variance components with their intervals.

    Args:
        system: sigma_S^2, variance of the system prompts' main effects.
        interaction: sigma_SU^2, variance of the interaction of system and user prompts.
        noise: sigma_e^2, variance between replicates.
        systems: N.
        users: K.
    """

    system: Interval
    interaction: Interval
    noise: Interval
    systems: int
    users: int

    @property
    def replicates(self) -> float:
        """M* = sigma_e^2 / v, the number of replicates that measures v best at a fixed N * M; infinite if v is not above 0.

        v is the variance between system prompts on one user prompt, sigma_S^2 + sigma_SU^2: it minimises
        (2 M / budget) (v + sigma_e^2 / M)^2.
        """
        between = self.system.estimate + self.interaction.estimate
        if self.noise.estimate <= 0:
            return 0.0
        return self.noise.estimate / between if between > 0 else math.inf

    def gain(self, prompts: int, users: int, replicates: int) -> float:
        """Return the expected true gain, over the average system prompt, of the one with the highest measured mean.

        The breeder's equation: expected maximum of n standard normals (Blom's approximation) x sigma_S^2 / SD of the measured
        means. It counts only the gain that transfers to other user prompts, and assumes normal effects.

        Args:
            prompts: number n of system prompts that are measured.
            users: number of user prompts that each is measured on.
            replicates: number of replicates.
        """
        from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

        system, interaction, noise = (max(0.0, part.estimate) for part in self[:3])
        if not system or prompts < 2:  # noqa: PLR2004  a choice is between two
            return 0.0
        spread = math.sqrt(system + interaction / users + noise / (users * replicates))
        return float(ndtri((prompts - 0.375) / (prompts + 0.25))) * system / spread


def cells(rewards: Floats) -> Cells:
    """Return the means and the noise of every system prompt and user prompt.

    Args:
        rewards: [N, K, M]; NaN for missing replies.

    Raises:
        InputError: there are fewer than two system prompts, or one replicate, which does not show noise.
    """
    systems, _, replicates = rewards.shape
    if systems < 2:  # noqa: PLR2004  a variance is of two
        raise InputError(f"variance between system prompts needs two or more, not {systems}")
    if replicates < 2:  # noqa: PLR2004  as above
        raise InputError(
            "one replicate cannot tell a better prompt from a luckier reply: the noise would go unmeasured and count "
            "as a difference between prompts; take 2 replicates or more"
        )
    count = (~np.isnan(rewards)).sum(axis=2).astype(np.float64)
    mean = nanmean(rewards, axis=2)
    above = rewards - np.fmin.reduce(rewards, axis=2, keepdims=True)  # exactly 0 if all replicates are equal
    squares = np.nansum((above - nanmean(above, axis=2)[..., None]) ** 2, axis=2)
    noise = np.full(mean.shape, np.nan)
    np.divide(squares, count - 1, out=noise, where=count > 1)
    return Cells(mean, np.where(np.isnan(noise), nanmean(noise, axis=0), noise), count)


def covariance(rewards: Floats, noise: Literal["unbiased", "plug-in"] = "unbiased") -> Floats:
    """Return the covariance of user prompts over system prompts: C[k, l] = Cov_n(y_k, y_l), minus noise on the diagonal.

    Replies to different user prompts are independent, so the off-diagonal entries need no correction. The
    mean of C over S x S is the variance of the system prompts' true means over the subset S, without bias.

    Args:
        rewards: [N, K, M].
        noise: "unbiased" subtracts mean_n(s^2 / M) with divisors N - 1 and M - 1; "plug-in" is the paper's (eq. 5),
            for rewards of 0 and 1: divisor N, and p (1 - p) / M, which leaves p (1 - p) / M^2 of noise.

    Returns:
        [K, K]; NaN for pairs of user prompts with fewer than two system prompts in common.

    Raises:
        InputError: as for `cells`, or plug-in noise for rewards other than 0 and 1.
    """
    measured = cells(rewards)
    matrix = _observed(measured.mean)
    if noise == "unbiased":
        return matrix - np.diag(_noise_of_means(measured))
    if not np.isin(rewards[~np.isnan(rewards)], (0.0, 1.0)).all():
        raise InputError("the paper's noise term p (1 - p) / M is for rewards of 0 and 1: use noise='unbiased'")
    share = (len(rewards) - 1) / len(rewards)  # both terms of eq. 5 carry it: its variances have the divisor N
    chance = nanmean(measured.mean * (1 - measured.mean) / np.maximum(measured.replies, 1), axis=0)
    return share * (matrix - np.diag(chance))


def shrunken_covariance(rewards: Floats) -> Floats:
    """Return the debiased covariance, shrunken towards the two-way model with one variance and one covariance.

    With N below K the matrix is mostly noise. Diagonal and off-diagonal entries are each shrunken by (sum of sampling variances) /
    (sum of squared distances to the target), at most 1 (Schaefer and Strimmer 2005), sampling variances as for normal
    data. Pairs without an estimate get the target; user prompts without one stay NaN.

    Args:
        rewards: [N, K, M].
    """
    measured, matrix = cells(rewards), covariance(rewards)
    observed = _observed(measured.mean)
    variances = np.diag(observed)
    sampling = (np.outer(variances, variances) + observed**2) / (len(rewards) - 1)
    diagonal = np.eye(len(matrix), dtype=np.bool_)
    replies = nanmean(measured.replies, axis=0)
    noise = nanmean(measured.noise, axis=0)
    sampling[diagonal] += 2 * noise**2 / (replies**2 * len(rewards) * np.maximum(replies - 1, 1))
    out = matrix.copy()
    for part in (diagonal, ~diagonal):
        known = part & np.isfinite(matrix)
        if not known.any():
            continue
        target = float(matrix[known].mean())
        distance = float(((matrix[known] - target) ** 2).sum())
        weight = min(1.0, float(sampling[known].sum()) / distance) if distance > 0 else 1.0
        out[known] = weight * target + (1 - weight) * matrix[known]
        out[part & ~known & ~diagonal] = target
    return out


def components(rewards: Floats, confidence: float = 0.95) -> Components:
    """Return the three variances with their intervals.

    sigma_S^2 is the mean off-diagonal entry of the debiased covariance, sigma_SU^2 its mean diagonal minus that; for
    complete tables these are the ANOVA estimates. Intervals are the modified large-sample ones for differences of mean
    squares (Ting et al. 1990), for normal effects; with one very bad system prompt they are too narrow.

    Args:
        rewards: [N, K, M]; NaN for missing replies.
        confidence: confidence level of each interval.

    Raises:
        InputError: there are fewer than two system prompts, user prompts or replicates.
    """
    systems, users, _ = rewards.shape
    if users < 2:  # noqa: PLR2004  agreement is between two
        raise InputError(f"what user prompts agree on needs two or more of them, not {users}")
    measured = cells(rewards)
    observed = _observed(measured.mean)
    off = observed[~np.eye(users, dtype=np.bool_)]
    common, total = _mean(off), _mean(np.diag(observed))
    interaction = max(0.0, total - common)  # MS_SU / M
    of_means = _mean(_noise_of_means(measured))  # MS_E / M
    dof = float(np.maximum(measured.replies - 1, 0).sum())
    between, within = float(systems - 1), float((systems - 1) * (users - 1))
    weights = np.maximum(measured.replies - 1, 0)
    noise = float((weights * np.nan_to_num(measured.noise)).sum()) / dof if dof else math.nan
    return Components(
        system=_difference(common + interaction / users, between, interaction / users, within, confidence),
        interaction=_difference(interaction, within, of_means, max(dof, 1.0), confidence),
        noise=_difference(noise, max(dof, 1.0), 0.0, 1.0, confidence),
        systems=systems,
        users=users,
    )


def discrimination_p_values(rewards: Floats) -> Floats:
    """Return, per user prompt, the adjusted p-value (Benjamini-Hochberg) of "all system prompts score the same".

    Pearson's homogeneity test for rewards of 0 and 1, else the F test of one-way analysis of variance. If replicates never
    differ there is no noise to test against: 0 if system prompts differ, else 1.

    Args:
        rewards: [N, K, M].

    Returns:
        [K] p-values; 1 if nothing differs or too few replies came back.
    """
    from scipy.special import chdtrc, fdtrc  # noqa: PLC0415  loaded when used
    from scipy.stats import false_discovery_control  # noqa: PLC0415  loaded when used

    measured = cells(rewards)
    out = np.ones(rewards.shape[1])
    binary = np.isin(rewards[~np.isnan(rewards)], (0.0, 1.0)).all()
    deterministic = not np.nansum(measured.noise)
    for k in range(out.size):
        present = measured.replies[:, k] > 0
        mean, count = measured.mean[present, k], measured.replies[present, k]
        if mean.size < 2 or np.ptp(mean) == 0:  # noqa: PLR2004  a difference is between two
            continue
        grand = float((count * mean).sum() / count.sum())
        between = float((count * (mean - grand) ** 2).sum())
        dof = mean.size - 1
        if deterministic:
            out[k] = 0.0
        elif binary:
            out[k] = chdtrc(dof, between / (grand * (1 - grand)))
        elif (rest := float((count - 1).sum())) > 0:
            within = float(((count - 1) * measured.noise[present, k]).sum()) / rest
            out[k] = fdtrc(dof, rest, between / dof / within) if within else 0.0
    adjusted: Floats = false_discovery_control(out)
    return adjusted


def _observed(mean: Floats) -> Floats:
    """Pairwise-complete covariance of the columns of [N, K], divisor n - 1; NaN below two common rows."""
    present = ~np.isnan(mean)
    centred = np.where(present, mean - nanmean(mean, axis=0), 0.0)
    have = present.astype(np.float64)
    common = have.T @ have
    totals = centred.T @ have  # of column k over the rows that it shares with l
    out: Floats = np.full(common.shape, np.nan)
    np.divide(centred.T @ centred - totals * totals.T / np.maximum(common, 1), common - 1, out=out, where=common > 1)
    return out


def _noise_of_means(measured: Cells) -> Floats:
    """Return the noise in the variance of each user prompt's column of means, [K]."""
    share = np.full(measured.mean.shape, np.nan)
    np.divide(measured.noise, measured.replies, out=share, where=measured.replies > 0)
    return nanmean(share, axis=0)


def _mean(values: Floats) -> float:
    return float(nanmean(values[None], axis=1).item()) if values.size else math.nan


def _difference(first: float, dof: float, second: float, other: float, confidence: float) -> Interval:
    """Interval of E[first] - E[second], both independent multiples of chi-squares (Ting et al. 1990, section 2)."""
    from scipy.special import chdtri, fdtri  # noqa: PLC0415  loaded when used

    tail = (1 - confidence) / 2
    g1, h1 = 1 - dof / chdtri(dof, tail), dof / chdtri(dof, 1 - tail) - 1
    g2, h2 = 1 - other / chdtri(other, tail), other / chdtri(other, 1 - tail) - 1
    high, low = fdtri(dof, other, 1 - tail), fdtri(dof, other, tail)
    g12 = ((high - 1) ** 2 - (g1 * high) ** 2 - h2**2) / high
    h12 = ((1 - low) ** 2 - (h1 * low) ** 2 - g2**2) / low
    down = (g1 * first) ** 2 + (h2 * second) ** 2 + g12 * first * second
    up = (h1 * first) ** 2 + (g2 * second) ** 2 + h12 * first * second
    estimate = first - second
    return Interval(estimate, estimate - math.sqrt(max(0.0, down)), estimate + math.sqrt(max(0.0, up)))


__getattr__ = _renamed(__name__, {"shrunk": "shrunken_covariance", "telling": "discrimination_p_values"})
