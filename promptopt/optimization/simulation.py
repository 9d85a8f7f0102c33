"""A caller that answers from the memo, and simulates all other replies without storing them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from promptopt.environment import Choosing, Step
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Spending
from promptopt.evaluation.rollouts import round_limit
from promptopt.memo.store import ThreadClaims
from promptopt.models.usage import USUAL_IMAGE_TOKENS
from promptopt.replies import Arrival, Response, Usage
from promptopt.tools import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from enum import Enum

    from promptopt.environment import Environment, FeedbackRule, Trajectory
    from promptopt.memo.store import Claim, ReplyCache
    from promptopt.models.base import LabelModel, Model, Price, Request, Unit
    from promptopt.prompt import Context
    from promptopt.replies import Reply

_BYTES_PER_TOKEN = 4  # of English in today's tokenizers
_TURN_TOKENS = 4  # around each message
_MADE_UP = "(simulated reply)"
_ROUND = "(simulated round"

T = TypeVar("T")


class Overlay:
    """A read-only view of a memo; new values and claims stay in this process."""

    def __init__(self, memo: ReplyCache) -> None:
        self._memo = memo
        self._new: dict[str, Any] = {}
        self._flights = ThreadClaims()

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of the known keys, in the order of `keys`."""
        found = self._memo.get_many([key for key in keys if key not in self._new]) | self._new
        return {key: found[key] for key in keys if key in found}

    def put(self, key: str, value: Any) -> None:
        """Store one value in memory."""
        self._new[key] = value

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store values in memory."""
        self._new |= values

    def claim(self, keys: Iterable[str]) -> AbstractContextManager[Claim]:
        """Share out the work among the threads of this process."""
        return self._flights.claim(keys)


@dataclass
class SimulatedCaller(Caller):
    """Calls simulated models, and counts the calls.

    Args:
        labels: the task model's possible answers; () for any text.
        needs: (stage, role) -> (simulated usage, usage answered from the memo).
        episodes: whether the task model acts in an environment.
        last_simulated: whether any of the last log-probabilities were simulated.
        known_episodes: (rounds, maximum rounds) of each episode that the memo holds completely.
    """

    labels: Sequence[str] = ()
    needs: dict[tuple[str, str], tuple[Spending, Spending]] = field(
        default_factory=lambda: defaultdict(lambda: (Spending(), Spending()))
    )
    episodes: bool = False
    last_simulated: bool = False
    known_episodes: list[tuple[int, int]] = field(default_factory=list)

    def extrapolation_notes(self) -> list[str]:
        """Return a note that extrapolates from the episodes in the memo, or [] if there are none."""
        rounds, max_rounds = (sum(episode[i] for episode in self.known_episodes) for i in range(2))
        simulated_calls = sum(usage[0].calls for (_, role), usage in self.needs.items() if role == "task")
        if not max_rounds or not simulated_calls:
            return []
        expected_calls = math.ceil(simulated_calls * rounds / max_rounds)
        note = (
            f"episodes in the memo took {rounds / max_rounds:.0%} of their maximum rounds; at that rate, expect "
            f"{expected_calls:,} calls to the task model"
        )
        return [note]

    def generate(self, role: str, model: Model, requests: Sequence[Request]) -> list[Reply]:
        """Return replies from the memo, or simulated ones."""
        reply_to = _plausible_reply
        if role == "task":
            reply_to = _episode_reply if self.episodes else self._random_label if self.labels else _plausible_reply
        simulated = _SimulatedModel(model, reply_to)
        return self._count(role, lambda: super(SimulatedCaller, self).generate(role, simulated, requests))

    def label_logprobs(
        self, role: str, model: LabelModel, contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Reply]:
        """Return log-probabilities from the memo, or simulated ones."""
        prefix = f"{_MADE_UP} " if self.episodes else ""
        simulated = _SimulatedModel(model, _plausible_reply, prefix)
        replies = self._count(
            role, lambda: super(SimulatedCaller, self).label_logprobs(role, simulated, contexts, labels)
        )
        self.last_simulated = any(isinstance(reply, Response) and reply.text.startswith(_MADE_UP) for reply in replies)
        return replies

    def _random_label(self, request: Request) -> tuple[str, int]:
        label = max(self.labels, key=lambda label: _draw(request.context, request.replicate, label))
        return label, _tokens(label)

    def _count(self, role: str, ask: Callable[[], T]) -> T:
        """Call `ask`, and add its usage to `needs`."""
        key = (self.ledger.stage_name, role)
        paid, logical = self._spent(role)
        try:
            return ask()
        finally:
            paid_now, logical_now = self._spent(role)
            new, total = paid_now - paid, logical_now - logical
            if total.calls:
                simulated, known = self.needs[key]
                self.needs[key] = (simulated + new, known + total - new)

    def _spent(self, role: str) -> tuple[Spending, Spending]:
        paid, logical = (account.get(role, Spending()) for account in (self.ledger.paid, self.ledger.logical))
        return paid + Spending(), logical + Spending()  # copies


class _SimulatedModel:
    """A model with pseudo-random answers, determined by a hash of the request."""

    def __init__(self, model: Model, reply_to: Callable[[Request], tuple[str, int]], prefix: str = "") -> None:
        self._reply_to = reply_to
        self._prefix = prefix
        self.fingerprint: Mapping[str, Any] = model.fingerprint
        self.unit: Unit = model.unit
        self.price: Price | None = model.price

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield simulated replies."""
        for number, request in enumerate(requests):
            text, tokens = self._reply_to(request)
            images = request.images * USUAL_IMAGE_TOKENS
            usage = Usage(_input_tokens(request.texts) + images, output=tokens)
            yield Arrival(number, Response(text, usage=usage, tool_calls=_first_calls(request)))

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield simulated log-probabilities."""
        times = (
            len(labels) if self.unit == "reply" else 1
        )  # a server reads the text once per label, a local engine once
        for number, context in enumerate(contexts):
            weights = [1e-3 + _draw(context, label) for label in labels]
            values = tuple(math.log(weight / sum(weights)) for weight in weights)
            likeliest = labels[max(range(len(labels)), key=values.__getitem__)]
            usage = Usage(times * _input_tokens(_turns(context)), output=times * _tokens(likeliest))
            yield Arrival(number, Response(f"{self._prefix}{likeliest}", values, usage))


def _first_calls(request: Request) -> tuple[ToolCall, ...]:
    """Return one call of a tool at first, as an agent's model makes at least."""
    return () if request.exchanges else tuple(ToolCall(tool.name, "{}") for tool in request.tools[:1])


