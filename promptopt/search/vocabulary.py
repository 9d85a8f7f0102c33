"""Builds vocabularies for discrete prompts from unlabelled texts. Pure functions."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics.arrays import Floats

_MIN_COUNT = 5  # phrases must occur more often than this (BDPL, code)
_MIN_PMI = 1.0  # pointwise mutual information that joins two neighbours (BDPL, code)
_MAX_WORDS = 5  # words in a phrase (BDPL, code)


def pmi_vocabulary(texts: Sequence[str], size: int) -> list[str]:
    """Return at most `size` frequent phrases with strongly linked words (BDPL's vocabulary, released code).

    A text is split wherever neighbours are weakly linked: PMI = ln(pairs * c(ab) / (c(a) c(b))) below 1. Sorted by frequency, as
    in the code, the vocabulary begins with the most common words of the language, which say little about the task;
    `contrastive_vocabulary` is the alternative.
    """
    rows = [text.split() for text in texts]
    single = Counter(word for row in rows for word in row)
    double = Counter(pair for row in rows for pair in pairwise(row))
    pairs = double.total()
    strong = {
        (a, b)
        for (a, b), count in double.items()
        if count > _MIN_COUNT and math.log(pairs * count / (single[a] * single[b])) >= _MIN_PMI
    }
    phrases = Counter(phrase for row in rows for phrase in _segments(row, strong))
    common = [phrase for phrase, count in phrases.most_common() if count > _MIN_COUNT]
    stripped = (re.sub(r"\W+$", "", phrase) for phrase in common)
    return list(dict.fromkeys(phrase for phrase in stripped if phrase))[:size]


def contrastive_vocabulary(texts: Sequence[str], label_posteriors: Floats, size: int) -> list[str]:
    """Return at most `size` words that discriminate between the classes, taking one from each class in turn.

    Words are ranked by the z-score of the log-odds ratio of a class against the rest (Monroe et al. 2008), with document counts
    weighted by soft labels. Words that occur in only one text, or equally often in every class, are left out.

    Args:
        texts: [E].
        label_posteriors: [E, L] soft labels.
        size: maximum number of words.
    """
    sets = [sorted(set(re.findall(r"[^\W\d_]{2,}", text.lower()))) for text in texts]
    document_counts = Counter(word for words in sets for word in words)
    words = sorted(word for word, count in document_counts.items() if count > 1)
    index_of = {word: i for i, word in enumerate(words)}
    counts = np.zeros((len(words), label_posteriors.shape[1]))
    for row, posterior in zip(sets, label_posteriors, strict=True):
        counts[[index_of[word] for word in row if word in index_of]] += posterior
    inside, outside = counts + 0.5, counts.sum(axis=1, keepdims=True) - counts + 0.5
    size_in, size_out = label_posteriors.sum(axis=0) + 1.0, label_posteriors.sum() - label_posteriors.sum(axis=0) + 1.0
    odds = np.log(inside / (size_in - inside + 1.0)) - np.log(outside / (size_out - outside + 1.0))
    z = odds / np.sqrt(1 / inside + 1 / outside)
    ranked = [[words[i] for i in np.argsort(-column, kind="stable") if column[i] > 0] for column in z.T]
    turns = (column[i] for i in range(max(map(len, ranked), default=0)) for column in ranked if i < len(column))
    return list(dict.fromkeys(turns))[:size]


def _segments(row: Sequence[str], strong: set[tuple[str, str]]) -> list[str]:
    """Split a row of words wherever the link is weak; segments that are too long are left out."""
    out = [list(row[:1])]
    for a, b in pairwise(row):
        if (a, b) in strong:
            out[-1].append(b)
        else:
            out.append([b])
    return [" ".join(segment) for segment in out if 0 < len(segment) <= _MAX_WORDS]
