"""A run of which the task and the models were loaded again, to try prompts on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptopt.optimization.job import Job


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A run that was loaded again.

    Args:
        job: what was run.
        task_words: the options of the command line that give task and models, without the prompt to start from.
        search_words: those of the search, with the budget.
    """

    job: Job
    task_words: tuple[str, ...]
    search_words: tuple[str, ...]
