"""The reader of PDDL, the actions of a problem, and the planner."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from promptopt import InputError
from promptopt.environments.strips import Action, ground, parse_domain, parse_problem, plan

TYPED = """
(define (domain ferry) ; a comment (with parentheses
  (:requirements :strips :typing)
  (:types car boat - thing pier)
  (:constants home - pier)
  (:predicates (at ?t - thing ?p - pier))
  (:action SAIL :parameters (?b - boat ?from ?to - pier)
    :precondition (at ?b ?from) :effect (and (at ?b ?to) (not (at ?b ?from))))
  (:action tow :parameters (?t - thing ?p - pier) :precondition (and (at ?t ?p)) :effect (and (at ?t home) (not (at ?t ?p)))))
"""
CROSSING = (
    "(define (problem x) (:domain ferry) (:objects b - boat c - car far - pier) (:init (at b far)) (:goal (at b home)))"
)


def test_a_domain_with_types_and_constants_is_read() -> None:
    domain = parse_domain(TYPED)

    assert domain.constants == {"home": "pier"}
    assert domain.types == {"car": "thing", "boat": "thing", "pier": "object"}
    assert domain.schemas[0].name == "sail"
    assert domain.schemas[0].parameters == {"?b": "boat", "?from": "pier", "?to": "pier"}


def test_only_objects_of_the_right_type_fill_a_parameter() -> None:
    actions = ground(parse_domain(TYPED), parse_problem(CROSSING))

    assert {action.arguments for action in actions if action.name == "sail"} == {
        ("b", start, end) for start in ("home", "far") for end in ("home", "far")
    }
    assert {action.arguments[0] for action in actions if action.name == "tow"} == {"b", "c"}, "a type's subtypes fit"


def test_the_shortest_plan_is_found() -> None:
    problem = parse_problem(CROSSING)
    found = plan(ground(parse_domain(TYPED), problem), problem.init, problem.goal)

    assert found is not None
    assert len(found) == 1
    assert problem.goal <= found[0].after(problem.init)


def test_a_plan_is_shortest_even_where_the_estimate_first_misleads() -> None:
    ways = ("s a c d e goal", "s p q r c", "s t u v w x goal")  # c is first reached the long way, for a looks far
    steps = {(a, b) for way in ways for a, b in pairwise(way.split())}
    actions = [Action(b, (), frozenset({(a,)}), frozenset({(b,)}), frozenset({(a,)})) for a, b in sorted(steps)]
    found = plan(
        actions, frozenset({("s",)}), frozenset({("goal",)}), estimate=lambda state: 4 if ("a",) in state else 0
    )

    assert found is not None
    assert [action.name for action in found] == ["a", "c", "d", "e", "goal"]


def test_a_goal_out_of_reach_has_no_plan() -> None:
    problem = parse_problem(CROSSING.replace("(:goal (at b home))", "(:goal (at c home))"))

    assert plan(ground(parse_domain(TYPED), problem), problem.init, problem.goal) is None


def test_what_is_deleted_and_added_stays() -> None:
    stay = next(a for a in ground(parse_domain(TYPED), parse_problem(CROSSING)) if a.arguments == ("b", "far", "far"))
    state = frozenset({("at", "b", "far")})

    assert stay.after(state) == state
    assert not stay.applies(state), "sailing to where one is changes nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("(:requirements :strips", "(:requirements :adl"), "requires :adl"),
        ((":precondition (at ?b ?from)", ":precondition (not (at ?b ?from))"), "negative precondition"),
        ((":precondition (at ?b ?from)", ":precondition (or (at ?b ?from))"), "a plain fact"),
        (("(at ?b ?to) (not", "(at ?z ?to) (not"), r"uses \?z"),
        (("(define (domain ferry)", "(define (problem ferry)"), "not a domain"),
        (("(define", "((define"), "open"),
        (("(:constants home - pier)", ") )"), "never opened"),
        (("- boat ?from", "- (either boat car) ?from"), "either"),
    ],
)
def test_pddl_that_is_not_read_is_named(change: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_domain(TYPED.replace(*change))


@given(st.lists(st.sampled_from(["(", ")", "define", "domain", "problem", ":init", ":goal", "and", "not", "-", "?x"])))
@example(["("] * 5000 + [")"] * 5000)
@example(["(", "define", ")"])
def test_text_that_is_no_pddl_is_refused_in_words(words: list[str]) -> None:
    for parse in (parse_domain, parse_problem):
        text = " ".join(words)
        with pytest.raises(InputError):
            parse(text)
        parsed = text.replace("(", "(define (domain x) (:action a :parameters (")
        with pytest.raises(InputError):
            parse(parsed + "?")
