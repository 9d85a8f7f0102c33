"""The list of runs in the viewer: what its rows say, and that it follows the folder."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptopt.evaluation.calls import Stop
from promptopt.evaluation.ledger import Budget
from promptopt.tracking.event_file import EventFile

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("starlette", reason="the extra 'view' is not installed")

from results import a_result
from test_view import STARTED, client, ids, saved

from promptopt.view import app
from promptopt.view.assets import Assets
from promptopt.view.file_cache import FileCache
from promptopt.view.library import Library, RunEntry
from promptopt.view.pages import live, runs
from promptopt.view.run_rows import SentRows, run_row
from promptopt.view.sent_events import COMMENT, SILENCE, event
from promptopt.view.templating import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PROGRESS: dict[str, Any] = {
    "stage": "search",
    "candidates": 1200,
    "best": {"reward": 0.5},
    "used": {"task": {"calls": 9, "dollars": 0.25}, "writer": {"calls": 1, "dollars": 0.0}},
    "stopping": False,
}


def names(html: str) -> list[str]:
    return re.findall(r'<th scope="row" data-value="([^"]*)"', html)


# ---------------------------------------------------------------- rows


def test_a_run_in_progress_says_how_far_it_is(tmp_path: Path) -> None:
    with EventFile(tmp_path, Budget(), Stop()) as events:
        events(STARTED)
        (begun,) = Library(tmp_path).runs()
        events._write("progress", **PROGRESS)
        events._write("step", number=0, facts={}, candidates=[])
        (entry,) = Library(tmp_path).runs()
    row = run_row(entry)

    assert run_row(begun)["headline"] == run_row(begun)["calls"] == ""
    assert row["headline"] == "search, 1,200 candidates, best so far 0.500 in training"
    assert (row["dollars"], row["calls"], row["status"]) == ("0.2500", "10 calls", "in progress")
    assert row["time"] == begun.time  # of its start: the list keeps its order while runs go on
    stopping = replace(entry, progress={**PROGRESS, "stopping": True, "best": None})
    assert run_row(stopping)["headline"] == "stopping, 1,200 candidates"


def test_a_page_is_sent_what_changed_since() -> None:
    one, two = (runs_entry(name) for name in ("one", "two"))
    sent = SentRows()

    assert sent.update([one, two]) == ([one, two], [])
    assert sent.update([two, one]) == ([], [])
    changed = replace(two, status="failed")
    assert sent.update([changed]) == ([changed], ["one"])
    assert sent.update([one, changed]) == ([one], [])


def runs_entry(name: str) -> RunEntry:
    return RunEntry(id=name, name=name, folder=Path(name), status="finished", time=0.0)


# ---------------------------------------------------------------- pages


def test_the_page_holds_the_first_rows_and_is_sent_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_FIRST_ROWS", 2)
    for name in "abc":
        saved(tmp_path / name, a_result(test=None))
    page = client(tmp_path).get("/").text
    (first,) = collect(tmp_path, 1)

    assert "3 runs" in page
    assert len(names(page)) == 2
    assert set(names(page)) < set(names(first)) == {"a", "b", "c"}
    assert first.startswith("event: all\n")


def test_the_list_follows_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_INTERVAL", 0.001)
    saved(tmp_path / "a", a_result(test=None))
    run = ids(tmp_path)["a"]

    def begin() -> None:
        saved(tmp_path / "b", a_result(test=None))

    def end() -> None:
        shutil.rmtree(tmp_path / "a")

    first, added, gone = collect(tmp_path, 3, begin, end)

    assert names(first) == ["a"]
    assert added.startswith("event: changed\n")
    assert names(added) == ["b"]
    assert gone == event("gone", run)


def test_a_closed_page_is_noticed_by_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_INTERVAL", 0.001)
    monkeypatch.setattr(runs, "SILENCE", 0.003)
    empty, comment = collect(tmp_path, 2)

    assert empty == event("all", "")
    assert comment == COMMENT
    assert SILENCE < 60  # proxies close what is silent for a minute


def test_a_sweep_is_sent_its_own_runs(tmp_path: Path) -> None:
    saved(tmp_path / "s" / "a", a_result(test=None))
    saved(tmp_path / "b", a_result(test=None))
    (tmp_path / "s" / "sweep.json").write_text("{}", encoding="utf-8")
    browser = client(tmp_path)
    (sweep,) = re.findall(r"/sweeps/\w+", browser.get("/").text)

    assert names(browser.get(sweep).text) == ["s/a"]
    assert f'data-rows="{sweep}/rows"' in browser.get(sweep).text
    assert browser.get("/sweeps/none/rows").status_code == 404


def collect(folder: Path, most: int, *between: Callable[[], None]) -> list[str]:
    """Return the first events of the list of a folder; after each, do something."""
    assets = Assets()
    viewer = app.Viewer(Library(folder), Pages(assets), assets, app._loads_none)

    async def read() -> list[str]:
        found, acts = list[str](), list(between)
        rows: AsyncIterator[str] = runs.row_events(viewer, viewer.library.runs)
        async with aclosing(rows) as events:  # type: ignore[type-var]
            async for sent in events:
                found.append(sent)
                if len(found) == most:
                    break
                if acts:
                    acts.pop(0)()
        return found

    return asyncio.run(read())


def test_a_run_of_a_sweep_leads_to_its_report_once_the_sweep_has_saved_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_INTERVAL", 0.001)
    monkeypatch.setattr(live, "SILENCE", 0.002)
    result = a_result(test=None)
    (tmp_path / "a").mkdir()
    with EventFile(tmp_path / "a", Budget(), Stop()) as events:
        events(STARTED)
        events.finish(result)
    assets = Assets()
    viewer = app.Viewer(Library(tmp_path), Pages(assets), assets, app._loads_none)
    (entry,) = viewer.library.runs()

    async def read() -> list[str]:
        events = live._events(viewer, entry)
        found = [await anext(events), await anext(events)]  # the last state, and that it is still looking
        saved(tmp_path / "a", result)
        return [*found, await anext(events)]

    panel, comment, end = asyncio.run(read())

    assert entry.status == "interrupted"
    assert panel.startswith("event: panel\n")
    assert comment == COMMENT
    assert end == event("end", "")
    assert viewer.library.current(entry).status == "finished"


# ---------------------------------------------------------------- what is kept


def test_a_value_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    cache, file, reads = FileCache[int](most=2), tmp_path / "file", list[int]()

    def read() -> int:
        reads.append(1)
        return len(reads)

    assert [cache.get("a", [file], read) for _ in range(2)] == [1, 1]
    file.write_text("now there", encoding="utf-8")
    assert cache.get("a", [file], read) == 2
    assert [cache.get(key, [file], read) for key in "bca"] == [3, 4, 5]
    assert cache.get("c", [file], read) == 4
