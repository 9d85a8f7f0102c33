"""What every environment promises: the same episode for the same replies, whatever they are, and advice for what happens."""

from __future__ import annotations

import json
from copy import deepcopy
from enum import Enum
from typing import TYPE_CHECKING, Any

from promptopt.environment import Choosing, Step, Trajectory, Turn, advice
from promptopt.errors import InputError
from promptopt.testing.oddities import ODD_TEXTS, untouched_randomness

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from promptopt.environment import Environment

_SEED = 3


def check_environment(
    make: Callable[[], Environment], instances: Sequence[Mapping[str, Any]], replies: Sequence[str] = ()
) -> None:
    """Check what an environment promises: it is played with odd replies and with those that are given.

    Args:
        make: returns a new environment.
        instances: plain JSON values that `reset` takes.
        replies: replies of a whole episode, for the first instance, so that good ones are seen too.

    Raises:
        AssertionError: a promise is broken.
    """
    _check_rules(make())
    episodes = [(instances[0], [text, *ODD_TEXTS]) for text in ODD_TEXTS]
    episodes += [(instance, list(ODD_TEXTS)) for instance in instances[1:]]
    episodes += [(instances[0], list(replies))] if replies else []
    used = make()
    with untouched_randomness(type(used).__name__):
        for instance, texts in episodes:
            trajectory = _played(make(), instance, texts)
            _check_advice(make(), trajectory)
            _check_same(trajectory, _played(used, instance, texts), "an environment that was used before and reset")
            _check_same(trajectory, _interleaved(make, instance, texts), "two episodes at the same time")
    for instance in instances:
        _check_actions(make, instance)


def _check_rules(environment: Environment) -> None:
    name = type(environment).__name__
    for event, rule in environment.rules.items():
        if not isinstance(event, Enum) or not callable(rule):
            raise AssertionError(
                f"the rules of {name} hold {event!r}: {rule!r}; give a function for each member of an enum"
            )


def _played(environment: Environment, instance: Mapping[str, Any], texts: Sequence[str]) -> Trajectory:
    *_, trajectory = _rounds(environment, instance, texts)
    return trajectory


def _interleaved(make: Callable[[], Environment], instance: Mapping[str, Any], texts: Sequence[str]) -> Trajectory:
    pairs = zip(_rounds(make(), instance, texts), _rounds(make(), instance, texts), strict=True)
    *_, (trajectory, _) = pairs
    return trajectory


def _rounds(
    environment: Environment, instance: Mapping[str, Any], texts: Sequence[str]
) -> Generator[Trajectory, None, None]:
    """Yield the episode so far, at its start and after each reply."""
    name, given = type(environment).__name__, deepcopy(instance)
    observation, turns = environment.reset(instance, _SEED), list[Turn]()
    _check_observation(name, observation)
    yield Trajectory((), observation, _score(environment))
    for text in texts:
        step = _step(environment, text)
        turns.append(Turn(observation, text, tuple(step.events)))
        observation = step.observation
        _check_observation(name, observation)
        yield Trajectory(tuple(turns), observation, _score(environment))
        if step.done:
            break
    if instance != given or json.loads(json.dumps(instance)) != given:
        raise AssertionError(f"{name} changes the instance that it is given: copy what changes")


def _step(environment: Environment, text: str) -> Step:
    name = type(environment).__name__
    try:
        step = environment.step(text)
    except Exception as error:
        raise AssertionError(
            f"{name} raised {type(error).__name__} ({error}) for the reply {text[:60]!r}: turn it into an event"
        ) from error
    if not isinstance(step, Step) or not isinstance(step.done, bool):
        raise AssertionError(f"{name} gives {step!r} for the reply {text[:60]!r}: give Step(observation, done, events)")
    return step


def _check_observation(name: str, observation: object) -> None:
    if not isinstance(observation, str):
        raise AssertionError(f"{name} shows {observation!r}: an observation is a text")


def _score(environment: Environment) -> float:
    score = environment.score()
    if not 0 <= score <= 1:
        raise AssertionError(f"{type(environment).__name__} gives the score {score!r}: keep it between 0 and 1")
    return score


def _check_advice(environment: Environment, trajectory: Trajectory) -> None:
    name = type(environment).__name__
    try:
        words = advice(trajectory, environment.rules)
    except InputError as error:
        raise AssertionError(f"{name}: {error}") from error
    empty = [event for event, text in words.items() if not isinstance(text, str) or not text.strip()]
    if empty:
        raise AssertionError(f"the rule of {name} for {empty[0]} gives {words[empty[0]]!r}: say what to do differently")


def _check_same(one: Trajectory, other: Trajectory, when: str) -> None:
    if one != other:
        raise AssertionError(
            f"the same instance, seed and replies give another episode, with {when}:\n{one}\n\n{other}"
        )


def _check_actions(make: Callable[[], Environment], instance: Mapping[str, Any]) -> None:
    listed = []
    for _ in range(2):
        environment = make()
        environment.reset(instance, _SEED)
        if not isinstance(environment, Choosing):
            return
        listed.append((environment.actions(), environment.actions()))
    actions = listed[0][0]
    if listed[0] != listed[1] or listed[0][0] != listed[0][1] or len(set(actions)) != len(actions) or len(actions) < 2:  # noqa: PLR2004  a choice
        raise AssertionError(
            f"{type(make()).__name__} lists {listed}: give two or more different actions, in a stable order"
        )
