"""A caller whose replies are simulated: the memo answers what it holds; the rest is made up, and thrown away."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from promptopt.environment import Choosing, Step
from promptopt.evaluation.caller import Caller, Reply
from promptopt.evaluation.ledger import Spending
from promptopt.memo.store import ThreadClaims
from promptopt.replies import Arrival, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from enum import Enum

    from promptopt.environment import Environment, FeedbackRule, Trajectory
    from promptopt.memo.store import Claim, ReplyCache
    from promptopt.models.base import LabelModel, Model, Price, Request, Unit
    from promptopt.prompt import Context

_BYTES_PER_TOKEN = 4  # of English in today's tokenizers
_TURN_TOKENS = 4  # around each message
_MADE_UP = "(simulated reply)"
_ROUND = "(simulated round"

T = TypeVar("T")


class Overlay:
    """A memo that is only read, with new values kept in memory and claimed here alone."""

    def __init__(self, memo: ReplyCache) -> None:
        self._memo = memo
        self._new: dict[str, Any] = {}
        self._flights = ThreadClaims()

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that are there, in the order of `keys`."""
        found = self._memo.get_many([key for key in keys if key not in self._new]) | self._new
        return {key: found[key] for key in keys if key in found}

    def put(self, key: str, value: Any) -> None:
        """Keep one value until the overlay is gone."""
        self._new[key] = value

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Keep the values until the overlay is gone."""
        self._new |= values

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work among the threads of this process."""
        return self._flights.claim(keys)


@dataclass
class SimulatedCaller(Caller):
    """Asks stand-ins, and counts.

    Args:
        labels: what the task model may answer; () for any text.
        needs: by stage and role, (asked, known).
        episodes: whether the task model acts in an environment.
        guessed: whether of the last log-probabilities some were made up.
        known_episodes: (rounds, rounds that were allowed) of each that the memo holds whole.
    """

    labels: Sequence[str] = ()
    needs: dict[tuple[str, str], tuple[Spending, Spending]] = field(
        default_factory=lambda: defaultdict(lambda: (Spending(), Spending()))
    )
    episodes: bool = False
    guessed: bool = False
    known_episodes: list[tuple[int, int]] = field(default_factory=list)

    def in_proportion(self) -> list[str]:
        """Return what the episodes that the memo holds say of those to come, if there are any."""
        lasted, allowed = (sum(episode[i] for episode in self.known_episodes) for i in range(2))
        asked = sum(spent[0].calls for (_, role), spent in self.needs.items() if role == "task")
        said = (
            f"episodes that the memo holds took {lasted / max(allowed, 1):.0%} of the rounds that they were allowed; in "
            f"proportion, the task model is asked {math.ceil(asked * lasted / max(allowed, 1)):,} times"
        )
        return [said] if allowed and asked else []

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return simulated replies, or the memo's."""
        say = _text
        if role == "task":
            say = _made_up if self.episodes else self._label if self.labels else _text
        return self._count(role, lambda: super(SimulatedCaller, self).generate(role, _StandIn(model, say), requests))

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return simulated log-probabilities, or the memo's."""
        mark = f"{_MADE_UP} " if self.episodes else ""
        replies = self._count(
            role,
            lambda: super(SimulatedCaller, self).label_logprobs(role, _StandIn(model, _text, mark), contexts, labels),
        )
        self.guessed = any(isinstance(reply, Response) and reply.text.startswith(_MADE_UP) for reply in replies)
        return replies

    def _label(self, request: Request) -> tuple[str, int]:
        label = max(self.labels, key=lambda label: _draw(request.context, request.replicate, label))
        return label, _tokens(label)

    def _count(self, role: str, ask: Callable[[], T]) -> T:
        place = (self.ledger.stage, role)
        paid, logical = self._spent(role)
        try:
            return ask()
        finally:
            paid_now, logical_now = self._spent(role)
            new, all_ = paid_now - paid, logical_now - logical
            if all_.calls:
                asked, known = self.needs[place]
                self.needs[place] = (asked + new, known + all_ - new)

    def _spent(self, role: str) -> tuple[Spending, Spending]:
        paid, logical = (account.get(role, Spending()) for account in (self.ledger.paid, self.ledger.logical))
        return paid + Spending(), logical + Spending()  # copies


class _StandIn:
    """Answers at random, drawn by a hash of the request, where the model would be asked."""

    def __init__(self, model: Model, say: Callable[[Request], tuple[str, int]], mark: str = "") -> None:
        self._say = say
        self._mark = mark
        self.fingerprint: Mapping[str, Any] = model.fingerprint
        self.unit: Unit = model.unit
        self.price: Price | None = model.price

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield simulated replies."""
        for number, request in enumerate(requests):
            text, tokens = self._say(request)
            yield Arrival(number, Response(text, usage=Usage(_input_tokens(request.context), output=tokens)))

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield simulated log-probabilities."""
        times = len(labels) if self.unit == "reply" else 1  # a server reads a text with each label, an engine here once
        for number, context in enumerate(contexts):
            weights = [1e-3 + _draw(context, label) for label in labels]
            values = tuple(math.log(weight / sum(weights)) for weight in weights)
            likeliest = labels[max(range(len(labels)), key=values.__getitem__)]
            usage = Usage(times * _input_tokens(context), output=times * _tokens(likeliest))
            yield Arrival(number, Response(f"{self._mark}{likeliest}", values, usage))


