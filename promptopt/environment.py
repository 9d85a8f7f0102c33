"""Multi-step tasks: environments for a model to act in, trajectories, and feedback on them.

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
    """The result of an action.

    Args:
        observation: the new observation.
        done: whether the episode is over.
        events: what happened, as members of the environment's event enum.
    """

    observation: str
    done: bool
    events: tuple[Enum, ...] = ()


class Turn(NamedTuple):
    """One round of an episode.

    Args:
        observation: what the model was shown.
        reply: the model's reply.
        events: what the reply led to.
    """

    observation: str
    reply: str
    events: tuple[Enum, ...]


@dataclass(frozen=True)
class Trajectory:
    """One complete episode.

    Args:
        turns: its rounds.
        last: the final observation.
        score: the environment's final score.
    """

    turns: tuple[Turn, ...]
    last: str
    score: float

    @property
    def events(self) -> tuple[Enum, ...]:
        """All events, in order."""
        return tuple(event for turn in self.turns for event in turn.events)

    def __str__(self) -> str:
        rounds = [
            f"Seen: {turn.observation}\nSaid: {turn.reply}\nHappened: {', '.join(e.name for e in turn.events) or '-'}"
            for turn in self.turns
        ]
        return "\n\n".join([*rounds, f"Seen at the end: {self.last}\nScore: {self.score:g}"])


FeedbackRule: TypeAlias = Callable[[Trajectory], str]
"""Turns an episode in which its event happened into written advice for the writer model."""


class Environment(Protocol):
    """One episode of a multi-step task; cheap to create, and deterministic given instance, seed and replies.

    Attributes:
        rules: the feedback rule of each event that the environment can emit.
    """

    rules: ClassVar[Mapping[Enum, FeedbackRule]]

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        """Begin an episode of an instance (plain JSON values), and return the first observation."""
        ...

    def step(self, text: str) -> Step:
        """Act on the model's reply. Never raises, whatever the reply."""
        ...

    def score(self) -> float:
        """Return the progress so far, 0 to 1."""
        ...


@runtime_checkable
class Choosing(Environment, Protocol):
    """An environment that can list the available actions, for models that choose by log-probability."""

    def actions(self) -> tuple[str, ...]:
        """Return at least two replies that `step` accepts, good or bad, in a stable order."""
        ...


def advice(trajectory: Trajectory, rules: Mapping[Enum, FeedbackRule]) -> dict[Enum, str]:
    """Return the advice for each event that happened, in order of first appearance.

    Raises:
        InputError: an event has no rule, so the writer would not learn of it.
    """
    advice_by_event: dict[Enum, str] = {}
    for event in trajectory.events:
        if event not in rules:
            raise InputError(f"the event {event} has no feedback rule: add one to `rules` of its environment")
        if event not in advice_by_event:
            advice_by_event[event] = rules[event](trajectory)
    return advice_by_event