class _WorstCaseEpisode:
    """An environment whose episodes run to the instance's cap, or the task's limit, once a reply is simulated.

    Rounds with replies from the memo run normally. After that, each observation is the last real one with a round number,
    the score is random, and each episode ends with one random event, so that a strategy has errors to fix.
    """

    def __init__(self, inner: Environment, caller: SimulatedCaller, max_rounds: int | None) -> None:
        self._inner = inner
        self._caller = caller
        self._max_rounds = max_rounds
        self._cap: int | None = None
        self._transcript: list[str] = []
        self._observation = ""
        self._real = True
        self.rules: Mapping[Enum, FeedbackRule] = {event: _simulation_safe(rule) for event, rule in inner.rules.items()}

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:
        self._cap = round_limit(instance, self._max_rounds)
        self._transcript = [json.dumps(instance, sort_keys=True), str(seed)]
        self._observation = self._inner.reset(instance, seed)
        return self._observation

    def step(self, text: str) -> Step:
        simulated = self._caller.last_simulated or text.startswith(_MADE_UP)
        self._real = self._cap is None or (self._real and not simulated)
        self._transcript.append(text)
        if self._cap is None or self._real:
            step = self._inner.step(text)
            self._observation = step.observation
            if step.done and self._cap is not None:
                self._caller.known_episodes.append((len(self._transcript) - 2, self._cap))
            return step
        rounds = len(self._transcript) - 2  # `reset` added two entries
        done = rounds >= self._cap
        events = list(self.rules)[int(_draw("event", *self._transcript) * len(self.rules)) :][:1] if done else []
        return Step(f"{self._observation}\n{_ROUND} {rounds})", done, tuple(events))

    def score(self) -> float:
        return self._inner.score() if self._real else _draw("score", *self._transcript)


class _WorstCaseChoosingEpisode(_WorstCaseEpisode):
    """A worst-case episode of an environment that lists its actions."""

    def __init__(self, inner: Choosing, caller: SimulatedCaller, max_rounds: int | None) -> None:
        super().__init__(inner, caller, max_rounds)
        self._choosing = inner

    def actions(self) -> tuple[str, ...]:
        return self._choosing.actions()


def longest_episodes(
    make: Callable[[], Environment], caller: SimulatedCaller, max_rounds: int | None
) -> Callable[[], Environment]:
    """Return a factory of environments whose simulated episodes last as long as their instance and the task's limit allow."""

    def make_worst_case() -> Any:  # not an Environment by type: its rules are an instance attribute
        inner = make()
        if isinstance(inner, Choosing):
            return _WorstCaseChoosingEpisode(inner, caller, max_rounds)
        return _WorstCaseEpisode(inner, caller, max_rounds)

    return make_worst_case


def _simulation_safe(rule: FeedbackRule) -> FeedbackRule:
    """Return a rule that gives fixed advice for simulated rounds, which the original rule may not parse."""

    def advice(trajectory: Trajectory) -> str:
        return "Something went wrong." if _ROUND in trajectory.last else rule(trajectory)

    return advice


def _episode_reply(request: Request) -> tuple[str, int]:
    """Return a reply marked as simulated and as long as its token count says, because later rounds contain it."""
    tokens = max(request.max_tokens // 2, 1)
    return f"{_MADE_UP} {_draw(request.context, request.replicate)} ".ljust(_BYTES_PER_TOKEN * tokens, "."), tokens


def _plausible_reply(request: Request) -> tuple[str, int]:
    """Return a reply that a writer, a judge or another model could give, and its tokens."""
    text = "\n".join(_turns(request.context))
    digest = hashlib.sha256(repr((request.context, request.replicate)).encode("utf-8", "surrogatepass")).hexdigest()
    reply = f"Plausible {digest[:6]}.\nScore: {int(digest[:4], 16) % 11}"
    prompts = re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL)
    if prompts:  # a writer's message: vary the longest, because the instructions also contain the tags
        requested = re.search(r"write (\d+) ", text)
        base = re.sub(r" \(variant \w+\)$", "", max(prompts, key=len))
        variants = range(int(requested[1]) if requested else 1)
        reply = "\n".join(f"<prompt>{base} (variant {digest[:12]}x{n})</prompt>" for n in variants)
    return reply, max(request.max_tokens // 2, 1)


def _draw(*key: object) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on the key."""
    digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _turns(context: Context) -> list[str]:
    return [context] if isinstance(context, str) else [turn.content for turn in context]


def _input_tokens(texts: Sequence[str]) -> int:
    return sum(_tokens(text) + _TURN_TOKENS for text in texts)


def _tokens(text: str) -> int:
    return max(len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN, 1)
