"""The viewer in a real browser: clicked through at two widths, light and dark, by keyboard alone; a live run watched and ended."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import toys
from browser import browsing, chromium
from results import BETTER, OUTCOMES, a_result

from promptopt import FakeModel

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")

from test_report import hostile
from test_view import ids, saved
from viewing import TOKEN, a_run, served

from promptopt.view import assets

if TYPE_CHECKING:
    from collections.abc import Generator

    from browser import Page

    from promptopt import Request

LOOKS = [(1280, False), (1280, True), (420, False), (420, True)]
FITS = "document.documentElement.scrollWidth <= innerWidth"
FOCUS = "document.activeElement"
ROW = "document.querySelector('#runs tbody tr')"
CALLS = "[...document.querySelectorAll('#live th')].find((head) => head.textContent === 'task')?.nextElementSibling.textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Generator[Page]:
    chromium()
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Vega-Lite, which takes seconds to bundle; the wide tests have it."""
    monkeypatch.setitem(
        assets._FILES, "vega.js", lambda: "window.vegaEmbed = async () => ({ view: { addEventListener() {} } });"
    )


def enter(page: Page, address: str) -> None:
    """Open the printed address with nothing noted yet."""
    page.open("about:blank", ready=False)  # the page before may still ask a server that has ended
    page.complaints.clear()
    page.look(1280)
    page.open(f"{address}/?token={TOKEN}")


def tab_to(page: Page, condition: str) -> None:
    """Press Tab until the focus is where it should be."""
    for _ in range(60):
        page.press("Tab")
        if page.run(f"{FOCUS}.matches({condition!r})"):
            return
    raise AssertionError(f"Tab never reached {condition}")


def draw_charts(page: Page) -> None:
    """Come near each chart of a report, and wait until it is drawn."""
    page.wait("document.body.dataset.ready === 'yes'")
    for number in range(page.run("document.querySelectorAll('.chart').length")):
        chart = f"document.querySelectorAll('.chart')[{number}]"
        page.run(f"{chart}.scrollIntoView()")
        page.wait(f"{chart}.querySelector('svg')", 120)


@pytest.mark.usefixtures("no_charts")
def test_runs_are_filtered_sorted_and_opened_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    saved(tmp_path / "one", a_result(task="sums", test=replace(BETTER, outcomes=OUTCOMES)))
    saved(tmp_path / "two", a_result(prompt=a_result().seed_prompt, test=None))
    names = "[...document.querySelectorAll('#runs tbody tr:not([hidden]) a')].map((link) => link.textContent).join()"
    with served(tmp_path) as address:
        enter(page, address)
        assert page.run("document.querySelector('.skip').matches(':focus')") is False
        page.press("Tab")
        assert page.run("document.activeElement.className") == "skip"
        tab_to(page, "[data-key=name]")
        page.press("Enter")
        assert page.run(names) == "one,two"
        page.press("Enter")
        assert page.run(names) == "two,one"
        assert page.run("document.querySelector('[data-key=name]').parentElement.ariaSort") == "descending"
        page.open(address)
        tab_to(page, "#filter")
        page.type("better than")
        assert page.run(names) == "one"
        assert page.run("document.getElementById('count').textContent") == "1 of 2 runs"
        tab_to(page, "#runs a")
        run = ids(tmp_path)["one"]
        page.press("Enter")
        page.wait(f"location.pathname === '/runs/{run}'")
        for end in ("candidates", "items"):
            tab_to(page, f"nav.places a[href$={end}]")
            page.press("Enter")
            page.wait(f"location.pathname.endsWith('/{end}') && document.readyState === 'complete'")
        tab_to(page, "input[name=q]")
        page.type("ITEM 1")
        page.press("Enter")
        page.wait("location.search.includes('q=ITEM') && document.readyState === 'complete'")
        assert page.run("document.querySelectorAll('article.item').length") == 1
    assert page.complaints == []


