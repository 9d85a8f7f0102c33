"""Numbers that pages and comparisons share: the best so far, what went wrong how often, the command of a run."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.strategies.registry import known_strategies, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Record, Result

_MOST_KINDS = 12
_LONGEST_KIND = 80  # characters
_PROVIDERS = ("local", "local-clip", "openai", "completions", "anthropic")


class Point(NamedTuple):
    """A candidate that was better than all before it.

    Args:
        number: of the candidate.
        calls: that the run had used when it was first scored.
        dollars: the same in dollars.
        reward: its mean training reward, over all cells that it got in the end.
    """

    number: int
    calls: int
    dollars: float
    reward: float


class Kind(NamedTuple):
    """A kind of outcome, and how many test items came to it under each prompt."""

    name: str
    seed: int
    chosen: int


def best_so_far(history: Iterable[Record]) -> list[Point]:
    """Return the best training reward as the calls go on, one point where it rises.

    Candidates with less than half of the most cells are left out, as from the choice: on few items luck alone puts one
    on top. So are those of earlier versions, which did not count the calls.
    """
    counted = [record for record in history if record.reward is not None]
    most = max((record.cells for record in counted), default=0)
    out: list[Point] = []
    for record in sorted(counted, key=lambda r: (r.calls or 0, r.number)):
        if record.calls is None or record.reward is None or 2 * record.cells < most:
            continue
        if not out or record.reward > out[-1].reward:
            out.append(Point(record.number, record.calls, record.dollars or 0.0, record.reward))
    return out


def best_at(points: Sequence[Point], calls: int) -> float | None:
    """Return the best training reward by so many calls, None where nothing was scored yet."""
    return max((point.reward for point in points if point.calls <= calls), default=None)


def kinds(outcomes: Sequence[Outcome]) -> list[Kind]:
    """Count what came of the test items: right, each reason of the reward, cut off, declined; and events of episodes.

    The most frequent come first after "right"; what is rare is one kind together.
    """
    seed = Counter(kind for one in outcomes for kind in _kinds(one.seed))
    chosen = Counter(kind for one in outcomes for kind in _kinds(one.chosen))
    names = sorted(seed.keys() | chosen.keys(), key=lambda name: (name != "right", -seed[name] - chosen[name], name))
    shown = [Kind(name, seed[name], chosen[name]) for name in names[:_MOST_KINDS]]
    rest = names[_MOST_KINDS:]
    if rest:
        name = f"{len(rest)} other kinds"
        shown.append(Kind(name, sum(seed[name] for name in rest), sum(chosen[name] for name in rest)))
    return shown


def _kinds(answer: Answer) -> set[str]:
    return {_kind(answer)} | {f"event {name}" for name in answer.events}


def _kind(answer: Answer) -> str:
    if answer.finish == "failed":
        return "no reply"
    if answer.reward is None:
        return "no score"
    if answer.reward >= 1:
        return "right"
    if answer.finish != "stop":
        return {"length": "cut off", "refusal": "declined"}.get(answer.finish, answer.finish)
    if answer.reason:
        short = " ".join(answer.reason.split())
        return short if len(short) <= _LONGEST_KIND else f"{short[:_LONGEST_KIND]}..."
    return "part of the reward" if answer.reward > 0 else "no reward"


def command(result: Result) -> str:
    """Return the shell command that makes the run again; capitals stand for what a result does not know."""
    name, settings = _strategy(result)
    words = ["promptopt", "optimize", "TASK.toml", *_model("--model", "--base-url", result.models.get("task", {}))]
    if "writer" in result.models and result.models["writer"] != result.models.get("task"):
        words += _model("--writer", "--writer-base-url", result.models["writer"])
    words += ["--strategy", name]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    if result.budget != "no limit":
        words += ["--budget", re.sub(r"(?<=\d),(?=\d{3})", "", result.budget)]
    return shlex.join([*words, "--seed", str(result.seed)])


def _strategy(result: Result) -> tuple[str, dict[str, Any]]:
    """Return the name under which the strategy's settings need the fewest changes, and those."""
    found = []
    for name, make in known_strategies().items():
        strategy = make()
        if type(strategy).__name__ == result.strategy["name"]:
            usual = settings_of(strategy)
            changed = {k: v for k, v in result.strategy["settings"].items() if k in usual and usual[k] != v}
            found.append((len(changed), name, {k: v for k, v in changed.items() if v is not None}))
    if not found:
        return "STRATEGY", {k: v for k, v in result.strategy["settings"].items() if v is not None}
    return min(found, key=lambda one: one[:2])[1:]


def _model(option: str, url_option: str, fingerprint: dict[str, Any]) -> list[str]:
    provider, model = fingerprint.get("provider"), fingerprint.get("model")
    if provider not in _PROVIDERS or not model:
        return [option, "python:MODULE:NAME"]
    endpoint = [url_option, str(fingerprint["endpoint"])] if fingerprint.get("endpoint") else []
    scores_chats = provider == "completions" and "template" in fingerprint and option == "--model"
    extra = ["--extra-body", json.dumps(fingerprint["extra_body"])] if fingerprint.get("extra_body") else []
    return [option, f"{provider}:{model}", *endpoint, *(["--tokenizer", "TOKENIZER"] if scores_chats else []), *extra]
