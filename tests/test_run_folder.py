"""A run's folder: the result of another run is not written over, and what was found is saved somewhere."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys

from promptopt import FakeModel, FunctionModel, InputError, Prompt, Result, optimize
from promptopt.errors import StoppedError
from promptopt.results.result import FILE


def run(folder: Path, task: Any = toys.TASK, **settings: Any) -> Result:
    given: dict[str, Any] = {
        "strategy": "random",
        "settings": {"prompts": 6, "batch": 2},
        "writer": FunctionModel(toys.writer, name="writer", version="1"),
        "memo": folder.parent / "memo",
        "run_dir": folder,
        "tracking": False,
    }
    return optimize(task, FunctionModel(toys.answer, name="answer", version="1"), **(given | settings))


def changed(**changes: Any) -> Any:
    return replace(toys.TASK, **changes)


def test_the_same_run_writes_its_folder_again(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    assert run(tmp_path / "run") == first


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 1}, "They differ in seed"),
        ({"budget": "400 calls"}, "They differ in budget"),
        ({"settings": {"prompts": 5, "batch": 2}}, "They differ in strategy"),
        ({"task": changed(seed_prompt=Prompt("Say {text}"))}, "They differ in seed prompt"),
        ({"task": changed(description="Another one.")}, "They differ in data, labels, reward"),
        ({"task": changed(train=toys.splits(11)["train"])}, "They differ in data, labels, reward"),
    ],
)
def test_another_runs_result_is_never_written_over_unasked(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    run(tmp_path / "run")
    before = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(InputError, match=named) as caught:
        run(tmp_path / "run", **settings)
    assert "overwrite=True" in str(caught.value)
    assert (tmp_path / "run" / FILE).read_bytes() == before

    run(tmp_path / "run", overwrite=True, **settings)
    assert (tmp_path / "run" / FILE).read_bytes() != before


def test_a_result_that_cannot_be_read_is_not_written_over_unasked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE).write_text("{}")
    with pytest.raises(InputError, match="may belong to another run"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / FILE).read_text() == "{}"


def test_a_folder_that_is_lost_on_the_way_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = tmp_path / "run"

    def lose(event: Any) -> None:  # the folder becomes a file, as a disk may be replaced
        if folder.is_dir():
            shutil.rmtree(folder)
            folder.write_text("no folder")

    result = run(folder, callbacks=[lose])

    assert "could not be written" in result.unfinished
    elsewhere = Path(result.run_dir)
    assert Result.load(elsewhere / FILE).prompt == result.prompt
    assert (elsewhere / "report.md").exists()


def test_what_a_callback_raises_leaves_a_result_in_the_folder(tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if getattr(event, "number", 0) == 1:
            raise StoppedError("enough")

    result = run(tmp_path / "run", callbacks=[stop])
    assert Result.load(tmp_path / "run" / FILE).prompt == result.prompt


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be used"):
        run(tmp_path / "run")


def test_a_fake_that_has_become_another_is_hinted_at(tmp_path: Path) -> None:
    asked: list[object] = []

    def counted(request: Any) -> str:
        asked.append(request)
        return toys.answer(request)

    def again() -> Result:
        return optimize(
            toys.TASK, FakeModel(counted), "tapruning", memo=tmp_path, run_dir=tmp_path / "run", tracking=False
        )

    again()
    with pytest.raises(InputError, match=r"They differ in model \(a fake is known by what its function does and holds"):
        again()
