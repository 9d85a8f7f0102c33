"""Predict the gain of an edited prompt over its parent from the words that changed.

Bayesian ridge regression of score changes on word changes, in place of PROMST's five fine-tuned Longformers (148M parameters
each). Predictions are less certain for words that were rarely tried. Pure functions of texts and numbers; asks no model.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.statistics.ridge import fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.ridge import Ridge

MIN_CHANGES = 15  # measured changes needed to fit

_WIDTH = 256  # hash buckets for words and word pairs
_PENALTIES = np.logspace(-1, 3, 13)
_MIN_CORRELATION = 0.2  # leave-one-out rank correlation needed to use the predictions
_COVERAGE = 0.9  # share of the changes that stay below the upper bound


class Change(NamedTuple):
    """An edit: the new text, the parent's text, and the parent's score."""

    text: str
    parent: str
    score: float


@dataclass(frozen=True)
class Surrogate:
    """A ridge regression fitted to measured changes, with its leave-one-out diagnostics.

    Args:
        ridge: the regression of gains on features.
        conformal_margin: multiple of `deviation` to add to a prediction to bound 90 % of the left-out changes.
        correlation: Spearman correlation of leave-one-out predictions and changes; 0 if either is constant.
        error: mean absolute error of the leave-one-out predictions.
    """

    ridge: Ridge
    conformal_margin: float
    correlation: float
    error: float

    @property
    def trusted(self) -> bool:
        """Whether the leave-one-out rank correlation is at least 0.2."""
        return self.correlation >= _MIN_CORRELATION

    def select_by_ucb(self, changes: Sequence[Change], count: int, rng: np.random.Generator) -> list[int]:
        """Return the sorted indices of the `count` changes with the highest upper bounds, plus one drawn at random.

        The random one may be among the highest, in which case `count` indices are returned.
        """
        highest = np.argsort(-self.upper(changes), kind="stable")[:count].tolist()
        return sorted({*highest, int(rng.integers(len(changes)))})

    def mean(self, changes: Sequence[Change]) -> Floats:
        """Return the predicted score change of each edit, [N]."""
        return self.ridge.predict(features(changes))

    def deviation(self, changes: Sequence[Change]) -> Floats:
        """Return the predictive standard deviation in units of the noise, [N]; at least 1."""
        out: Floats = np.sqrt(1 + self.ridge.variance(features(changes) - self.ridge.centre))
        return out

    def upper(self, changes: Sequence[Change]) -> Floats:
        """Return 90 % upper bounds on the scores after the edits, [N]."""
        parent_scores = np.array([change.score for change in changes])
        out: Floats = parent_scores + self.mean(changes) + self.conformal_margin * self.deviation(changes)
        return out


def fit_surrogate(changes: Sequence[Change], gains: Sequence[float]) -> Surrogate | None:
    """Fit a surrogate, or return None if there are too few changes. The penalty is chosen by leave-one-out error.

    Args:
        changes: [N].
        gains: [N] score of each prompt minus its parent's.
    """
    if len(changes) < MIN_CHANGES:
        return None
    measured = np.array(gains, dtype=np.float64)
    ridge = fit_ridge(features(changes), measured, _PENALTIES)
    return Surrogate(
        ridge=ridge,
        conformal_margin=_conformal_quantile(ridge.residuals * np.sqrt(ridge.slack), _COVERAGE),
        correlation=_rank_correlation(measured - ridge.residuals, measured),
        error=float(np.abs(ridge.residuals).mean()),
    )


def features(changes: Sequence[Change]) -> Floats:
    """Return [N, F]: hashed words and word pairs (added minus removed), the parent's score, and the log ratio of lengths."""
    out = np.zeros((len(changes), _WIDTH + 2))
    for row, change in zip(out, changes, strict=True):
        row[:_WIDTH] = _counted(change.text) - _counted(change.parent)
        row[_WIDTH] = change.score
        row[_WIDTH + 1] = math.log((len(change.text) + 1) / (len(change.parent) + 1))
    return out


@lru_cache(maxsize=1 << 12)
def _counted(text: str) -> Floats:
    """Return [_WIDTH]: hashed words and word pairs; kept, since each round of a search asks for all texts again."""
    out = np.zeros(_WIDTH)
    words = re.findall(r"\w+", text.lower())
    for ngram in {*words, *(" ".join(pair) for pair in pairwise(words))}:
        bucket, hash_sign = _hashed(ngram)
        out[bucket] += hash_sign
    out.flags.writeable = False  # all callers share it
    return out


@lru_cache(maxsize=1 << 16)
def _hashed(ngram: str) -> tuple[int, int]:
    digest = hashlib.blake2b(ngram.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    number = int.from_bytes(digest)
    return (number >> 1) % _WIDTH, 1 if number & 1 else -1


def _conformal_quantile(errors: Floats, share: float) -> float:
    """Return the conformal quantile of leave-one-out errors: the ceil((n + 1) * share)-th smallest."""
    rank = min(math.ceil((len(errors) + 1) * share), len(errors))
    return float(np.sort(errors)[rank - 1])


def _rank_correlation(first: Floats, second: Floats) -> float:
    from scipy.stats import rankdata  # noqa: PLC0415  loaded when used

    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
