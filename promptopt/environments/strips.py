"""A reader of the STRIPS part of PDDL, the actions that a problem has, and a shortest-plan search.

Read are typed or untyped parameters, objects and constants, conjunctions, and `not` in effects. States are frozen sets of
facts. Knows nothing of episodes or of any one domain.
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
_UNDERSTOOD = {":strips", ":typing"}
_MOST_STATES = 200_000  # a search that opens more gives up


class Schema(NamedTuple):
    """An action with variables, which begin with a question mark."""

    name: str
    parameters: dict[str, str]
    needs: tuple[Fact, ...]
    adds: tuple[Fact, ...]
    deletes: tuple[Fact, ...]


class Domain(NamedTuple):
    """What objects there are in every problem, and what can be done; types lead to the type above them."""

    types: dict[str, str]
    constants: dict[str, str]
    schemas: tuple[Schema, ...]


class Problem(NamedTuple):
    """Where one episode starts and what it is to reach; objects lead to their types."""

    objects: dict[str, str]
    init: State
    goal: State


class Action(NamedTuple):
    """A schema with objects in place of its variables."""

    name: str
    arguments: tuple[str, ...]
    needs: State
    adds: State
    deletes: State

    def applies(self, state: State) -> bool:
        """Return whether it is possible and changes anything: driving to where one is does not count."""
        return self.needs <= state and self.after(state) != state

    def after(self, state: State) -> State:
        """Return what a state becomes; what is both deleted and added, stays."""
        return (state - self.deletes) | self.adds


def parse_domain(text: str) -> Domain:
    """Read a domain.

    Raises:
        InputError: it is not PDDL, or uses more than STRIPS with types.
    """
    parts = _define(text, "domain")
    asked = {str(word) for part in parts[":requirements"] for word in part}
    if more := sorted(asked - _UNDERSTOOD):
        raise InputError(f"the PDDL domain requires {', '.join(more)}: only {', '.join(sorted(_UNDERSTOOD))} are read")
    return Domain(
        types=_typed([word for part in parts[":types"] for word in part]),
        constants=_typed([word for part in parts[":constants"] for word in part]),
        schemas=tuple(_schema(part) for part in parts[":action"]),
    )


def parse_problem(text: str) -> Problem:
    """Read a problem.

    Raises:
        InputError: it is not PDDL, or uses more than STRIPS with types.
    """
    parts = _define(text, "problem")
    if len(parts[":goal"]) != 1 or len(parts[":goal"][0]) != 1:
        raise InputError("a PDDL problem has one goal, (:goal (and ...))")
    return Problem(
        objects=_typed([word for part in parts[":objects"] for word in part]),
        init=frozenset(_fact(tree) for part in parts[":init"] for tree in part),
        goal=frozenset(_literals(parts[":goal"][0][0])[0]),
    )


def ground(domain: Domain, problem: Problem) -> tuple[Action, ...]:
    """Return every action that a problem has, in a stable order.

    Variables are bound one by one, and a need that no action ever changes must hold at the start.
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
    """Return a plan from a state to a goal, by A*; without an estimate it is breadth-first.

    Args:
        actions: all that there are.
        start: where to begin.
        goal: what must hold at the end.
        estimate: of the steps that are left; where it never says too many, and `weight` is 1, the plan is the shortest.
        weight: of the estimate; more than 1 finds longer plans sooner.

    Returns:
        The plan, or None if there is none, or none was found in the time that the search gives itself.
    """
    by_need: dict[Fact, list[Action]] = defaultdict(list)
    for action in actions:
        by_need[min(action.needs, default=())].append(action)
    ways: dict[State, tuple[int, State, Action | None]] = {start: (0, start, None)}
    order = count()
    queue = [(weight * estimate(start), next(order), start)]
    closed: set[State] = set()
    while queue and len(closed) < _MOST_STATES:
        state = heapq.heappop(queue)[2]
        if goal <= state:
            return _reconstruct_plan(ways, state)
        if state in closed:
            continue
        closed.add(state)
        steps = ways[state][0] + 1
        for action in (action for fact in ((), *sorted(state)) for action in by_need.get(fact, ())):
            if action.needs <= state:
                after = action.after(state)
                if after not in ways or steps < ways[after][0]:
                    ways[after] = (steps, state, action)
                    closed.discard(after)
                    heapq.heappush(queue, (steps + weight * estimate(after), next(order), after))
    return None


