"""Agreement of two people who labelled the same replies. Knows nothing of pages and files."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.optimization.human_claim import ITEM, PROMPT
from promptopt.statistics.agreement import cohen_kappa, rank_correlation
from promptopt.view.labels import LEFT, SAME, SCORES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.statistics import Interval
    from promptopt.view.labels import Label


class Agreement(NamedTuple):
    """How far two people agree. Intervals are of 95 %.

    Args:
        first: key of a person.
        second: key of the other.
        questions: number that both answered.
        kappa: Cohen's kappa of comparisons, quadratically weighted kappa of scores.
        ranks: Spearman's rank correlation of scores; None for comparisons, and for scores of two values, where kappa says the same.
    """

    first: str
    second: str
    questions: int
    kappa: Interval
    ranks: Interval | None


def agreements(kind: str, people: Mapping[str, Sequence[Label]]) -> list[Agreement]:
    """Return the agreement of every two people who answered a common question.

    Args:
        kind: "scores" or "comparisons".
        people: key of a person -> labels.
    """
    values = {person: dict(_value(kind, label) for label in labels if label.value) for person, labels in people.items()}
    pairs = ((one, other, values[one].keys() & values[other].keys()) for one, other in combinations(sorted(people), 2))
    return [_agreement(kind, one, other, values, sorted(common)) for one, other, common in pairs if common]


def _agreement(
    kind: str,
    first: str,
    second: str,
    values: Mapping[str, Mapping[tuple[str, ...], float]],
    common: Sequence[tuple[str, ...]],
) -> Agreement:
    a, b = (np.array([values[person][key] for key in common]) for person in (first, second))
    if kind != SCORES:
        return Agreement(first, second, len(common), cohen_kappa(a, b, weights="none"), None)
    two_values = np.unique(np.concatenate([a, b])).size <= 2  # noqa: PLR2004
    return Agreement(first, second, len(common), cohen_kappa(a, b), None if two_values else rank_correlation(a, b))


def _value(kind: str, label: Label) -> tuple[tuple[str, ...], float]:
    """Return what was asked and the answer as a number: of a comparison -1, 0 or 1, for the replies in order of their codes."""
    if kind == SCORES:
        return label.question.key, float(label.value)
    left, right = label.question.rows
    sign = 1.0 if left[PROMPT] < right[PROMPT] else -1.0  # people see the sides in different orders
    return (left[ITEM],), 0.0 if label.value == SAME else sign * (-1.0 if label.value == LEFT else 1.0)
