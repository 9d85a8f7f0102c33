"""The report of a run as a self-contained HTML page: no network, no server.

Prompts and replies are untrusted text. Templates escape what they insert; the rest is embedded as compressed base64 and
inserted into the page as text content only. Charts use Vega-Lite, whose JavaScript comes with vl-convert-python.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError
from promptopt.report.curves import best_so_far, command, kinds
from promptopt.report.text import ABOUT_FRONT, price_in_words
from promptopt.results.front import FRONT_HEADS
from promptopt.results.result import SPENDING

try:
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise MissingExtraError("a report as HTML", "report") from error

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.report.compare import RunComparison
    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Record, Result
    from promptopt.statistics import Interval

_MAX_TEXT = 20_000  # characters of one text on the page; the run's files contain the full texts
_DIGITS = 6


def page(result: Result, outcomes: tuple[Outcome, ...]) -> str:
    """Return the report's HTML.

    Args:
        result: result of the run.
        outcomes: outcomes of its test examples; () if there are none.
    """
    return _render("report.html.j2", data=_json(report_data(result, outcomes)), **report_values(result, outcomes))


def report_values(result: Result, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    """Return what the template of the report inserts, all but the data of its script."""
    return dict(  # noqa: C408  names read as in the template
        result=result,
        seed_text=_truncate(str(result.seed_prompt)),
        chosen_text=_truncate(str(result.prompt)),
        interval=_interval_positions(result.test.difference) if result.test and not result.kept else None,
        kinds=kinds(outcomes),
        front_headers=FRONT_HEADS,
        about_front=ABOUT_FRONT,
        front_texts=[(record.number, _truncate(str(record.prompt))) for record in result.front]
        if result.points
        else [],
        test_examples=len(outcomes),
        spending_headers=SPENDING,
        command=command(result),
        settings=_settings(result),
    )


def comparison_page(comparison: RunComparison) -> str:
    """Return the HTML page that compares runs."""
    curves = [{"name": run.name, "points": [point._asdict() for point in run.curve]} for run in comparison.runs]
    return _render("compare.html.j2", comparison=comparison, data=_json({"curves": curves, "calls": comparison.calls}))


def write_page(text: str, path: Path) -> None:
    """Write a page atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def _render(template: str, **values: Any) -> str:
    loader = PackageLoader("promptopt.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(library=_library(), **values)


@cache
def _library() -> str:
    """Return the compressed JavaScript of Vega-Lite. Bundling it takes one to two seconds."""
    return _compress(f"(() => {{ 'use strict'; {vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')} }})();")


def _json(data: dict[str, Any]) -> str:
    return _compress(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _compress(text: str) -> str:
    """Compress a text to base64, which is safe in HTML. Prompts of one search compress well because they are similar."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode()


def report_data(result: Result, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    """Return the data of the report's script, as JSON values."""
    seed, chosen = result.seed_record, result.chosen_record
    return {
        "candidates": [_candidate(record) for record in result.history],
        "seed": seed and seed.number,
        "chosen": chosen and chosen.number,
        "texts": [_truncate(str(result.seed_prompt)), _truncate(str(result.prompt))],
        "curve": [point._asdict() for point in best_so_far(result.history)],
        "front": [] if result.objectives else [record.number for record in result.front],
        "objectives": [
            {"name": name, "points": _front_points(result, name)} for name in result.objectives[1:] if result.points
        ],
        "tested": bool(result.test and result.test.front),
        "outcomes": [_outcome(outcome) for outcome in outcomes],
    }


def _front_points(result: Result, name: str) -> list[dict[str, Any]]:
    """Return the points of the chart of one objective and the reward, and the seed prompt if it is not on the front."""
    tests = result.test.front if result.test else ()
    if not tests:
        return [
            {"number": p.number, "x": _rounded(p.means[name]), "y": _rounded(p.means["reward"])} for p in result.points
        ]
    points: list[dict[str, Any]] = []
    for point, test in zip(result.points, tests, strict=True):
        drawn: dict[str, Any] = {"number": point.number}
        for axis, objective in (("x", name), ("y", "reward")):
            mean, over = test.means[objective], test.over_seed[objective]
            drawn[axis] = _rounded(mean)
            if mean is not None and math.isfinite(over.low) and math.isfinite(over.high):
                shift = mean - over.estimate  # the seed prompt's mean, on the examples of both
                drawn |= {f"{axis}_low": _rounded(over.low + shift), f"{axis}_high": _rounded(over.high + shift)}
        points.append(drawn)
    if result.seed_record is not None and result.seed_record.number not in {point.number for point in result.points}:
        first = tests[0]
        seed = {
            objective: (first.means[objective] or 0.0) - first.over_seed[objective].estimate
            for objective in first.means
        }
        if all(map(math.isfinite, seed.values())):
            points.append(
                {"number": result.seed_record.number, "x": _rounded(seed[name]), "y": _rounded(seed["reward"])}
            )
    return points


def _candidate(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "parent": record.parent,
        "step": record.step,
        "length": record.length,
        "fitness": _rounded(record.fitness),
        "reward": _rounded(record.reward),
        "validation": _rounded(record.validation),
        "validated": record.validated,
        "cells": record.cells,
        "failed": record.failed,
        "calls": record.calls,
        "dollars": _rounded(record.dollars),
        "text": _truncate(str(record.prompt)),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "inputs": [[name, _truncate(text)] for name, text in outcome.inputs.items()],
        "target": outcome.target,
        "difference": _rounded(outcome.difference),
        "seed": _answer(outcome.seed),
        "chosen": _answer(outcome.chosen),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "text": _truncate(answer.text),
        "reward": _rounded(answer.reward),
        "reason": _truncate(answer.reason),
        "finish": answer.finish,
        "trace": [
            [call.name, [[name, _truncate(text)] for name, text in call.inputs], _truncate(call.said)]
            for call in answer.trace
        ],
    }


def _settings(result: Result) -> list[tuple[str, str]]:
    """Return the settings and versions that determine a run, as (name, value)."""
    rows = [("strategy", str(result.strategy["name"]))]
    rows += [(name, str(value)) for name, value in result.strategy["settings"].items()]
    rows += [("seed", str(result.seed)), ("budget", result.budget)]
    rows += [(f"{role} model", json.dumps(fingerprint, sort_keys=True)) for role, fingerprint in result.models.items()]
    rows += [(f"price of the {role} model", price_in_words(price)) for role, price in result.prices.items()]
    return rows + list(result.versions.items())


def _interval_positions(interval: Interval) -> dict[str, float] | None:
    """Return the drawing positions of an interval and of 0, in percent of the width; None if the interval is unbounded."""
    values = {"low": interval.low, "high": interval.high, "estimate": interval.estimate, "zero": 0.0}
    if not all(abs(value) < float("inf") for value in values.values()):
        return None
    low = min(values.values())
    width = (max(values.values()) - low) or 1.0
    return {name: round(4 + 92 * (value - low) / width, 2) for name, value in values.items()}


def _truncate(text: str) -> str:
    hidden = len(text) - _MAX_TEXT
    return text if hidden <= 0 else f"{text[:_MAX_TEXT]}\n[{hidden:,} more characters]"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
