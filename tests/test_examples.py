"""Examples and the README's Python run as they stand."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import combinations

import pytest
from conftest import ROOT

from promptopt.taskfile import build_task, load_task, parse_spec

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_runs_and_shows_an_improvement(script: object) -> None:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("Better than the seed prompt")


def test_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)

    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102  our own page


def test_the_task_files_on_their_page_are_some() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    texts, steps = (parse_spec(tomllib.loads(block), "docs/tasks.md") for block in blocks)

    assert texts.words == ("billing", "technical", "other")
    assert build_task(steps, ROOT).environment is not None


def test_reviews_are_as_their_page_says() -> None:
    sizes = {"train": 64, "validation": 120, "test": 240}
    texts = []
    for split, size in sizes.items():
        with (ROOT / "examples" / "reviews" / f"{split}.tsv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert Counter(row["label"] for row in rows) == {"positive": size // 2, "negative": size // 2}
        texts += [row["text"] for row in rows]

    assert len(set(texts)) == 424
    runs = [{tuple(words[i : i + 6]) for i in range(len(words) - 5)} for words in (t.lower().split() for t in texts)]
    assert not any(a & b for a, b in combinations(runs, 2))


def test_the_review_task_loads() -> None:
    task = load_task(ROOT / "examples" / "reviews")

    assert (len(task.train), len(task.validation), len(task.test)) == (16, 120, 240)
    assert task.labels == ("terrible", "great")
