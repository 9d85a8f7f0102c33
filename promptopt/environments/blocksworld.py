"""Blocksworld: a hand moves blocks one at a time to build given piles (PROMST, Chen et al. 2024).

Instances are drawn at random or read from PDDL files of the standard four-action domain; `StripsWorld` documents the score
and the differences from the released code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from promptopt.environments.base import World, check_range
from promptopt.environments.events import distinct
from promptopt.environments.strips import parse_domain
from promptopt.environments.strips_world import StripsWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from promptopt.environments.base import Instance
    from promptopt.environments.strips import Domain, State

_COLOURS: tuple[str, ...] = ("red", "blue", "green", "yellow", "orange", "purple", "white", "black")
_FACTS = {
    "on": "{} is on {}",
    "ontable": "{} is on the table",
    "holding": "you hold {}",
    "handempty": "your hand is empty",
    "clear": "nothing is on {}",
}


class Blocksworld(StripsWorld):
    """Blocks are picked up, put down, stacked and unstacked; for goals and score see `StripsWorld`."""

    domain: ClassVar[Domain] = parse_domain("""
        (define (domain blocks)
          (:requirements :strips)
          (:action pick-up :parameters (?x)
            :precondition (and (clear ?x) (ontable ?x) (handempty))
            :effect (and (holding ?x) (not (clear ?x)) (not (ontable ?x)) (not (handempty))))
          (:action put-down :parameters (?x)
            :precondition (holding ?x)
            :effect (and (clear ?x) (ontable ?x) (handempty) (not (holding ?x))))
          (:action stack :parameters (?x ?y)
            :precondition (and (holding ?x) (clear ?y))
            :effect (and (on ?x ?y) (clear ?x) (handempty) (not (holding ?x)) (not (clear ?y))))
          (:action unstack :parameters (?x ?y)
            :precondition (and (on ?x ?y) (clear ?x) (handempty))
            :effect (and (holding ?x) (clear ?y) (not (on ?x ?y)) (not (clear ?x)) (not (handempty)))))
    """)
    words: ClassVar[Mapping[str, str]] = {
        "pick-up": "pick up {0}",
        "put-down": "put down {0}",
        "stack": "stack {0} on {1}",
        "unstack": "unstack {0} from {1}",
    }
    fillers: ClassVar[frozenset[str]] = frozenset({"the", "block", "on", "onto", "top", "of", "from"})

    def _estimate(self) -> Callable[[State], int]:
        goals = [fact for fact in self._goal if fact[0] == "on"]

        def remaining_steps(state: State) -> int:
            """Count two actions for each misplaced block, one if it is held."""
            return sum(2 - (("holding", fact[1]) in state) for fact in goals if fact not in state)

        return remaining_steps

    def _describe_state(self) -> list[str]:
        now = [_facts_text(self._state, name) for name in ("on", "ontable", "holding", "handempty")]
        free = ", ".join(sorted(fact[1] for fact in self._state if fact[0] == "clear")) or "no block"
        return [
            f"Now: {'; '.join(filter(None, now))}. Nothing is on: {free}.",
            f"Goal: {'; '.join(filter(None, (_facts_text(self._goal, name) for name in _FACTS)))}.",
        ]


def _facts_text(state: State, name: str) -> str:
    return "; ".join(_FACTS[name].format(*fact[1:]) for fact in sorted(state) if fact[0] == name)


def instances(count: int, rng: np.random.Generator, *, blocks: int = 4, cap: int = 12) -> list[Instance]:
    """Draw two random arrangements of blocks: the start, and the goal.

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(blocks=(blocks, 2, len(_COLOURS)), cap=(cap, 1, 500))
    names = list(_COLOURS[:blocks])

    def draw() -> Instance | None:
        start, end = _random_piles(names, rng), _random_piles(names, rng)
        return Blocksworld.checked_instance(names, start, frozenset(fact for fact in end if fact[0] == "on"), cap)

    return distinct(count, draw, f"{blocks}-block")


def _random_piles(names: list[str], rng: np.random.Generator) -> State:
    """Return a random arrangement: blocks in random order, each on the previous one or, half the time, on the table."""
    facts: set[tuple[str, ...]] = {("handempty",)}
    below = ""
    for name in rng.permutation(names).tolist():
        facts.add(("clear", name))
        if below and rng.random() < 0.5:  # noqa: PLR2004
            facts.add(("on", name, below))
            facts.remove(("clear", below))
        else:
            facts.add(("ontable", name))
        below = name
    return frozenset(facts)


_PROMPT = """You move blocks with one hand until every line of the goal holds.

There are four actions:
- pick up X: takes X from the table. Your hand must be empty, and nothing may be on X.
- put down X: puts X, which you hold, on the table.
- stack X on Y: puts X, which you hold, on Y. Nothing may be on Y.
- unstack X from Y: takes X from Y. Your hand must be empty, X must be on Y, and nothing may be on X.

You hold at most one block. An action that is not possible ends everything, and so does a reply that is no action; your score is what holds of the goal then. The number of rounds is limited, so do not undo what you have done. Build from below: a block must lie right before others go on it.

Each round, reply with one action and nothing else, in exactly these words, for example: stack red on blue"""

BLOCKSWORLD = World(
    environment=Blocksworld,
    instances=instances,
    paper=({"blocks": 4, "cap": 20},),  # (code)
    prompt=_PROMPT,
    description="A player moves coloured blocks, one action a round, until they are piled as the goal says.",
)
