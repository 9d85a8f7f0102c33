"""How a budget is divided among search, choice and test: pure numbers."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from promptopt.optimization.reserves import (
    FRONT,
    SHORTLIST,
    RacePlan,
    affordable,
    after_search,
    before_search,
    least_cells,
    race_plan,
)

ITEMS = st.integers(0, 300)
CELLS = st.floats(0, 20_000)


TESTED = st.sampled_from([2, FRONT])


@given(st.integers(1, 300), ITEMS, ITEMS, CELLS, TESTED)
def test_search_choice_and_test_each_get_what_one_candidate_takes(
    train: int, validation: int, test: int, more: float, tested: int
) -> None:
    cells = least_cells(train, validation, test, tested=tested) + more
    held = before_search(cells, train, validation, test, tested)
    reserved = held.race.cells + tested * held.test_items

    assert 2 * train + reserved <= cells + 1e-6
    assert min(8, validation) <= held.race.items <= validation
    assert min(8, test) <= held.test_items <= test
    assert 1 <= held.race.listed <= SHORTLIST
    assert cells - reserved >= 0.55 * more  # the search's share


@example(validation=0, test=10, cells=20.0, candidates=1, tested=2)  # no race: its share is the test's
@given(ITEMS, ITEMS, st.floats(0, 20_000), st.integers(1, 60), TESTED)
def test_what_the_search_left_is_shared_out_and_no_more(
    validation: int, test: int, cells: float, candidates: int, tested: int
) -> None:
    got = after_search(cells, validation, test, candidates, tested)

    assert got.race.cells + tested * got.test_items <= cells + 1e-6
    assert got.race.listed <= min(candidates, SHORTLIST)
    if cells >= (min(candidates, SHORTLIST) + 1) * validation + tested * test:  # there is enough for all
        assert got == (RacePlan(min(candidates, SHORTLIST), validation), test)


@given(ITEMS, ITEMS, CELLS, st.floats(0, 500), st.integers(1, 60))
def test_more_cells_are_never_fewer_test_items(
    validation: int, test: int, cells: float, more: float, candidates: int
) -> None:
    assert after_search(cells, validation, test, candidates).test_items <= (
        after_search(cells + more, validation, test, candidates).test_items
    )


def test_without_a_limit_all_items_are_held_back_for() -> None:
    assert before_search(math.inf, 20, 30, 40) == (RacePlan(SHORTLIST, 30), 40)
    assert after_search(math.inf, 30, 40, 3) == (RacePlan(3, 30), 40)


def test_little_is_spent_on_few_candidates_rather_than_on_few_items() -> None:
    assert race_plan(17 * 40, 40) == (16, 40)
    assert race_plan(10 * 40, 40) == (9, 40)
    assert race_plan(100, 40) == (6, 14)
    assert race_plan(40, 40) == (4, 8)
    assert race_plan(16, 40) == (1, 8)
    assert race_plan(6, 40) == (1, 3)
    assert race_plan(-5, 40) == (1, 0)


def test_what_is_affordable_is_between_none_and_all() -> None:
    assert [affordable(cells, 2, 10) for cells in (-3, 1, 7, 25, math.inf)] == [0, 0, 3, 10, 10]
