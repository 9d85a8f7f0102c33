"""Counts the replies of a run that name no label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptopt.parsing.labels import named_label
from promptopt.replies import Failure, Response
from promptopt.rewards import LABEL_REWARDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.task import Task

_MAX_SHOWN = 3
_MAX_SHOWN_CHARACTERS = 80


@dataclass
class Tally:
    """Counts the replies that name no label; each cell counts once.

    Args:
        labels: labels that replies should name; () if the reward reads none from text.
        unnamed: number of replies that name none of them.
        shown: the first few distinct ones, truncated and with control characters escaped.
    """

    labels: tuple[str, ...]
    unnamed: int = 0
    shown: list[str] = field(default_factory=list)
    _numbers: dict[Prompt, int] = field(default_factory=dict)
    _counted_cells: set[tuple[int, str, int]] = field(default_factory=set)

    @classmethod
    def of(cls, task: Task) -> Tally:
        """Return an empty tally for a task."""
        return cls(task.labels if isinstance(task.reward, LABEL_REWARDS) else ())

    def add(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        cells: Sequence[Sequence[Sequence[Response | Failure]]],
    ) -> None:
        """Add replies [P][E][R] whose label is read from their text."""
        for prompt, row in zip(prompts, cells if self.labels else (), strict=False):
            number = self._numbers.setdefault(prompt, len(self._numbers))
            for example, column in zip(examples, row, strict=True):
                for replicate, reply in enumerate(column):
                    if isinstance(reply, Response) and reply.label_logprobs is None:
                        self._count((number, example.id, replicate), reply.text)

    @property
    def notes(self) -> list[str]:
        """Notes for the user."""
        if not self.unnamed:
            return []
        shown = ", ".join(self.shown)
        counts = f"{self.unnamed} of {len(self._counted_cells)}"
        return [f"{counts} replies named no label, such as {shown}: let the prompt ask for one of the labels alone"]

    def _count(self, cell: tuple[int, str, int], text: str) -> None:
        if cell in self._counted_cells:
            return
        self._counted_cells.add(cell)
        if named_label(text, self.labels) is None:
            self.unnamed += 1
            excerpt = repr(text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}...")
            if len(self.shown) < _MAX_SHOWN and excerpt not in self.shown:
                self.shown.append(excerpt)
