"""Pseudo-labels: choosing the sure ones, rewards and losses by them, and their way into fine-tuning. No model is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.prompt import Layout, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.result import Result
    from promptopt.task import Task


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
