"""Statistics of answers without known right answers: calibration, collapse, agreement of annotators.

Pure functions over probabilities [E, L] and votes [M, E]; knows nothing of models or prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from promptopt._moved import renamed as _renamed
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Votes: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""Label indices; -1 if there is no answer."""

_FLOOR = 1e-6  # a frequency of 0 among a few votes does not mean impossible
_PRIOR_VOTES = 1.0  # pseudo-votes per annotator and class, spread evenly: avoids zeros in a confusion matrix
_MAX_ITERATIONS = 200
_TOLERANCE = 1e-7
_COLLAPSE_ENTROPY = 0.5  # share of the maximum entropy; for two labels, one has under 11 % of the answers


class Agreement(NamedTuple):
    """The Dawid-Skene fit to the votes of several annotators.

    Args:
        posterior: [E, L] probability of each label being right; the prior if nobody voted.
        confusion: [M, L, L] p(vote | right label).
        prior: [L] probability of each right label.
    """

    posterior: Floats
    confusion: Floats
    prior: Floats

    @property
    def accuracy(self) -> Floats:
        """Expected accuracy of each annotator, [M]."""
        accuracy: Floats = np.einsum("mll,l->m", self.confusion, self.prior)
        return accuracy


def calibrated(probabilities: Floats) -> Floats:
    """Return batch-calibrated probabilities: the mean label log-probability is subtracted.

    After Zhao et al. 2021 and Zhou et al. 2024; the examples replace content-free inputs, so it needs no extra calls. It
    assumes classes of similar size: if one is rare, other examples are relabelled as it.

    Args:
        probabilities: [E, L]; NaN rows stay NaN.

    Returns:
        [E, L] probabilities, each row summing to 1.
    """
    logs = np.log(np.maximum(probabilities, _FLOOR))
    centred = logs - nanmean(logs, axis=0)
    weights = np.exp(centred - centred.max(axis=1, keepdims=True))
    out: Floats = weights / weights.sum(axis=1, keepdims=True)
    return out


def votes_of(probabilities: Floats) -> Votes:
    """Return the likeliest label of each row of [..., L]; -1 if the row is NaN or uniform."""
    no_vote = np.isnan(probabilities).any(axis=-1) | (probabilities.max(axis=-1) == probabilities.min(axis=-1))
    likeliest = np.where(no_vote[..., None], 0.0, probabilities).argmax(axis=-1)
    return np.where(no_vote, -1, likeliest)


def mutual_information(probabilities: Floats) -> float:
    """H(mean) - mean H of answers [E, L], in nats: 0 if every example has the same answer, ln L if all are certain and balanced."""
    known = probabilities[~np.isnan(probabilities).any(axis=1)]
    return float(_entropy(known.mean(axis=0)) - _entropy(known).mean()) if len(known) else 0.0


def is_collapsed(votes: Votes, labels: int) -> bool:
    """Whether nearly all answers are one label: their entropy is below half of the maximum."""
    valid = votes[votes >= 0]
    shares = np.bincount(valid, minlength=labels) / max(valid.size, 1)
    return bool(_entropy(shares) < _COLLAPSE_ENTROPY * np.log(labels))


def chance_corrected_agreement(first: Votes, second: Votes, labels: int) -> Floats:
    """Return per example 1[first == second] - P(second = first's label), [E].

    Its mean is the numerator of Cohen's kappa: 0 if the two are independent. NaN if either vote is -1.
    """
    both = (first >= 0) & (second >= 0)
    shares = np.bincount(second[both], minlength=labels) / max(int(both.sum()), 1)
    return np.where(both, (first == second) - shares[first], np.nan)


def dawid_skene(votes: Votes, labels: int) -> Agreement:
    """Estimate right labels and each annotator's confusion matrix by expectation-maximisation, starting from majority votes.

    Dawid and Skene 1979. Assumes that annotators err independently given the right label. Prompts of the same model do not
    quite, so estimated accuracies are too high.

    Args:
        votes: [M, E]; -1 if an annotator gave no vote.
        labels: L.
    """
    one_hot = np.eye(labels + 1)[votes][:, :, :labels]  # [M, E, L]; no vote is all zeros
    counts = one_hot.sum(axis=0) + 1e-9
    posterior = counts / counts.sum(axis=1, keepdims=True)
    for _ in range(_MAX_ITERATIONS):
        before = posterior
        confusion, prior = _m_step(one_hot, posterior)
        logs = np.log(prior) + np.einsum("mev,mlv->el", one_hot, np.log(confusion))
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        posterior = weights / weights.sum(axis=1, keepdims=True)
        if np.abs(posterior - before).max() < _TOLERANCE:
            break
    return Agreement(posterior, *_m_step(one_hot, posterior))


def _m_step(one_hot: Floats, posterior: Floats) -> tuple[Floats, Floats]:
    """Return confusion matrices and class prior given soft labels (M step)."""
    labels = posterior.shape[1]
    counts = np.einsum("el,mev->mlv", posterior, one_hot) + _PRIOR_VOTES / labels
    classes = posterior.sum(axis=0) + _PRIOR_VOTES / labels
    return counts / counts.sum(axis=2, keepdims=True), classes / classes.sum()


def _entropy(shares: Floats) -> Floats:
    terms: Floats = shares * np.log(np.maximum(shares, 1e-300))
    out: Floats = -terms.sum(axis=-1)
    return out


__getattr__ = _renamed(__name__, {"beyond_chance": "chance_corrected_agreement"})
