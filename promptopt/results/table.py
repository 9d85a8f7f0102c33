"""The candidates and the test of a run as tables: a row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import importlib
import io
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.results.result import Result

CANDIDATES, TEST = "candidates.csv", "test.csv"
"""Names of the tables' files in the folder of a run."""

_NUMBERS = (
    "number",
    "parent",
    "step",
    "length",
    "fitness",
    "reward",
    "cells",
    "failed",
    "validation",
    "validated",
    "calls",
    "dollars",
)


def candidate_rows(result: Result) -> list[dict[str, Any]]:
    """Return a row for each candidate, in order of first appearance; None is unknown.

    Columns: the numbers of a `Record`, `role` ("seed", "chosen", "seed, chosen" or ""), a column for each objective, and
    `prompt` as readable text.
    """
    objectives = tuple(dict.fromkeys(name for record in result.history for name in record.objectives))
    seed, chosen = result.seed_record, result.chosen_record
    return [
        {
            **{name: getattr(record, name) for name in _NUMBERS},
            "role": ", ".join(role for role, other in (("seed", seed), ("chosen", chosen)) if record is other),
            **{f"objective: {name}": record.objectives.get(name) for name in objectives},
            "prompt": str(record.prompt),
        }
        for record in result.history
    ]


def outcome_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each test example, in the order of the data; None is unknown.

    Columns: `id`, `input: FIELD` for each field, `target`, and for the seed prompt and the chosen one the reply, its reward,
    the reason and how it ended.
    """
    fields = tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.inputs))
    return [
        {
            "id": outcome.id,
            **{f"input: {name}": outcome.inputs.get(name) for name in fields},
            "target": outcome.target,
            **_answer_columns("seed", outcome.seed),
            **_answer_columns("chosen", outcome.chosen),
            "difference": outcome.difference,
        }
        for outcome in outcomes
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header; what is unknown is empty. Without rows, the text is empty."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def as_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError as error:
        raise MissingExtraError("a data frame", "pandas") from error
    return pandas.DataFrame(rows)


def _answer_columns(who: str, answer: Answer) -> dict[str, Any]:
    return {
        f"{who}: reply": answer.text,
        f"{who}: reward": answer.reward,
        f"{who}: reason": answer.reason,
        f"{who}: finish": answer.finish,
    }
