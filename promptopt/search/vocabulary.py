"""Words and phrases, taken from unlabelled texts, of which a discrete prompt may be made. Pure functions."""

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

_LEAST = 5  # a unit that counts occurs more often than this (BDPL, code)
_STRONG = 1.0  # pointwise mutual information at which two neighbours belong together (BDPL, code)
_LONGEST = 5  # words in a phrase (BDPL, code)


def pmi_vocabulary(texts: Sequence[str], size: int) -> list[str]:
    """Return the most frequent phrases whose words stay together, at most `size` (BDPL's vocabulary, released code).

    A text is cut wherever neighbours are weakly linked: PMI = ln(pairs * c(ab) / (c(a) c(b))) below 1. Sorted by
    frequency, as the code does, it begins with the commonest words of the language, which says little about the task;
    `contrastive_vocabulary` is the alternative.
    """
    rows = [text.split() for text in texts]
    single = Counter(word for row in rows for word in row)
    double = Counter(pair for row in rows for pair in pairwise(row))
    pairs = double.total()
    strong = {
        (a, b)
        for (a, b), count in double.items()
        if count > _LEAST and math.log(pairs * count / (single[a] * single[b])) >= _STRONG
    }
    phrases = Counter(phrase for row in rows for phrase in _segments(row, strong))
    common = [phrase for phrase, count in phrases.most_common() if count > _LEAST]
    stripped = (re.sub(r"\W+$", "", phrase) for phrase in common)
    return list(dict.fromkeys(phrase for phrase in stripped if phrase))[:size]


def contrastive_vocabulary(texts: Sequence[str], beliefs: Floats, size: int) -> list[str]:
    """Return words that tell the classes apart, at most `size`, in turns from class to class.

    Ranked by the z-score of the log-odds ratio, class against the rest (Monroe et al. 2008), documents counted by soft
    label. Words that stand in one text only, or are as common in every class, are left out.

    Args:
        texts: [E].
        beliefs: [E, L] soft labels.
        size: most words.
    """
    sets = [sorted(set(re.findall(r"[^\W\d_]{2,}", text.lower()))) for text in texts]
    spread = Counter(word for words in sets for word in words)
    words = sorted(word for word, count in spread.items() if count > 1)
    place = {word: i for i, word in enumerate(words)}
    counts = np.zeros((len(words), beliefs.shape[1]))
    for row, belief in zip(sets, beliefs, strict=True):
        counts[[place[word] for word in row if word in place]] += belief
    inside, outside = counts + 0.5, counts.sum(axis=1, keepdims=True) - counts + 0.5
    size_in, size_out = beliefs.sum(axis=0) + 1.0, beliefs.sum() - beliefs.sum(axis=0) + 1.0
    odds = np.log(inside / (size_in - inside + 1.0)) - np.log(outside / (size_out - outside + 1.0))
    z = odds / np.sqrt(1 / inside + 1 / outside)
    ranked = [[words[i] for i in np.argsort(-column, kind="stable") if column[i] > 0] for column in z.T]
    turns = (column[i] for i in range(max(map(len, ranked), default=0)) for column in ranked if i < len(column))
    return list(dict.fromkeys(turns))[:size]


def _segments(row: Sequence[str], strong: set[tuple[str, str]]) -> list[str]:
    """Cut a row of words wherever the link is weak; segments that are too long are left out."""
    out = [list(row[:1])]
    for a, b in pairwise(row):
        if (a, b) in strong:
            out[-1].append(b)
        else:
            out.append([b])
    return [" ".join(segment) for segment in out if 0 < len(segment) <= _LONGEST]
