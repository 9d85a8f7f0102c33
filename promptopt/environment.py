"""Multi-step tasks: environments that a model acts in, what happened there, and the advice that follows from it.

Pure values and types; knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

from promptopt.errors import InputError

if TYPE_CHECKING:
    from enum import Enum


class Step(NamedTuple):
    """What an action led to.

    Args:
        observation: what is seen now.
        done: whether the episode is over.
        events: what happened, as members of an enum of the environment's.
    """

    observation: str
    done: bool
    events: tuple[Enum, ...] = ()


class Turn(NamedTuple):
    """One round of an episode.

    Args:
        observation: what was seen.
        reply: what the model said to it.
        events: what came of that.
    """

    observation: str
    reply: str
    events: tuple[Enum, ...]


@dataclass(frozen=True)
class Trajectory:
    """One whole episode.

    Args:
        turns: its rounds.
        last: what was seen at its end.
        score: of the environment, at its end.
    """

    turns: tuple[Turn, ...]
    last: str
    score: float

    @property
    def events(self) -> tuple[Enum, ...]:
        """All that happened, in order."""
        return tuple(event for turn in self.turns for event in turn.events)

    def __str__(self) -> str:
        rounds = [
            f"Seen: {turn.observation}\nSaid: {turn.reply}\nHappened: {', '.join(e.name for e in turn.events) or '-'}"
            for turn in self.turns
        ]
        return "\n\n".join([*rounds, f"Seen at the end: {self.last}\nScore: {self.score:g}"])


FeedbackRule: TypeAlias = Callable[[Trajectory], str]
"""Turns an episode in which its event happened into advice for a prompt writer, in words."""


class Environment(Protocol):
    """One episode of a multi-step task; cheap to make, and the same for the same instance, seed and texts.

    Attributes:
        rules: what to say of each event. Every event that the environment can emit has one.
    """

    rules: ClassVar[Mapping[Enum, FeedbackRule]]

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        """Begin an episode of an instance (plain JSON values), and return what is seen first."""
        ...

    def step(self, text: str) -> Step:
        """Take what the model said. Never raises, whatever it is."""
        ...

    def score(self) -> float:
        """Return what has been achieved so far, 0 to 1."""
        ...


@runtime_checkable
class Choosing(Environment, Protocol):
    """An environment that can name the actions that may be taken now, for models that choose by log-probability."""

    def actions(self) -> tuple[str, ...]:
        """Return at least two texts that `step` takes, in a stable order, whether wise or not."""
        ...


def advice(trajectory: Trajectory, rules: Mapping[Enum, FeedbackRule]) -> dict[Enum, str]:
    """Return what to say of each event that happened, in order of first appearance.

    Raises:
        InputError: an event has no rule: silence would hide it from the writer.
    """
    out: dict[Enum, str] = {}
    for event in trajectory.events:
        if event not in rules:
            raise InputError(f"the event {event} has no feedback rule: give one in `rules` of its environment")
        if event not in out:
            out[event] = rules[event](trajectory)
    return out
