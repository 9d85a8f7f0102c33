"""The longest common prefix of two sequences. Knows nothing of tokens or texts."""

from __future__ import annotations

from typing import TypeVar

Symbols = TypeVar("Symbols", str, tuple[int, ...])


def common_start(first: Symbols, second: Symbols) -> int:
    """Return the length of the longest common prefix, by bisection: comparing slices is much faster than single symbols."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
