"""Rounds in which several agents act at once, told by one JSON object: what BoxNet2 and Warehouse share.

Differs from the released code of PROMST (Chen et al. 2024): what is seen is the state after the round, not before it; what
is refused is not done all the same, and nothing is offered that is then refused; all agents start from the same state; an
agent that does not exist is answered in words; and a loop is any state that comes a fourth time, not some rounds without a
delivery, which a long way needs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from promptopt.environment import Step
from promptopt.environments.base import last_object, quoted
from promptopt.environments.events import Event, Visits, rule

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule

_MOST_PARTS = 50  # of a reply that are answered in words
_ENDINGS = {Event.COLLISION, Event.LOOP, Event.LIMIT}
_BOX = re.compile(r"box_\w+")


class Team:
    """An episode of agents that act at once; what they can do is its subclass's."""

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.FORMAT: rule(
            "The reply held no JSON object of agents and their actions, which ends the episode.", Event.FORMAT
        ),
        Event.INVALID: rule(
            "An action was not among those that its agent could do when the round began, its box was taken by another "
            "agent in the same round, or the agent does not exist; it was passed over, and the round was used.",
            Event.INVALID,
        ),
        Event.BUSY: rule("One agent was named twice in a round; only its first action counted.", Event.BUSY),
        Event.LOOP: rule(
            "Everything was as it had been three times before: the agents waited or went to and fro, which ends the "
            "episode. Its last two rounds are shown.",
            Event.LOOP,
            rounds=2,
        ),
        Event.LIMIT: rule(
            "The rounds were used up before all boxes were where they belong. The last two are shown.",
            Event.LIMIT,
            rounds=2,
        ),
    }

    _rounds: int
    _done: bool
    _visits: Visits

    def step(self, text: str) -> Step:
        """Let the agents that are named act at once; a reply without a JSON object, or a collision, is the last."""
        if self._done:
            return Step(self._observe(["the episode is over"]), done=True)
        self._rounds -= 1
        plan = last_object(text)
        if plan is None:
            self._done = True
            return Step(self._observe(["your reply held no JSON object"]), done=True, events=(Event.FORMAT,))
        chosen, happened, events = self._parse_plan(plan)
        if collision := self._act(chosen):
            happened.append(collision)
            events.append(Event.COLLISION)
        elif self.score() < 1 and self._visits.loops(self._state()):
            events.append(Event.LOOP)
        elif self.score() < 1 and self._rounds <= 0:
            events.append(Event.LIMIT)
        self._done = self.score() == 1 or not _ENDINGS.isdisjoint(events)
        return Step(self._observe(happened or ["nothing was done"]), self._done, tuple(events))

    def score(self) -> float:
        """Return the share of boxes that are where they belong."""
        raise NotImplementedError

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a round that is legal and collides nowhere."""
        raise NotImplementedError

    def _begin(self, instance: Mapping[str, Any]) -> str:
        self._rounds = int(instance["cap"])
        self._done = False
        self._visits = Visits()
        self._visits.loops(self._state())
        return self._observe([])

    def _parse_plan(self, plan: Mapping[str, Any]) -> tuple[dict[str, str], list[str], list[Event]]:
        """Return agents with the actions that they can do, what is to be said of the rest, and its events."""
        chosen, happened, found, taken = dict[str, str](), list[str](), set[Event](), set[str]()
        options = self._options()
        for key, said in list(plan.items())[:_MOST_PARTS]:
            agent, action = self._agent_name(key), self._action_name(said) if isinstance(said, str) else None
            box = _BOX.search(action or "")
            if agent not in options:
                happened.append(f"{quoted(key)} is no agent that can act")
                found.add(Event.INVALID)
            elif agent in chosen:
                happened.append(f"{agent} was used in this round already")
                found.add(Event.BUSY)
            elif action not in options[agent]:
                happened.append(f"{agent} could not do {quoted(said)}")
                found.add(Event.INVALID)
            elif box and box[0] in taken:
                happened.append(f"{agent} could not do {quoted(said)}, for another took {box[0]}")
                found.add(Event.INVALID)
            else:
                chosen[agent] = action
                taken |= {box[0]} if box else set()
                happened.append(f"{agent}: {action} done")
        return chosen, happened, [event for event in (Event.INVALID, Event.BUSY) if event in found]

    def _agent_name(self, key: str) -> str | None:
        """Return the agent's name as observations write it, for what is written a little otherwise; None for no name."""
        raise NotImplementedError

    def _action_name(self, said: str) -> str | None:
        """Return the action as observations write it, for what is written a little otherwise; None for no action."""
        raise NotImplementedError

    def _options(self) -> dict[str, list[str]]:
        """Return what each agent that exists can do now."""
        raise NotImplementedError

    def _act(self, chosen: Mapping[str, str]) -> str:
        """Do it all at once, and return what collided, or ""."""
        raise NotImplementedError

    def _state(self) -> Hashable:
        """Return all that changes, less the rounds."""
        raise NotImplementedError

    def _observe(self, happened: list[str]) -> str:
        """Return the state as it is now, after what `happened`."""
        raise NotImplementedError
