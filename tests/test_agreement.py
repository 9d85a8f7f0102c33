"""Agreement, calibration and collapse on simulated answers whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt.statistics.annotators import (
    calibrated,
    chance_corrected_agreement,
    dawid_skene,
    is_collapsed,
    mutual_information,
    votes_of,
)

if TYPE_CHECKING:
    from promptopt.statistics.annotators import Votes


def simulated(accuracies: list[float], items: int, labels: int, seed: int = 0) -> tuple[np.ndarray, Votes]:
    """Right labels [E] and votes [M, E] of annotators that err independently."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(labels, size=items)
    wrong = (truth + rng.integers(1, labels, size=(len(accuracies), items))) % labels
    return truth, np.where(rng.random(wrong.shape) < np.array(accuracies)[:, None], truth, wrong)


@pytest.mark.parametrize("labels", [2, 4])
def test_dawid_skene_recovers_the_accuracies_of_annotators(labels: int) -> None:
    accuracies = [0.9, 0.8, 0.7, 0.6, 0.75]
    _, votes = simulated(accuracies, 4000, labels)

    assert dawid_skene(votes, labels).accuracy == pytest.approx(accuracies, abs=0.04)


def test_dawid_skene_labels_better_than_the_majority_where_one_annotator_is_good() -> None:
    truth, votes = simulated([0.95, 0.6, 0.6, 0.6, 0.6], 2000, 2)
    majority = (votes.mean(axis=0) > 0.5).astype(int)

    found = dawid_skene(votes, 2).posterior.argmax(axis=1)

    assert (found == truth).mean() > (majority == truth).mean() + 0.05


def test_votes_that_are_missing_are_left_out() -> None:
    truth, votes = simulated([0.85] * 6, 1500, 3)
    lost = np.random.default_rng(1).random(votes.shape) < 0.3
    agreement = dawid_skene(np.where(lost, -1, votes), 3)

    assert agreement.accuracy == pytest.approx([0.85] * 6, abs=0.04)
    assert (agreement.posterior.argmax(axis=1) == truth).mean() > 0.95
    assert agreement.posterior.sum(axis=1) == pytest.approx(np.ones(1500))


def test_an_item_on_which_nobody_voted_has_the_prior() -> None:
    _, votes = simulated([0.9] * 4, 500, 2)
    votes[:, 7] = -1
    agreement = dawid_skene(votes, 2)

    assert agreement.posterior[7] == pytest.approx(agreement.prior, abs=1e-3)


def test_the_estimated_accuracy_covers_the_true_one_where_annotators_are_independent() -> None:
    for seed in range(5):
        truth, votes = simulated([0.8] * 7, 400, 2, seed)
        posterior = dawid_skene(votes[1:], 2).posterior
        estimated = posterior[np.arange(400), votes[0]].mean()

        assert estimated == pytest.approx((votes[0] == truth).mean(), abs=0.06)


def test_calibration_takes_a_constant_leaning_away() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(2, size=1000)
    logits = rng.normal(0, 0.5, (1000, 2)) + np.eye(2)[truth] + [4.0, 0.0]
    biased = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    assert (biased.argmax(axis=1) == truth).mean() < 0.55
    assert (calibrated(biased).argmax(axis=1) == truth).mean() > 0.75


def test_calibration_leaves_failed_rows_failed() -> None:
    rows = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4]])

    assert np.isnan(calibrated(rows)).any(axis=1).tolist() == [False, True, False]


def test_failed_and_undecided_answers_are_no_votes() -> None:
    rows = np.array([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]])

    assert votes_of(rows).tolist() == [1, -1, -1]


def test_a_prompt_that_always_gives_one_label_has_collapsed() -> None:
    assert is_collapsed(np.zeros(50, dtype=int), 2)
    assert is_collapsed(np.array([0] * 48 + [1] * 2), 2)
    assert not is_collapsed(np.array([0] * 30 + [1] * 20), 2)
    assert is_collapsed(np.full(3, -1), 2)


def test_mutual_information_is_nothing_for_one_answer_and_largest_for_sure_and_balanced_ones() -> None:
    assert mutual_information(np.tile([0.99, 0.01], (20, 1))) == pytest.approx(0.0)
    assert mutual_information(np.tile([0.5, 0.5], (20, 1))) == pytest.approx(0.0)
    assert mutual_information(np.eye(4)[np.arange(20) % 4]) == pytest.approx(np.log(4))


def test_agreement_beyond_chance_is_none_for_strangers_and_much_for_twins() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(3, size=(2, 5000))
    found = chance_corrected_agreement(first, second, 3)

    assert np.nanmean(found) == pytest.approx(0.0, abs=0.03)
    assert np.nanmean(chance_corrected_agreement(first, first, 3)) == pytest.approx(2 / 3, abs=0.02)
    assert np.isnan(chance_corrected_agreement(np.array([-1, 0]), np.array([0, 0]), 2)).tolist() == [True, False]
