"""The report of a run as one HTML page that needs nothing but itself: no network, no server.

Prompts and replies are other people's text. What the template writes is escaped; the rest travels compressed, in base64,
and is put on the page as text alone. Charts are Vega-Lite's, whose JavaScript comes with the package vl-convert-python.
"""

from __future__ import annotations

import base64
import json
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError
from promptopt.report.curves import best_so_far, command, kinds
from promptopt.report.text import price_in_words
from promptopt.results.result import SPENDING

try:
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise MissingExtraError("a report as HTML", "report") from error

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.report.compare import Compared
    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Record, Result
    from promptopt.statistics import Interval

_LONGEST = 20_000  # characters of one text on the page; the files of the run hold all of it
_DIGITS = 6


def page(result: Result, outcomes: tuple[Outcome, ...]) -> str:
    """Return the report's HTML.

    Args:
        result: the run's.
        outcomes: of its test items, () where there are none.
    """
    return _render(
        "report.html.j2",
        result=result,
        seed_text=_cut(str(result.seed_prompt)),
        chosen_text=_cut(str(result.prompt)),
        interval=_drawn(result.test.difference) if result.test and not result.kept else None,
        kinds=kinds(outcomes),
        items=len(outcomes),
        spending_head=SPENDING,
        command=command(result),
        settings=_settings(result),
        data=_json(_data(result, outcomes)),
    )


def comparison_page(compared: Compared) -> str:
    """Return the HTML of runs side by side."""
    curves = [{"name": run.name, "points": [point._asdict() for point in run.curve]} for run in compared.runs]
    return _render("compare.html.j2", compared=compared, data=_json({"curves": curves, "calls": compared.calls}))


def write_page(text: str, path: Path) -> None:
    """Write a page, whole or not at all."""
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
    """Return the JavaScript of Vega-Lite, packed; to bundle it takes a second or two."""
    return _packed(f"(() => {{ 'use strict'; {vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')} }})();")


def _json(data: dict[str, Any]) -> str:
    return _packed(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _packed(text: str) -> str:
    """Return a text as one that holds nothing of HTML, a fraction as long: prompts of one search resemble each other."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode()


def _data(result: Result, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    seed, chosen = result.seed_record, result.chosen_record
    return {
        "candidates": [_candidate(record) for record in result.history],
        "seed": seed and seed.number,
        "chosen": chosen and chosen.number,
        "texts": [_cut(str(result.seed_prompt)), _cut(str(result.prompt))],
        "curve": [point._asdict() for point in best_so_far(result.history)],
        "front": [record.number for record in result.front],
        "outcomes": [_outcome(one) for one in outcomes],
    }


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
        "text": _cut(str(record.prompt)),
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        "id": one.id,
        "inputs": [[name, _cut(text)] for name, text in one.inputs.items()],
        "target": one.target,
        "difference": _rounded(one.difference),
        "seed": _answer(one.seed),
        "chosen": _answer(one.chosen),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "text": _cut(answer.text),
        "reward": _rounded(answer.reward),
        "reason": _cut(answer.reason),
        "finish": answer.finish,
    }


def _settings(result: Result) -> list[tuple[str, str]]:
    """Return all that decides a run, as (name, value)."""
    out = [("strategy", str(result.strategy["name"]))]
    out += [(name, str(value)) for name, value in result.strategy["settings"].items()]
    out += [("seed", str(result.seed)), ("budget", result.budget)]
    out += [(f"{role} model", json.dumps(found, sort_keys=True)) for role, found in result.models.items()]
    out += [(f"price of the {role} model", price_in_words(price)) for role, price in result.prices.items()]
    return out + list(result.versions.items())


def _drawn(interval: Interval) -> dict[str, float] | None:
    """Return where to draw an interval and 0, in percent of the width; None for one without ends."""
    ends = [interval.low, interval.high, interval.estimate, 0.0]
    if not all(abs(end) < float("inf") for end in ends):
        return None
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    names = ("low", "high", "estimate", "zero")
    return {name: round(4 + 92 * (end - low) / width, 2) for name, end in zip(names, ends, strict=True)}


def _cut(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]}\n[{more:,} more characters]"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
