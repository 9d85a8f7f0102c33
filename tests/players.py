"""Scripted players and writers for multi-step tasks. No language model: what they show is that a search works as meant.

A player plays as its environment's oracle would, but for the skills that its prompt does not teach: each skill hangs on
one word, of which a strategy knows nothing. A writer knows sentences, one in four of which has the word, and picks them by
the kinds of error that it is shown; a blind one picks any; an adversarial one adds noise, which makes players careless.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from toys import text_of

from promptopt import FunctionModel, Prompt, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    from promptopt import FeedbackRule, Request, Step
    from promptopt.environments.base import PlayableEnvironment


class Skill(NamedTuple):
    """What a player lacks until its prompt has the word.

    Args:
        word: that teaches it.
        needed: share of the instances that need it.
    """

    word: str
    needed: float


FORMAT, CARE, PLAN = Skill("exactly", 0.5), Skill("allowed", 0.5), Skill("shortest", 0.7)
SLIPS = 0.01  # share of the rounds in which any player fails
FIRST_LAPSE = 2  # rounds that go well under any prompt
LONG = 900  # characters, above which a prompt is read carelessly
TEMPLATES = (
    "Reply with {} one action.",
    "Think of what is {} before you act.",
    "Always keep to what is {}.",
    "Remember: {} is what counts.",
)
CARELESS = ('{"Agent[9, 9]": "move(box_none, nowhere)"}', "Move up", "pick up nothing", "drive t9 to nowhere")
NOISE = ("calm", "polite", "bold", "kind", "brisk", "proud", "wise", "neat", "loud", "fresh", "plain", "fair")
BY_KIND = {  # the words that a writer thinks of, by kind of error
    "FORMAT": ("exactly", "clearly", "simply", "briefly"),
    "INVALID": ("allowed", "possible", "usual", "listed"),
    "COLLISION": ("allowed", "free", "safe", "open"),
    "OUTSIDE": ("allowed", "inside", "near", "marked"),
    "OBJECT": ("allowed", "named", "known", "real"),
    "ORDER": ("shortest", "first", "sorted", "next"),
    "BUSY": ("allowed", "single", "shared", "fair"),
    "LOOP": ("shortest", "new", "other", "changed"),
    "LIMIT": ("shortest", "quick", "early", "urgent"),
    "LOST": ("shortest", "sure", "certain", "final"),
}


class Replayed:
    """An environment whose observations end with all that a player needs to come to the same state.

    Args:
        make: what it holds.
        silent: no event is reported, so that no rule has anything to say.
    """

    def __init__(self, make: Callable[[], PlayableEnvironment], *, silent: bool = False) -> None:
        self.inner = make()
        self.silent = silent
        self.rules: Mapping[Enum, FeedbackRule] = {} if silent else self.inner.rules

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        self.log: dict[str, Any] = {"instance": dict(instance), "seed": seed, "said": []}
        return self._seen(self.inner.reset(instance, seed))

    def step(self, text: str) -> Step:
        self.log["said"].append(text)
        step = self.inner.step(text)
        return step._replace(observation=self._seen(step.observation), events=() if self.silent else step.events)

    def score(self) -> float:
        return self.inner.score()

    def _seen(self, text: str) -> str:
        return f"{text}\nreplay {json.dumps(self.log)}"


def chance(*of: object) -> np.random.Generator:
    """A generator that depends on nothing else."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(repr(of).encode()).digest(), dtype=np.uint32))


@cache
def needs(instance: str, skill: Skill) -> bool:
    """Whether an instance, in JSON, needs a skill."""
    return bool(chance(instance, skill.word).random() < skill.needed)


@cache
def careless(make: Callable[[], PlayableEnvironment], instance: str) -> str:
    """What can be read as an action of this environment and is none that is possible, or wise."""
    for text in CARELESS:
        environment = make()
        environment.reset(json.loads(instance), 0)
        if all(event.name != "FORMAT" for event in environment.step(text).events):
            return text
    raise ValueError(f"no careless reply for {make}")


