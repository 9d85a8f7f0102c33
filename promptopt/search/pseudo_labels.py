"""Pseudo-labels in a search: choosing the sure ones, and rewards and losses based on them. Calls no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Prompt
from promptopt.rewards import Label, LabelMargin, named_label
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.prompt import Example
    from promptopt.replies import Response
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

FEWEST = 24  # items: eight to learn on, eight to be labelled and eight to check with are too few already
_SMALL = 1e-6


@dataclass(frozen=True)
class Believed:
    """A reward for items without targets: how likely the label that a reply names is to be right.

    Args:
        labels: all labels of the task.
        beliefs: item id -> probability of each.
    """

    labels: tuple[str, ...]
    beliefs: Mapping[str, Floats]

    def __call__(self, example: Example, response: Response) -> float:
        logprobs = response.logprobs_of(self.labels)
        said = named_label(response.text, self.labels) if logprobs is None else self.labels[int(np.argmax(logprobs))]
        return 0.0 if said is None else float(self.beliefs[example.id][self.labels.index(said)])


def confident(beliefs: Floats, share: float) -> list[list[int]]:
    """Return, for each label, the numbers of the items that are surest to have it, most sure first.

    Every label has the same quota, a share of the items in all, and at least one item, so that no label can vanish.

    Args:
        beliefs: [E, L].
        share: of the items.
    """
    quota = max(1, round(share * len(beliefs) / beliefs.shape[1]))
    out = []
    for y, column in enumerate(np.nan_to_num(beliefs).T):
        order = np.argsort(-column, kind="stable").tolist()
        own = [i for i in order if np.isfinite(beliefs[i]).all() and beliefs[i].argmax() == y]
        out.append(own[:quota] or order[:1])
    return out


def cross_entropy(answers: Floats, beliefs: Floats) -> Floats:
    """Return the mean over items of -sum_y q(y) ln p(y), [P]; answers [P, B, L] that are NaN are left out."""
    each = -(beliefs[None] * np.log(np.maximum(answers, _SMALL))).sum(axis=2)
    return nanmean(each, axis=1)


def with_words(prompt: Prompt, words: Sequence[str]) -> Prompt:
    """Return the prompt with words before its text."""
    return Prompt(f"{' '.join(words)}\n{prompt.text}".rstrip(), prompt.demonstrations)


def refuse_what_needs_labels(task: Task) -> None:
    """Refuse a task that has no label words, too few items, or a reward that will need a target and find none.

    Raises:
        InputError: says which, and the mend.
    """
    if not task.labels:
        raise InputError("learning without labelled items needs to know the labels that there are: give labels")
    if len(task.train) < FEWEST:
        raise InputError(
            f"{len(task.train)} training items are too few to learn from without labels: give at least {FEWEST}, "
            "better some hundreds"
        )
    if isinstance(task.reward, Label | LabelMargin):
        for split in ("validation", "test"):
            bare = [item.id for item in getattr(task, split) if item.target is None]
            if bare:
                raise InputError(
                    f"{split} item {bare[0]!r} has no label: label the {split} items, or give training items alone (in a "
                    "task file, [data] names train and no other file)"
                )
