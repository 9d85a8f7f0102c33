"""Successive halving, on numbers that are their own scores."""

from __future__ import annotations

from promptopt.search.halving import doubling, successive_halving


def test_rounds_double_to_the_total() -> None:
    assert doubling(3, 20) == [3, 6, 12, 20]
    assert doubling(8, 5) == [5]


def test_the_best_half_remains_of_each_round_until_enough_are_left() -> None:
    rounds: list[tuple[int, int]] = []

    def rank(numbers: list[int], size: int) -> list[int]:
        rounds.append((len(numbers), size))
        return sorted(numbers, reverse=True)

    half = lambda count: (count + 1) // 2  # noqa: E731
    assert successive_halving(range(16), [8, 16, 32], rank, half) == [15, 14]
    assert rounds == [(16, 8), (8, 16), (4, 32)]
    assert successive_halving(range(16), [8, 16, 32], rank, half, enough=4) == [15, 14, 13, 12]
    assert rounds[3:] == [(16, 8), (8, 16)]


def test_candidates_that_a_ranking_leaves_out_are_dropped_at_once() -> None:
    assert successive_halving([3, -1, -2, 5], [1, 2], lambda n, _: sorted(x for x in n if x > 0), len_third) == [3]
    assert successive_halving([-1], [1, 2], lambda n, _: [x for x in n if x > 0], len_third) == []


def len_third(count: int) -> int:
    return -(-count // 3)