class _Longest:
    """An episode of an environment that, from the first simulated reply on, only lasts: as long as its instance allows.

    What the memo holds is played as ever. Observations stay those of the last real round, told apart by a number; the score
    is drawn; and each episode ends with one event, in turn, so that a strategy finds things to mend.
    """

    def __init__(self, inner: Environment, caller: SimulatedCaller) -> None:
        self._inner = inner
        self._caller = caller
        self._cap: int | None = None
        self._said: list[str] = []
        self._seen = ""
        self._real = True
        self.rules: Mapping[Enum, FeedbackRule] = {event: _ruled(rule) for event, rule in inner.rules.items()}

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        cap = instance.get("cap")
        self._cap = cap if isinstance(cap, int) else None
        self._said = [json.dumps(instance, sort_keys=True), str(seed)]
        self._seen = self._inner.reset(instance, seed)
        return self._seen

    def step(self, text: str) -> Step:
        simulated = self._caller.guessed or text.startswith(_MADE_UP)
        self._real = self._cap is None or (self._real and not simulated)
        self._said.append(text)
        if self._cap is None or self._real:
            step = self._inner.step(text)
            self._seen = step.observation
            if step.done and self._cap is not None:
                self._caller.known_episodes.append((len(self._said) - 2, self._cap))
            return step
        rounds = len(self._said) - 2  # what `reset` noted
        done = rounds >= self._cap
        events = list(self.rules)[int(_draw("event", *self._said) * len(self.rules)) :][:1] if done else []
        return Step(f"{self._seen}\n{_ROUND} {rounds})", done, tuple(events))

    def score(self) -> float:
        return self._inner.score() if self._real else _draw("score", *self._said)


class _LongestChoosing(_Longest):
    """The same, of an environment that names the actions."""

    def __init__(self, inner: Choosing, caller: SimulatedCaller) -> None:
        super().__init__(inner, caller)
        self._choosing = inner

    def actions(self) -> tuple[str, ...]:
        return self._choosing.actions()


def longest_episodes(make: Callable[[], Environment], caller: SimulatedCaller) -> Callable[[], Environment]:
    """Return a maker of environments whose simulated episodes last as long as their instance allows."""

    def longest() -> Any:  # its rules are those of what it holds, no class's
        inner = make()
        return _LongestChoosing(inner, caller) if isinstance(inner, Choosing) else _Longest(inner, caller)

    return longest


def _ruled(rule: FeedbackRule) -> FeedbackRule:
    def said(trajectory: Trajectory) -> str:
        return "Something went wrong." if _ROUND in trajectory.last else rule(trajectory)

    return said


def _made_up(request: Request) -> tuple[str, int]:
    """Return a reply that is known for a simulation, as long as it is counted: the next rounds show it."""
    tokens = max(request.max_tokens // 2, 1)
    return f"{_MADE_UP} {_draw(request.context, request.replicate)} ".ljust(_BYTES_PER_TOKEN * tokens, "."), tokens


def _text(request: Request) -> tuple[str, int]:
    """Return what a writer, a judge or any other model could plausibly say, and its tokens."""
    text = "\n".join(_turns(request.context))
    drawn = hashlib.sha256(repr((request.context, request.replicate)).encode("utf-8", "surrogatepass")).hexdigest()
    said = f"Plausible {drawn[:6]}.\nScore: {int(drawn[:4], 16) % 11}"
    shown = re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL)
    if shown:  # as many variants as are asked for, of the longest: the rules name the marks too
        wanted = re.search(r"write (\d+) ", text)
        plain = re.sub(r" \(variant \w+\)$", "", max(shown, key=len))
        variants = range(int(wanted[1]) if wanted else 1)
        said = "\n".join(f"<prompt>{plain} (variant {drawn[:12]}x{n})</prompt>" for n in variants)
    return said, max(request.max_tokens // 2, 1)


def _draw(*of: object) -> float:
    """Return a number in [0, 1) that depends on nothing else."""
    digest = hashlib.sha256(repr(of).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _turns(context: Context) -> list[str]:
    return [context] if isinstance(context, str) else [turn.content for turn in context]


def _input_tokens(context: Context) -> int:
    return sum(_tokens(text) + _TURN_TOKENS for text in _turns(context))


def _tokens(text: str) -> int:
    return max(len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN, 1)