@pytest.mark.usefixtures("no_charts")
def test_a_live_run_is_watched_and_ended_from_its_page(page: Page, tmp_path: Path) -> None:
    go, asked, results = threading.Semaphore(0), list[int](), list[Any]()

    def answer(request: Request) -> str:
        go.acquire()
        asked.append(1)
        return toys.answer(request)

    def run() -> None:
        results.append(a_run(tmp_path / "runs" / "live", model=FakeModel(answer, "stepped"), budget="100000 calls"))

    (tmp_path / "runs").mkdir()
    thread = threading.Thread(target=run, daemon=True)
    with served(tmp_path / "runs") as address:
        thread.start()
        go.release(200)
        enter(page, address)
        page.wait(f"{ROW}?.innerText.includes('candidates, best so far')")  # the list, without a reload
        page.run(f"{ROW}.querySelector('a').focus()")
        before = page.run(f"{ROW}.cells[4].dataset.value + {ROW}.cells[4].innerText")
        go.release(20)
        page.wait(f"{ROW}.cells[4].dataset.value + {ROW}.cells[4].innerText !== {before!r}")
        assert page.run(f"{ROW}.contains({FOCUS})")
        page.press("Enter")
        page.wait("document.querySelector('#live svg.curve')")  # drawn without a reload
        page.wait(f"{CALLS} === '220'")  # all that were answered, while the next is awaited
        go.release(5)
        page.wait(f"{CALLS} === '225'")
        assert page.run(FITS)
        tab_to(page, "button.danger")
        page.press("Enter")
        while thread.is_alive():
            go.release()
            thread.join(0.01)
        page.wait("document.querySelector('#claim')")  # the report, in place of the live page
        assert "Unfinished (stopped" in page.run("document.querySelector('h1').textContent")
    assert "stopped" in results[0].unfinished
    assert page.complaints == []


@pytest.mark.wide
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_every_page_fits_and_says_nothing_in_the_console(page: Page, tmp_path: Path, width: int, *, dark: bool) -> None:
    a_run(tmp_path / "recorded")
    saved(tmp_path / "hostile", hostile())
    with served(tmp_path) as address:
        enter(page, address)
        page.look(width, dark=dark)
        for run in ids(tmp_path).values():
            for end in ("", "/candidates", "/items"):
                page.open(f"{address}/runs/{run}{end}", ready=not end)
                assert page.run(FITS), end
                assert page.run("document.images.length") == 0
                assert page.run("window.hit ?? null") is None
            page.open(f"{address}/runs/{run}")
            assert page.run("document.querySelectorAll('svg.marks').length") == 0  # the reader is not there yet
            draw_charts(page)
            assert page.run("document.querySelectorAll('svg.marks').length") == 2
    assert page.complaints == []


@pytest.mark.wide
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_axe_finds_nothing(page: Page, tmp_path: Path, width: int, *, dark: bool) -> None:
    axe = os.environ.get("PROMPTOPT_AXE")
    if not axe:
        pytest.skip("PROMPTOPT_AXE does not name axe.min.js (npm pack axe-core)")
    source = Path(axe).read_text(encoding="utf-8")
    a_run(tmp_path / "recorded")
    saved(tmp_path / "earlier")
    (tmp_path / "interrupted").mkdir()
    events = (tmp_path / "recorded" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "interrupted" / "events.jsonl").write_text("\n".join(events[:-1]) + "\n", encoding="utf-8")
    runs, violations = ids(tmp_path), list[str]()
    # The rule left out is an experimental one: it takes a label that says what a row's numbers are for a mismatch.
    rules = "{ rules: { 'label-content-name-mismatch': { enabled: false } } }"
    report = (
        f"axe.run({rules})"
        ".then((found) => found.violations.map((v) => `${v.id}: ${v.nodes[0].html} ${v.nodes[0].failureSummary}`))"
    )
    with served(tmp_path) as address:
        enter(page, address)
        page.look(width, dark=dark)
        ends = ["/", *(f"/runs/{runs['recorded']}{end}" for end in ("", "/candidates", "/items"))]
        for end in (*ends, f"/runs/{runs['interrupted']}", "/runs/none"):
            page.open(f"{address}{end}", ready=False)
            if page.run("!!document.querySelector('script[src*=report]')"):
                draw_charts(page)
            page.run(source + "; 0")
            violations += [f"{end} {line}" for line in page.run(report)]
    assert violations == []
