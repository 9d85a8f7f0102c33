"""Pseudo-labels of a result, and their export as fine-tuning data. No model is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.prompt import as_dicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.result import Result
    from promptopt.task import Task


class PseudoLabel(NamedTuple):
    """The label that an unsupervised search gave to a training example.

    Args:
        id: id of the training example.
        label: the likeliest label.
        confidence: its probability.
    """

    id: str
    label: str
    confidence: float


def pseudo_labels(result: Result) -> list[PseudoLabel]:
    """Return the labels that an unsupervised strategy gave to the training examples, in their order.

    Raises:
        InputError: the result comes from another strategy, or from a run that ended too early.
    """
    pseudo_label_steps = [step["pseudo_labels"] for step in result.steps if "pseudo_labels" in step]
    if not pseudo_label_steps:
        raise InputError(f"the result of {result.strategy.get('name')} holds no pseudo-labels: use 'unsupervised'")
    return [PseudoLabel(*row) for row in json.loads(pseudo_label_steps[-1])]


def write_fine_tuning(path: Path | str, task: Task, labels: Sequence[PseudoLabel], least: float = 0.9) -> int:
    """Write confident examples as fine-tuning data, one chat per line: `{"messages": [...]}`, as OpenAI and others read it.

    Args:
        path: the .jsonl file to write; overwritten.
        task: supplies the seed prompt and the training examples.
        labels: the assistant's answers.
        least: minimum confidence of an example.

    Returns:
        The number of lines.

    Raises:
        InputError: no example is that confident.
    """
    confident = {label.id: label.label for label in labels if label.confidence >= least}
    # Always a chat, whatever the task's format.
    layout = replace(task.layout, format="chat")
    chats = [
        [*as_dicts(layout.render(task.seed_prompt, example)), {"role": "assistant", "content": confident[example.id]}]
        for example in task.train
        if example.id in confident
    ]
    if not chats:
        raise InputError(f"no example has a confidence of {least} or more: lower `least`")
    lines = [json.dumps({"messages": chat}, ensure_ascii=False) for chat in chats]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)
