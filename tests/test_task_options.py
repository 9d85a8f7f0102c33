from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from promptopt import InputError
from promptopt.cli.task_options import DataOptions

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("a, or b", "x=y")


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = "".join(f'k{n},message {n},"{LABELS[n % 2]}"\n' for n in range(40))
    path = tmp_path / "data.csv"
    path.write_text(f"key,text,label\n{rows}k40, ,x=y\nk41,message 41,z\n", encoding="utf-8")
    return str(path)


def test_unusable_rows_are_refused_with_the_option_that_drops_them(data: str) -> None:
    with pytest.raises(InputError, match=r"line 42: 'text' is blank; .*--drop-unusable"):
        DataOptions(data=data, input=["text"], label="label").load()
    with pytest.raises(InputError, match=r"--drop-unusable"):
        DataOptions(data=data, input=["key"], label="label", labels=list(LABELS)).load()


def test_dropped_rows_are_counted_and_listed_and_ids_name_the_others(data: str) -> None:
    options = DataOptions(
        data=data, input=["text"], label="label", labels=list(LABELS), row_id="key", drop_unusable=True
    )
    task = options.load()

    assert task.labels == LABELS
    assert sorted(e.id for e in (*task.train, *task.validation, *task.test)) == sorted(f"k{n}" for n in range(40))
    assert task.notes[0].startswith("2 of 42 rows were dropped because they are unusable: ")
    assert "line 42 ('text' is blank)" in task.notes[0]
    assert "line 43 ('label' is 'z', which is not one of 'a, or b', 'x=y')" in task.notes[0]
