"""Shared parts of the built-in environments: their description, parsing of replies, playing of episodes.

Knows nothing of particular environments or of models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from promptopt.environment import Environment, Trajectory, Turn
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

Instance: TypeAlias = dict[str, Any]
"""Initial state of an episode, in plain JSON values."""

_LONGEST_SEARCHED = 10_000  # characters at the end of a reply; deep nesting takes quadratic time
_LONGEST_QUOTE = 60


class PlayableEnvironment(Environment, Protocol):
    """An environment with an oracle and a random policy."""

    def oracle(self) -> str:
        """Return the best known next reply; may use state that is hidden from models."""
        ...

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random legal reply: one that can be parsed, is not refused, and does not end the episode by a mistake."""
        ...


@dataclass(frozen=True, kw_only=True)
class World:
    """A kind of environment, with its instances and seed prompt.

    Args:
        environment: creates one.
        instances: `(count, rng, **size)` -> distinct instances that the oracle solves. Its keyword-only parameters are
            the sizes; their defaults are the preset "small".
        paper: the sizes of the paper, each as keywords of `instances`.
        prompt: the handwritten seed prompt.
        description: the task in one sentence, for the writer model.
    """

    environment: Callable[[], PlayableEnvironment]
    instances: Callable[..., list[Instance]]
    paper: tuple[Mapping[str, int], ...]
    prompt: str
    description: str


def play(environment: Environment, instance: Mapping[str, Any], reply: Callable[[], str], seed: int = 0) -> Trajectory:
    """Play one episode to its end, and return it."""
    observation, turns, done = environment.reset(instance, seed), list[Turn](), False
    while not done:
        text = reply()
        step = environment.step(text)
        turns.append(Turn(observation, text, step.events))
        observation, done = step.observation, step.done
    return Trajectory(tuple(turns), observation, environment.score())


def if_solvable(environment: PlayableEnvironment, instance: Instance) -> Instance | None:
    """Return the instance if the oracle scores 1 within its limits, else None."""
    return instance if play(environment, instance, environment.oracle).score == 1 else None


def check_range(**sizes: tuple[int, int, int]) -> None:
    """Refuse sizes, given as (value, least, most), that are out of range.

    Raises:
        InputError: the message names the size.
    """
    for name, (value, least, most) in sizes.items():
        if not least <= value <= most:
            raise InputError(f"{name} must be between {least} and {most}, not {value}")


def last_object(text: str) -> dict[str, Any] | None:
    """Return the last well-formed JSON object in a reply that is not nested in another, or None.

    An object with duplicate keys does not count, because it is ambiguous. Only the last 10,000 characters are searched.
    """
    text, start, last = text[-_LONGEST_SEARCHED:], 0, None
    decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)
    while (start := text.find("{", start)) >= 0:
        try:
            last, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
    return last


def quoted(value: object) -> str:
    """Quote a part of a reply for an observation: shortened, with unencodable characters escaped."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return repr(value) if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]!r}..."


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("duplicate key")
    return values
