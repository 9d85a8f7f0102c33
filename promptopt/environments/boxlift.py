"""BoxLift: lifters cooperate to lift boxes whose weights are hidden and must be guessed from their volumes.

After PROMST (Chen et al. 2024). Differences from its released code: boxes have names, so that several can have the same
volume (there the volume was the key, so 45 boxes became 15 to 18); a lifter can be used only once per round (there, sending
all lifters to every box scored 1.0 in one round); and observations show the state after the round, not before it. The
paper's hint in its rule for loops, to add one lifter after each failure, is omitted because it reveals the strategy
instead of explaining the mistake.
"""

from __future__ import annotations

import json
import math
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from promptopt.environment import Step
from promptopt.environments.base import World, check_range, if_solvable, last_object, quoted
from promptopt.environments.events import Event, distinct, rule
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance

_PATIENCE = 4  # rounds without a lift that are tolerated (code)
_MOST_PARTS = 50  # entries of a reply that are processed


class BoxLift:
    """An instance: boxes as {"volume", "weight"}, lifters as capacities, cap. Names count from 1 in their order."""

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.FORMAT: rule(
            'The reply held no JSON object such as {"box1": ["lifter1", "lifter2"]}, which ends the episode.',
            Event.FORMAT,
        ),
        Event.INVALID: rule(
            "A box that is not there (any more) or a lifter that does not exist was named; that part of the reply was "
            "passed over.",
            Event.INVALID,
        ),
        Event.BUSY: rule(
            "A lifter was given to two boxes in one round; it works on the first only, and the other box was not tried.",
            Event.BUSY,
        ),
        Event.LOOP: rule(
            f"No box was lifted in {_PATIENCE + 1} rounds in a row, which ends the episode. The last two are shown.",
            Event.LOOP,
            rounds=2,
        ),
        Event.LIMIT: rule(
            "The rounds were used up before all boxes were lifted. The last two are shown.", Event.LIMIT, rounds=2
        ),
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        self._volumes = {f"box{i}": float(box["volume"]) for i, box in enumerate(instance["boxes"], start=1)}
        self._weights = {f"box{i}": float(box["weight"]) for i, box in enumerate(instance["boxes"], start=1)}
        self._lifters = {f"lifter{i}": float(lifts) for i, lifts in enumerate(instance["lifters"], start=1)}
        if not self._weights or min(self._weights.values()) <= 0:
            raise InputError("the instance needs at least one box, each of a weight above 0")
        self._crews = sorted(
            (math.fsum(self._lifters[lifter] for lifter in crew), crew)
            for size in range(1, len(self._lifters) + 1)
            for crew in combinations(self._lifters, size)
        )
        self._remaining = list(self._weights)
        self._rounds = int(instance["cap"])
        self._rounds_without_lift = 0
        self._done = False
        return self._observe([])

    def step(self, text: str) -> Step:
        """Try the lifts in the reply; a reply without a JSON object ends the episode."""
        if self._done:
            return Step(self._observe(["the episode is over"]), done=True)
        self._rounds -= 1
        plan = last_object(text)
        if plan is None:
            self._done = True
            return Step(self._observe(["your reply held no JSON object"]), done=True, events=(Event.FORMAT,))
        before = len(self._remaining)
        happened, mistakes = self._lift(plan)
        self._rounds_without_lift = 0 if len(self._remaining) < before else self._rounds_without_lift + 1
        events: list[Event] = [event for event in (Event.INVALID, Event.BUSY) if event in mistakes]
        if self._remaining and self._rounds_without_lift > _PATIENCE:
            events.append(Event.LOOP)
        elif self._remaining and self._rounds <= 0:
            events.append(Event.LIMIT)
        self._done = not self._remaining or Event.LOOP in events or Event.LIMIT in events
        return Step(self._observe(happened), self._done, tuple(events))

    def score(self) -> float:
        """Return the fraction of the total weight that has been lifted."""
        return 1 - math.fsum(self._weights[box] for box in self._remaining) / math.fsum(self._weights.values())

    def oracle(self) -> str:
        """Return a greedy plan from the hidden weights: heaviest box first, each with the weakest sufficient crew."""
        free, plan = set(self._lifters), dict[str, list[str]]()
        for box in sorted(self._remaining, key=lambda box: -self._weights[box]):
            crew = next(
                (crew for lifts, crew in self._crews if lifts >= self._weights[box] and free.issuperset(crew)), ()
            )
            if crew:
                plan[box] = list(crew)
                free -= set(crew)
        return json.dumps(plan)

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a plan that sends each lifter to a random remaining box, or to none."""
        plan: dict[str, list[str]] = {}
        for lifter in self._lifters:
            choice = int(rng.integers(len(self._remaining) + 1))
            if choice < len(self._remaining):
                plan.setdefault(self._remaining[choice], []).append(lifter)
        return json.dumps(plan)

    def _lift(self, plan: Mapping[str, Any]) -> tuple[list[str], set[Event]]:
        """Try each box of the plan in turn; return what happened."""
        happened, events, used = list[str](), set[Event](), set[str]()
        at_start = frozenset(self._remaining)
        for key, named in list(plan.items())[:_MOST_PARTS]:
            box, crew = _canonical_name(key, "box"), _parse_crew(named)
            unknown = [lifter for lifter in crew if lifter not in self._lifters]
            busy = sorted(used.intersection(crew))
            if box not in at_start:
                happened.append(f"{quoted(key)} is no box that is left")
                events.add(Event.INVALID)
            elif not crew or unknown:
                happened.append(f"{box}: {quoted(unknown[0]) if unknown else quoted(named)} is no lifter")
                events.add(Event.INVALID)
            elif busy or box not in self._remaining:
                happened.append(f"{box}: not tried, {' and '.join(busy) or 'it'} was used in this round already")
                events.add(Event.BUSY)
            else:
                used.update(crew)
                happened.append(f"{box} by {' + '.join(crew)}: {self._try_lift(box, crew)}")
        return happened or ["nothing was tried"], events

    def _try_lift(self, box: str, crew: list[str]) -> str:
        if math.fsum(self._lifters[lifter] for lifter in crew) < self._weights[box]:
            return "too heavy for them"
        self._remaining.remove(box)
        return "lifted"

    def _observe(self, happened: list[str]) -> str:
        """Return the observation: the current state and what `happened`."""
        boxes = ", ".join(f"{box} (volume {self._volumes[box]:g})" for box in self._remaining) or "none"
        lifters = ", ".join(f"{lifter} (lifts {lifts:g})" for lifter, lifts in self._lifters.items())
        last = f"Last round: {'; '.join(happened)}.\n" if happened else ""
        return f"{last}Boxes left: {boxes}.\nLifters: {lifters}.\nRounds left: {self._rounds}."


def _instances(
    count: int, rng: np.random.Generator, *, lifters: int = 3, boxes: int = 6, cap: int = 6
) -> list[Instance]:
    """Draw capacities, and boxes of volume 1 to 10 (in steps of 0.5) that all lifters together can lift.

    The weight is the volume with 10 % Gaussian noise; for 5 % of boxes it is 0.5 or 1.5 times the volume (code).

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(lifters=(lifters, 1, 12), boxes=(boxes, 1, 100), cap=(cap, 1, 500))

    def draw() -> Instance | None:
        capacities = [
            float(half) / 2 for half in rng.integers(4, 13, lifters)
        ]  # 2 to 6: our choice; the paper does not give them
        volumes = [float(half) / 2 for half in rng.integers(2, 21, boxes)]
        factors = 1 + 0.1 * rng.standard_normal(boxes)
        outliers = rng.random(boxes) < 0.05  # noqa: PLR2004
        factors[outliers] = rng.choice((0.5, 1.5), boxes)[outliers]
        heavy = zip(volumes, factors, strict=True)
        weights = [min(max(round(float(v * f), 2), 0.1), math.fsum(capacities)) for v, f in heavy]
        instance = {
            "boxes": [{"volume": v, "weight": w} for v, w in zip(volumes, weights, strict=True)],
            "lifters": capacities,
            "cap": cap,
        }
        return if_solvable(BoxLift(), instance)

    return distinct(count, draw, f"BoxLift ({lifters} lifters, {boxes} boxes)")


