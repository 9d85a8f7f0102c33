"""Scores: the rewards of prompts on examples, with their replies. Pure values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from promptopt._moved import of_scores
from promptopt.statistics.arrays import Floats, nanmean, paired_difference, standard_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.replies import Failure, Response


class _Grouped(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str | None: ...


def groups_of(items: Sequence[_Grouped]) -> tuple[str, ...] | None:
    """Return the group of each item, such as an example, for intervals; None if no item has one.

    An item without a group is a group by itself.
    """
    if all(item.group is None for item in items):
        return None
    return tuple(json.dumps(["id", item.id] if item.group is None else [item.group]) for item in items)


@dataclass(frozen=True)
class Scores:
    """Rewards of P prompts on E examples with R replicates each, and their replies.

    Args:
        prompts: [P].
        examples: [E].
        rewards: float64 [P, E, R]; NaN if the reply failed.
        replies: `[P][E][R]`.
        reasons: `[P][E][R]`; the reward's explanations, "" if it gave none.
        named: further numbers that the reward returned, by name, [P, E, R] each; NaN where it did not.
    """

    prompts: tuple[Prompt, ...]
    examples: tuple[Example, ...]
    rewards: Floats
    replies: Sequence[Sequence[Sequence[Response | Failure]]]
    reasons: Sequence[Sequence[Sequence[str]]]
    named: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def per_example(self) -> Floats:
        """Mean over successful replicates, [P, E]; NaN if there are none."""
        return nanmean(self.rewards, axis=2)

    @property
    def mean(self) -> Floats:
        """Mean over examples of the mean over replicates, [P]; NaN if all replies failed."""
        return nanmean(self.per_example, axis=1)

    @property
    def standard_error(self) -> Floats:
        """Standard error of `mean`, clustered by example, [P]; NaN for fewer than two examples."""
        return standard_error(self.per_example)

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The groups of the examples, [E], as `groups_of` returns them."""
        return groups_of(self.examples)

    @property
    def failed(self) -> int:
        """Number of cells without a reply."""
        return int(np.isnan(self.rewards).sum())

    def rows(self, kept: Sequence[int]) -> Scores:
        """Return the scores of the prompts with the indices `kept`, in that order."""
        return Scores(
            tuple(self.prompts[i] for i in kept),
            self.examples,
            self.rewards[list(kept)],
            [self.replies[i] for i in kept],
            [self.reasons[i] for i in kept],
            {name: values[list(kept)] for name, values in self.named.items()},
        )

    def joined(self, other: Scores) -> Scores:
        """Return these scores followed by those of other prompts on the same examples."""
        return Scores(
            (*self.prompts, *other.prompts),
            self.examples,
            np.concatenate([self.rewards, other.rewards]),
            [*self.replies, *other.replies],
            [*self.reasons, *other.reasons],
            {name: np.concatenate([self._number(name), other._number(name)]) for name in {**self.named, **other.named}},
        )

    def _number(self, name: str) -> Floats:
        return self.named.get(name, np.full(self.rewards.shape, np.nan))

    def paired_difference(self, first: int, second: int) -> Floats:
        """Return the reward of prompt `first` minus that of `second` on the examples that both have, [E' <= E].

        Only replicates that both have are compared, so a failure on one side removes the cell from both.
        """
        return paired_difference(self.rewards[first], self.rewards[second])


def __getattr__(name: str) -> Any:
    return of_scores(name)
