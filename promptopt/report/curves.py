"""Data shared by pages and comparisons: best-so-far curves, counts of outcome kinds, the command of a run."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.models import KINDS
from promptopt.search.archive import well_measured
from promptopt.strategies.registry import known_strategies, name_of, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Record, Result

_MAX_KINDS = 12
_MAX_KIND_LENGTH = 80  # characters


class Point(NamedTuple):
    """A candidate that was better than all earlier ones.

    Args:
        number: number of the candidate.
        calls: calls used by the run when the candidate was first scored.
        dollars: dollars used at that point.
        reward: final mean training reward of the candidate.
    """

    number: int
    calls: int
    dollars: float
    reward: float


class Kind(NamedTuple):
    """A kind of outcome, and its number of test examples under each prompt."""

    name: str
    seed: int
    chosen: int


def best_so_far(history: Iterable[Record]) -> list[Point]:
    """Return the best training reward by calls used, one point per improvement.

    Candidates with few cells are left out, as in the selection, and those of earlier versions, which did not count calls.
    """
    points: list[Point] = []
    measured = well_measured(record for record in history if record.reward is not None)
    for record in sorted(measured, key=lambda r: (r.calls or 0, r.number)):
        if record.calls is None or record.reward is None:
            continue
        if not points or record.reward > points[-1].reward:
            points.append(Point(record.number, record.calls, record.dollars or 0.0, record.reward))
    return points


def best_at(points: Sequence[Point], calls: int) -> float | None:
    """Return the best training reward within a number of calls; None if nothing was scored by then."""
    return max((point.reward for point in points if point.calls <= calls), default=None)


def kinds(outcomes: Sequence[Outcome]) -> list[Kind]:
    """Count outcomes of the test examples: correct, each reason given by the reward, truncated, refused; episode events.

    "correct" comes first, then the others by frequency; rare kinds are merged into one.
    """
    seed = Counter(kind for outcome in outcomes for kind in _kinds(outcome.seed))
    chosen = Counter(kind for outcome in outcomes for kind in _kinds(outcome.chosen))
    names = sorted(seed.keys() | chosen.keys(), key=lambda name: (name != "correct", -seed[name] - chosen[name], name))
    rows = [Kind(name, seed[name], chosen[name]) for name in names[:_MAX_KINDS]]
    other = names[_MAX_KINDS:]
    if other:
        name = f"{len(other)} other kinds"
        rows.append(Kind(name, sum(seed[name] for name in other), sum(chosen[name] for name in other)))
    return rows


def _kinds(answer: Answer) -> set[str]:
    return {kind_of(answer)} | {f"event {name}" for name in answer.events}


def kind_of(answer: Answer) -> str:
    """Return the kind of an outcome in words."""
    if answer.finish == "failed":
        return "no reply"
    if answer.reward is None:
        return "no score"
    if answer.reward >= 1:
        return "correct"
    if answer.finish != "stop":
        return {"length": "truncated", "refusal": "refused"}.get(answer.finish, answer.finish)
    if answer.reason:
        short = " ".join(answer.reason.split())
        return short if len(short) <= _MAX_KIND_LENGTH else f"{short[:_MAX_KIND_LENGTH]}..."
    return "partial reward" if answer.reward > 0 else "zero reward"


def command(result: Result) -> str:
    """Return the shell command that reproduces a run. Parts that the result does not record are in CAPITALS."""
    name, settings = _strategy(result)
    words = ["promptopt", "optimize", "TASK.toml", *_model("--model", "--base-url", result.models.get("task", {}))]
    if "writer" in result.models and result.models["writer"] != result.models.get("task"):
        words += _model("--writer", "--writer-base-url", result.models["writer"])
    words += ["--strategy", name]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    if result.budget != "no limit":
        words += ["--budget", re.sub(r"(?<=\d),(?=\d{3})", "", result.budget)]
    if result.objectives:
        words += ["--objectives", ",".join(result.objectives), "--prefer", result.prefer]
    return shlex.join([*words, "--seed", str(result.seed)])


def _strategy(result: Result) -> tuple[str, dict[str, Any]]:
    """Return the registered name of the strategy with the fewest changed or unknown settings, and the changed ones."""
    matches = []
    for name, make in known_strategies().items():
        strategy = make()
        if name_of(strategy) == result.strategy["name"]:
            defaults = settings_of(strategy)
            settings = result.strategy["settings"]
            changed = {k: v for k, v in settings.items() if k in defaults and defaults[k] != v}
            unlike = len(changed) + len(settings.keys() - defaults.keys())
            matches.append((unlike, name, {k: v for k, v in changed.items() if v is not None}))
    if not matches:
        return "STRATEGY", {k: v for k, v in result.strategy["settings"].items() if v is not None}
    return min(matches, key=lambda match: match[:2])[1:]


def _model(option: str, url_option: str, fingerprint: dict[str, Any]) -> list[str]:
    provider, model = fingerprint.get("provider"), fingerprint.get("model")
    kind = KINDS.get(str(provider))
    if kind is None or not kind.recorded or not model:
        return [option, "python:MODULE:NAME"]
    endpoint = [url_option, str(fingerprint["endpoint"])] if fingerprint.get("endpoint") else []
    scores_chats = kind.tokenizer and "template" in fingerprint and option == "--model"
    extra = ["--extra-body", json.dumps(fingerprint["extra_body"])] if fingerprint.get("extra_body") else []
    for name in fingerprint.get("headers", ()):
        extra += ["--model-option", f"header:{name}=VALUE"]
    return [option, f"{provider}:{model}", *endpoint, *(["--tokenizer", "TOKENIZER"] if scores_chats else []), *extra]
