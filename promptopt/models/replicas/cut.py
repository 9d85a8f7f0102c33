"""Cuts sequences into parts along the trie of their common starts. Pure functions; they know nothing of models or Ray.

In sorted order neighbours share the most, and what a sequence adds to those before it are the nodes of its own: its
symbols past the start that it shares with its neighbour. A run of consecutive sequences is a union of subtrees; computed
apart from the others, it takes its own nodes and, once more, the path to its first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.models.local.common_start import common_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local.common_start import Symbols
    from promptopt.models.local.trie import Ints

_SLACK = 1.05  # a part may be so much larger than it must be, if the cut then falls where less is shared


class Sorted(NamedTuple):
    """Sequences in sorted order.

    Args:
        order: [sequences], their indices.
        shared: [sequences], symbols of the start that each shares with the one before it.
        before: [sequences + 1], distinct symbols of all that come before; the last is the number of all.
    """

    order: list[int]
    shared: Ints
    before: Ints


def in_order(sequences: Sequence[Symbols], extra: Sequence[int] | None = None) -> Sorted:
    """Sort sequences, and count what each adds.

    Args:
        sequences: texts, or tuples of tokens.
        extra: [sequences], symbols that each takes besides, and shares with no other.
    """
    order: list[int] = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered: list[Symbols] = [sequences[i] for i in order]
    shared = np.array([0, *map(common_start, ordered, ordered[1:])][: len(order)], np.int64)
    own = np.array([len(sequence) for sequence in ordered], np.int64) - shared
    if extra is not None:
        own += np.array([extra[i] for i in order], np.int64)
    return Sorted(order, shared, np.concatenate([[0], np.cumsum(own)]))


def cut(sequences: Sorted, most: int) -> list[list[int]]:
    """Cut sequences into at most `most` parts of about equal distinct symbols.

    The largest part is at most 5 % larger than it must be; within that, cuts are where the least is shared. The parts
    depend on the sequences and on `most` alone.

    Returns:
        The indices of each part's sequences, in sorted order; fewer parts where there are fewer sequences.
    """
    starts = _starts(sequences, _least(sequences, most), _SLACK)
    return [sequences.order[a:b] for a, b in zip(starts, [*starts[1:], None], strict=False)]


def _least(sequences: Sorted, most: int) -> int:
    """Return the smallest size of which so many parts are enough."""
    low, high = 0, int(sequences.before[-1])
    while low < high:
        middle = (low + high) // 2
        if len(_starts(sequences, middle, 1.0)) <= most:
            high = middle
        else:
            low = middle + 1
    return low


def _starts(sequences: Sorted, size: int, slack: float) -> list[int]:
    """Return the first sequence of each part; a part is as long as its size allows, and at least one sequence.

    With slack it ends where the least is shared, between its size and its size with slack. It never ends earlier than
    without, and `before - shared` never falls from a sequence to the next: so there are never more parts.
    """
    _, shared, before = sequences
    starts: list[int] = []
    start, count = 0, len(shared)
    while start < count:
        starts.append(start)
        path = before[start] - shared[start]
        first, last = (
            max(int(np.searchsorted(before, path + room, side="right")) - 1, start + 1) for room in (size, size * slack)
        )
        if last >= count:
            break
        start = first + int(np.argmin(shared[first : last + 1]))
    return starts
