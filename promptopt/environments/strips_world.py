"""STRIPS episodes: replies in plain words or PDDL, one action per round, partial credit for goals reached.

After the Blocksworld and Logistics tasks of PROMST (Chen et al. 2024). As in the paper, a reply that is not an action, names
unknown objects, or is not possible ends the episode. Differences from the released code: goals that hold at the start earn
nothing; a loop is any state that recurs, not only the first one; wrong objects are distinguished from other mistakes; and
instances that cannot be solved within their cap are omitted.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from promptopt.environment import Step
from promptopt.environments.base import if_solvable, quoted
from promptopt.environments.events import Event, Visits, rule
from promptopt.environments.strips import Problem, ground, parse_domain, parse_problem, plan
from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import Enum
    from pathlib import Path

    import numpy as np

    from promptopt.environment import FeedbackRule
    from promptopt.environments.base import Instance
    from promptopt.environments.strips import Action, Domain, State

_CACHE_SIZE = 256  # instances
_MARKS = " \t.,;:!?\"'`()[]{}<>*#"


class StripsWorld:
    """Base class of Blocksworld and Logistics. Keys of an instance: objects, init and goal (lists of facts), cap.

    Args:
        count_given: whether goals that hold at the start count, as in the paper, where doing nothing scored 0.208 on
            Blocksworld and 0.083 on Logistics (code). If not, with g goals, of which s hold at the start and h now, the
            score is max(0, (h - s) / (g - s)).
    """

    domain: ClassVar[Domain]
    words: ClassVar[Mapping[str, str]]
    """Text of each action, with the indices of its arguments; omitted arguments follow from the state."""
    fillers: ClassVar[frozenset[str]]
    """Words of a reply that are ignored."""
    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Event.FORMAT: rule(
            "The reply was not exactly one action in the words that were listed, which ends the episode.", Event.FORMAT
        ),
        Event.OBJECT: rule(
            "The action named something that does not exist or is of the wrong kind for it, which ends the episode: "
            "names must be copied from the state.",
            Event.OBJECT,
        ),
        Event.INVALID: rule(
            "The action exists but was not possible in that state, which ends the episode: what it needs must hold "
            "first, and the possible actions were listed.",
            Event.INVALID,
        ),
        Event.LOOP: rule(
            "The same state came back for the fourth time: actions were done and undone, which ends the episode. Its "
            "last four rounds are shown.",
            Event.LOOP,
            rounds=4,
        ),
        Event.LIMIT: rule(
            "The rounds were used up before all goals held. The last two are shown.", Event.LIMIT, rounds=2
        ),
    }

    def __init__(self, *, count_given: bool = False) -> None:
        self._count_given = count_given

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  nothing is random
        """Begin an episode.

        Raises:
            InputError: the goal holds at the start.
        """
        self._objects = list(map(str, instance["objects"]))
        init, self._goal = (frozenset(tuple(fact) for fact in instance[name]) for name in ("init", "goal"))
        if self._goal <= init:
            raise InputError("the goal of this instance holds at the start: give a goal that does not")
        self._actions = self._grounded(tuple(self._objects), init)
        self._actions_by_words: dict[tuple[str, ...], list[Action]] = defaultdict(list)
        for action in self._actions:
            for words in {
                self._key(self._action_text(action)),
                self._key(f"{action.name} {' '.join(action.arguments)}"),
            }:
                self._actions_by_words[words].append(action)
        self._state = init
        self._goals_at_start = 0 if self._count_given else len(self._goal & init)
        self._rounds = int(instance["cap"])
        self._done = False
        self._planned_actions: dict[State, Action] = {}
        self._visits = Visits()
        self._visits.loops(init)
        return self._observe("")

    @classmethod
    @lru_cache(maxsize=_CACHE_SIZE)
    def _grounded(cls, objects: tuple[str, ...], init: State) -> tuple[Action, ...]:
        """Return all actions of a problem; cached, because every prompt plays the same few and grounding takes milliseconds."""
        return ground(cls.domain, Problem(dict.fromkeys(objects, "object"), init, frozenset()))

    def step(self, text: str) -> Step:
        """Take one action; a reply that is not an action or not possible ends the episode."""
        if self._done:
            return Step(self._observe("The episode is over."), done=True)
        self._rounds -= 1
        happened, events = self._act(text)
        self._done = bool(events) or self._goal <= self._state
        if not self._done and self._visits.loops(self._state):
            events.append(Event.LOOP)
        elif not self._done and self._rounds <= 0:
            events.append(Event.LIMIT)
        self._done = self._done or bool(events)
        return Step(self._observe(happened), self._done, tuple(events))

    def score(self) -> float:
        """Return the fraction of goals reached; see the class."""
        return max(
            0.0, (len(self._goal & self._state) - self._goals_at_start) / (len(self._goal) - self._goals_at_start)
        )

    def actions(self) -> tuple[str, ...]:
        """Return the possible actions, filled up to two with impossible ones, because a choice needs two."""
        possible = list(dict.fromkeys(self._action_text(action) for action in self._possible()))
        others = (text for text in map(self._action_text, self._actions) if text not in possible)
        while len(possible) < 2 and (other := next(others, None)) is not None:  # noqa: PLR2004  a choice needs two
            possible.append(other)
        return tuple(possible)

    def oracle(self) -> str:
        """Return the first action of a plan from the current state; a shortest plan unless a subclass says otherwise."""
        if self._state not in self._planned_actions:
            state = self._state
            for action in self._plan(state) or ():
                self._planned_actions[state] = action
                state = action.after(state)
        best = self._planned_actions.get(self._state)
        return self.actions()[0] if best is None else self._action_text(best)

    def random_reply(self, rng: np.random.Generator) -> str:
        """Return a random possible action."""
        possible = [self._action_text(action) for action in self._possible()]
        return possible[rng.integers(len(possible))] if possible else self.actions()[0]

    @classmethod
    def load(cls, folder: Path, *, cap: int = 20) -> list[Instance]:
        """Read `domain.pddl` and the problems in the same folder.

        Args:
            folder: of the PDDL files.
            cap: maximum number of rounds; 20 in the paper.

        Returns:
            The distinct problems that the oracle solves within the cap, in the order of file names.

        Raises:
            InputError: there is no domain file, or it is another domain.
        """
        if not (folder / "domain.pddl").is_file():
            raise InputError(f"there is no domain.pddl in {folder}")
        domain = parse_domain((folder / "domain.pddl").read_text(encoding="utf-8"))
        instances: list[Instance] = []
        for path in sorted(folder.glob("*.pddl")):
            if path.name == "domain.pddl":
                continue
            problem = parse_problem(path.read_text(encoding="utf-8"))
            if set(ground(domain, problem)) != set(ground(cls.domain, problem)):
                raise InputError(f"the actions in {folder} differ from {cls.__name__}'s: give problems of its domain")
            instance = {
                "objects": list(problem.objects),
                "init": sorted(map(list, problem.init)),
                "goal": sorted(map(list, problem.goal)),
                "cap": cap,
            }
            if instance not in instances and not problem.goal <= problem.init and if_solvable(cls(), instance):
                instances.append(instance)
        return instances

    @classmethod
    def checked_instance(cls, objects: list[str], init: State, goal: State, cap: int) -> Instance | None:
        """Return an instance, or None if its goal holds at the start or the oracle exceeds the cap."""
        facts = {"init": sorted(map(list, init)), "goal": sorted(map(list, goal))}
        return None if goal <= init else if_solvable(cls(), {"objects": objects, **facts, "cap": cap})

    def _plan(self, state: State) -> tuple[Action, ...] | None:
        return plan(self._actions, state, self._goal, estimate=self._estimate())

    def _estimate(self) -> Callable[[State], int]:
        """Return an admissible heuristic for the remaining steps to the goal."""
        raise NotImplementedError

    def _describe_state(self) -> list[str]:
        """Return lines that describe the complete state and the goal."""
        raise NotImplementedError

    def _possible(self) -> list[Action]:
        return [action for action in self._actions if action.applies(self._state)]

    def _action_text(self, action: Action) -> str:
        return self.words[action.name].format(*action.arguments)

    def _key(self, line: str) -> tuple[str, ...]:
        """Return the significant words of a line, without a label such as `Action:` or `1.`."""
        words = [word.strip(_MARKS) for word in line.rpartition(":")[2].lower().split()]
        first = bool(words) and words[0].isdecimal()
        return tuple(word for word in words[first:] if word and (word not in self.fillers or word in self._objects))

    def _act(self, text: str) -> tuple[str, list[Event]]:
        keys = [key for key in map(self._key, text.splitlines()) if key]
        meant = {tuple(self._actions_by_words[key]): key for key in keys if key in self._actions_by_words}
        if len(meant) > 1:
            return "your reply named several actions; one is taken a round.", [Event.FORMAT]
        if not meant:
            wrong = next((key for key in keys if self._has_form(key)), None)
            if wrong is None:
                return "your reply was no action.", [Event.FORMAT]
            return f"{quoted(' '.join(wrong))} names something that is not here or of the wrong kind.", [Event.OBJECT]
        (choices,) = meant
        action = next((action for action in choices if action.applies(self._state)), None)
        if action is None:
            return f"{self._action_text(choices[0])}: that is not possible now.", [Event.INVALID]
        self._state = action.after(self._state)
        return f"{self._action_text(action)}: done.", []

    def _has_form(self, key: tuple[str, ...]) -> bool:
        """Return whether a key has the form of an action, with any words as arguments."""
        forms = [self._key(words.replace("{", " {")) for words in self.words.values()]
        forms += [(schema.name, *("0" for _ in schema.parameters)) for schema in self.domain.schemas]
        return any(
            len(form) == len(key)
            and all(part.isdecimal() or part == word for part, word in zip(form, key, strict=True))
            for form in forms
        )

    def _observe(self, happened: str) -> str:
        """Return the observation: the current state and what `happened`."""
        lines = [
            f"Last action: {happened}" if happened else "",
            *self._describe_state(),
            f"Rounds left: {self._rounds}.",
            f"Possible actions: {'; '.join(map(self._action_text, self._possible()))}",
        ]
        return "\n".join(line for line in lines if line)
