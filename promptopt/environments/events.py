"""The events of episodes, one enum for all environments, and the standard form of their feedback rules.

Knows nothing of particular environments.
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

_REPEATS = 4  # visits to the same state that count as a loop
_DRAWS = 200  # failed draws in a row before giving up


class Event(Enum):
    """Unwanted results of an action."""

    FORMAT = "the reply could not be read as an action"
    INVALID = "an action is not possible in the state in which it was given"
    COLLISION = "moving objects collided with each other or with an obstacle"
    OUTSIDE = "a move led out of the grid"
    ORDER = "a goal was taken before its turn"
    OBJECT = "an action names something that does not exist, or is of the wrong kind for it"
    BUSY = "an agent was given two things to do in one round"
    LOOP = "the same state came again and again"
    LIMIT = "the episode reached its last step without its goal"
    LOST = "the episode ended, by its environment's own rules, short of its goal"


def rule(words: str, event: Event, rounds: int = 1) -> FeedbackRule:
    """Return a rule that explains an event and shows the first round in which it happened, with its outcome.

    Args:
        words: what went wrong, and how to avoid it.
        event: the event.
        rounds: number of rounds to show, up to and including the first with the event.
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
    """Counts how often each state of an episode was reached."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()

    def loops(self, state: Hashable) -> bool:
        """Record a state, and return whether the episode is in a loop."""
        self._counts[state] += 1
        return self._counts[state] >= _REPEATS


def distinct(count: int, draw: Callable[[], Mapping[str, Any] | None], what: str) -> list[dict[str, Any]]:
    """Return `count` different instances, so that splits are disjoint.

    Args:
        count: number of instances.
        draw: creates one, or returns None if the draw failed.
        what: kind of instance, for the message.

    Raises:
        InputError: there are fewer than `count`.
    """
    instances: dict[str, dict[str, Any]] = {}
    failed_draws = 0
    while len(instances) < count and failed_draws < _DRAWS:
        instance = draw()
        key = repr(instance)
        if instance is None or key in instances:
            failed_draws += 1
        else:
            instances[key] = dict(instance)
            failed_draws = 0
    if len(instances) < count:
        raise InputError(
            f"only {len(instances)} of {count} different {what} instances found within the step limit: "
            "ask for fewer, other sizes, or a higher cap"
        )
    return list(instances.values())
