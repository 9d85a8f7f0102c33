"""What `promptopt doctor` says: whether a run can start, what it would do, cost and show. No model is called.

Each fault becomes a finding, so that all of them are seen at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from promptopt.errors import InputError, ModelError
from promptopt.memo.memo import Memo
from promptopt.models.base import LabelModel, LabelReader
from promptopt.optimization.estimate import estimate
from promptopt.optimization.job import prepare
from promptopt.optimization.preflight import check, check_budget
from promptopt.strategies.registry import description_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from promptopt.models.base import Model, Price
    from promptopt.optimization.estimate import Estimate
    from promptopt.optimization.job import Job
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task

T = TypeVar("T")

_SPLITS = ("train", "validation", "test")
_MOST_LABELS = 12  # whose counts are said in words


class Finding(NamedTuple):
    """One thing that was looked at.

    Args:
        topic: "task", "data", "model", "writer", "strategy", "memo", "run", "budget", "calls" or "note".
        state: "ok"; "note", which deserves a thought; or "problem", with which no run can start.
        text: what was found, and for a problem the fix.
    """

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What was found.

    Args:
        findings: in the order of a run.
        task: name, fields, labels and counts of the task as plain values; {} if it cannot be loaded.
        strategy: name and settings of the strategy that would run; {} if that is not known.
        estimate: what the run would need; None if it could not start.
    """

    findings: tuple[Finding, ...]
    task: dict[str, Any]
    strategy: dict[str, Any]
    estimate: Estimate | None

    @property
    def ready(self) -> bool:
        """Whether a run can start."""
        return all(finding.state != "problem" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "ready": self.ready,
            "findings": [finding._asdict() for finding in self.findings],
            "task": self.task,
            "strategy": self.strategy,
            "estimate": None if self.estimate is None else self.estimate.to_json(),
        }


def examine(
    read_task: Callable[[], Task],
    read_model: Callable[[], Model],
    read_strategy: Callable[[], Strategy | str],
    *,
    read_writer: Callable[[], Model | None],
    memo: Path | str | None,
    **options: Any,
) -> Checkup:
    """Look at all that a run needs, without calling a model.

    Args:
        read_task: returns the task; like the next three, it may raise an InputError, which becomes a finding.
        read_model: returns the task model.
        read_strategy: returns the strategy or its name.
        read_writer: returns the writer, or None.
        memo: as in `optimize`.
        options: budget, seed, settings, objectives and preference of `prepare`.
    """
    findings: list[Finding] = []
    task = _tried(findings, "task", read_task)
    if task is not None:
        findings += _about_task(task)
    model = _tried(findings, "model", read_model)
    if model is not None:
        findings.append(_about_model("model", model))
    writer = _tried(findings, "writer", read_writer)
    if writer is not None:
        findings.append(_about_model("writer", writer))
    strategy = _tried(findings, "strategy", read_strategy)
    opened = _tried(findings, "memo", lambda: _opened(memo))
    summary = {} if task is None else _summary(task)
    if task is None or model is None or strategy is None or opened is None:
        return Checkup(findings=tuple(findings), task=summary, strategy={}, estimate=None)
    job = _tried(findings, "strategy", lambda: prepare(task, model, strategy, writer=writer, **options))
    if job is None:
        return Checkup(findings=tuple(findings), task=summary, strategy={}, estimate=None)
    description = description_of(job.strategy)
    findings.append(Finding("strategy", "ok", job.chosen or description["name"]))
    cost = _cost(findings, job, lambda: estimate(task, model, strategy, writer=writer, memo=memo, **options))
    return Checkup(findings=tuple(findings), task=summary, strategy=description, estimate=cost)


def _cost(findings: list[Finding], job: Job, estimated: Callable[[], Estimate]) -> Estimate | None:
    """Return what the run would need; None, with a finding, if it could not start."""
    try:
        check(job)
        check_budget(job)
        cost = estimated()
    except InputError as error:
        findings.append(Finding("run", "problem", str(error)))
        return None
    findings.append(Finding("budget", "ok", str(job.budget)))
    asked = cost.asked
    dollars = "" if None in cost.prices.values() else f", {asked.dollars:.4f} dollars"
    stored = f"; {cost.known.calls:,} more are already in the memo" if cost.known.calls else ""
    text = f"about {asked.calls:,} calls, {asked.input_tokens + asked.output_tokens:,} tokens{dollars}{stored}"
    findings.append(Finding("calls", "ok", text))
    findings += [Finding("note", "note", note) for note in cost.notes if note != job.chosen]
    return cost


def _tried(findings: list[Finding], topic: str, read: Callable[[], T]) -> T | None:
    """Return what `read` returns; None, with a finding, if it raises an error of the user's."""
    try:
        return read()
    except (InputError, ModelError) as error:
        findings.append(Finding(topic, "problem", str(error)))
        return None


def _opened(memo: Path | str | None) -> bool:
    """Open a memo and close it again.

    Raises:
        InputError: it cannot be used.
    """
    Memo(memo).close()
    return True


def _about_task(task: Task) -> Iterator[Finding]:
    kind = "an environment" if task.environment else "a program" if task.program else task.format
    labels = f", labels {', '.join(task.labels)}" if task.labels else ""
    yield Finding("task", "ok", f"{task.name or 'task'}: {kind}, fields {', '.join(task.fields)}{labels}")
    for split in _SPLITS:
        examples = getattr(task, split)
        counts = Counter(example.target for example in examples) if task.labels else {}
        words = ", ".join(f"{label} {counts[label]}" for label in task.labels[:_MOST_LABELS]) if counts else ""
        text = f"{split}: {len(examples):,} examples{f' ({words})' if words else ''}"
        yield Finding("data", "ok" if examples else "note", text)


def _model_in_words(model: Model) -> str:
    """Return a model's own text; class and name if it has none, as with functions."""
    if type(model).__repr__ is not object.__repr__:
        return repr(model)
    return " ".join(filter(None, (type(model).__name__, str(model.fingerprint.get("model", "")))))


def _price_in_words(price: Price) -> str:
    if price.input == price.output == 0:
        return "free"
    return f"{price.input:g} and {price.output:g} dollars per million input and output tokens"


def _about_model(role: str, model: Model) -> Finding:
    """Return what is known of a model without calling it."""
    from promptopt.models.hosted.model import HostedModel  # noqa: PLC0415  loaded when used

    if isinstance(model, HostedModel):
        try:
            model.check_key()
        except ModelError as error:
            return Finding(role, "problem", str(error))
    price = "price unknown" if model.price is None else _price_in_words(model.price)
    if isinstance(model, LabelModel):
        scores = "log-probabilities of labels"
    elif isinstance(model, LabelReader):
        scores = "log-probabilities of labels if the endpoint gives them, else text"
    else:
        scores = "text"
    return Finding(role, "ok", f"{_model_in_words(model)}: {scores}; {price}")


def _summary(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "format": task.format,
        "fields": list(task.fields),
        "labels": list(task.labels),
        "examples": {split: len(getattr(task, split)) for split in _SPLITS},
        "targets": {
            split: dict(Counter(example.target for example in getattr(task, split) if example.target in task.labels))
            for split in _SPLITS
        },
        "seed_prompt": task.seed_prompt.to_json(),
    }
