"""What can happen in an episode, one enum for all environments, and the advice that most of their rules give.

Knows nothing of any one environment.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from typing import Any

    from promptopt.environment import FeedbackRule, Trajectory

_REPEATS = 4  # the same state so often is a loop
_DRAWS = 200  # in vain, before instances count as used up


class Event(Enum):
    """What an action can lead to, besides what it was meant to do."""

    FORMAT = "the reply could not be read as an action"
    INVALID = "an action is not possible in the state in which it was given"
    COLLISION = "two things that move, or one and an obstacle, met"
    OUTSIDE = "a move led out of the grid"
    ORDER = "a goal was taken before its turn"
    OBJECT = "an action names something that does not exist, or is of the wrong kind for it"
    BUSY = "an agent was given two things to do in one round"
    LOOP = "the same state came again and again"
    LIMIT = "the episode reached its last step without its goal"
    LOST = "the episode ended, by its environment's own rules, short of its goal"


def rule(words: str, event: Event, rounds: int = 1) -> FeedbackRule:
    """Return a rule that says what went wrong and shows where: the first round with the event and what came of it.

    Args:
        words: what went wrong, and what to mind.
        event: what the rule is for.
        rounds: how many rounds, up to the first with the event, are shown.
    """

    def advise(trajectory: Trajectory) -> str:
        at = next((i for i, turn in enumerate(trajectory.turns) if event in turn.events), None)
        if at is None:
            return words
        shown = trajectory.turns[max(0, at + 1 - rounds) : at + 1]
        after = trajectory.turns[at + 1].observation if at + 1 < len(trajectory.turns) else trajectory.last
        times = sum(event in turn.events for turn in trajectory.turns)
        again = f", and in {times - 1} more" if times > 1 else ""
        lines = [f"{words} It happened in round {at + 1} of {len(trajectory.turns)}{again}."]
        lines += [f"It was shown:\n{turn.observation}\nIt replied:\n{turn.reply}" for turn in shown]
        return "\n".join([*lines, f"Then it was shown:\n{after}"])

    return advise


class Visits:
    """Counts how often each state of an episode was reached, all of them and not only the first."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()

    def loops(self, state: Hashable) -> bool:
        """Note a state, and return whether the episode goes in circles."""
        self._counts[state] += 1
        return self._counts[state] >= _REPEATS


def distinct(count: int, draw: Callable[[], Mapping[str, Any] | None], what: str) -> list[dict[str, Any]]:
    """Return so many different instances, so that no split of them shares one.

    Args:
        count: how many.
        draw: makes one, or None where the draw was of no use.
        what: of which kind, for the message.

    Raises:
        InputError: there are not so many.
    """
    found: dict[str, dict[str, Any]] = {}
    vain = 0
    while len(found) < count and vain < _DRAWS:
        instance = draw()
        key = repr(instance)
        if instance is None or key in found:
            vain += 1
        else:
            found[key] = dict(instance)
            vain = 0
    if len(found) < count:
        raise InputError(
            f"only {len(found)} of {count} different {what} instances found within the step limit: "
            "ask for fewer, other sizes, or a higher cap"
        )
    return list(found.values())
