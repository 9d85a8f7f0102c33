"""The order of candidates: those measured on all examples come first, whatever the others scored on a few."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.result import Record


def most_replies(history: Sequence[Record]) -> int:
    """Return the largest number of training replies that a candidate was scored on, failed ones included."""
    return max((record.cells + record.failed for record in history), default=0)


def most_validated(history: Sequence[Record]) -> int:
    """Return the largest number of validation examples that a candidate was scored on."""
    return max((record.validated for record in history), default=0)


def ranked(history: Sequence[Record]) -> list[Record]:
    """Return the scored candidates, best first.

    Candidates with all training replies come before those with few. Among them, candidates with all validation examples come
    first, by their validation reward; then the others, by fitness.
    """
    replies, examples = most_replies(history), most_validated(history)

    def key(record: Record) -> tuple[bool, bool, float, float, int]:
        partly_validated = record.validation is None or record.validated < examples
        validation = 0.0 if partly_validated else record.validation or 0.0
        partly_scored = record.cells + record.failed < replies
        return partly_scored, partly_validated, -validation, -(record.fitness or 0.0), record.number

    return sorted((record for record in history if record.fitness is not None), key=key)


def replies_of(record: Record, most: int) -> str:
    """Return how many replies a candidate was scored on: "n", or "n of N" if it was tried on fewer than the most."""
    return f"{record.cells} of {most}" if record.cells + record.failed < most else f"{record.cells}"


def validated_of(record: Record, most: int) -> str:
    """Return how many validation examples a candidate was scored on, likewise."""
    return f"{record.validated} of {most}" if record.validated < most else f"{record.validated}"
