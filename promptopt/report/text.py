"""The report of a run as Markdown: numbers, prompts, best candidates, and the command to reproduce it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from promptopt.report.curves import command
from promptopt.report.ranking import most_replies, most_validated, ranked, replies_of, validated_of
from promptopt.results.front import FRONT_HEADS
from promptopt.results.result import SPENDING
from promptopt.utils.characters import printable
from promptopt.utils.files import write_private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.models.base import Price
    from promptopt.results.result import Record, Result

ABOUT_FRONT = (
    "No prompt of the front is as good as another one in every objective, by the means over training and validation examples; the "
    "recommended one was chosen by these. Then all were run once on held-out test examples, with the seed prompt. All intervals of "
    "the table hold together with 95 % confidence (Bonferroni)."
)

_MAX_CANDIDATES = 20
_ABOUT_CANDIDATES = (
    "Fitness is what the strategy maximized. Candidates scored on fewer replies (n of N) come after the others."
)


def write_report(result: Result, path: Path) -> None:
    """Write the report atomically."""
    write_private(path, markdown(result))


def markdown(result: Result) -> str:
    """Return the report as Markdown. Prompts are indented code blocks, so their text is not parsed as markup."""
    lines = [f"# {result.task}", "", result.headline, "", "| | seed | chosen |", "|---|---|---|"]
    lines += [f"| {name} | {seed} | {chosen} |" for name, seed, chosen in result.rows()]
    lines += _front(result)
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
        *_request_settings(result),
        *_predictor(result),
        "## Seed prompt",
        "",
        _block(str(result.seed_prompt)),
    ]
    lines += ["", "## Best candidates", "", _ABOUT_CANDIDATES, ""]
    lines += [_candidate_entry(record, result.history) for record in ranked(result.history)[:_MAX_CANDIDATES]]
    lines += _front_prompts(result) if result.objectives else _reward_and_length(result)
    lines += ["", "## Reproduce this run", "", _block(command(result)), "", f"* strategy: {result.strategy['name']}"]
    lines += [f"* {name}: {value}" for name, value in result.strategy["settings"].items()]
    lines += [f"* seed: {result.seed}", f"* budget: {result.budget}"]
    lines += [f"* price of the {role} model: {price_in_words(price)}" for role, price in result.prices.items()]
    lines += [
        f"* {role} model: {json.dumps(fingerprint, sort_keys=True)}" for role, fingerprint in result.models.items()
    ]
    lines += [f"* {name} {version}" for name, version in result.versions.items()]
    return printable("\n".join(lines)) + "\n"


def _front(result: Result) -> list[str]:
    """Return the table of the front of several objectives, if the run has one."""
    if not result.points:
        return []
    rows = [f"| {' | '.join(row)} |" for row in result.front_rows()]
    return [
        "",
        "## Front",
        "",
        ABOUT_FRONT,
        "",
        f"| {' | '.join(FRONT_HEADS)} |",
        f"|{'---|' * len(FRONT_HEADS)}",
        *rows,
    ]


def _front_prompts(result: Result) -> list[str]:
    """Return the section with the prompts of the front."""
    lines = ["## Prompts of the front", ""]
    for record in result.front:
        lines += [f"Candidate {record.number}:", "", _block(str(record.prompt)), ""]
    return lines[:-1]


def _reward_and_length(result: Result) -> list[str]:
    lines = [
        "## Reward and length",
        "",
        "For each candidate below, no other is both shorter and better on the training examples.",
        "",
    ]
    lines += ["| candidate | tokens | training reward |", "|---|---|---|"]
    return lines + [f"| {record.number} | {record.length} | {record.reward:.4g} |" for record in result.front]


def _request_settings(result: Result) -> list[str]:
    """Return a line with the request settings that must accompany the prompt."""
    if not result.request:
        return []
    settings = ", ".join(f"{name} {value!r}" for name, value in result.request.items())
    return [f"Use this prompt with the same request settings: {settings}.", ""]


def _predictor(result: Result) -> list[str]:
    """Return the section on the predictor, if the run kept one."""
    if result.predictor is None:
        return []
    name = result.predictor_prompt
    about = f"{name[0].upper()}{name[1:]} with a bias for each label: {result.predictor.bias_in_words}."
    prompt = [] if result.predictor.prompt == result.prompt else [_block(str(result.predictor.prompt)), ""]
    source = ["The bias without promptopt:", "", _block(result.predictor.source()), ""]
    return ["## Predictor", "", about, "", *prompt, *source]


def price_in_words(price: Price | None) -> str:
    """Format a price for readers."""
    if price is None:
        return "unknown"
    parts = [f"{value:g} {name}" for name, value in price._asdict().items() if value is not None]
    return f"{', '.join(parts)} (dollars per million tokens)"


def _candidate_entry(record: Record, history: Sequence[Record]) -> str:
    replies = replies_of(record, most_replies(history))
    facts = f"Candidate {record.number}: step {record.step}, fitness {record.fitness:.4g} on {replies} replies"
    if record.validation is not None:
        facts += f", validation {record.validation:.3f} on {validated_of(record, most_validated(history))} examples"
    # Not a list item: inside one, four spaces do not start a code block.
    return f"{facts}\n\n{_block(str(record.prompt))}\n"


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
