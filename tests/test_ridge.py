"""The shortcuts of ridge regression, against fitting again."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.statistics.ridge import fit_ridge


def problem(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 1, (rows, columns))
    return x, x @ rng.normal(0, 1, columns) + rng.normal(0, 0.5, rows)


@pytest.mark.parametrize(("rows", "columns"), [(30, 4), (8, 20)])
def test_leave_one_out_errors_are_those_of_regressions_without_the_row(rows: int, columns: int) -> None:
    x, y = problem(rows, columns)
    ridge = fit_ridge(x, y, np.array([0.1]))

    for left_out in range(rows):
        others = np.arange(rows) != left_out
        centred = x[others] - x[others].mean(axis=0)
        gram = centred.T @ centred + ridge.penalty * np.eye(columns)
        weights = np.linalg.solve(gram, centred.T @ (y[others] - y[others].mean()))
        prediction = y[others].mean() + (x[left_out] - x[others].mean(axis=0)) @ weights
        assert y[left_out] - prediction == pytest.approx(ridge.residuals[left_out])


def test_variance_is_the_inverse_of_the_penalised_gram_matrix_and_the_penalty_has_the_least_error() -> None:
    x, y = problem(8, 20)
    penalties = np.array([0.01, 0.1, 1.0, 10.0])
    ridge = fit_ridge(x, y, penalties)
    centred = x - x.mean(axis=0)
    inverse = np.linalg.inv(centred.T @ centred + ridge.penalty * np.eye(20))

    assert ridge.variance(np.eye(20)) == pytest.approx(np.diag(inverse))
    assert ridge.predict(x) == pytest.approx(y.mean() + centred @ inverse @ centred.T @ (y - y.mean()))
    losses = [float((fit_ridge(x, y, np.array([penalty])).residuals ** 2).mean()) for penalty in penalties]
    assert float((ridge.residuals**2).mean()) == pytest.approx(min(losses))
