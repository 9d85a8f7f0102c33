"""Finds near-duplicate examples in different splits. Pure functions over examples; callers decide what to do about them."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import chain, combinations
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.prompt import Example

_SHINGLE_WORDS = 3  # words


class NearDuplicate(NamedTuple):
    """Two examples of different splits with almost the same text; `likeness` is their similarity, in [0, 1]."""

    first_split: str
    first_id: str
    second_split: str
    second_id: str
    likeness: float


def near_duplicates(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], threshold: float = 0.9
) -> list[NearDuplicate]:
    """Return, for each example of a later split, the most similar one in each earlier split, if similar enough.

    Similarity is the Jaccard index of the sets of word triples, ignoring case and punctuation; a shorter text counts as
    a single tuple. Equal texts are always found. Only inputs are compared, not targets.

    Args:
        train: training examples.
        validation: validation examples.
        test: test examples.
        threshold: smallest similarity to report, in (0, 1].

    Raises:
        InputError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, not {threshold}")
    splits = {"train": train, "validation": validation, "test": test}
    shingles = {name: [_shingles(example) for example in examples] for name, examples in splits.items()}
    frequency = Counter(chain.from_iterable(chain.from_iterable(shingles.values())))
    rank = {shingle: i for i, shingle in enumerate(sorted(frequency, key=lambda s: (frequency[s], s)))}
    ranked = {name: [sorted(rank[s] for s in each) for each in sets] for name, sets in shingles.items()}
    return [
        NearDuplicate(first, splits[first][i].id, second, splits[second][j].id, similarity)
        for first, second in combinations(splits, 2)
        for i, j, similarity in _most_similar_pairs(ranked[first], ranked[second], threshold)
    ]


def _shingles(example: Example) -> set[tuple[str, ...]]:
    text = "\n".join(example.inputs.values())
    words = re.findall(r"\w+", text.casefold()) or [text]
    return {tuple(words[i : i + _SHINGLE_WORDS]) for i in range(max(1, len(words) - _SHINGLE_WORDS + 1))}


def _most_similar_pairs(
    first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, Jaccard index) of the most similar `first[i]` for each `second[j]` that reaches the threshold.

    Each example is a sorted list of shingle ranks, rarest first. Any two sets that reach the threshold share one of their
    rarest shingles (prefix filtering, Chaudhuri et al. 2006), so it suffices to index those.
    """
    index: dict[int, list[int]] = {}
    for i, ranks in enumerate(first):
        for rank in _rarest(ranks, threshold):
            index.setdefault(rank, []).append(i)
    sets = [frozenset(ranks) for ranks in first]
    for j, ranks in enumerate(second):
        own = frozenset(ranks)
        candidates = {i for rank in _rarest(ranks, threshold) for i in index.get(rank, ())}
        similarities = [(len(own & sets[i]) / len(own | sets[i]), -i) for i in candidates]
        best, earliest = max(similarities, default=(0.0, 0))
        if best >= threshold:
            yield -earliest, j, best


def _rarest(ranks: Sequence[int], threshold: float) -> Sequence[int]:
    overlap = math.ceil(threshold * len(ranks) - 1e-9)  # least number of shared shingles; 1e-9 absorbs rounding
    return ranks[: len(ranks) - overlap + 1]
