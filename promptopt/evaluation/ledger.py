"""Budgets and what was used of them: calls, tokens, dollars.

Counts *logical* use, which is what the run would cost with an empty memo, so that a replay stops where the run
stopped; what was really paid is kept beside it. Knows nothing of models beyond their price.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.models.usage import Bound
from promptopt.replies import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from promptopt.models.base import Price

_UNITS = {"call": "calls", "calls": "calls", "token": "tokens", "tokens": "tokens"} | dict.fromkeys(
    ("dollar", "dollars", "usd", "$"), "dollars"
)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class Budget:
    """The most that a run may use, over all roles; None is no limit.

    Args:
        calls: replies asked of models; a scored label query is one call.
        tokens: input and output tokens.
        dollars: by the models' prices.
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
        given = [f"{value:,.10g} {name}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(given) or "no limit"


@dataclass
class Spending:
    """What one role, or all of them, used: cached and written tokens are parts of the input, dollars of known prices."""

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
        """Count one call, for a share of the price."""
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
    """One account over all roles of a run (task model, writer, judge).

    Args:
        limit: what may be used so far; the harness raises it from stage to stage.
        logical: what the run would cost with an empty memo, by role.
        paid: what was asked of the models, by role.
        widest: the most that one call could use so far, by role.
        unreported: keys of the calls whose tokens the server did not say, or that cannot be true, by role: each counts as the
            most that it can take.
        stage: of the run, for whoever looks.
    """

    limit: Budget = field(default_factory=Budget)
    logical: dict[str, Spending] = field(default_factory=dict)
    paid: dict[str, Spending] = field(default_factory=dict)
    widest: dict[str, Bound] = field(default_factory=dict)
    unreported: dict[str, set[str]] = field(default_factory=dict)
    stage: str = ""
    _asked: set[str] = field(default_factory=set)
    _failed: set[str] = field(default_factory=set)
    _reserved: dict[str, Bound] = field(default_factory=dict)
    _held: Bound = field(default_factory=Bound)

    @property
    def failed(self) -> int:
        """Number of calls that never got a reply, however often they were tried."""
        return len(self._failed)

    @property
    def weighs(self) -> bool:
        """Whether tokens or dollars are limited, so that each call has to be weighed."""
        return self.limit.tokens is not None or self.limit.dollars is not None

    def admit(self, role: str, keys: Sequence[str], *, by_mean: bool = False) -> None:
        """Let the calls behind `keys` pass, or refuse all of them, by their number.

        A key that this run asked for before costs nothing.

        Args:
            role: who asks.
            keys: of the calls.
            by_mean: weigh tokens and dollars too, taken to be what this role's calls took on average.

        Raises:
            BudgetExhaustedError: they would overstep the limit.
        """
        new = sum(key not in self._asked for key in dict.fromkeys(keys))
        used, mine = self.total(self.logical), self.logical.get(role, Spending())
        wanted = {"calls": float(new)}
        if by_mean:
            share = new / max(mine.calls, 1)
            wanted |= {"tokens": share * mine.tokens, "dollars": share * mine.dollars}
        for name, more in wanted.items():
            limit: float | None = getattr(self.limit, name)
            spent = getattr(used, name)
            if limit is not None and new and spent + more > limit:
                raise BudgetExhaustedError(
                    _exhausted(name, "used", spent, limit, f"the next {new} calls need about {more:,.6g}")
                )

    def reserve(self, role: str, key: str, bound: Bound) -> None:
        """Hold back the most that a call can use until `record` says what it did use.

        A reply that this run has costs nothing.

        Raises:
            BudgetExhaustedError: with what is used and what others hold back it could overstep the limit.
        """
        if key in self._asked and key not in self._failed:
            return
        widest = self.widest.get(role, Bound())
        self.widest[role] = Bound(max(widest.tokens, bound.tokens), max(widest.dollars, bound.dollars))
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
        """Give back what calls held that will not be recorded."""
        for key in keys:
            bound = self._reserved.pop(key, None)
            if bound is not None:
                self._held = Bound(self._held.tokens - bound.tokens, self._held.dollars - bound.dollars)

    def record(self, role: str, key: str, usage: Usage, price: Price | None, *, paid: bool, share: float = 1.0) -> None:
        """Count one reply: logically the first time that this run has it, as paid if it came from the model.

        `share` of the price was paid, as in batches.
        """
        if key in self._reserved:
            self.release([key])
        mine = self.logical.setdefault(role, Spending())
        if key in self._failed:  # its call is counted, its tokens are not
            self._failed.remove(key)
            mine.calls -= 1
            mine.add(usage, price)
        elif key not in self._asked:
            mine.add(usage, price)
        self._asked.add(key)
        if paid:
            self.paid.setdefault(role, Spending()).add(usage, price, share)

    def record_failure(self, role: str, key: str) -> None:
        """Count one call without a reply: it takes a call and no tokens."""
        self.record(role, key, Usage(), None, paid=True)
        self._failed.add(key)

    def total(self, roles: Mapping[str, Spending]) -> Spending:
        """Sum over roles."""
        return sum(roles.values(), Spending())

    def left(self) -> dict[str, float]:
        """Return what is left of each limit that there is."""
        used = self.total(self.logical)
        limits = asdict(self.limit)
        return {name: max(limit - getattr(used, name), 0.0) for name, limit in limits.items() if limit is not None}

    def notes(self) -> list[str]:
        """Return what a reader of the account should know: calls of a model whose tokens are not the server's count."""
        return [
            f"{len(keys)} of {self.logical[role].calls} replies of the {role} model came without a believable count of "
            "tokens: each counts as the most that it could have taken, so tokens and dollars are an upper bound"
            for role, keys in self.unreported.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the logical account by role."""
        return {role: asdict(spending) for role, spending in self.logical.items()}


def _exhausted(name: str, what: str, used: float, limit: float, wanted: str) -> str:
    if used >= limit:
        return f"budget exhausted: {limit:,.6g} of {limit:,.6g} {name} {what}"
    return f"budget exhausted: {used:,.6g} of {limit:,.6g} {name} {what}, and {wanted}"


def _parse_limit(part: str) -> tuple[str, float]:
    found = re.fullmatch(r"\s*(\$?)\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*([A-Za-z$]*)\s*", part.replace("_", ""))
    if found is not None:
        unit = _UNITS.get(found[4].lower() or found[1])
        if unit is not None and (unit == "dollars" or not found[1]):
            return unit, float(found[2]) * _FACTORS[found[3].lower()]
    raise InputError(f"cannot read the budget {part.strip()!r}: write '500 calls', '1M tokens' or '2 dollars'")
