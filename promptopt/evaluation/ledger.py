"""Budgets and usage: calls, tokens, dollars.

Budgets count *logical* usage, which is what the run would cost with an empty memo, so that a replay stops where the run
stopped. Actual spending is recorded separately. Knows nothing of models beyond their price.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.models.usage import Bound
from promptopt.replies import NO_USAGE, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Price

_UNITS = {"call": "calls", "calls": "calls", "token": "tokens", "tokens": "tokens"} | dict.fromkeys(
    ("dollar", "dollars", "usd", "$"), "dollars"
)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class Budget:
    """Limits of a run over all roles; None is no limit.

    Args:
        calls: number of model replies; scoring the labels of one context is one call.
        tokens: input and output tokens.
        dollars: cost at the models' prices.
    """

    calls: float | None = None
    tokens: float | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise InputError(f"a budget of {value} {name} allows nothing: give a positive number")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read '500 calls', '1M tokens', '2 dollars' or '$2', several joined by commas.

        Raises:
            InputError: anything else.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            unit, value = _parse_limit(part)
            if unit in limits:
                raise InputError(f"the budget {text!r} gives {unit} twice: give each once")
            limits[unit] = value
        return cls(**limits)

    def __str__(self) -> str:
        limits = [f"{value:,.10g} {name}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(limits) or "no limit"


@dataclass
class Spending:
    """Usage of one role or of all roles. Cached and written tokens are part of the input; dollars cover known prices only."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    written_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def add(self, usage: Usage, price: Price | None, share: float = 1.0) -> None:
        """Add one call, at a share of its price."""
        self.calls += 1
        self.input_tokens += usage.input
        self.cached_tokens += usage.cached
        self.output_tokens += usage.output
        self.written_tokens += usage.written
        if price is not None:
            self.dollars += price.of(usage) * share

    def __add__(self, other: Spending) -> Spending:
        mine, theirs = vars(self), vars(other)
        return Spending(**{name: mine[name] + theirs[name] for name in mine})

    def __sub__(self, other: Spending) -> Spending:
        mine, theirs = vars(self), vars(other)
        return Spending(**{name: mine[name] - theirs[name] for name in mine})


