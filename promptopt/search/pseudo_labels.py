"""Pseudo-labels in a search: selecting confident ones, and rewards and losses based on them. Asks no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Prompt
from promptopt.rewards import LABEL_REWARDS, named_label
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.prompt import Example
    from promptopt.replies import Response
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

MIN_EXAMPLES = 24  # eight each to learn from, to label and to check with
_MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class ExpectedCorrectness:
    """A reward for examples without targets: the posterior probability of the label that a reply names.

    Args:
        labels: all labels of the task.
        label_posteriors: example id -> [L] probability of each label.
    """

    labels: tuple[str, ...]
    label_posteriors: Mapping[str, Floats]

    def __call__(self, example: Example, response: Response) -> float:
        logprobs = response.logprobs_of(self.labels)
        predicted = (
            named_label(response.text, self.labels) if logprobs is None else self.labels[int(np.argmax(logprobs))]
        )
        return 0.0 if predicted is None else float(self.label_posteriors[example.id][self.labels.index(predicted)])


def confident(label_posteriors: Floats, share: float) -> list[list[int]]:
    """Return, for each label, the indices of the most confident examples, most confident first.

    All labels have the same quota, and at least one example each, so that no label vanishes.

    Args:
        label_posteriors: [E, L].
        share: share of the examples to return, over all labels.
    """
    quota = max(1, round(share * len(label_posteriors) / label_posteriors.shape[1]))
    out = []
    for y, column in enumerate(np.nan_to_num(label_posteriors).T):
        order = np.argsort(-column, kind="stable").tolist()
        predicted = [i for i in order if np.isfinite(label_posteriors[i]).all() and label_posteriors[i].argmax() == y]
        out.append(predicted[:quota] or order[:1])
    return out


def cross_entropy(answers: Floats, label_posteriors: Floats) -> Floats:
    """Return the mean over items of -sum_y q(y) ln p(y), [P]; NaN answers [P, B, L] are left out."""
    per_example = -(label_posteriors[None] * np.log(np.maximum(answers, _MIN_PROBABILITY))).sum(axis=2)
    return nanmean(per_example, axis=1)


def with_words(prompt: Prompt, words: Sequence[str]) -> Prompt:
    """Return the prompt with `words` before its text."""
    return Prompt(f"{' '.join(words)}\n{prompt.text}".rstrip(), prompt.demonstrations)


def refuse_what_needs_labels(task: Task) -> None:
    """Refuse a task without labels, with too few examples, or with a reward that needs missing targets.

    Raises:
        InputError: names the problem and the fix.
    """
    if not task.labels:
        raise InputError("learning without labelled items needs the set of possible labels: give labels")
    if len(task.train) < MIN_EXAMPLES:
        raise InputError(
            f"{len(task.train)} training items are too few to learn from without labels: give at least {MIN_EXAMPLES}, "
            "better some hundreds"
        )
    if isinstance(task.reward, LABEL_REWARDS):
        for split in ("validation", "test"):
            unlabelled = [item.id for item in getattr(task, split) if item.target is None]
            if unlabelled:
                raise InputError(
                    f"{split} item {unlabelled[0]!r} has no label: label the {split} items, or give training items alone (in a "
                    "task file, [data] names train and no other file)"
                )
