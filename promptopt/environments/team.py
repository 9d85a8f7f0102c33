"""Base class of BoxNet and Warehouse: rounds in which several agents act simultaneously, as one JSON object says.

Differences from the released code of PROMST (Chen et al. 2024): observations show the state after the round, not before
it; refused actions are not executed, and offered actions are never refused; all agents start from the same state; unknown
agents are reported in the observation; and a loop is any state that occurs a fourth time, not a number of rounds without a
delivery, which long routes need.
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

_MOST_PARTS = 50  # entries of a reply that are processed
_ENDINGS = {Event.COLLISION, Event.LOOP, Event.LIMIT}
_BOX = re.compile(r"box_\w+")


class Team:
    """An episode of agents that act simultaneously; subclasses define their actions."""

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
        """Let the named agents act simultaneously; a reply without a JSON object or a collision ends the episode."""
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
        """Return the fraction of boxes that have reached their targets."""
        raise NotImplementedError

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a legal round without collisions."""
        raise NotImplementedError

    def _begin(self, instance: Mapping[str, Any]) -> str:
        self._rounds = int(instance["cap"])
        self._done = False
        self._visits = Visits()
        self._visits.loops(self._state())
        return self._observe([])

    def _parse_plan(self, plan: Mapping[str, Any]) -> tuple[dict[str, str], list[str], list[Event]]:
        """Return (action of each agent, what to report, events)."""
        chosen, happened, mistakes, taken = dict[str, str](), list[str](), set[Event](), set[str]()
        options = self._options()
        for key, value in list(plan.items())[:_MOST_PARTS]:
            agent, action = self._agent_name(key), self._action_name(value) if isinstance(value, str) else None
            box = _BOX.search(action or "")
            if agent not in options:
                happened.append(f"{quoted(key)} is no agent that can act")
                mistakes.add(Event.INVALID)
            elif agent in chosen:
                happened.append(f"{agent} was used in this round already")
                mistakes.add(Event.BUSY)
            elif action not in options[agent]:
                happened.append(f"{agent} could not do {quoted(value)}")
                mistakes.add(Event.INVALID)
            elif box and box[0] in taken:
                happened.append(f"{agent} could not do {quoted(value)}, for another took {box[0]}")
                mistakes.add(Event.INVALID)
            else:
                chosen[agent] = action
                taken |= {box[0]} if box else set()
                happened.append(f"{agent}: {action} done")
        return chosen, happened, [event for event in (Event.INVALID, Event.BUSY) if event in mistakes]

    def _agent_name(self, key: str) -> str | None:
        """Return the canonical name of an agent, accepting variant spellings; None if there is no such agent."""
        raise NotImplementedError

    def _action_name(self, text: str) -> str | None:
        """Return the canonical form of an action, accepting variant spellings; None if it is not an action."""
        raise NotImplementedError

    def _options(self) -> dict[str, list[str]]:
        """Return the available actions of each agent."""
        raise NotImplementedError

    def _act(self, chosen: Mapping[str, str]) -> str:
        """Execute all actions simultaneously, and return a description of a collision, or ""."""
        raise NotImplementedError

    def _state(self) -> Hashable:
        """Return the state, without the round counter."""
        raise NotImplementedError

    def _observe(self, happened: list[str]) -> str:
        """Return the observation: the current state and what `happened`."""
        raise NotImplementedError
