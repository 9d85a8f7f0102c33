"""A parser for the STRIPS subset of PDDL, grounding of actions, and A* planning.

Supports typed and untyped parameters, objects and constants, conjunctions, and `not` in effects. States are frozen sets of
facts. Knows nothing of episodes or particular domains.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Fact: TypeAlias = tuple[str, ...]
State: TypeAlias = frozenset[Fact]
_Tree: TypeAlias = "str | list[_Tree]"

_TOKEN = re.compile(r"[()]|[^\s()]+")
_SUPPORTED = {":strips", ":typing"}
_MOST_STATES = 200_000  # expanded states after which a search gives up


class Schema(NamedTuple):
    """An action schema; names of variables begin with a question mark."""

    name: str
    parameters: dict[str, str]
    needs: tuple[Fact, ...]
    adds: tuple[Fact, ...]
    deletes: tuple[Fact, ...]


class Domain(NamedTuple):
    """A domain: type -> parent type, constant -> type, and the action schemas."""

    types: dict[str, str]
    constants: dict[str, str]
    schemas: tuple[Schema, ...]


class Problem(NamedTuple):
    """A problem: object -> type, the initial state and the goal."""

    objects: dict[str, str]
    init: State
    goal: State


class Action(NamedTuple):
    """A grounded action: a schema with objects in place of its variables."""

    name: str
    arguments: tuple[str, ...]
    needs: State
    adds: State
    deletes: State

    def applies(self, state: State) -> bool:
        """Return whether the action is possible and changes the state (driving to the current location does not)."""
        return self.needs <= state and self.after(state) != state

    def after(self, state: State) -> State:
        """Return the state after the action; facts that are both deleted and added remain."""
        return (state - self.deletes) | self.adds


def parse_domain(text: str) -> Domain:
    """Parse a domain.

    Raises:
        InputError: it is not PDDL, or uses more than STRIPS with types.
    """
    parts = _define(text, "domain")
    requirements = {str(word) for part in parts[":requirements"] for word in part}
    if unsupported := sorted(requirements - _SUPPORTED):
        raise InputError(
            f"the PDDL domain requires {', '.join(unsupported)}: only {', '.join(sorted(_SUPPORTED))} are supported"
        )
    return Domain(
        types=_typed([word for part in parts[":types"] for word in part]),
        constants=_typed([word for part in parts[":constants"] for word in part]),
        schemas=tuple(_schema(part) for part in parts[":action"]),
    )


def parse_problem(text: str) -> Problem:
    """Parse a problem.

    Raises:
        InputError: it is not PDDL, or uses more than STRIPS with types.
    """
    parts = _define(text, "problem")
    if len(parts[":goal"]) != 1 or len(parts[":goal"][0]) != 1:
        raise InputError("a PDDL problem must have one goal, (:goal (and ...))")
    return Problem(
        objects=_typed([word for part in parts[":objects"] for word in part]),
        init=frozenset(_fact(tree) for part in parts[":init"] for tree in part),
        goal=frozenset(_literals(parts[":goal"][0][0])[0]),
    )


def ground(domain: Domain, problem: Problem) -> tuple[Action, ...]:
    """Return all grounded actions of a problem, in a stable order.

    Variables are bound one by one; preconditions that no action can change must hold in the initial state.
    """
    changing = {fact[0] for schema in domain.schemas for fact in (*schema.adds, *schema.deletes)}
    objects = domain.constants | problem.objects
    return tuple(
        _instantiate(schema, binding)
        for schema in domain.schemas
        for binding in _bindings(schema, domain.types, objects, changing, problem.init)
    )


def plan(
    actions: Sequence[Action],
    start: State,
    goal: State,
    *,
    estimate: Callable[[State], int] = lambda _: 0,
    weight: int = 1,
) -> tuple[Action, ...] | None:
    """Return a plan from a state to a goal, found by (weighted) A*.

    Args:
        actions: all grounded actions.
        start: the initial state.
        goal: facts that must hold at the end.
        estimate: heuristic for the remaining steps; if it is admissible and `weight` is 1, the plan is a shortest one.
        weight: factor of the heuristic; above 1 the search is faster and plans may be longer.

    Returns:
        The plan, or None if there is none or the search exceeded its limit of states.
    """
    by_need: dict[Fact, list[Action]] = defaultdict(list)
    for action in actions:
        by_need[min(action.needs, default=())].append(action)
    reached: dict[State, tuple[int, State, Action | None]] = {start: (0, start, None)}  # steps, previous state, action
    order = count()
    queue = [(weight * estimate(start), next(order), start)]
    closed: set[State] = set()
    while queue and len(closed) < _MOST_STATES:
        state = heapq.heappop(queue)[2]
        if goal <= state:
            return _reconstruct_plan(reached, state)
        if state in closed:
            continue
        closed.add(state)
        steps = reached[state][0] + 1
        for action in (action for fact in ((), *sorted(state)) for action in by_need.get(fact, ())):
            if action.needs <= state:
                after = action.after(state)
                if after not in reached or steps < reached[after][0]:
                    reached[after] = (steps, state, action)
                    closed.discard(after)
                    heapq.heappush(queue, (steps + weight * estimate(after), next(order), after))
    return None


def _reconstruct_plan(reached: Mapping[State, tuple[int, State, Action | None]], state: State) -> tuple[Action, ...]:
    backwards: list[Action] = []
    while (action := reached[state][2]) is not None:
        backwards.append(action)
        state = reached[state][1]
    return tuple(reversed(backwards))


def _bindings(
    schema: Schema, types: Mapping[str, str], objects: Mapping[str, str], changing: set[str], init: State
) -> Iterator[dict[str, str]]:
    variables = list(schema.parameters)
    fixed = [need for need in schema.needs if need[0] not in changing]
    # Each fixed precondition is checked as soon as its last variable is bound.
    due = [
        [need for need in fixed if max((variables.index(w) for w in need if w in schema.parameters), default=0) == i]
        for i in range(len(variables))
    ]

    def extend(binding: dict[str, str]) -> Iterator[dict[str, str]]:
        if len(binding) == len(variables):
            yield dict(binding)
            return
        variable = variables[len(binding)]
        for name, kind in objects.items():
            if _is_a(kind, schema.parameters[variable], types):
                binding[variable] = name
                if all(_substitute(need, binding) in init for need in due[len(binding) - 1]):
                    yield from extend(binding)
                del binding[variable]

    return extend({})


def _is_a(kind: str, wanted: str, types: Mapping[str, str]) -> bool:
    passed: set[str] = set()
    while kind != wanted and kind not in passed:
        passed.add(kind)
        kind = types.get(kind, "object")
    return kind == wanted


def _instantiate(schema: Schema, binding: Mapping[str, str]) -> Action:
    return Action(
        schema.name,
        tuple(binding.values()),
        frozenset(_substitute(fact, binding) for fact in schema.needs),
        frozenset(_substitute(fact, binding) for fact in schema.adds),
        frozenset(_substitute(fact, binding) for fact in schema.deletes),
    )


def _substitute(fact: Fact, binding: Mapping[str, str]) -> Fact:
    return tuple(binding.get(word, word) for word in fact)


def _define(text: str, kind: str) -> defaultdict[str, list[list[_Tree]]]:
    """Return the sections of `(define (domain ...) ...)` by keyword, each without its keyword."""
    trees = _trees(text)
    tree = trees[0] if len(trees) == 1 else ""
    if not isinstance(tree, list) or tree[:1] != ["define"] or not isinstance(tree[1:2], list) or len(tree) < 2:  # noqa: PLR2004
        raise InputError(f"this is not a PDDL {kind}: it must be one (define ({kind} ...) ...)")
    if not isinstance(tree[1], list) or tree[1][:1] != [kind]:
        raise InputError(f"this PDDL defines {tree[1]!r}, not a {kind}")
    parts: defaultdict[str, list[list[_Tree]]] = defaultdict(list)
    for part in tree[2:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise InputError(f"this is not a section of a PDDL {kind}: {part!r}")
        parts[part[0]].append(part[1:])
    return parts


def _trees(text: str) -> list[_Tree]:
    """Parse text into nested lists of lower-case words; `;` begins a comment."""
    stack: list[list[_Tree]] = [[]]
    for token in _TOKEN.findall(re.sub(r";[^\n]*", "", text).lower()):
        if token == "(":  # noqa: S105  a parenthesis
            stack.append([])
        elif token != ")":  # noqa: S105
            stack[-1].append(token)
        elif len(stack) == 1:
            raise InputError("this PDDL closes a parenthesis that was never opened")
        else:
            done = stack.pop()
            stack[-1].append(done)
    if len(stack) > 1:
        raise InputError(f"this PDDL leaves {len(stack) - 1} parentheses open")
    return stack[0]


def _typed(words: Iterable[_Tree]) -> dict[str, str]:
    """Parse a typed list such as `a b - kind c d`; names without a type are objects."""
    types: dict[str, str] = {}
    untyped: list[str] = []
    rest = iter(words)
    for word in rest:
        if not isinstance(word, str):
            raise InputError(f"names were expected in the PDDL, not {word!r}")
        if word != "-":
            untyped.append(word)
            continue
        kind = next(rest, None)
        if not isinstance(kind, str):
            raise InputError(
                f"a type was expected in the PDDL after {untyped}, not {kind!r}: `either` is not supported"
            )
        types |= dict.fromkeys(untyped, kind)
        untyped = []
    return types | dict.fromkeys(untyped, "object")


def _schema(part: Sequence[_Tree]) -> Schema:
    name, fields = part[0] if part else "", part[1:]
    values = {key: value for key, value in zip(fields[::2], fields[1::2], strict=False) if isinstance(key, str)}
    parameters = values.get(":parameters", [])
    if not isinstance(name, str) or not isinstance(parameters, list) or ":effect" not in values:
        raise InputError(f"the PDDL action {name!r} needs a name, :parameters and an :effect")
    variables = _typed(parameters)
    needs, negated = _literals(values.get(":precondition", []))
    adds, deletes = _literals(values[":effect"])
    if negated:
        raise InputError(f"the PDDL action {name!r} has a negative precondition, which is not supported")
    for word in (word for fact in (*needs, *adds, *deletes) for word in fact[1:]):
        if word.startswith("?") and word not in variables:
            raise InputError(f"the PDDL action {name!r} uses {word}, which is not one of its parameters")
    return Schema(name, variables, tuple(needs), tuple(adds), tuple(deletes))


def _literals(tree: _Tree) -> tuple[list[Fact], list[Fact]]:
    """Return the positive and the negated facts of a conjunction."""
    trees = tree[1:] if isinstance(tree, list) and tree[:1] == ["and"] else [tree] if tree else []
    positive: list[Fact] = []
    negated: list[Fact] = []
    for each in trees:
        if isinstance(each, list) and each[:1] == ["not"] and len(each) == 2:  # noqa: PLR2004
            negated.append(_fact(each[1]))
        else:
            positive.append(_fact(each))
    return positive, negated


def _fact(tree: _Tree) -> Fact:
    words = tuple(word for word in tree if isinstance(word, str)) if isinstance(tree, list) else ()
    if (
        not words
        or len(words) != len(tree)
        or words[0] in {"and", "or", "not", "imply", "forall", "exists", "when", "="}
    ):
        raise InputError(f"a plain fact was expected in the PDDL, not {tree!r}")
    return words
