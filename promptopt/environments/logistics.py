"""Logistics: trucks within cities and planes between cities deliver packages (PROMST, Chen et al. 2024).

Instances are drawn at random or read from PDDL files of the standard six-action domain; `StripsWorld` documents the score
and the differences from the released code.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from promptopt.environments.base import World, check_range
from promptopt.environments.events import distinct
from promptopt.environments.strips import parse_domain, plan
from promptopt.environments.strips_world import StripsWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

    from promptopt.environments.base import Instance
    from promptopt.environments.strips import Action, Domain, Fact, State

_FEW = 3  # packages up to which the oracle's plans are shortest


class Logistics(StripsWorld):
    """Packages are loaded and unloaded, trucks driven and planes flown; see `StripsWorld`.

    With more than three packages, the oracle's plans are good but not always the shortest.
    """

    domain: ClassVar[Domain] = parse_domain("""
        (define (domain logistics)
          (:requirements :strips)
          (:action load-truck :parameters (?p ?t ?l)
            :precondition (and (obj ?p) (truck ?t) (location ?l) (at ?t ?l) (at ?p ?l))
            :effect (and (in ?p ?t) (not (at ?p ?l))))
          (:action load-airplane :parameters (?p ?a ?l)
            :precondition (and (obj ?p) (airplane ?a) (location ?l) (at ?a ?l) (at ?p ?l))
            :effect (and (in ?p ?a) (not (at ?p ?l))))
          (:action unload-truck :parameters (?p ?t ?l)
            :precondition (and (obj ?p) (truck ?t) (location ?l) (at ?t ?l) (in ?p ?t))
            :effect (and (at ?p ?l) (not (in ?p ?t))))
          (:action unload-airplane :parameters (?p ?a ?l)
            :precondition (and (obj ?p) (airplane ?a) (location ?l) (at ?a ?l) (in ?p ?a))
            :effect (and (at ?p ?l) (not (in ?p ?a))))
          (:action drive-truck :parameters (?t ?from ?to ?c)
            :precondition (and (truck ?t) (location ?from) (location ?to) (city ?c)
                               (at ?t ?from) (in-city ?from ?c) (in-city ?to ?c))
            :effect (and (at ?t ?to) (not (at ?t ?from))))
          (:action fly-airplane :parameters (?a ?from ?to)
            :precondition (and (airplane ?a) (airport ?from) (airport ?to) (at ?a ?from))
            :effect (and (at ?a ?to) (not (at ?a ?from)))))
    """)
    words: ClassVar[Mapping[str, str]] = {
        "load-truck": "load {0} into {1}",
        "load-airplane": "load {0} into {1}",
        "unload-truck": "unload {0} from {1}",
        "unload-airplane": "unload {0} from {1}",
        "drive-truck": "drive {0} to {2}",
        "fly-airplane": "fly {0} to {2}",
    }
    fillers: ClassVar[frozenset[str]] = frozenset(
        {
            "the",
            "package",
            "truck",
            "plane",
            "airplane",
            "location",
            "airport",
            "into",
            "onto",
            "in",
            "on",
            "from",
            "to",
        }
    )

    def _plan(self, state: State) -> tuple[Action, ...] | None:
        weight = 1 if len(self._goal) <= _FEW else 2
        return plan(self._actions, state, self._goal, estimate=self._estimate(), weight=weight)

    def _estimate(self) -> Callable[[State], int]:
        map_ = _Map(self._state)
        return lambda state: map_.left(state, self._goal)

    def _describe_state(self) -> list[str]:
        map_ = _Map(self._state)
        at = {fact[1]: fact for fact in sorted(self._state) if fact[0] in {"at", "in"}}

        def where(names: Iterable[str]) -> str:
            return ", ".join(f"{name} {at[name][0]} {at[name][2]}" for name in sorted(names) if name in at) or "none"

        cities = sorted(set(map_.city.values()))
        places = [
            f"{city} has {', '.join(_named(place, map_) for place in sorted(map_.city) if map_.city[place] == city)}"
            for city in cities
        ]
        return [
            f"Cities: {'; '.join(places)}.",
            f"Trucks: {where(map_.trucks)}. Planes: {where(map_.planes)}.",
            f"Packages: {where(set(at) - map_.trucks - map_.planes)}.",
            f"Goal: {', '.join(f'{fact[1]} {fact[0]} {fact[2]}' for fact in sorted(self._goal))}.",
        ]


class _Map:
    """The static facts of a problem, and estimates of the remaining distance to the goal."""

    def __init__(self, state: State) -> None:
        self.city = {fact[1]: fact[2] for fact in state if fact[0] == "in-city"}
        self.airports = {fact[1] for fact in state if fact[0] == "airport"}
        self.trucks = {fact[1] for fact in state if fact[0] == "truck"}
        self.planes = {fact[1] for fact in state if fact[0] == "airplane"}
        ports = Counter(self.city.get(airport, "") for airport in self.airports)
        self._gates = {self.city[port]: port for port in self.airports if ports[self.city.get(port, "")] == 1}
        self._several = {city for city, number in ports.items() if number > 1}

    def left(self, state: State, goal: State) -> int:
        """Return a lower bound of the remaining steps: loading, unloading, and each place where a vehicle must arrive."""
        at = {fact[1]: fact[2] for fact in state if fact[0] == "at"}
        inside = {fact[1]: fact[2] for fact in state if fact[0] == "in"}
        standing = {
            ("truck" if name in self.trucks else "plane", at.get(name, "")) for name in self.trucks | self.planes
        }
        handled, arrivals = 0, set[tuple[str, str]]()
        for package, end in ((fact[1], fact[2]) for fact in goal - state if fact[0] == "at"):
            vehicle = inside.get(package, "")
            here = at.get(vehicle or package, "")
            if {here, end} <= self.city.keys() and package not in self.trucks | self.planes:
                for number, (kind, start, stop) in enumerate(self._legs(here, end, vehicle)):
                    aboard = bool(vehicle) and not number
                    handled += 1 if aboard else 2
                    if start != stop:
                        arrivals.add((kind, stop))
                    if not aboard and (kind, start) not in standing:
                        arrivals.add((kind, start))
        # A city with several airports may offer another route.
        return handled + sum(self.city.get(place, "") not in {"", *self._several} for _, place in arrivals)

    def _legs(self, here: str, end: str, vehicle: str) -> list[tuple[str, str, str]]:
        """Return the legs (truck or plane, from, to) of a package's route; a place is "" if it is ambiguous."""
        start, home = (
            place if place in self.airports else self._gates.get(self.city[place], "") for place in (here, end)
        )
        last = [("truck", home, end)] if home != end else []
        if vehicle in self.planes:
            return [("plane", here, home), *last]
        if self.city[here] == self.city[end]:
            return [("truck", here, end)]
        first = [("truck", here, start)] if vehicle or here != start else []
        return [*first, ("plane", start, home), *last]


