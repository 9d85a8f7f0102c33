from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from results import HISTORY, OUTCOMES, a_result

from promptopt import MissingExtraError, Prompt
from promptopt.results.table import as_csv, candidate_rows, outcome_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def read(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(rows), newline="")))


def test_candidates_are_a_row_each() -> None:
    seed, chosen, failed = read(candidate_rows(a_result()))

    assert (seed["number"], seed["role"], seed["parent"], seed["prompt"]) == ("0", "seed", "", "Answer {text}.")
    assert (chosen["role"], chosen["reward"], chosen["validation"]) == ("chosen", "0.7", "0.8")
    assert chosen["prompt"] == str(HISTORY[1].prompt)
    assert (failed["role"], failed["fitness"], failed["failed"]) == ("", "", "12")


def test_a_kept_seed_prompt_is_both() -> None:
    rows = candidate_rows(a_result(prompt=HISTORY[0].prompt, seed_number=0))

    assert [row["role"] for row in rows] == ["seed, chosen", "", ""]


def test_objectives_have_columns() -> None:
    history = (replace(HISTORY[0], objectives={"tokens": 7.0}), HISTORY[1])

    assert [row["objective: tokens"] for row in candidate_rows(a_result(history=history))] == [7.0, None]
    assert "objective: tokens" not in candidate_rows(a_result())[0]


def test_test_items_are_a_row_each() -> None:
    won, lost, same, failed = read(outcome_rows(OUTCOMES))

    assert (won["id"], won["input: text"], won["target"], won["seed: reply"]) == ("t0", "item 0", "5", "seven")
    assert [row["difference"] for row in (won, lost, same, failed)] == ["1.0", "-1.0", "0.0", ""]
    assert (failed["seed: finish"], failed["seed: reason"], failed["seed: reward"]) == ("failed", "timed out", "")


def test_cells_keep_their_text() -> None:
    text = 'a,"b"\r\nc\n'
    history = (replace(HISTORY[0], prompt=Prompt(text)),)

    assert read(candidate_rows(a_result(history=history, seed_number=0)))[0]["prompt"] == text
    assert as_csv([]) == ""


def test_the_frame_is_the_table() -> None:
    pytest.importorskip("pandas", reason="needs the extra 'pandas'")
    frame = a_result().to_frame()

    assert list(frame["number"]) == [0, 1, 2]
    assert list(frame.columns) == list(candidate_rows(a_result())[0])
    assert frame.loc[frame["role"] == "chosen", "reward"].item() == 0.7


def test_without_pandas_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(MissingExtraError, match=r"a data frame needs the extra 'pandas': pip install"):
        a_result().to_frame()
