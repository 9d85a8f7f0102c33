"""The report of a run, as a page of Markdown: the numbers, the prompts, the best candidates, how to run it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from promptopt.report.curves import command
from promptopt.results.result import SPENDING
from promptopt.utils.characters import printable
from promptopt.utils.files import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.models.base import Price
    from promptopt.results.result import Record, Result

_BEST = 20


def write_report(result: Result, path: Path) -> None:
    """Write the report, whole or not at all."""
    write_private(path, markdown(result))


def markdown(result: Result) -> str:
    """Return the report's text; prompts stand indented, so that nothing in them is taken for markup."""
    lines = [f"# {result.task}", "", result.headline, "", "| | seed | chosen |", "|---|---|---|"]
    lines += [f"| {name} | {seed} | {chosen} |" for name, seed, chosen in result.rows()]
    lines += ["", *(f"* {name}: {value}" for name, value in result.facts())]
    lines += [f"* note: {note}" for note in result.notes]
    lines += ["", f"| {' | '.join(SPENDING)} |", f"|{'---|' * len(SPENDING)}"]
    lines += [f"| {' | '.join(row)} |" for row in result.spending()]
    lines += [
        "",
        "## Chosen prompt",
        "",
        _block(str(result.prompt)),
        "",
        *_requested(result),
        "## Seed prompt",
        "",
        _block(str(result.seed_prompt)),
    ]
    lines += ["", "## Best candidates", ""]
    lines += [_line(record) for record in _best(result)]
    lines += ["## Shorter ones", "", "No candidate is both shorter and better on the training items.", ""]
    lines += ["| candidate | tokens | training reward |", "|---|---|---|"]
    lines += [f"| {record.number} | {record.length} | {record.reward:.4g} |" for record in result.front]
    lines += ["", "## How to run it again", "", _block(command(result)), "", f"* strategy: {result.strategy['name']}"]
    lines += [f"* {name}: {value}" for name, value in result.strategy["settings"].items()]
    lines += [f"* seed: {result.seed}", f"* budget: {result.budget}"]
    lines += [f"* price of the {role} model: {price_in_words(price)}" for role, price in result.prices.items()]
    lines += [f"* {role} model: {json.dumps(found, sort_keys=True)}" for role, found in result.models.items()]
    lines += [f"* {name} {number}" for name, number in result.versions.items()]
    return printable("\n".join(lines)) + "\n"


def _requested(result: Result) -> list[str]:
    """Return what is sent beside the prompt: who uses it must send the same."""
    if not result.request:
        return []
    settings = ", ".join(f"{name} {value!r}" for name, value in result.request.items())
    return [f"Ask with the same settings: {settings}.", ""]


def price_in_words(price: Price | None) -> str:
    """Return a price as a reader wants it."""
    if price is None:
        return "unknown"
    named = [f"{value:g} {name}" for name, value in price._asdict().items() if value is not None]
    return f"{', '.join(named)} (dollars per million tokens)"


def _best(result: Result) -> list[Record]:
    scored = [record for record in result.history if record.fitness is not None]
    return sorted(scored, key=lambda r: (r.validation is None, -(r.validation or 0), -(r.fitness or 0)))[:_BEST]


def _line(record: Record) -> str:
    validation = "" if record.validation is None else f", validation {record.validation:.3f} on {record.validated}"
    # No list item: within one, four spaces are an ordinary paragraph.
    facts = f"Candidate {record.number}: step {record.step}, fitness {record.fitness:.4g}{validation}"
    return f"{facts}\n\n{_block(str(record.prompt))}\n"


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
