"""The front of a run with several objectives: its points, their test, and both in words.

Plain values; knows nothing of how they were obtained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt.statistics import Interval  # noqa: TC001  read when a result is loaded

if TYPE_CHECKING:
    from collections.abc import Sequence

FRONT_HEADS = (
    "candidate",
    "objective",
    "training and validation",
    "test",
    "minus seed prompt",
    "simultaneous interval",
)
"""Column headings of `front_rows`."""


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One prompt of the front.

    Args:
        number: number of the candidate.
        means: objective -> its mean on training and validation examples, by which the prompt is on the front; None if unknown.
    """

    number: int
    means: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class FrontTest:
    """The test of one prompt of the front, on the same examples as that of the seed prompt.

    Args:
        means: objective -> its mean on test examples; None if every reply failed.
        over_seed: objective -> its paired difference from the seed prompt, with its interval. All intervals of a front hold
            together with 95 % confidence (Bonferroni).
    """

    means: dict[str, float | None]
    over_seed: dict[str, Interval]


def front_rows(
    points: Sequence[FrontPoint], tests: Sequence[FrontTest], recommended: int | None
) -> list[tuple[str, ...]]:
    """Return the front as rows under `FRONT_HEADS`, one for each point and objective.

    Args:
        points: of the front.
        tests: of the points, in their order; () without a test.
        recommended: number of the recommended candidate, which is marked.
    """
    rows = []
    for i, point in enumerate(points):
        name = f"{point.number}{' (recommended)' if point.number == recommended else ''}"
        for objective, mean in point.means.items():
            row = [name, objective, value_text(mean)]
            if tests:
                over = tests[i].over_seed[objective]
                row += [value_text(tests[i].means[objective]), value_text(over.estimate, "+")]
                row.append(f"{value_text(over.low, '+')} to {value_text(over.high, '+')}")
            else:
                row += ["", "", ""]
            rows.append(tuple(row))
            name = ""
    return rows


def front_outcome(number: str, points: int, prefer: str, test: FrontTest | None) -> str:
    """Return what is recommended and what its test shows, as sentences.

    Args:
        number: the recommended prompt in words.
        points: on the front.
        prefer: by which it is recommended.
        test: of it, if there was one.
    """
    chosen = (
        f"A front of {points} prompts; recommended by {prefer!r}: {number}."
        if points > 1
        else f"One prompt is best in every objective: {number}."
    )
    if test is None:
        return f"{chosen} It was not tested: nothing is claimed."
    if not any(end for interval in test.over_seed.values() for end in interval):  # it is the seed prompt
        return f"{chosen} On test data: {', '.join(f'{name} {value_text(mean)}' for name, mean in test.means.items())}."
    parts = [
        f"{name} {value_text(over.estimate, '+')} ({value_text(over.low, '+')} to {value_text(over.high, '+')})"
        for name, over in test.over_seed.items()
    ]
    return f"{chosen} On test data, against the seed prompt: {', '.join(parts)}; simultaneous 95 % intervals."


def value_text(value: float | None, sign: str = "") -> str:
    """Format the value of an objective: three decimals, or four digits of a number below 0.1 or above 100."""
    if value is None:
        return ""
    value += 0.0  # no -0
    small_or_large = value and not 0.1 <= abs(value) < 100  # noqa: PLR2004
    return f"{value:{sign}.4g}" if small_or_large else f"{value:{sign}.3f}"