def _parse_crew(named: object) -> list[str]:
    """Return the distinct lifters named in a list or in one string; unknown names are kept unchanged."""
    parts = re.split(r"[,;+&]|\band\b", named) if isinstance(named, str) else named
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return []
    return list(dict.fromkeys(_canonical_name(part, "lifter") for part in parts[:_MOST_PARTS] if part.strip()))


def _canonical_name(text: str, kind: str) -> str:
    """Return "box1" for "Box 1", "box_1", "box[1]" or "box1 (volume 2)"; other texts are returned unchanged."""
    match = re.match(rf"\W*{kind}[\s_\[#]*0*(\d{{1,4}})(?!\d)", text, re.IGNORECASE)
    return f"{kind}{match[1]}" if match else text


BOXLIFT = World(
    environment=BoxLift,
    instances=_instances,
    # lifters, boxes and caps of the paper's four sizes (code)
    paper=tuple(
        {"lifters": lifters, "boxes": boxes, "cap": cap}
        for lifters, boxes, cap in ((4, 16, 20), (6, 24, 20), (8, 35, 20), (10, 45, 25))
    ),
    prompt="""You direct lifters that lift boxes, together where one is too weak. Your task is to lift all boxes, in as \
few rounds as you can; the number of rounds is limited.

You are told each box's volume and how much each lifter lifts. You are not told the boxes' weights: a weight is mostly \
near the volume, but not always. A box is lifted when the lifters sent to it can together lift at least its weight; \
else it stays where it is, and you may try again in another round. In one round several boxes may be tried, but each \
lifter can be sent to one box only.

Reply with one JSON object that gives, for each box to try now, the list of lifters sent to it, for example \
{"box1": ["lifter2"], "box4": ["lifter1", "lifter3"]}. A reply without such an object ends everything, and so do \
several rounds in which nothing is lifted.""",
    description="Send lifters of known strength to boxes of unknown weight, several in a round, until all are lifted.",
)
