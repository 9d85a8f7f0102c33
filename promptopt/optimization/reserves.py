"""How a budget is divided among search, choice and test, counted in cells: one prompt's reply to one item. Pure functions.

What every stage needs to compare one candidate with the seed prompt comes first; the rest goes in fixed shares to search,
choice and test, and no stage holds back more than it can use.
"""

from __future__ import annotations

from typing import NamedTuple

SHORTLIST = 16
"""Candidates re-measured on validation data at most, beside the seed prompt."""

BLOCK = 8
"""Items below which a comparison says next to nothing."""

_FEWEST_LISTED = 6  # candidates on the shortlist, before validation items are left out
_VALIDATION_SHARE, _TEST_SHARE = 0.2, 0.25  # of what is beyond the least, before the search; the search gets the rest


class RacePlan(NamedTuple):
    """A race of some candidates and the seed prompt on some validation items."""

    listed: int
    items: int

    @property
    def cells(self) -> int:
        """What it takes at most: where nobody is dropped."""
        return (self.listed + 1) * self.items


class Reserves(NamedTuple):
    """What choice and test hold back."""

    race: RacePlan
    test_items: int

    @property
    def cells(self) -> int:
        """What they take at most; the test is of two prompts."""
        return self.race.cells + 2 * self.test_items


def least_cells(train: int, validation: int, test: int, test_replies: int = 1) -> int:
    """Return what it takes to compare one candidate: it and the seed prompt on every stage's first items."""
    return 2 * (train + min(BLOCK, validation) + test_replies * min(BLOCK, test))


def before_search(cells: float, train: int, validation: int, test: int) -> Reserves:
    """Return what to hold back of a budget of so many cells, given the items of each split."""
    spare = max(cells - least_cells(train, validation, test), 0.0)
    return _reserves(validation, test, spare * _VALIDATION_SHARE, spare * _TEST_SHARE)


def after_search(cells: float, validation: int, test: int, candidates: int) -> Reserves:
    """Return what choice and test get of the cells that the search left, given the candidates there are."""
    least = least_cells(0, validation, test)
    if cells < least:  # the search's replies were longer than expected
        share = max(cells, 0.0) / least
        return Reserves(
            race_plan(share * 2 * min(BLOCK, validation), validation, candidates), int(share * min(BLOCK, test))
        )
    validation_share = _VALIDATION_SHARE / (_VALIDATION_SHARE + _TEST_SHARE)
    spare = cells - least
    found = _reserves(validation, test, spare * validation_share, spare * (1 - validation_share), candidates)
    rest = cells - 2 * found.test_items  # what the test does not need
    race = race_plan(rest, validation, candidates)
    return Reserves(race, affordable(cells - race.cells, 2, test))  # and what the race does not need goes back


def race_plan(cells: float, items: int, candidates: int = SHORTLIST) -> RacePlan:
    """Return the largest race that so many cells pay for, whoever is dropped.

    With little to spend, few candidates that are measured well are better than many that are not.
    """
    listed = min(candidates, SHORTLIST)
    while listed > _FEWEST_LISTED and cells < (listed + 1) * items:
        listed -= 1
    while listed > 1 and cells < (listed + 1) * min(BLOCK, items):
        listed -= 1
    return RacePlan(listed, affordable(cells, listed + 1, items))


def affordable(cells: float, prompts: int, items: int) -> int:
    """Return on how many of the items so many prompts can be tried."""
    return int(max(min(cells / prompts, items), 0))


def _reserves(
    validation: int, test: int, more_validation: float, more_test: float, candidates: int = SHORTLIST
) -> Reserves:
    race = race_plan(2 * min(BLOCK, validation) + more_validation, validation, candidates)
    return Reserves(race, affordable(2 * min(BLOCK, test) + more_test, 2, test))