@dataclass
class Ledger:
    """The usage of a run over all roles (task model, writer, judge), and its limit.

    Args:
        limit: current limit; `stage` replaces it for a stage of the run.
        logical: usage that the run would have with an empty memo, by role.
        paid: usage of the calls that were actually made, by role. A call that failed and was made again counts once.
        largest_bound: largest upper bound of a single call so far, by role.
        largest_usage: largest counts of a single call so far, by role.
        unreported: keys of calls whose token counts the server did not report, or reported implausibly, by role; each counts
            as its upper bound.
        stage_name: current stage of the run, or "".
        waiting_for: role of the model that is being called, or "".
    """

    limit: Budget = field(default_factory=Budget)
    logical: dict[str, Spending] = field(default_factory=dict)
    paid: dict[str, Spending] = field(default_factory=dict)
    largest_bound: dict[str, Bound] = field(default_factory=dict)
    largest_usage: dict[str, Usage] = field(default_factory=dict)
    unreported: dict[str, set[str]] = field(default_factory=dict)
    stage_name: str = ""
    waiting_for: str = ""
    _asked: set[str] = field(default_factory=set)
    _failed: set[str] = field(default_factory=set)
    _reserved: dict[str, Bound] = field(default_factory=dict)
    _held: Bound = field(default_factory=Bound)

    @contextmanager
    def stage(self, name: str, limit: Budget) -> Iterator[None]:
        """Limit all usage so far and in this stage to `limit`; afterwards restore the former stage and limit."""
        before = self.stage_name, self.limit
        self.stage_name, self.limit = name, limit
        try:
            yield
        finally:
            self.stage_name, self.limit = before

    @property
    def failed(self) -> int:
        """Number of calls that got no reply after all retries."""
        return len(self._failed)

    @property
    def meters_tokens(self) -> bool:
        """Whether tokens or dollars are limited, so that each call must reserve its upper bound."""
        return self.limit.tokens is not None or self.limit.dollars is not None

    @property
    def calls_left(self) -> float:
        """Number of calls that the limit still allows; infinite without a limit on calls."""
        return math.inf if self.limit.calls is None else self.limit.calls - self.total(self.logical).calls

    def has_reply(self, key: str) -> bool:
        """Whether this run has asked for a call and got a reply, so that asking again costs nothing."""
        return key in self._asked and key not in self._failed

    def affordable(self, keys: Sequence[str]) -> int:
        """Return how many of the first calls the limit on calls covers. A key that was asked for before costs nothing."""
        left, new = self.calls_left, set[str]()
        for index, key in enumerate(keys):
            if key not in self._asked:
                new.add(key)
                if len(new) > left:
                    return index
        return len(keys)

    def admit(self, role: str, keys: Sequence[str], *, estimate_from_mean: bool = False) -> None:
        """Check that the budget covers a number of calls, all or none.

        A key that this run has asked for before costs nothing.

        Args:
            role: role of the model.
            keys: keys of the calls.
            estimate_from_mean: check tokens and dollars too, estimated from the mean of this role's calls so far.

        Raises:
            BudgetExhaustedError: the calls would exceed the limit.
        """
        new = sum(key not in self._asked for key in dict.fromkeys(keys))
        used, of_role = self.total(self.logical), self.logical.get(role, Spending())
        wanted = {"calls": float(new)}
        if estimate_from_mean:
            share = new / max(of_role.calls, 1)
            wanted |= {"tokens": share * of_role.tokens, "dollars": share * of_role.dollars}
        for name, more in wanted.items():
            limit: float | None = getattr(self.limit, name)
            spent = getattr(used, name)
            if limit is not None and new and spent + more > limit:
                raise BudgetExhaustedError(
                    _exhausted(name, "used", spent, limit, f"the next {new} calls need about {more:,.6g}")
                )

    def reserve(self, role: str, key: str, bound: Bound) -> None:
        """Reserve the upper bound of a call until `record` replaces it by the actual usage.

        A reply that this run already has costs nothing.

        Raises:
            BudgetExhaustedError: usage, reservations and this bound together exceed the limit.
        """
        if self.has_reply(key):
            return
        largest_bound = self.largest_bound.get(role, Bound())
        self.largest_bound[role] = Bound(
            max(largest_bound.tokens, bound.tokens), max(largest_bound.dollars, bound.dollars)
        )
        for name, limit in (("tokens", self.limit.tokens), ("dollars", self.limit.dollars)):
            if limit is None:
                continue
            more: float = getattr(bound, name)
            used = getattr(self._held, name) + sum(getattr(spent, name) for spent in self.logical.values())
            if used + more > limit:
                raise BudgetExhaustedError(
                    _exhausted(
                        name, "used or reserved", used, limit, f"the next call of the {role} model may take {more:,.6g}"
                    )
                )
        self._reserved[key] = bound
        self._held = Bound(self._held.tokens + bound.tokens, self._held.dollars + bound.dollars)

    def release(self, keys: Iterable[str]) -> None:
        """Release the reservations of calls that will not be recorded."""
        for key in keys:
            bound = self._reserved.pop(key, None)
            if bound is not None:
                self._held = Bound(self._held.tokens - bound.tokens, self._held.dollars - bound.dollars)

    def record(self, role: str, key: str, usage: Usage, price: Price | None, *, paid: bool, share: float = 1.0) -> None:
        """Count one reply: as logical usage the first time in this run, and as paid if it came from the model.

        `share` is the share of the price that was paid, below 1 for batches.
        """
        if key in self._reserved:
            self.release([key])
        mine = self.logical.setdefault(role, Spending())
        self.largest_usage[role] = Usage(*map(max, self.largest_usage.get(role, NO_USAGE), usage))
        failed_before = key in self._failed  # its call was counted, its tokens were not
        if failed_before:
            self._failed.remove(key)
            mine.calls -= 1
        if failed_before or key not in self._asked:
            mine.add(usage, price)
        self._asked.add(key)
        if paid:
            made = self.paid.setdefault(role, Spending())
            made.calls -= failed_before
            made.add(usage, price, share)

    def record_failure(self, role: str, key: str) -> None:
        """Count a call without a reply: one call, no tokens."""
        self.record(role, key, Usage(), None, paid=True)
        self._failed.add(key)

    def total(self, roles: Mapping[str, Spending]) -> Spending:
        """Sum over roles."""
        return sum(roles.values(), Spending())

    def left(self) -> dict[str, float]:
        """Return the remaining amount of each limit that is set."""
        used = self.total(self.logical)
        limits = asdict(self.limit)
        return {name: max(limit - getattr(used, name), 0.0) for name, limit in limits.items() if limit is not None}

    def notes(self) -> list[str]:
        """Return notes for the reader: calls whose token counts are upper bounds."""
        return [
            f"{len(keys)} of {self.logical[role].calls} replies of the {role} model came without a plausible "
            "token count: each counts as the most that it could have used, so tokens and dollars are an upper bound"
            for role, keys in self.unreported.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the logical usage by role."""
        return {role: asdict(spending) for role, spending in self.logical.items()}


def _exhausted(name: str, what: str, used: float, limit: float, wanted: str) -> str:
    if used >= limit:
        return f"budget exhausted: {limit:,.6g} of {limit:,.6g} {name} {what}"
    return f"budget exhausted: {used:,.6g} of {limit:,.6g} {name} {what}, and {wanted}"


def _parse_limit(part: str) -> tuple[str, float]:
    match = re.fullmatch(r"\s*(\$?)\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*([A-Za-z$]*)\s*", part.replace("_", ""))
    if match is not None:
        unit = _UNITS.get(match[4].lower() or match[1])
        if unit is not None and (unit == "dollars" or not match[1]):
            return unit, float(match[2]) * _FACTORS[match[3].lower()]
    raise InputError(f"cannot read the budget {part.strip()!r}: write '500 calls', '1M tokens' or '2 dollars'")