def reply(
    make: Callable[[], PlayableEnvironment],
    prompt: str,
    instance: str,
    rounds: int,
    rng: np.random.Generator,
    *,
    best: Callable[[], str],
    legal: Callable[[np.random.Generator], str],
) -> str:
    """What a player says after so many rounds, who might say what is best, or anything that is legal."""
    slips = SLIPS + max(0.0, (len(prompt) - LONG) / LONG / 3)
    lapse = {
        skill: rng.random() < slips or (skill.word not in prompt and needs(instance, skill))
        for skill in (FORMAT, CARE, PLAN)
    }
    if lapse[FORMAT] and rounds >= FIRST_LAPSE:
        return "Let me think about that for a while."
    if lapse[CARE] and rounds >= FIRST_LAPSE:
        return careless(make, instance)
    return legal(rng) if lapse[PLAN] else best()


def player(make: Callable[[], PlayableEnvironment], name: str = "player") -> FunctionModel:
    """A task model that plays this environment."""

    def at(log: str) -> PlayableEnvironment:
        known, environment = json.loads(log), make()
        environment.reset(known["instance"], known["seed"])
        for said in known["said"]:
            environment.step(said)
        return environment

    @cache
    def best(log: str) -> str:
        return at(log).oracle()

    def handler(request: Request) -> str:
        context = request.context
        assert not isinstance(context, str)
        prompt, log = context[0].content, context[-1].content.rsplit("replay ", 1)[1]
        known = json.loads(log)
        return reply(
            make,
            prompt,
            json.dumps(known["instance"]),
            len(known["said"]),
            chance(prompt, log, request.replicate),
            best=lambda: best(log),
            legal=lambda rng: at(log).random_reply(rng),
        )

    return FunctionModel(handler, name=name, version="1")


def competence(make: Callable[[], PlayableEnvironment], prompt: str, instances: Sequence[Mapping[str, Any]]) -> float:
    """The mean score of a prompt; chance is the same for all prompts, so that equal skills score the same."""
    scores = []
    for instance in instances:
        text = json.dumps(instance)
        environment, rng, rounds, done = make(), chance(text), 0, False
        environment.reset(instance, 0)
        while not done:
            said = reply(make, prompt, text, rounds, rng, best=environment.oracle, legal=environment.random_reply)
            done = environment.step(said).done
            rounds += 1
        scores.append(environment.score())
    return float(np.mean(scores))


def writer(kind: str = "heeding") -> FunctionModel:
    """A prompt writer: "heeding" reads the kinds of error, "blind" does not, "adversarial" adds noise whatever it reads."""

    def handler(request: Request) -> str:
        text = text_of(request.context)
        if "Do not write a new prompt" in text:  # a summary is asked for
            return "The prompt does not say how to avoid this."
        rng = chance(kind, text, request.replicate)
        prompt = re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL)
        prompt = [shown for shown in prompt if shown not in ("", " and ")] or [
            "Act."
        ]  # "between <prompt> and </prompt>"
        wanted = re.search(r"write (\d+) ", text)
        criticism = re.search(r"<criticism>(.*?)</criticism>", text, flags=re.DOTALL)
        kinds = re.findall(r"^\d+\. ([A-Z]+):", criticism[1], flags=re.MULTILINE) if criticism else []
        out = []
        for _ in range(int(wanted[1]) if wanted else 1):
            known = [word for kind_ in kinds for word in BY_KIND[kind_]]
            every = sorted({word for words in BY_KIND.values() for word in words} | set(NOISE))
            words = list(NOISE) if kind == "adversarial" else known if kind == "heeding" and known else every
            sentence = TEMPLATES[rng.integers(len(TEMPLATES))].format(words[rng.integers(len(words))])
            times = 12 if kind == "adversarial" else 1
            base = prompt[0]
            if "Join what is best" in text:
                base = " ".join(dict.fromkeys(re.findall(r"[^.]+\.", " ".join(prompt[:2]))))
            out.append(f"<prompt>{' '.join([base, *[sentence] * times])}</prompt>")
        return "\n".join(out)

    return FunctionModel(handler, name=f"{kind} writer", version="1")


def playable(task: Task, *, silent: bool = False) -> Task:
    """Return an environment's task for a scripted player: nothing is taught yet, and no event is told where silent."""
    make: Any = task.environment

    def replayed() -> Any:  # its rules are those of what it holds, no class's
        return Replayed(make, silent=silent)

    return replace(task, environment=replayed, seed_prompt=Prompt("Act."), history=0)
