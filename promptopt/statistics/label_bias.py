"""One bias for each label, added to label log-probabilities before the likeliest label is taken.

Pure functions of log-probabilities [E, L] and targets [E]; knows nothing of models or prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

Targets: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""Indices of the right labels."""

_PRIOR_SD = 1.0  # nats; see docs/predictor.md
_FOLDS = 8


def fit_label_bias(logprobs: Floats, targets: Targets) -> Floats:
    """Return the likeliest bias of each label under a normal prior around 0, in nats; the biases sum to 0.

    Multinomial logistic regression with an offset: p(label) is proportional to exp(log-probability + bias). The prior has a
    standard deviation of one nat, so few examples move the biases little. After vector scaling without slopes (Guo et al.
    2017, section 4.2).

    Args:
        logprobs: [E, L], in any normalisation over labels.
        targets: [E].

    Returns:
        [L].
    """
    from scipy.optimize import minimize  # noqa: PLC0415  loaded when used: importing the package stays light

    labels = logprobs.shape[1]
    counts = np.bincount(targets, minlength=labels)

    def loss(bias: Floats) -> float:  # up to a constant
        return float(_normalized(logprobs + bias)[0].sum() - counts @ bias + (bias**2).sum() / (2 * _PRIOR_SD**2))

    def gradient(bias: Floats) -> Floats:
        out: Floats = _normalized(logprobs + bias)[1].sum(axis=0) - counts + bias / _PRIOR_SD**2
        return out

    def hessian(bias: Floats) -> Floats:
        p = _normalized(logprobs + bias)[1]
        out: Floats = np.diag(p.sum(axis=0) + 1 / _PRIOR_SD**2) - p.T @ p
        return out

    bias = minimize(loss, np.zeros(labels), jac=gradient, hess=hessian, method="trust-exact").x
    centred: Floats = bias - bias.mean()  # the optimum sums to 0 up to rounding
    return centred


def _normalized(logits: Floats) -> tuple[Floats, Floats]:
    """Return logsumexp [E] and softmax [E, L] of logits [E, L]; scipy's own are slow for arrays this small."""
    largest = logits.max(axis=1, keepdims=True)
    shares = np.exp(logits - largest)
    sums = shares.sum(axis=1, keepdims=True)
    return (largest + np.log(sums))[:, 0], shares / sums


def right_answers(logprobs: Floats, targets: Targets, bias: Floats | float) -> Floats:
    """Return 1 for each example whose likeliest label with a bias [L] or [E, L] is the right one, else 0, [E]."""
    out: Floats = ((logprobs + bias).argmax(axis=1) == targets).astype(np.float64)
    return out


def held_out_biases(logprobs: Floats, targets: Targets) -> Floats:
    """Return for each example a bias fitted without it, [E, L]: examples are left out by every eighth.

    Args: as of `fit_label_bias`.
    """
    out = np.zeros(logprobs.shape)
    for fold in range(min(_FOLDS, len(targets))):
        left_out = np.arange(len(targets)) % _FOLDS == fold
        out[left_out] = fit_label_bias(logprobs[~left_out], targets[~left_out])
    return out
