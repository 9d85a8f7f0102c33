"""Successive halving: evaluate candidates on growing numbers of examples, and keep the best part each time.

Jamieson and Talwalkar 2016. Knows neither prompts nor scores. `Run.race` drops by statistical tests instead of by rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from promptopt.evaluation.racing import sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")


def doubling(first: int, total: int) -> list[int]:
    """Return the numbers of examples of the rounds: `first`, twice as many, and so on up to `total`."""
    return sizes(total, first)


def successive_halving(
    candidates: Sequence[T],
    rounds: Iterable[int],
    rank: Callable[[list[T], int], list[T]],
    keep: Callable[[int], int],
    *,
    enough: int = 0,
) -> list[T]:
    """Return the candidates that remain after all rounds, best first.

    Args:
        candidates: to choose from.
        rounds: number of examples of each round, as `doubling` returns.
        rank: evaluates candidates on that many of the first examples; returns them best first, without those to drop at once.
        keep: maps the number of candidates in a round to the most that remain after it.
        enough: no further round once at most this many remain.
    """
    remaining = list(candidates)
    for size in rounds:
        if len(remaining) <= enough:
            break
        remaining = rank(remaining, size)[: keep(len(remaining))]
    return remaining
