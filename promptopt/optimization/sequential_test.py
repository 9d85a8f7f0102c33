"""A sequential test of a paired difference: after each look at the items, the interval decides or the test goes on.

Knows nothing of prompts or models: rewards come from a function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.evaluation.racing import sizes
from promptopt.scores import groups_of
from promptopt.statistics import Interval, clustered_interval, late_alpha_spending, paired_score_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.evaluation.ledger import Ledger
    from promptopt.prompt import Example
    from promptopt.results.gate import Decision
    from promptopt.statistics.arrays import Floats

DEFAULT_ERROR = 0.05

_FIRST_LOOK = 16  # items
_LAST_STEP = 0.75  # of all items: a look after more of them would leave too little error to the last
_SAFETY_FACTOR = 1.2  # on the usage of an item as measured so far, if tokens or dollars are limited
_UNKNOWN = Interval(math.nan, -math.inf, math.inf)


class Pair(NamedTuple):
    """Rewards of both sides on the same items, [E] each; NaN where a reply failed."""

    old: Floats
    new: Floats


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the test has to show: that new minus old is above `bound`.

    Args: as of `compare_prompts`.
    """

    margin: float
    better: bool
    error: float

    @property
    def bound(self) -> float:
        """The difference to be above for "passed", and below for "worse"."""
        return 0.0 if self.better else -self.margin

    def decide(self, difference: Interval) -> Decision:
        """Return the decision that an interval allows."""
        if difference.low > self.bound:
            return "passed"
        return "worse" if difference.high < self.bound else "undecided"


@dataclass
class SequentialTest:
    """A sequential test in progress, and what it found so far.

    Args:
        aim: what it has to show.
        items: [N] in the order in which they are used.
        measure: returns the rewards of the first items; those measured before cost nothing.
        ledger: the budget, and what was used.
        decision: so far.
        difference: at the last look, with its interval.
        pair: rewards at the last look.
        looks: numbers of items after which the test looked.
        notes: remarks for the reader.
    """

    aim: Aim
    items: Sequence[Example]
    measure: Callable[[Sequence[Example]], Pair]
    ledger: Ledger
    decision: Decision = "undecided"
    difference: Interval = _UNKNOWN
    pair: Pair | None = None
    looks: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Look after 16 items, then twice as many and so on, until the interval decides or the items or the budget end.

        Raises:
            InputError: the budget does not cover the first look.
        """
        planned = look_sizes(len(self.items))
        spent = 0.0
        for size, error in zip(planned, late_alpha_spending(planned, self.aim.error), strict=True):
            affordable = self._affordable(size)
            cut = affordable < size
            # A look that the budget cuts short is the last one, and gets all of the error that is left.
            covered = (not cut or affordable > self.looks[-1]) and self._look(
                affordable, self.aim.error - spent if cut else error
            )
            spent += error
            if self.decision != "undecided":
                return
            if cut or not covered:
                self.notes.append(f"budget limits the test to {self.looks[-1]:,} of {len(self.items):,} items")
                return

    def _look(self, size: int, error: float) -> bool:
        """Measure the first items and decide; return whether the budget covered it."""
        try:
            self.pair = self.measure(self.items[:size])
        except BudgetExhaustedError as ended:
            if not self.looks:
                raise self._too_small() from ended
            return False
        self.looks.append(size)
        self.difference = self._interval(self.pair, size, 1 - error)
        self.decision = self.aim.decide(self.difference)
        return True

    def _interval(self, pair: Pair, size: int, confidence: float) -> Interval:
        groups = groups_of(self.items[:size])
        if groups is None:
            return paired_score_interval(pair.new, pair.old, confidence)
        return clustered_interval(pair.new, pair.old, groups, confidence)

    def _affordable(self, size: int) -> int:
        """Return how many of the first `size` items the budget covers, by the usage of the items so far."""
        used, done = self.ledger.total(self.ledger.logical), self.looks[-1] if self.looks else 0
        if not done:
            return size
        for name, left in self.ledger.left().items():
            per_item = getattr(used, name) / done * (1.0 if name == "calls" else _SAFETY_FACTOR)
            if per_item * (size - done) > left:
                size = done + int(left / per_item)
        return size

    def _too_small(self) -> InputError:
        least = min(_FIRST_LOOK, len(self.items))
        return InputError(
            f"the budget of {self.ledger.limit} is too small for the first look at {least} items: raise the budget"
        )


def look_sizes(items: int) -> list[int]:
    """Return the cumulative numbers of items of the looks: 16, 32, 64, ... and all; none between 3/4 of all and all."""
    out = sizes(items, _FIRST_LOOK)
    return [size for size in out if size == items or size <= _LAST_STEP * items]


def fewest_items(margin: float, error: float = DEFAULT_ERROR) -> int:
    """Return the fewest items on which 0/1 rewards that never differ show non-inferiority by `margin`."""
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    items = 1
    while True:
        quantile = float(ndtri(1 - late_alpha_spending(look_sizes(items), error)[-1] / 2))
        least = quantile**2 * (1 - margin) / margin  # Tango's score test without differences rejects above this
        if items > least:
            return items
        items += max(int(least - items) // 2, 1)
