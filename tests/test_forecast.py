"""Guessing changes of a score from changes of the words, on landscapes that are known."""

from __future__ import annotations

import numpy as np
import pytest

from promptopt.search.surrogate import MIN_CHANGES, Change, features, fit_surrogate

WORDS = [f"word{n}" for n in range(30)]
WORTH = dict(zip(WORDS, np.linspace(-0.15, 0.15, 30).tolist(), strict=True))


def landscape(count: int, noise: float, seed: int = 0) -> tuple[list[Change], list[float]]:
    """Each child gains or loses some words, each of which is worth something of its own."""
    rng = np.random.default_rng(seed)
    changes, gains = [], []
    for _ in range(count):
        parent = set(rng.choice(WORDS, size=15, replace=False).tolist())
        child = parent ^ set(rng.choice(WORDS, size=3, replace=False).tolist())
        changes.append(Change(" ".join(sorted(child)), " ".join(sorted(parent)), 0.5))
        gains.append(sum(WORTH[w] for w in child - parent) - sum(WORTH[w] for w in parent - child))
    return changes, [gain + noise * float(rng.normal()) for gain in gains]


def test_too_few_changes_say_nothing() -> None:
    changes, gains = landscape(MIN_CHANGES - 1, 0.0)
    assert fit_surrogate(changes, gains) is None


def test_changes_of_known_words_are_foretold() -> None:
    model = fit_surrogate(*landscape(120, 0.02))
    fresh, gains = landscape(200, 0.0, seed=1)

    assert model is not None
    assert model.correlation > 0.6
    assert np.corrcoef(model.mean(fresh), gains)[0, 1] > 0.7
    assert model.error == pytest.approx(float(np.abs(model.mean(fresh) - gains).mean()), rel=0.5)


def test_nine_in_ten_stay_below_the_upper_bound() -> None:
    shares = []
    for seed in range(20):
        model = fit_surrogate(*landscape(40, 0.05, seed))
        fresh, gains = landscape(200, 0.05, seed + 100)
        assert model is not None
        shares.append(float((0.5 + np.array(gains) <= model.upper(fresh)).mean()))

    assert 0.86 < np.mean(shares) < 0.96


def test_the_highest_upper_bounds_are_picked_and_one_by_chance() -> None:
    model = fit_surrogate(*landscape(120, 0.02))
    fresh, _ = landscape(40, 0.0, seed=1)
    assert model is not None

    highest = set(np.argsort(-model.upper(fresh))[:5].tolist())
    picked = [model.select_by_ucb(fresh, 5, np.random.default_rng(seed)) for seed in range(200)]

    assert all(highest <= set(places) and len(places) <= 6 and places == sorted(places) for places in picked)
    assert set().union(*picked) == set(range(40)), "each may be the one by chance"


def test_what_was_tried_is_surer_than_what_is_new() -> None:
    model = fit_surrogate(*landscape(60, 0.02))
    tried = Change("word1 word2", "word2", 0.5)
    new = Change("colourless green ideas sleep furiously word2", "word2", 0.5)

    assert model is not None
    deviation = model.deviation([tried, new])
    assert 1 <= deviation[0] < deviation[1]
    gap = model.upper([tried, new]) - model.mean([tried, new]) - 0.5
    assert gap == pytest.approx(model.conformal_margin * deviation)


def test_pure_chance_earns_no_trust() -> None:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(20):
        changes, _ = landscape(60, 0.0, seed)
        model = fit_surrogate(changes, rng.normal(0, 0.1, 60).tolist())
        assert model is not None
        found.append(model.correlation)

    assert np.mean(found) < 0.1


def test_scores_that_never_change_have_no_correlation() -> None:
    changes, _ = landscape(30, 0.0)
    model = fit_surrogate(changes, [0.0] * 30)

    assert model is not None
    assert (model.correlation, model.conformal_margin) == (0.0, 0.0)


def test_features_are_differences_and_the_same_everywhere() -> None:
    same, longer = features([Change("a b", "a b", 0.4), Change("a b c", "a b", 0.4)])

    assert not same[:-2].any()
    assert same[-2:].tolist() == [0.4, 0.0]
    assert np.abs(longer[:-2]).sum() == 2  # the word c, and the pair b c
    assert longer[-1] > 0
