"""Calibrated scales: what a score predicts of another one, by a line or by isotonic regression, chosen by cross-validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from promptopt.errors import InputError
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Kind: TypeAlias = Literal["none", "constant", "linear", "isotonic"]

KINDS: tuple[Kind, ...] = ("none", "constant", "linear", "isotonic")
"""Calibrations from the simplest on: the score as it is, its mean target, a line, a monotone curve."""

_FOLDS = 10


@dataclass(frozen=True)
class Calibration:
    """A map from scores to what they predict: linear between its points, and constant outside.

    Args:
        kind: of the map; "none" leaves scores as they are.
        points: (score, prediction), by increasing score.
        error: root mean square error of each kind, cross-validated.
    """

    kind: Kind
    points: tuple[tuple[float, float], ...]
    error: dict[Kind, float]

    def __call__(self, scores: Floats) -> Floats:
        """Return the predictions of scores."""
        return _apply(self.kind, self.points, scores)


def calibrate(scores: Floats, targets: Floats) -> Calibration:
    """Return the calibration of least cross-validated error, the simplest of equals.

    Ten folds, drawn with a fixed seed.

    Args:
        scores: [E].
        targets: [E] to be predicted, on the same scale.

    Raises:
        InputError: there are fewer than two items.
    """
    if scores.size < 2:  # noqa: PLR2004  one to fit and one to test
        raise InputError(f"a calibration needs at least 2 items, not {scores.size}")
    folds = named_generator(0, "calibration folds").permutation(scores.size) % min(_FOLDS, scores.size)
    errors: dict[Kind, float] = {kind: _error(kind, scores, targets, folds) for kind in KINDS}
    best = min(KINDS, key=lambda kind: round(errors[kind], 9))
    return Calibration(best, _fit(best, scores, targets), errors)


def isotonic(values: Floats, weights: Floats) -> Floats:
    """Return the nondecreasing sequence closest to `values` in weighted least squares, by pooling adjacent violators [E]."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for mean, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (mean, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            last = blocks.pop()
            total = last[1] + block[1]
            block = ((last[0] * last[1] + block[0] * block[1]) / total, total, last[2] + block[2])
        blocks.append(block)
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


def _error(kind: Kind, scores: Floats, targets: Floats, folds: np.ndarray) -> float:
    squares = 0.0
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        predicted = _apply(kind, _fit(kind, scores[~test], targets[~test]), scores[test])
        squares += float(((predicted - targets[test]) ** 2).sum())
    return math.sqrt(squares / scores.size)


def _fit(kind: Kind, scores: Floats, targets: Floats) -> tuple[tuple[float, float], ...]:
    if kind == "none":
        return ()
    levels, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if kind == "constant" or levels.size == 1:
        return ((float(levels[0]), float(targets.mean())),)
    if kind == "isotonic":
        means = np.bincount(inverse, targets) / counts
        fitted = isotonic(means, counts.astype(np.float64))
    else:
        slope, intercept = np.polyfit(scores, targets, 1)
        levels = levels[[0, -1]]
        fitted = intercept + slope * levels
    return tuple(zip(levels.tolist(), fitted.tolist(), strict=True))


def _apply(kind: Kind, points: tuple[tuple[float, float], ...], scores: Floats) -> Floats:
    if kind == "none":
        return scores
    levels, fitted = zip(*points, strict=True)
    out: Floats = np.interp(scores, levels, fitted)
    return out
