"""Pseudo-labels: choosing the sure ones, rewards and losses by them, and their way into fine-tuning. No model is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import InputError
from promptopt.prompt import Layout, Message, Prompt
from promptopt.rewards import Label, LabelMargin, named_label
from promptopt.scores import nanmean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.prompt import Example
    from promptopt.result import Result
    from promptopt.scores import Floats, Response
    from promptopt.task import Task

FEWEST = 24  # items: eight to learn on, eight to be labelled and eight to check with are too few already

_SMALL = 1e-6


class PseudoLabel(NamedTuple):
    """What a search without labels took an item for.

    Args:
        id: of the training item.
        label: the likeliest.
        confidence: its probability.
    """

    id: str
    label: str
    confidence: float


def pseudo_labels(result: Result) -> list[PseudoLabel]:
    """Return the labels that an unsupervised strategy gave the training items, in their order.

    Raises:
        InputError: the result is of another strategy, or of a run that did not come so far.
    """
    found = [step["pseudo_labels"] for step in result.steps if "pseudo_labels" in step]
    if not found:
        raise InputError(f"the result of {result.strategy.get('name')} holds no pseudo-labels: use 'unsupervised'")
    return [PseudoLabel(*row) for row in json.loads(found[-1])]


def write_fine_tuning(path: Path | str, task: Task, labels: Sequence[PseudoLabel], least: float = 0.9) -> int:
    """Write the sure items as fine-tuning data, a chat a line: `{"messages": [...]}`, as OpenAI and others read it.

    Args:
        path: of the file, ending in .jsonl; overwritten.
        task: whose seed prompt and items are shown.
        labels: what the assistant answers.
        least: confidence below which an item is left out.

    Returns:
        The number of lines.

    Raises:
        InputError: no item is that sure.
    """
    sure = {label.id: label.label for label in labels if label.confidence >= least}
    layout = Layout(task.fields, task.template)  # turns of a chat, whatever the task's own format
    chats = [
        [*layout.render(task.seed_prompt, item), Message("assistant", sure[item.id])]
        for item in task.train
        if item.id in sure
    ]
    if not chats:
        raise InputError(f"no item has a confidence of {least}: lower `least`, or mistrust the labels")
    lines = [json.dumps({"messages": [turn._asdict() for turn in chat]}, ensure_ascii=False) for chat in chats]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


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
