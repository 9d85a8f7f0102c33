"""What answers say about themselves where no right answer is known: calibration, collapse, agreement of annotators.

Pure functions over probabilities [E, L] and votes [M, E]; knows nothing of models or prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Votes: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""Numbers of labels; -1 where there is no answer."""

_FLOOR = 1e-6  # a frequency of 0 among a few votes is no impossibility
_PRIOR_VOTES = 1.0  # of each annotator and class, spread evenly: keeps a confusion matrix off 0
_MOST_ROUNDS = 200
_SETTLED = 1e-7
_COLLAPSED = 0.5  # share of the largest entropy; of two labels, one is given in under 11 % of the answers


class Agreement(NamedTuple):
    """What votes of several annotators say together.

    Args:
        posterior: [E, L] of the right label; the prior where nobody voted.
        confusion: [M, L, L] p(vote | right label).
        prior: [L] of the right labels.
    """

    posterior: Floats
    confusion: Floats
    prior: Floats

    @property
    def accuracy(self) -> Floats:
        """How often each annotator is right, [M]."""
        accuracy: Floats = np.einsum("mll,l->m", self.confusion, self.prior)
        return accuracy


def calibrated(probabilities: Floats) -> Floats:
    """Take away what is the same for all items: subtract the mean label log-probability (batch calibration).

    After Zhao et al. 2021 and Zhou et al. 2024; the items take the place of content-free inputs, so that it costs no
    call. It presumes classes of like size: where one is rare, others are relabelled as it.

    Args:
        probabilities: [E, L]; rows that are NaN stay so.
    """
    logs = np.log(np.maximum(probabilities, _FLOOR))
    centred = logs - nanmean(logs, axis=0)
    weights = np.exp(centred - centred.max(axis=1, keepdims=True))
    out: Floats = weights / weights.sum(axis=1, keepdims=True)
    return out


def votes_of(probabilities: Floats) -> Votes:
    """Return the likeliest label of each row of [..., L], -1 where the row is NaN or holds all labels alike."""
    silent = np.isnan(probabilities).any(axis=-1) | (probabilities.max(axis=-1) == probabilities.min(axis=-1))
    likeliest = np.where(silent[..., None], 0.0, probabilities).argmax(axis=-1)
    return np.where(silent, -1, likeliest)


def mutual_information(probabilities: Floats) -> float:
    """H(mean) - mean H of answers [E, L], in nats: 0 where every item gets the same answer, ln L where all are sure."""
    known = probabilities[~np.isnan(probabilities).any(axis=1)]
    return float(_entropy(known.mean(axis=0)) - _entropy(known).mean()) if len(known) else 0.0


def is_collapsed(votes: Votes, labels: int) -> bool:
    """Whether nearly all answers are one label: their entropy is below half of the largest."""
    given = votes[votes >= 0]
    shares = np.bincount(given, minlength=labels) / max(given.size, 1)
    return bool(_entropy(shares) < _COLLAPSED * np.log(labels))


def beyond_chance(first: Votes, second: Votes, labels: int) -> Floats:
    """Return agreement less what chance gives, [E]: 1 or 0, less how often `second` says what `first` says here.

    Its mean is the numerator of Cohen's kappa: 0 where the two have nothing to do with each other. NaN where one is -1.
    """
    both = (first >= 0) & (second >= 0)
    shares = np.bincount(second[both], minlength=labels) / max(int(both.sum()), 1)
    return np.where(both, (first == second) - shares[first], np.nan)


def dawid_skene(votes: Votes, labels: int) -> Agreement:
    """Estimate right labels and each annotator's confusion matrix by expectation-maximisation, from the majority vote on.

    Dawid and Skene 1979. Annotators are taken to err independently given the right label; prompts of one model do not
    quite, so that accuracies come out too high.

    Args:
        votes: [M, E]; -1 where an annotator gave none.
        labels: L.
    """
    cast = np.eye(labels + 1)[votes][:, :, :labels]  # [M, E, L] one-hot; the row -1 is dropped, so no vote is all zero
    counts = cast.sum(axis=0) + 1e-9
    posterior = counts / counts.sum(axis=1, keepdims=True)
    for _ in range(_MOST_ROUNDS):
        before = posterior
        confusion, prior = _maximised(cast, posterior)
        logs = np.log(prior) + np.einsum("mev,mlv->el", cast, np.log(confusion))
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        posterior = weights / weights.sum(axis=1, keepdims=True)
        if np.abs(posterior - before).max() < _SETTLED:
            break
    return Agreement(posterior, *_maximised(cast, posterior))


def _maximised(cast: Floats, posterior: Floats) -> tuple[Floats, Floats]:
    """Return confusion matrices and class prior given soft labels."""
    labels = posterior.shape[1]
    counts = np.einsum("el,mev->mlv", posterior, cast) + _PRIOR_VOTES / labels
    classes = posterior.sum(axis=0) + _PRIOR_VOTES / labels
    return counts / counts.sum(axis=2, keepdims=True), classes / classes.sum()


def _entropy(shares: Floats) -> Floats:
    terms: Floats = shares * np.log(np.maximum(shares, 1e-300))
    out: Floats = -terms.sum(axis=-1)
    return out
