"""What notebooks show of tasks and results."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

from results import a_result

from promptopt import Example, Prompt, Task
from promptopt.utils.notebook import table

HOSTILE = "<script>alert(1)</script> & \x1b[31m"


def test_a_result_shows_headline_numbers_notes_and_prompt_escaped() -> None:
    result = replace(a_result(), prompt=Prompt(HOSTILE), notes=("look <here>",))
    page = ET.fromstring(f"<div>{result._repr_html_()}</div>")  # noqa: S314  our own
    texts = [text.strip() for text in page.itertext()]

    assert page.find("script") is None
    assert result.headline in texts
    assert "note: look <here>" in texts
    assert any("<script>alert(1)</script> &" in text for text in texts)
    assert "\x1b" not in result._repr_html_()
    assert [head.text for head in page.iter("th")][1:] == ["seed prompt", "chosen prompt"]


def test_a_task_shows_the_counts_of_its_labels() -> None:
    items = tuple(Example({"text": f"{n}"}, "a" if n % 3 else "b", str(n)) for n in range(9))
    task = Task(train=items[:6], test=items[6:], seed_prompt=Prompt("{text}"), labels=("a", "b"), name="letters")
    page = ET.fromstring(f"<div>{task._repr_html_()}</div>")  # noqa: S314  our own
    rows = [[cell.text for cell in row.iter("td")] for row in page.iter("tr")]

    assert rows[1:] == [["train", "6", "4", "2"], ["validation", "0", "0", "0"], ["test", "3", "2", "1"]]


def test_a_table_escapes_its_cells() -> None:
    assert "<td" in table(("a",), [("<b>",)])
    assert "&lt;b&gt;" in table(("a",), [("<b>",)])
