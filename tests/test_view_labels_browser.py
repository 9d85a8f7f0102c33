"""Labels by hand in a real browser, by keyboard alone: a name, scores, undo, skip, comparisons, the end; and how the pages look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import browsing, chromium

pytest.importorskip("vl_convert", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")

from test_view import ids
from test_view_browser import FITS, LOOKS, enter, tab_to
from test_view_labels import a_test, hostile_items, outcomes
from viewing import served

from promptopt.data.rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Generator

    from browser import Page

HEADING = "document.querySelector('h1').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Generator[Page]:
    chromium()
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def press(page: Page, key: str, heading: str) -> None:
    """Press a key and wait for the page that it leads to."""
    page.press(key)
    page.wait(f"{HEADING}.startsWith({heading!r}) && document.body.dataset.ready === 'yes'")


def begin(page: Page, address: str, name: str, button: str) -> None:
    """Enter a name and press a button, by keyboard."""
    page.open(address, ready=False)
    tab_to(page, "input[name=person]")
    page.type(name)
    tab_to(page, button)
    page.press("Enter")
    page.wait("document.body.dataset.ready === 'yes'")


def finish(page: Page) -> None:
    """Press "I have finished", by keyboard."""
    tab_to(page, "form.finish button")
    page.press("Enter")
    page.wait("location.pathname.endsWith('/results') && document.readyState === 'complete'")


@pytest.mark.wide
def test_replies_are_scored_and_compared_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    run = a_test(tmp_path / "a", outcomes(4))
    with served(tmp_path) as address:
        enter(page, address)
        labels = f"{address}/runs/{ids(tmp_path)['a']}/labels"
        begin(page, labels, "Ada", "form.filters button")
        for n, key in enumerate(("5", "1", "3"), 2):
            press(page, key, f"Reply {n} of")
        press(page, "u", "Reply 3 of")
        press(page, "s", "Reply 4 of")
        for n in (5, 6):
            press(page, "2", f"Reply {n} of")
        press(page, "4", "All 6 are")
        press(page, "a", "Reply 6 of")  # what was skipped
        press(page, "3", "All 6 are")
        scores = [row.values["human"] for row in read_rows(run / "labels" / "scores-ada.csv")]
        assert scores == ["1", "0", "0.25", "0.25", "0.75", "0.5"]

        begin(page, labels, "Bob", "button[formaction$=comparisons]")
        press(page, "ArrowLeft", "Comparison 2 of")
        press(page, "u", "Comparison 1 of")
        press(page, " ", "Comparison 2 of")
        press(page, "ArrowRight", "All 2 are")
        lines = (run / "labels" / "comparisons-bob.jsonl").read_text(encoding="utf-8").splitlines()
        assert [line.rpartition('"better": ')[2] for line in lines] == ['"same"}', '"right"}']
        finish(page)
        assert "chosen prompt" in page.run("document.body.innerText")
    assert page.complaints == []


@pytest.mark.wide
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_pages_of_labels_fit_and_axe_finds_nothing(page: Page, tmp_path: Path, width: int, *, dark: bool) -> None:
    axe = os.environ.get("PROMPTOPT_AXE")
    source = Path(axe).read_text(encoding="utf-8") + "; 0" if axe else ""
    report = "axe.run().then((found) => found.violations.map((v) => `${v.id}: ${v.nodes[0].html} ${v.nodes[0].failureSummary}`))"
    a_test(tmp_path / "a", (*outcomes(3), *hostile_items()))
    violations = list[str]()

    def look() -> None:
        assert page.run(FITS), page.run("location.href")
        if axe:
            page.run(source)
            violations.extend(page.run(report))

    with served(tmp_path) as address:
        enter(page, address)
        page.look(width, dark=dark)
        labels = f"{address}/runs/{ids(tmp_path)['a']}/labels"
        for kind, key, button in (("scores", "4", "form.filters button"), ("comparisons", " ", "[formaction]")):
            for name in ("Ada", "<b>Bob</b>"):
                begin(page, labels, name, button)
                for n in (2, 3, 4):
                    look()
                    press(page, key, f"{'Reply' if kind == 'scores' else 'Comparison'} {n} of")
        page.open(labels, ready=False)
        look()
        begin(page, labels, "Ada", "form.filters button")
        finish(page)
        look()
    assert page.complaints == []
    assert violations == []
