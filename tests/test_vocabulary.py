"""Vocabularies from texts made for it."""

from __future__ import annotations

import numpy as np

from promptopt.search.vocabulary import contrastive_vocabulary, pmi_vocabulary

FILLER = ["the", "a", "of", "and", "to", "in"]


def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(["new york", *rng.choice(FILLER, 8), "film."]) for _ in range(40)]


def test_words_that_stay_together_become_one_phrase() -> None:
    found = pmi_vocabulary(texts(), 20)

    assert "new york" in found
    assert "york" not in found
    assert set(FILLER) <= set(found)


def test_phrases_are_sorted_by_frequency_cut_to_size_and_lose_their_full_stop() -> None:
    assert len(pmi_vocabulary(texts(), 3)) == 3
    assert "film" in pmi_vocabulary(texts(), 100)
    assert "film." not in pmi_vocabulary(texts(), 100)


def test_what_occurs_five_times_or_less_is_no_entry() -> None:
    assert pmi_vocabulary(["rare words"] * 5, 10) == []


def test_words_that_tell_the_classes_apart_come_first_and_common_ones_last() -> None:
    items = ["the dull film", "the awful film", "the dull end"] * 5 + ["the lovely film", "the lovely end"] * 7
    beliefs = np.array([[0.9, 0.1]] * 15 + [[0.1, 0.9]] * 14)

    found = contrastive_vocabulary(items, beliefs, 10)

    assert found[:2] == ["dull", "lovely"]
    assert found.index("awful") < found.index("film") if "film" in found else True


def test_a_word_of_one_text_is_left_out() -> None:
    assert contrastive_vocabulary(["once upon", "upon a"], np.eye(2), 5) in ([], ["upon"])
