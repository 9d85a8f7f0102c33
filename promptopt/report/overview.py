"""The first screen of a report: when, with which model and strategy, seed against chosen prompt, and what to take away."""

from __future__ import annotations

import math
import re
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from promptopt.prompt import Prompts
from promptopt.report.axes import Axis, axis_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.results.outcomes import Comparison, Outcome
    from promptopt.results.result import Result
    from promptopt.statistics import Interval


class Bar(NamedTuple):
    """A prompt in the picture of the test.

    Args:
        name: of the prompt.
        role: "seed", "chosen" or "bias".
        label: its mean, unless the headline states it, and its interval.
        left: start of the interval, in percent of the axis; None if the interval is unbounded.
        width: width of the interval, in percent.
        mark: position of the mean, in percent.
    """

    name: str
    role: str
    label: str
    left: float | None
    width: float
    mark: float


class Picture(NamedTuple):
    """Test rewards of the seed prompt and the chosen prompt with their intervals, on one axis."""

    bars: tuple[Bar, ...]
    axis: Axis
    examples: int


def picture(result: Result) -> Picture | None:
    """Return the picture of a run's test; None without a test."""
    if result.test is None:
        return None
    rows = _measured(result, result.test)
    axis = axis_over(value for _, _, interval in rows for value in interval)
    bars = tuple(_bar(name, role, interval, axis, result.headline) for name, role, interval in rows)
    return Picture(bars, axis, result.test.examples)


def about_run(result: Result) -> list[tuple[str, str]]:
    """Return what identifies a run, as (name, value): date, task model, strategy, seed."""
    facts = [("date", _date(result.date))] if result.date else []
    model = result.models.get("task", {})
    name = ":".join(str(model[key]) for key in ("provider", "model") if model.get(key))
    facts += [("model", name)] if name else []
    return [*facts, ("strategy", str(result.strategy["name"])), ("random seed", str(result.seed))]


def about_test(result: Result) -> str:
    """Return how the rewards of the test came about; what did not happen is not stated."""
    if result.test is None:
        return "This run has no test: its rewards are from the examples that the search used."
    if result.kept:
        return "Your prompt was run once on held-out test examples that were not used for search or selection."
    return (
        "Both prompts were run once on held-out test examples that were not used for search or selection. The gain is paired: "
        "its interval is that of the differences example by example, so it can be narrower than the two intervals suggest."
    )


def about_search(result: Result) -> str:
    """Return what the rewards of the search are worth."""
    words = []
    if len(result.history) > 1 and not result.kept:
        words.append("The training reward of the chosen prompt is one of the highest of many, so it overestimates.")
    if result.optimism is not None and not result.kept:
        words.append(
            "Overfitting is the training gain minus the test gain: far above 0, the search fitted its examples."
        )
    return " ".join(words)


def chosen_texts(result: Result) -> list[tuple[str, str]]:
    """Return the chosen prompt as (name, text); the name is "" unless it is one of a program."""
    if isinstance(result.prompt, Prompts):
        return [(name, str(result.prompt[name])) for name in result.prompt.names]
    return [("", str(result.prompt))]


def export_command(result: Result) -> str:
    """Return the command that writes the chosen prompt for use elsewhere."""
    folder = result.run_dir or "RUN"
    many = ["--output", "FOLDER"] if isinstance(result.prompt, Prompts) else []
    return shlex.join(["promptopt", "export", folder, "--as", "python", *many])


def program_flow(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Return the prompts of a program in the order of their first calls, with their mean calls for a test example."""
    traces = [outcome.chosen.trace for outcome in outcomes if outcome.chosen.trace]
    names = list(dict.fromkeys(call.name for trace in traces for call in trace))
    counts = {name: sum(call.name == name for trace in traces for call in trace) / len(traces) for name in names}
    return [(name, f"{count:.3g}") for name, count in counts.items()]


def _measured(result: Result, test: Comparison) -> list[tuple[str, str, Interval]]:
    if result.kept:
        rows = [("seed prompt, kept", "seed", test.seed)]
    else:
        rows = [("seed prompt", "seed", test.seed), ("chosen prompt", "chosen", test.chosen)]
    return rows + ([("with label bias", "bias", test.predictor.reward)] if test.predictor else [])


def _bar(name: str, role: str, interval: Interval, axis: Axis, headline: str) -> Bar:
    bounded = all(map(math.isfinite, interval))
    left = axis.percent(interval.low) if bounded else None
    width = round(axis.percent(interval.high) - (left or 0.0), 2) if bounded else 0.0
    mark = axis.percent(interval.estimate) if math.isfinite(interval.estimate) else 0.0
    return Bar(name, role, _label(interval, headline), left, width, mark)


def _label(interval: Interval, headline: str) -> str:
    """Return the numbers of a bar that the headline does not state."""
    parts = [f"{interval.estimate:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"]
    unstated = [part for part in parts if not re.search(rf"(?<![\d.+-]){re.escape(part)}", headline)]
    return f"{unstated[0]} ({unstated[1]})" if len(unstated) == len(parts) else "".join(unstated)


def _date(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{moment.day} {moment:%B %Y}, {moment:%H:%M} UTC"