def _reconstruct_plan(ways: Mapping[State, tuple[int, State, Action | None]], state: State) -> tuple[Action, ...]:
    found: list[Action] = []
    while (action := ways[state][2]) is not None:
        found.append(action)
        state = ways[state][1]
    return tuple(reversed(found))


def _bindings(
    schema: Schema, types: Mapping[str, str], objects: Mapping[str, str], changing: set[str], init: State
) -> Iterator[dict[str, str]]:
    variables = list(schema.parameters)
    fixed = [need for need in schema.needs if need[0] not in changing]
    # Each fixed need is looked up as soon as its last variable is bound.
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
    """Return the sections of `(define (domain ...) ...)`, each by its keyword, without it."""
    trees = _trees(text)
    tree = trees[0] if len(trees) == 1 else ""
    if not isinstance(tree, list) or tree[:1] != ["define"] or not isinstance(tree[1:2], list) or len(tree) < 2:  # noqa: PLR2004
        raise InputError(f"this is no PDDL {kind}: it must be one (define ({kind} ...) ...)")
    if not isinstance(tree[1], list) or tree[1][:1] != [kind]:
        raise InputError(f"this PDDL defines {tree[1]!r}, not a {kind}")
    parts: defaultdict[str, list[list[_Tree]]] = defaultdict(list)
    for part in tree[2:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise InputError(f"this is no section of a PDDL {kind}: {part!r}")
        parts[part[0]].append(part[1:])
    return parts


def _trees(text: str) -> list[_Tree]:
    """Return nested lists of words in lower case; `;` begins a comment."""
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
    """Read `a b - kind c d`: what has no type is an object."""
    out: dict[str, str] = {}
    waiting: list[str] = []
    rest = iter(words)
    for word in rest:
        if not isinstance(word, str):
            raise InputError(f"names were expected in the PDDL, not {word!r}")
        if word != "-":
            waiting.append(word)
            continue
        kind = next(rest, None)
        if not isinstance(kind, str):
            raise InputError(f"a type was expected in the PDDL after {waiting}, not {kind!r}: `either` is not read")
        out |= dict.fromkeys(waiting, kind)
        waiting = []
    return out | dict.fromkeys(waiting, "object")


def _schema(part: Sequence[_Tree]) -> Schema:
    name, fields = part[0] if part else "", part[1:]
    values = {key: value for key, value in zip(fields[::2], fields[1::2], strict=False) if isinstance(key, str)}
    parameters = values.get(":parameters", [])
    if not isinstance(name, str) or not isinstance(parameters, list) or ":effect" not in values:
        raise InputError(f"the PDDL action {name!r} needs a name, :parameters and an :effect")
    variables = _typed(parameters)
    needs, refused = _literals(values.get(":precondition", []))
    adds, deletes = _literals(values[":effect"])
    if refused:
        raise InputError(f"the PDDL action {name!r} needs something not to hold: such preconditions are not read")
    for word in (word for fact in (*needs, *adds, *deletes) for word in fact[1:]):
        if word.startswith("?") and word not in variables:
            raise InputError(f"the PDDL action {name!r} uses {word}, which is none of its parameters")
    return Schema(name, variables, tuple(needs), tuple(adds), tuple(deletes))


def _literals(tree: _Tree) -> tuple[list[Fact], list[Fact]]:
    """Return what a conjunction says to hold, and what not."""
    trees = tree[1:] if isinstance(tree, list) and tree[:1] == ["and"] else [tree] if tree else []
    holds: list[Fact] = []
    fails: list[Fact] = []
    for each in trees:
        if isinstance(each, list) and each[:1] == ["not"] and len(each) == 2:  # noqa: PLR2004
            fails.append(_fact(each[1]))
        else:
            holds.append(_fact(each))
    return holds, fails


def _fact(tree: _Tree) -> Fact:
    words = tuple(word for word in tree if isinstance(word, str)) if isinstance(tree, list) else ()
    if (
        not words
        or len(words) != len(tree)
        or words[0] in {"and", "or", "not", "imply", "forall", "exists", "when", "="}
    ):
        raise InputError(f"a plain fact was expected in the PDDL, not {tree!r}")
    return words
