"""The list of house phrases: what is found, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prose
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("page.md", "First.\nAll is read Anew.\n", ["2: 'Anew': write again"]),
        ("page.md", "```\nread anew\n```\nread\n", []),
        ("code.py", 'X = "the cause lies in the data"\n', ["1: 'lies in the': write is in, is"]),
        ("notes.txt", "anew\n", []),
    ],
)
def test_phrases_are_found_in_prose_alone(tmp_path: Path, name: str, text: str, found: list[str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [line.partition(f"{name}:")[2] for line in prose.findings([tmp_path])] == found


def test_each_phrase_has_a_better_one() -> None:
    assert all(better for _, better in prose.phrases())
