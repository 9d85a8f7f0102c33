"""Kappa, rank correlation, calibrated scales and slopes: published values, scipy's, and coverage by simulation.

The interval of kappa is somewhat narrow: docs/judges.md has its coverage.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import ROOT
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from promptopt import InputError
from promptopt.randomness import named_generator
from promptopt.statistics import cohen_kappa, rank_correlation
from promptopt.statistics.agreement import Weights, _kappa
from promptopt.statistics.calibration import calibrate, isotonic
from promptopt.statistics.regression import slope_interval

WEIGHTS: tuple[Weights, ...] = ("none", "linear", "quadratic")
FLEISS = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])  # Fleiss, Levin and Paik 2003, table 18.1


def test_kappa_and_its_standard_error_are_those_of_the_book() -> None:
    kappa, error = _kappa(FLEISS / 100, np.eye(3))

    assert kappa == pytest.approx(0.676, abs=5e-4)
    assert error / 10 == pytest.approx(0.088, abs=1e-3)


def test_kappa_of_many_scores_has_the_published_interval() -> None:
    first, second = (np.repeat(k.ravel(), 100 * FLEISS.ravel()).astype(float) for k in np.indices((3, 3)))
    _, error = _kappa(FLEISS / 100, np.eye(3))

    found = cohen_kappa(first, second, "none")

    assert found.estimate == pytest.approx(0.676, abs=5e-4)
    half = 1.96 * error / 100  # of 10,000 items
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), abs=1e-3)


def test_quadratic_weights_are_those_of_the_concordance_correlation() -> None:
    rng = named_generator(0, "kappa")
    a = rng.integers(0, 5, 40) / 4
    b = np.clip(a + rng.integers(-1, 2, 40) / 4, 0, 1)
    # Fleiss and Cohen 1973: quadratic kappa is 2 cov / (var + var + squared offset), with variances over n.
    expected = 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)

    assert cohen_kappa(a, b).estimate == pytest.approx(expected)


def test_weights_do_not_matter_for_two_values_and_do_for_three() -> None:
    rng = named_generator(1, "kappa")
    two = [rng.integers(0, 2, 30).astype(float) for _ in range(2)]
    three = [rng.integers(0, 3, 60).astype(float) for _ in range(2)]

    for kind in WEIGHTS[:2]:
        assert tuple(cohen_kappa(two[0], two[1], weights=kind)) == pytest.approx(
            tuple(cohen_kappa(two[0], two[1], weights="quadratic"))
        )
    assert len({cohen_kappa(three[0], three[1], weights=kind).estimate for kind in WEIGHTS}) == 3
    with pytest.raises(InputError, match="unknown weights 'cubic'"):
        cohen_kappa(three[0], three[1], weights="cubic")  # type: ignore[arg-type]


def test_perfect_agreement_has_an_interval_and_none_is_nan() -> None:
    values = np.array([0.0, 1.0] * 10)

    perfect = cohen_kappa(values, values)

    assert perfect.estimate == perfect.high == 1
    assert 0.3 < perfect.low < 0.95
    assert math.isnan(cohen_kappa(np.ones(20), np.ones(20)).estimate)
    assert cohen_kappa(values[:6], values[:6])[1:] == (-math.inf, math.inf)


def test_ranks_are_scipys() -> None:
    rng = named_generator(0, "ranks")
    a = rng.integers(0, 5, 50).astype(float)
    b = a + rng.integers(-2, 3, 50).astype(float)

    found = rank_correlation(a, b)

    assert found.estimate == pytest.approx(spearmanr(a, b).statistic)
    error = 1.959964 * math.sqrt((1 + found.estimate**2 / 2) / 47)  # Bonett and Wright 2000
    assert found.low == pytest.approx(math.tanh(math.atanh(found.estimate) - error), abs=1e-6)
    assert rank_correlation(a, a).estimate == pytest.approx(1)
    assert math.isnan(rank_correlation(a, np.ones(50)).estimate)
    assert rank_correlation(a[:5], b[:5])[1:] == (-math.inf, math.inf)


def test_missing_scores_are_left_out_and_lengths_must_agree() -> None:
    a, b = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, math.nan]), np.array([1.0, 0, 2, 3, 4, 5, 6, 7, 8])

    assert rank_correlation(a, b) == rank_correlation(a[:8], b[:8])
    with pytest.raises(InputError, match="9 and 8 scores"):
        cohen_kappa(a, b[:8])


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_intervals_of_agreement_cover(correlation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    judges = pytest.importorskip("benchmarks.judges", reason="benchmarks come with a checkout only")
    many = judges.draw(named_generator(0, "many"), "ratings", 200_000, correlation, difference=False)
    rng, repeats = named_generator(0, "cover"), 400
    draws = [judges.draw(rng, "ratings", 50, correlation, difference=False) for _ in range(repeats)]

    for interval in (cohen_kappa, rank_correlation):
        truth = interval(*many).estimate
        held = np.mean([interval(*each).holds(truth) for each in draws])
        assert held >= 0.93 - 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_isotonic_regression_is_scipys() -> None:
    rng = named_generator(0, "isotonic")
    values, weights = rng.normal(size=60), rng.random(60) + 0.1

    assert isotonic(values, weights) == pytest.approx(isotonic_regression(values, weights=weights).x)


@pytest.mark.parametrize(
    ("truth", "kind"),
    [
        (lambda f, _: f, "none"),
        (lambda _, rng: rng.random(200), "constant"),
        (lambda f, _: 0.2 + 0.5 * f, "linear"),
        (lambda f, _: (f > 0.7).astype(float), "isotonic"),
    ],
    ids=["as it is", "useless", "a line", "a step"],
)
def test_the_simplest_calibration_that_predicts_is_taken(truth: object, kind: str) -> None:
    rng = named_generator(0, "calibrate")
    scores = rng.integers(0, 11, 200) / 10
    targets = truth(scores, rng)  # type: ignore[operator]

    found = calibrate(scores, targets)

    assert found.kind == kind
    assert found.error[found.kind] == pytest.approx(min(found.error.values()))
    if kind != "constant":
        assert found(scores) == pytest.approx(targets, abs=1e-6)


def test_a_calibration_of_one_item_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 items, not 1"):
        calibrate(np.ones(1), np.ones(1))


def test_a_slope_and_its_interval_are_those_of_the_matrices() -> None:
    rng = named_generator(0, "slope")
    x, z = rng.normal(size=(2, 40))
    y = 0.3 * x + 0.5 * z + rng.normal(size=40) * (1 + abs(x))
    design = np.column_stack([np.ones(40), x, z])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ y
    errors = (y - design @ coefficients) / (1 - np.einsum("ij,jk,ik->i", design, inverse, design))
    covariance = inverse @ (design.T * errors**2) @ design @ inverse  # MacKinnon and White 1985, HC3

    found = slope_interval(y, x, z)

    assert found is not None
    assert found.estimate == pytest.approx(coefficients[1])
    half = 2.026192 * math.sqrt(covariance[1, 1])  # Student's t of 37 degrees of freedom
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), abs=1e-6)


def test_a_slope_that_cannot_be_told_is_none() -> None:
    rng = named_generator(1, "slope")
    y, x, z = rng.normal(size=(3, 8))
    long = np.arange(20.0)

    assert slope_interval(y, x, z) is None  # too few
    assert slope_interval(long, np.ones(20), long) is None
    assert slope_interval(long, 2 * long + 1, long) is None  # the same as the other
