"""Division of a budget among search, validation and test, in cells: one reply to a prompt on an example. Pure functions.

Each stage first gets what it needs to compare one candidate with the seed prompt. The rest is divided in fixed shares, and
no stage reserves more than it can use.
"""

from __future__ import annotations

from typing import NamedTuple

SHORTLIST = 16
"""Most candidates raced on validation data, besides the seed prompt."""

FRONT = 6
"""Most prompts tested of a front, the seed prompt among them."""

BLOCK = 8
"""Fewest examples for a meaningful comparison."""

_MIN_SHORTLIST = 6  # shorten the list to this before reducing the validation examples
_VALIDATION_SHARE, _TEST_SHARE = 0.2, 0.25  # of the budget beyond the minimum; the search gets the rest


class RacePlan(NamedTuple):
    """A race of `listed` candidates and the seed prompt on `items` validation examples."""

    listed: int
    items: int

    @property
    def cells(self) -> int:
        """Most cells that it uses: if no prompt is dropped."""
        return (self.listed + 1) * self.items


class Reserves(NamedTuple):
    """Reserves for validation and test."""

    race: RacePlan
    test_items: int


def least_cells(train: int, validation: int, test: int, test_replies: int = 1, tested: int = 2) -> int:
    """Return the fewest cells to compare one candidate with the seed prompt, on the first examples of every stage.

    Args:
        train: number of training examples; so for validation and test.
        validation: as above.
        test: as above.
        test_replies: replies per prompt and test example.
        tested: prompts in the test: two, or as many as a front may have.
    """
    return 2 * (train + min(BLOCK, validation)) + tested * test_replies * min(BLOCK, test)


def before_search(cells: float, train: int, validation: int, test: int, tested: int = 2) -> Reserves:
    """Return the reserves within a budget of `cells`, given the number of examples in each split."""
    spare = max(cells - least_cells(train, validation, test, tested=tested), 0.0)
    return _reserves(validation, test, spare * _VALIDATION_SHARE, spare * _TEST_SHARE, tested=tested)


def after_search(cells: float, validation: int, test: int, candidates: int, tested: int = 2) -> Reserves:
    """Return how validation and test divide the cells that the search has left."""
    least = least_cells(0, validation, test, tested=tested)
    if cells < least:  # the search's replies were longer than expected
        share = max(cells, 0.0) / least
        return Reserves(
            race_plan(share * 2 * min(BLOCK, validation), validation, candidates), int(share * min(BLOCK, test))
        )
    validation_share = _VALIDATION_SHARE / (_VALIDATION_SHARE + _TEST_SHARE)
    spare = cells - least
    reserves = _reserves(
        validation, test, spare * validation_share, spare * (1 - validation_share), candidates=candidates, tested=tested
    )
    race = race_plan(
        cells - tested * reserves.test_items, validation, candidates
    )  # gets all that the test does not need
    return Reserves(race, affordable(cells - race.cells, tested, test))  # the test gets what the race does not need


def race_plan(cells: float, items: int, candidates: int = SHORTLIST) -> RacePlan:
    """Return the largest race that `cells` cover even if no prompt is dropped.

    With a small budget, a few candidates on many examples are better than many candidates on a few.
    """
    listed = min(candidates, SHORTLIST)
    while listed > _MIN_SHORTLIST and cells < (listed + 1) * items:
        listed -= 1
    while listed > 1 and cells < (listed + 1) * min(BLOCK, items):
        listed -= 1
    return RacePlan(listed, affordable(cells, listed + 1, items))


def affordable(cells: float, prompts: int, items: int) -> int:
    """Return on how many of the examples `prompts` prompts can be scored."""
    return int(max(min(cells / prompts, items), 0))


def _reserves(
    validation: int,
    test: int,
    more_validation: float,
    more_test: float,
    *,
    candidates: int = SHORTLIST,
    tested: int = 2,
) -> Reserves:
    race = race_plan(2 * min(BLOCK, validation) + more_validation, validation, candidates)
    return Reserves(race, affordable(tested * min(BLOCK, test) + more_test, tested, test))
