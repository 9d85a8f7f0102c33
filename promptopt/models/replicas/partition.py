"""Partitions sequences along the trie of their shared prefixes. Pure functions that know nothing of models or Ray.

In sorted order neighbours share the longest prefixes, so each sequence adds to the trie only its symbols past the prefix
shared with its predecessor. A run of consecutive sequences is a union of subtrees. Its cost, computed separately, is its own
nodes plus the path to its first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.models.local.common_start import common_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local.common_start import Symbols
    from promptopt.models.local.trie import Ints

_SLACK = 1.05  # a part may exceed the smallest possible size by this factor, to cut where less is shared


class SortedSequences(NamedTuple):
    """Sequences in lexicographic order.

    Args:
        order: [sequences], their original indices.
        shared: [sequences], length of the prefix that each shares with its predecessor.
        preceding: [sequences + 1], number of distinct symbols in all sequences before each; the last entry is the total.
    """

    order: list[int]
    shared: Ints
    preceding: Ints


def sort_by_prefix(sequences: Sequence[Symbols], extra: Sequence[int] | None = None) -> SortedSequences:
    """Sort sequences and count the distinct symbols that each adds.

    Args:
        sequences: texts, or tuples of tokens.
        extra: [sequences], further symbols of each that it shares with no other.
    """
    order: list[int] = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered: list[Symbols] = [sequences[i] for i in order]
    shared = np.array([0, *map(common_start, ordered, ordered[1:])][: len(order)], np.int64)
    own = np.array([len(sequence) for sequence in ordered], np.int64) - shared
    if extra is not None:
        own += np.array([extra[i] for i in order], np.int64)
    return SortedSequences(order, shared, np.concatenate([[0], np.cumsum(own)]))


def partition(sequences: SortedSequences, max_parts: int) -> list[list[int]]:
    """Partition sequences into at most `max_parts` parts with about equal numbers of distinct symbols.

    The largest part is at most 5 % larger than necessary; within that slack, cuts are where neighbours share the least.
    The parts depend only on the sequences and `max_parts`.

    Returns:
        The indices of each part's sequences, in sorted order; fewer parts where there are fewer sequences.
    """
    starts = _starts(sequences, _smallest_size(sequences, max_parts), _SLACK)
    return [sequences.order[a:b] for a, b in zip(starts, [*starts[1:], None], strict=False)]


def _smallest_size(sequences: SortedSequences, max_parts: int) -> int:
    """Return the smallest part size that needs at most `max_parts` parts."""
    low, high = 0, int(sequences.preceding[-1])
    while low < high:
        middle = (low + high) // 2
        if len(_starts(sequences, middle, 1.0)) <= max_parts:
            high = middle
        else:
            low = middle + 1
    return low


def _starts(sequences: SortedSequences, size: int, slack: float) -> list[int]:
    """Return the first sequence of each part. A part is as long as its size allows, and at least one sequence.

    With slack, a part ends between `size` and `size * slack`, where neighbours share the least. It never ends earlier than
    without slack, and `preceding - shared` never decreases, so slack never adds parts.
    """
    _, shared, preceding = sequences
    starts: list[int] = []
    start, count = 0, len(shared)
    while start < count:
        starts.append(start)
        path = preceding[start] - shared[start]
        first, last = (
            max(int(np.searchsorted(preceding, path + limit, side="right")) - 1, start + 1)
            for limit in (size, size * slack)
        )
        if last >= count:
            break
        start = first + int(np.argmin(shared[first : last + 1]))
    return starts
