"""Items of different splits that say almost the same. Pure functions over examples; what to do about them is the caller's."""

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

_SHINGLE = 3  # words


class NearDuplicate(NamedTuple):
    """Two items of different splits that say almost the same; likeness is in [0, 1]."""

    first_split: str
    first_id: str
    second_split: str
    second_id: str
    likeness: float


def near_duplicates(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example], threshold: float = 0.9
) -> list[NearDuplicate]:
    """Return, for every item of a later split, its likest item in each earlier split that is like it.

    Likeness is the Jaccard index of the sets of word triples, letter case and punctuation aside; a text of fewer words
    is one whole. Equal texts are always found.

    Args:
        train: items; two splits are compared by their inputs only.
        validation: items.
        test: items.
        threshold: smallest likeness that counts, in (0, 1].

    Raises:
        InputError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, not {threshold}")
    splits = {"train": train, "validation": validation, "test": test}
    shingles = {name: [_shingles(item) for item in items] for name, items in splits.items()}
    spread = Counter(chain.from_iterable(chain.from_iterable(shingles.values())))
    rank = {shingle: place for place, shingle in enumerate(sorted(spread, key=lambda s: (spread[s], s)))}
    ranked = {name: [sorted(rank[s] for s in item) for item in items] for name, items in shingles.items()}
    return [
        NearDuplicate(first, splits[first][i].id, second, splits[second][j].id, likeness)
        for first, second in combinations(splits, 2)
        for i, j, likeness in _likest_pairs(ranked[first], ranked[second], threshold)
    ]


def _shingles(example: Example) -> set[tuple[str, ...]]:
    text = "\n".join(example.inputs.values())
    words = re.findall(r"\w+", text.casefold()) or [text]
    return {tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}


def _likest_pairs(
    first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, Jaccard index) of the likest `first[i]` for every `second[j]`, where it reaches the threshold.

    Items are ranks of shingles, rarest first. Two sets that are alike enough share one of their rarest few
    (prefix filtering, Chaudhuri et al. 2006), so only those are indexed, and no pair is missed.
    """
    index: dict[int, list[int]] = {}
    for i, item in enumerate(first):
        for rank in _rarest(item, threshold):
            index.setdefault(rank, []).append(i)
    sets = [frozenset(item) for item in first]
    for j, item in enumerate(second):
        own = frozenset(item)
        candidates = {i for rank in _rarest(item, threshold) for i in index.get(rank, ())}
        alike = [(len(own & sets[i]) / len(own | sets[i]), -i) for i in candidates]
        likeness, earliest = max(alike, default=(0.0, 0))
        if likeness >= threshold:
            yield -earliest, j, likeness


def _rarest(item: Sequence[int], threshold: float) -> Sequence[int]:
    needed = math.ceil(threshold * len(item) - 1e-9)  # shared by any set that is alike; the slack is for rounding
    return item[: len(item) - needed + 1]
