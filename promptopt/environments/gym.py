"""An adapter for environments with Gymnasium's interface whose observations and actions are text or can be converted.

Gymnasium itself is not required: any object with its `reset` and `step` will do. Events are limited to those common to all
such environments; a subclass can add its own events and rules.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, SupportsFloat

from promptopt.environment import Step
from promptopt.environments.base import check_range, quoted
from promptopt.environments.events import Event, distinct, rule
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance

_SEEDS = 2**31
_CAP = 50  # rounds, in addition to the environment's own limit


class Gym(Protocol):
    """The part of `gymnasium.Env` that is used."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; return the first observation and information about it."""
        ...

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Act; return observation, reward, terminated, truncated and info."""
        ...


def _plain(text: str) -> str | None:
    return text.strip() or None


@dataclass(eq=False)
class GymEnvironment:
    """A Gymnasium environment, one episode at a time. Instances may set `seed`, `options` and `cap`.

    `Task(environment=lambda: GymEnvironment(gymnasium.make("..."), ...))` creates one for each episode.

    Args:
        env: the Gymnasium environment.
        show: converts an observation to text.
        read: converts a reply to an action, or to None if it is not one, which ends the episode. The default is the reply
            itself.
        low: sum of rewards that scores 0.
        high: sum of rewards that scores 1; the score is linear in between and clipped outside.

    Raises:
        InputError: `high` is not above `low`.
    """

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.FORMAT: rule("The reply could not be read as an action, which ends the episode.", Event.FORMAT),
        Event.LIMIT: rule(
            "The episode was cut short before it was won. Its last two rounds are shown.", Event.LIMIT, rounds=2
        ),
        Event.LOST: rule(
            "The last action ended the episode short of the full score. The last two rounds are shown.",
            Event.LOST,
            rounds=2,
        ),
    }

    env: Gym
    _: KW_ONLY
    show: Callable[[Any], str] = str
    read: Callable[[str], Any | None] = _plain
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"high must be above low, {self.low:g}: it is {self.high:g}")

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        """Begin an episode of at most `cap` rounds, with the instance's seed if it has one.

        Raises:
            InputError: the instance has other keys.
        """
        if other := sorted(instance.keys() - {"seed", "options", "cap"}):
            raise InputError(
                f"an instance of a Gymnasium environment gives seed, options and cap, not {', '.join(other)}"
            )
        self._observation, self._info = self.env.reset(
            seed=int(instance.get("seed", seed)), options=instance.get("options")
        )
        self._total_reward = 0.0
        self._rounds = int(instance.get("cap", _CAP))
        self._done = False
        return self.show(self._observation)

    def step(self, text: str) -> Step:
        """Take the action in the reply.

        Raises:
            InputError: the environment returned a reward that is not a finite number. No reply raises.
        """
        if self._done:
            return Step(f"The episode is over.\n{self.show(self._observation)}", done=True)
        action = self.read(text)
        if action is None:
            self._done = True
            shown = f"No action could be read from {quoted(text)}.\n{self.show(self._observation)}"
            return Step(shown, done=True, events=(Event.FORMAT,))
        self._observation, reward, terminated, truncated, self._info = self.env.step(action)
        if not math.isfinite(float(reward)):
            raise InputError(
                f"the environment returned the reward {float(reward)} for {quoted(text)}: it must be a finite number"
            )
        self._total_reward += float(reward)
        self._rounds -= 1
        self._done = bool(terminated or truncated) or not self._rounds
        return Step(
            self.show(self._observation), self._done, self._final_events(lost=bool(terminated)) if self._done else ()
        )

    def score(self) -> float:
        """Return the sum of rewards, scaled from [low, high] to [0, 1] and clipped."""
        return min(1.0, max(0.0, (self._total_reward - self.low) / (self.high - self.low)))

    def _final_events(self, *, lost: bool) -> tuple[Event, ...]:
        if self.score() == 1:
            return ()
        return (Event.LOST,) if lost else (Event.LIMIT,)


@dataclass(eq=False, kw_only=True)
class ChoosingGym(GymEnvironment):
    """A Gymnasium environment that can list the available replies.

    Args:
        env: the Gymnasium environment.
        choices: `(observation, info)` -> at least two replies that `read` understands.
        show: as in `GymEnvironment`, like all other arguments.
    """

    choices: Callable[[Any, dict[str, Any]], Sequence[str]]

    def actions(self) -> tuple[str, ...]:
        """Return the available replies.

        Raises:
            InputError: there are fewer than two.
        """
        actions = tuple(self.choices(self._observation, self._info))
        if len(actions) < 2:  # noqa: PLR2004
            raise InputError(f"choices must return two actions or more, not {list(actions)}")
        return actions


def instances(count: int, rng: np.random.Generator, *, cap: int = _CAP) -> list[Instance]:
    """Return `count` instances with different seeds.

    Raises:
        InputError: the cap is out of range.
    """
    check_range(cap=(cap, 1, 500))
    return distinct(count, lambda: {"seed": int(rng.integers(_SEEDS)), "cap": cap}, "Gymnasium")
