"""Rows from data frames, data sets, and JSON columns of other tools' exports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from promptopt import InputError, load_task
from promptopt.data.rows import read_rows, to_examples

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS: dict[str, list[Any]] = {"text": ["a", "b", None], "n": [1, 2, 3], "x": [0.5, None, 2.0]}
ROWS = [{"text": "a", "n": "1", "x": "0.5"}, {"text": "b", "n": "2"}, {"n": "3", "x": "2.0"}]


def test_a_pandas_frame() -> None:
    pandas = pytest.importorskip("pandas")

    assert [row.values for row in read_rows(pandas.DataFrame(COLUMNS))] == ROWS


def test_a_pandas_frame_with_its_own_nulls_and_dates() -> None:
    pandas = pytest.importorskip("pandas")

    when = pandas.to_datetime(["2026-01-02", None, None])
    frame = pandas.DataFrame({**COLUMNS, "when": when}).convert_dtypes()
    assert [row.values for row in read_rows(frame)] == [{**ROWS[0]}, ROWS[1], ROWS[2]]
    assert [e.inputs["text"] for e in to_examples(frame[:2], inputs=["text"], label=None)] == ["a", "b"]


def test_a_polars_frame() -> None:
    polars = pytest.importorskip("polars")

    assert [row.values for row in read_rows(polars.DataFrame(COLUMNS))] == ROWS


def test_a_data_set() -> None:
    datasets = pytest.importorskip("datasets")

    assert [row.values for row in read_rows(datasets.Dataset.from_dict(COLUMNS))] == ROWS


def test_paths_into_json_columns_of_a_list_and_of_a_table(tmp_path: Path) -> None:
    items = [
        {"id": f"i{n}", "input": {"question": f"q {n}", "deep": {"er": n}}, "output": {"answer": "a"}} for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    lines = [f"{item['id']}\t{json.dumps(item['input'])}\t{json.dumps(item['output'])}" for item in items]
    (tmp_path / "rows.tsv").write_text("\n".join(["id\tinput\toutput", *lines]), encoding="utf-8")
    inputs = {"question": ("input.question",), "deep": ("input.deep.er",)}
    for name in ("rows.jsonl", "rows.tsv"):
        examples = to_examples(read_rows(tmp_path / name), inputs=inputs, label="output.answer", id="id")
        assert [dict(e.inputs) for e in examples] == [{"question": f"q {n}", "deep": str(n)} for n in range(3)]
        assert [(e.id, e.target) for e in examples] == [(f"i{n}", "a") for n in range(3)]


def test_a_column_with_a_dot_is_no_path_and_a_wrong_path_is_named() -> None:
    rows = read_rows([{"a.b": "plain", "a": {"b": "nested"}}])

    assert to_examples(rows, inputs=["a.b"], label=None)[0].inputs == {"a.b": "plain"}
    with pytest.raises(InputError, match=r"no column 'a\.c'.*columns: a\.b, a$"):
        to_examples(rows, inputs={"c": ("a.c",)}, label=None)


def test_an_export_of_traces_is_a_task(tmp_path: Path) -> None:
    items = [{"id": f"{n}", "input": {"question": f"{n} + 1?"}, "expected_output": str(n + 1)} for n in range(20)]
    (tmp_path / "dataset.json").write_text(json.dumps(items), encoding="utf-8")
    (tmp_path / "task.toml").write_text(
        'seed_prompt = "{question}"\n[data]\nfile = "dataset.json"\ninputs = { question = "input.question" }\n'
        'label = "expected_output"\nid = "id"\n',
        encoding="utf-8",
    )
    task = load_task(tmp_path / "task.toml")

    assert {e.id: (e.inputs["question"], e.target) for e in (*task.train, *task.validation, *task.test)} == {
        str(n): (f"{n} + 1?", str(n + 1)) for n in range(20)
    }
