"""Which token sequences share a start long enough to be computed once. Pure functions over tuples of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORTH = 8  # shared tokens below which a pass of their own costs more than it saves
_FULL = 0.8  # share of a padded batch that should be tokens
_SMALL = 256  # tokens below which a batch is too small for fast matrix products, however well it is filled


class Group(NamedTuple):
    """Sequences with a common prefix.

    Args:
        shared: tokens in the prefix, fewer than any member has; 0 where sharing does not pay.
        members: indices of the sequences.
    """

    shared: int
    members: list[int]


def prefix_groups(sequences: Sequence[tuple[int, ...]]) -> list[Group]:
    """Group sequences so that few tokens are computed, in one greedy sweep over their sorted order.

    A group of n sequences with prefix P takes one more, which shortens the prefix to Q, where that computes no more
    tokens than a group of its own: Q + sum(length - Q) <= P + sum(length - P) + length, or n Q >= (n - 1) P.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    groups: list[Group] = []
    for i in order:
        sequence = sequences[i]
        if groups:
            shared, members = groups[-1]
            n = len(members)
            common = _common(sequences[members[0]][:shared], sequence[:-1])
            if n * common >= (n - 1) * shared and common >= _WORTH:
                groups[-1] = Group(common, [*members, i])
                continue
        groups.append(Group(len(sequence) - 1, [i]))
    return [group if len(group.members) > 1 else Group(0, group.members) for group in groups]


def like_lengths(lengths: Mapping[int, int], most: int, most_rows: int | None = None) -> list[list[int]]:
    """Cut items into batches of like length, longest first, so that little of a padded batch is padding.

    Args:
        lengths: item -> tokens.
        most: tokens in a batch, padding included; one item may have more.
        most_rows: items in a batch.
    """
    batches: list[list[int]] = []
    width = filled = 0
    for item in sorted(lengths, key=lambda i: (-lengths[i], i)):
        rows = len(batches[-1]) + 1 if batches else 0
        padded = width * rows
        fits = padded <= most and (padded <= _SMALL or filled + lengths[item] >= _FULL * padded)
        if not rows or not fits or (most_rows is not None and rows > most_rows):
            batches.append([])
            width, filled = lengths[item], 0
        batches[-1].append(item)
        filled += lengths[item]
    return batches


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the length of the longest common prefix."""
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
