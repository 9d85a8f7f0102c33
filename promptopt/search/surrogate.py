"""How much better a changed prompt is likely to be than the one it was made from, guessed from its words alone.

Bayesian ridge regression of the change of the score on the change of the words, in the place of PROMST's five fine-tuned
Longformers (148M parameters each). A guess is the less sure the less its words were tried before. Pure functions over
texts and numbers; asks no model.
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

FEWEST = 15  # measured changes, below which nothing is said

_WIDTH = 256  # of the hashed words and pairs of words
_PENALTIES = np.logspace(-1, 3, 13)
_TRUSTED = 0.2  # rank correlation on changes left out, below which a forecast is not asked
_COVER = 0.9  # share of the changes that turn out no better than the upper bound


class Change(NamedTuple):
    """A prompt's text, that of its parent, and the parent's score."""

    text: str
    parent: str
    score: float


@dataclass(frozen=True)
class Forecast:
    """A ridge regression that was fitted to measured changes, with what leaving one out says of it.

    Args:
        weights: [F + 1] of the features, and the mean change last.
        centre: [F] means of the features.
        spread: [K, F] principal directions of the features, each times the square root of the share of the prior variance
            that the measured changes took from it.
        penalty: ratio of the noise's variance to the weights' prior variance.
        slack: standard deviations to be added to a guess for it to be an upper bound in 90 % of the cases left out
            (conformal, in units of `deviation`).
        correlation: Spearman's, of guesses and changes left out; 0 where one of the two never varies.
        error: mean absolute error of the guesses left out.
    """

    weights: Floats
    centre: Floats
    spread: Floats
    penalty: float
    slack: float
    correlation: float
    error: float

    @property
    def trusted(self) -> bool:
        """Whether it foretold the changes left out well enough to be asked: a rank correlation of 0.2 or more."""
        return self.correlation >= _TRUSTED

    def picked(self, changes: Sequence[Change], count: int, rng: np.random.Generator) -> list[int]:
        """Return the places of so many changes with the highest upper bounds, and of one more, drawn from all.

        The one that is drawn may be among the highest; then it is no more than `count`.
        """
        highest = np.argsort(-self.upper(changes), kind="stable")[:count].tolist()
        return sorted({*highest, int(rng.integers(len(changes)))})

    def mean(self, changes: Sequence[Change]) -> Floats:
        """Return the guessed change of the score of each, [N]."""
        out: Floats = features(changes) @ self.weights[:-1] + self.weights[-1]
        return out

    def deviation(self, changes: Sequence[Change]) -> Floats:
        """Return how far a measured change may be from its guess, in units of the noise, [N]; at least 1."""
        rows = features(changes) - self.centre
        unknown = (rows**2).sum(axis=1) - ((rows @ self.spread.T) ** 2).sum(axis=1)
        out: Floats = np.sqrt(1 + unknown.clip(0) / self.penalty)
        return out

    def upper(self, changes: Sequence[Change]) -> Floats:
        """Return scores that each stays below in nine cases of ten, [N]."""
        known = np.array([change.score for change in changes])
        out: Floats = known + self.mean(changes) + self.slack * self.deviation(changes)
        return out


def fitted(changes: Sequence[Change], gains: Sequence[float]) -> Forecast | None:
    """Fit to measured changes, or None where they are too few; the penalty is chosen by leaving one out.

    Args:
        changes: [N].
        gains: [N] score of each less its parent's.
    """
    if len(changes) < FEWEST:
        return None
    x, y = features(changes), np.array(gains, dtype=np.float64)
    x_mean, y_mean = x.mean(axis=0), float(y.mean())
    rows, values = x - x_mean, y - y_mean
    u, size, v = np.linalg.svd(rows, full_matrices=False)
    along = u.T @ values
    best: tuple[float, Floats, Floats, float] | None = None
    for penalty in _PENALTIES * max(float((size**2).mean()), 1e-12):
        keep = size**2 / (size**2 + penalty)
        leverage = (u**2 * keep).sum(axis=1) + 1 / len(y)
        rest = (1 - leverage).clip(1e-6)
        left = (values - u @ (keep * along)) / rest
        loss = float((left**2).mean())
        if best is None or loss < best[0]:
            best = (loss, left, rest, float(penalty))
    if best is None:  # there are penalties
        return None
    _, left, rest, penalty = best
    weights = v.T @ (size / (size**2 + penalty) * along)
    return Forecast(
        weights=np.append(weights, y_mean - float(x_mean @ weights)),
        centre=x_mean,
        spread=np.sqrt(size**2 / (size**2 + penalty))[:, None] * v,
        penalty=penalty,
        slack=_quantile(left * np.sqrt(rest), _COVER),  # without itself, a change's variance is 1 / (1 - leverage)
        correlation=_rank_correlation(y - left, y),
        error=float(np.abs(left).mean()),
    )


def features(changes: Sequence[Change]) -> Floats:
    """Return [N, F]: words and pairs of words gained less those lost, hashed; the parent's score; growth in length."""
    out = np.zeros((len(changes), _WIDTH + 2))
    for row, change in zip(out, changes, strict=True):
        for text, sign in ((change.text, 1), (change.parent, -1)):
            words = re.findall(r"\w+", text.lower())
            for unit in {*words, *(" ".join(pair) for pair in pairwise(words))}:
                place, flip = _hashed(unit)
                row[place] += sign * flip
        row[_WIDTH] = change.score
        row[_WIDTH + 1] = math.log((len(change.text) + 1) / (len(change.parent) + 1))
    return out


@lru_cache(maxsize=1 << 16)
def _hashed(unit: str) -> tuple[int, int]:
    digest = hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    number = int.from_bytes(digest)
    return (number >> 1) % _WIDTH, 1 if number & 1 else -1


def _quantile(errors: Floats, share: float) -> float:
    """Return the conformal quantile of errors left out: the ceil((n + 1) share)-th smallest."""
    rank = min(math.ceil((len(errors) + 1) * share), len(errors))
    return float(np.sort(errors)[rank - 1])


def _rank_correlation(first: Floats, second: Floats) -> float:
    from scipy.stats import rankdata  # noqa: PLC0415  loaded when used

    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
