"""What the environments of the package share: what belongs to each, replies read, episodes played.

Knows no environment in particular, and nothing of models.
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
"""Where an episode begins, in plain JSON values."""

_LONGEST_SEARCHED = 10_000  # characters of a reply's end that are searched: a deep nest costs the square of its length
_LONGEST_QUOTE = 60


class PlayableEnvironment(Environment, Protocol):
    """An environment that also knows how to play."""

    def oracle(self) -> str:
        """Return the best next reply known; may look at what is hidden from a model."""
        ...

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a reply drawn among those that are legal now: readable, not refused, ending nothing by a mistake."""
        ...


@dataclass(frozen=True, kw_only=True)
class World:
    """A kind of environment and what belongs to it.

    Args:
        environment: makes one.
        instances: `(count, rng, **size)` -> distinct instances that the oracle solves. Its keyword-only parameters are
            the sizes with their small defaults.
        paper: the sizes of the paper, each as keywords of `instances`.
        prompt: written by hand; where a search starts.
        description: the task in one sentence, for prompt writers.
    """

    environment: Callable[[], PlayableEnvironment]
    instances: Callable[..., list[Instance]]
    paper: tuple[Mapping[str, int], ...]
    prompt: str
    description: str


def play(environment: Environment, instance: Mapping[str, Any], reply: Callable[[], str], seed: int = 0) -> Trajectory:
    """Play one episode to its end, and return it."""
    seen, turns, done = environment.reset(instance, seed), list[Turn](), False
    while not done:
        said = reply()
        step = environment.step(said)
        turns.append(Turn(seen, said, step.events))
        seen, done = step.observation, step.done
    return Trajectory(tuple(turns), seen, environment.score())


def if_solvable(environment: PlayableEnvironment, instance: Instance) -> Instance | None:
    """Return the instance if the oracle solves it whole within its limits, else None."""
    return instance if play(environment, instance, environment.oracle).score == 1 else None


def check_range(**sizes: tuple[int, int, int]) -> None:
    """Refuse a size, given as (value, least, most), that is out of its range.

    Raises:
        InputError: names the size.
    """
    for name, (value, least, most) in sizes.items():
        if not least <= value <= most:
            raise InputError(f"{name} must be between {least} and {most}, not {value}")


def last_object(text: str) -> dict[str, Any] | None:
    """Return the last well-formed JSON object in a reply that lies in no other; None where there is none.

    An object that names one key twice is not well-formed: which of the two was meant is not known. Only the last 10,000
    characters are searched.
    """
    text, start, found = text[-_LONGEST_SEARCHED:], 0, None
    decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)
    while (start := text.find("{", start)) >= 0:
        try:
            found, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
    return found


def quoted(value: object) -> str:
    """Return a part of a reply as observations quote it: short, and without characters that no encoding can write."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return repr(value) if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]!r}..."


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key stands twice")
    return out
