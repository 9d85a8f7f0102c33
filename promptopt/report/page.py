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
from promptopt.report.axes import axis_over
from promptopt.report.curves import best_so_far, command, kinds
from promptopt.report.overview import (
    about_run,
    about_search,
    about_test,
    chosen_texts,
    export_command,
    picture,
    program_flow,
)
from promptopt.report.prompt_changes import prompt_changes, written_out
from promptopt.report.ranking import most_replies, most_validated
from promptopt.report.seed_curves import joined, layers, lines, seed_curve
from promptopt.report.text import ABOUT_FRONT, price_in_words
from promptopt.results.comparison_rows import answer_rows, cost_rows, search_rows
from promptopt.results.front import FRONT_HEADS
from promptopt.results.result import SPENDING

try:
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise MissingExtraError("a report as HTML", "report") from error

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.prompt import Layout
    from promptopt.report.compare import RunComparison
    from promptopt.report.prompt_changes import Change
    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Record, Result

_MAX_TEXT = 20_000  # characters of one text on the page; the run's files contain the full texts
_DIGITS = 6


def page(result: Result, outcomes: tuple[Outcome, ...]) -> str:
    """Return the report's HTML.

    Args:
        result: result of the run.
        outcomes: outcomes of its test examples; () if there are none.
    """
    return render_page("report.html.j2", report_data(result, outcomes), **report_values(result, outcomes))


def report_values(result: Result, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    """Return what the template of the report inserts, all but the data of its script."""
    replies = [record.cells + record.failed for record in result.history]
    return {
        "result": result,
        "about_run": about_run(result),
        "about_test": about_test(result),
        "about_search": about_search(result),
        "picture": picture(result),
        "chosen_texts": chosen_texts(result),
        "export_command": export_command(result),
        "seed_text": _truncate(str(result.seed_prompt)),
        "flow": program_flow(outcomes),
        "comparison_rows": [*answer_rows(result), *search_rows(result), *_overfitting(result), *cost_rows(result)],
        "facts": [(name, value) for name, value in result.facts() if name != "overfitting"],
        "partial": len(set(replies)) > 1,
        "curve": best_so_far(result.history),
        "kinds": kinds(outcomes),
        "front_headers": FRONT_HEADS,
        "about_front": ABOUT_FRONT,
        "front_texts": [(record.number, _truncate(str(record.prompt))) for record in result.front]
        if result.points
        else [],
        "test_examples": len(outcomes),
        "spending_headers": SPENDING,
        "command": command(result),
        "settings": _settings(result),
    }


def comparison_page(comparison: RunComparison) -> str:
    """Return the HTML page that compares runs."""
    end = comparison.calls[-1] if comparison.calls else 0
    curves = joined([seed_curve(run.name, [run.curve], end) for run in comparison.runs]) if end else []
    about = "Best training reward so far of each run, by calls used, up to the calls that every search made."
    charts = [{"layers": layers(curves), "description": about}] if curves else []
    return render_page("compare.html.j2", {"figures": charts}, comparison=comparison, lines=lines(curves), about=about)


def write_page(text: str, path: Path) -> None:
    """Write a page atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def render_page(template: str, data: dict[str, Any], **values: Any) -> str:
    """Return a self-contained page.

    Args:
        template: name of the template.
        data: what its script reads, as JSON values.
        values: what the template inserts.
    """
    loader = PackageLoader("promptopt.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(library=_library(), data=_json(data), **values)


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
        "candidates": [_candidate(record, result.layout) for record in result.history],
        "replies": most_replies(result.history),
        "validated": most_validated(result.history),
        "seed": seed and seed.number,
        "chosen": chosen and chosen.number,
        "changes": [
            {"name": name, "parts": [_part(change) for change in changes]}
            for name, changes in prompt_changes(result.seed_prompt, result.prompt, result.layout)
        ],
        "curve": [point._asdict() for point in best_so_far(result.history)],
        "axes": _axes(result),
        "front": [] if result.objectives else [record.number for record in result.front],
        "objectives": [_front_chart(result, name) for name in result.objectives[1:] if result.points],
        "tested": bool(result.test and result.test.front),
        "outcomes": [_outcome(outcome) for outcome in outcomes],
    }


def _overfitting(result: Result) -> list[tuple[str, str, str]]:
    return [] if result.optimism is None or result.kept else [("overfitting", "", f"{result.optimism:+.3f}")]


def _axes(result: Result) -> dict[str, Any]:
    """Return the axes of the charts of candidates, by field."""
    scored = [record for record in result.history if record.reward is not None]
    return {
        "calls": axis_over([0, *(record.calls for record in scored)])._asdict(),
        "dollars": axis_over([0, *(record.dollars for record in scored)])._asdict(),
        "length": axis_over(record.length for record in scored)._asdict(),
        "reward": axis_over(record.reward for record in scored)._asdict(),
    }


def _part(change: Change) -> list[str | None]:
    before, after = (None if text is None else _truncate(text) for text in (change.before, change.after))
    return [change.label, before, after]


def _front_chart(result: Result, name: str) -> dict[str, Any]:
    points = _front_points(result, name)
    axes = {
        axis: axis_over(point.get(f"{axis}{end}") for point in points for end in ("", "_low", "_high"))._asdict()
        for axis in ("x", "y")
    }
    return {"name": name, "points": points, "axes": axes}


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


def _candidate(record: Record, layout: Layout | None) -> dict[str, Any]:
    written = written_out(record.prompt, layout)
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
        "written": None if written == record.prompt else _truncate(str(written)),
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


def _truncate(text: str) -> str:
    hidden = len(text) - _MAX_TEXT
    return text if hidden <= 0 else f"{text[:_MAX_TEXT]}\n[{hidden:,} more characters]"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
