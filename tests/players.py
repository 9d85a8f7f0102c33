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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from toys import text_of

from promptopt import FakeModel, Prompt, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import Enum

    from promptopt import FeedbackRule, Request, Step
    from promptopt.environments.base import Played


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
    """An environment whose observations end with all that a player needs to come to the same state."""

    def __init__(self, make: Callable[[], Played]) -> None:
        self.inner = make()
        self.rules: Mapping[Enum, FeedbackRule] = self.inner.rules

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        self.log: dict[str, Any] = {"instance": dict(instance), "seed": seed, "said": []}
        return self._seen(self.inner.reset(instance, seed))

    def step(self, text: str) -> Step:
        self.log["said"].append(text)
        step = self.inner.step(text)
        return step._replace(observation=self._seen(step.observation))

    def score(self) -> float:
        return self.inner.score()

    def _seen(self, text: str) -> str:
        return f"{text}\nreplay {json.dumps(self.log)}"


def chance(*of: object) -> np.random.Generator:
    """A generator that depends on nothing else."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(repr(of).encode()).digest(), dtype=np.uint32))


def needs(instance: Mapping[str, Any], skill: Skill) -> bool:
    return bool(chance(json.dumps(instance), skill.word).random() < skill.needed)


def player(make: Callable[[], Played], name: str = "player") -> FakeModel:
    """A task model that plays this environment."""

    def handler(request: Request) -> str:
        context = request.context
        assert not isinstance(context, str)
        prompt, seen = context[0].content, context[-1].content
        log = json.loads(seen.rsplit("replay ", 1)[1])
        rng = chance(prompt, json.dumps(log), request.replicate)
        careless = SLIPS + max(0.0, (len(prompt) - LONG) / LONG / 3)
        lapse = {
            skill: rng.random() < careless or (skill.word not in prompt and needs(log["instance"], skill))
            for skill in (FORMAT, CARE, PLAN)
        }
        if len(log["said"]) < FIRST_LAPSE:
            lapse[FORMAT] = lapse[CARE] = False
        if lapse[FORMAT]:
            return "Let me think about that for a while."
        if lapse[CARE]:
            return '{"Agent[9, 9]": "move(box_none, nowhere)"} {Move up} {pick-up nothing}'
        environment = make()
        environment.reset(log["instance"], log["seed"])
        for said in log["said"]:
            environment.step(said)
        return environment.random_reply(rng) if lapse[PLAN] else environment.oracle()

    return FakeModel(handler, name)


def writer(kind: str = "heeding") -> FakeModel:
    """A prompt writer: "heeding" reads the kinds of error, "blind" does not, "adversarial" adds noise whatever it reads."""

    def handler(request: Request) -> str:
        text = text_of(request.context)
        if "Do not write a new prompt" in text:  # a summary is asked for
            return "The prompt does not say how to avoid this."
        rng = chance(kind, text, request.replicate)
        prompt = re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL)
        prompt = [shown for shown in prompt if shown] or ["Act."]
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

    return FakeModel(handler, f"{kind} writer")


def playable(task: Task) -> Task:
    """Return an environment's task for a scripted player: nothing is taught yet."""
    make: Any = task.environment

    def replayed() -> Any:  # its rules are those of what it holds, no class's
        return Replayed(make)

    return replace(task, environment=replayed, seed_prompt=Prompt("Act."), history=0)