def _named(place: str, map_: _Map) -> str:
    return f"{place} (airport)" if place in map_.airports else place


def instances(
    count: int,
    rng: np.random.Generator,
    *,
    cities: int = 2,
    locations: int = 2,
    packages: int = 2,
    planes: int = 1,
    cap: int = 20,
) -> list[Instance]:
    """Draw the positions of trucks, planes and packages, and the destinations of the packages.

    Args:
        count: number of instances.
        rng: random number generator.
        cities: number of cities, each with one truck.
        locations: number of locations in each city; the first is the airport.
        packages: number of packages.
        planes: number of planes.
        cap: maximum number of rounds.

    Raises:
        InputError: a size is out of range, or there are fewer than `count` instances.
    """
    check_range(cities=(cities, 1, 9), locations=(locations, 1, 9), packages=(packages, 1, 9), cap=(cap, 1, 500))
    check_range(planes=(planes, 1, 9), places=(cities * locations, 2, 81))
    places = [f"l{city}-{number}" for city in range(cities) for number in range(locations)]
    fixed: set[Fact] = {("in-city", place, f"c{place[1]}") for place in places}
    kinds = {
        "city": [f"c{city}" for city in range(cities)],
        "location": places,
        "airport": places[::locations],
        "truck": [f"t{city}" for city in range(cities)],
        "airplane": [f"a{plane}" for plane in range(planes)],
        "obj": [f"p{package}" for package in range(packages)],
    }
    fixed |= {(kind, name) for kind, names in kinds.items() for name in names}
    objects = list(dict.fromkeys(name for names in kinds.values() for name in names))

    def draw() -> Instance | None:
        at: set[Fact] = {
            ("at", truck, places[city * locations + int(rng.integers(locations))])
            for city, truck in enumerate(kinds["truck"])
        }
        at |= {("at", plane, kinds["airport"][int(rng.integers(cities))]) for plane in kinds["airplane"]}
        goal: set[Fact] = set()
        for package in kinds["obj"]:
            start, end = rng.permutation(places)[:2].tolist()
            at.add(("at", package, start))
            goal.add(("at", package, end))
        return Logistics.checked_instance(objects, frozenset(fixed | at), frozenset(goal), cap)

    return distinct(count, draw, "logistics")


_PROMPT = """You bring packages to where they belong, with trucks and planes, until every line of the goal holds.

There are four kinds of action:
- load P into V: the package P and the truck or plane V must be at the same location.
- unload P from V: P must be in V; P is then at V's location.
- drive T to L: the truck T moves to a location L of the city in which it is. Trucks never leave their city.
- fly A to L: the plane A moves to the airport L. Planes stop at airports only.

A package for another city goes by truck to the airport of its city, by plane to the other city's airport, and by truck on from there. An action that is not possible ends everything, and so does a reply that is no action; your score is what holds of the goal then. The number of rounds is limited.

Each round, reply with one action and nothing else, in exactly these words, for example: load p0 into t1"""

LOGISTICS = World(
    environment=Logistics,
    instances=instances,
    # Sizes of a small, a medium and the largest problem of the code. Its cap is 20 throughout, but its four problems with
    # six packages need at least 24 to 32 rounds, so these have 50 here.
    paper=(
        {"cities": 2, "locations": 2, "packages": 1, "planes": 1, "cap": 20},
        {"cities": 2, "locations": 2, "packages": 2, "planes": 1, "cap": 20},
        {"cities": 3, "locations": 2, "packages": 6, "planes": 1, "cap": 50},
    ),
    prompt=_PROMPT,
    description="A player loads, drives, flies and unloads, one action a round, until all packages are where they belong.",
)
