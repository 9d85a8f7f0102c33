"""Rules for the final choice take the prompt they should, on small runs made here; and the published file is what it was."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT.parent / "shared" / "data" / "capo" / "runs.csv.gz"

# Prompt: characters, test score, dev score after each step. "lucky" leads on one block and is dropped; "steady" and "long"
# tie at the end; "early" leads at first.
POPULATION: dict[str, tuple[int, float, tuple[float | None, ...]]] = {
    "long": (900, 0.70, (0.7000, 0.7000, 0.7200)),
    "early": (500, 0.60, (0.7900, 0.7100, 0.7100)),
    "steady": (400, 0.75, (0.7100, 0.7100, 0.7200)),
    "lucky": (300, 0.50, (None, 0.8333, None)),
    "short": (20, 0.65, (0.7033, 0.7033, 0.7033)),
}
CHOICES = {
    "last step": ["steady"],
    "last step, ties at random": ["long", "steady"],
    "last step, ties to the oldest": ["long"],
    "all steps, latest score": ["lucky"],
    "all steps, highest score": ["lucky"],
    "mean over steps": ["lucky"],
    "highest of last 3 steps": ["lucky"],
    "highest of last 10 steps": ["lucky"],
    "shrunken": ["lucky"],  # all scores are within noise, so that their order remains
    "lower bound, 1 SE": ["lucky"],
    "lower bound, 2 SE": ["lucky"],
    "most items, then score": ["steady"],
    "longest in population": ["steady"],
    "shortest within 1 SE": ["lucky"],
    "score minus length penalty": ["lucky"],
    "promptopt": ["steady"],
    "promptopt, ties to the oldest": ["long"],
}
BOUNDS = {
    "first step": ["early"],
    "random of last step": ["long", "early", "steady", "short"],
    "random of all": list(POPULATION),
    "oracle of last step": ["steady"],
    "oracle of 16 best": ["steady"],
    "oracle": ["steady"],
}


@pytest.fixture(scope="module")
def published() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield pytest.importorskip("benchmarks.arena.published_runs", reason="benchmarks come with a checkout only")


@pytest.fixture(scope="module")
def data(published: Any) -> Any:  # after `published`, which finds the package
    return pytest.importorskip("benchmarks.arena.published_data")


def rows(steps: int = 3, **name: str) -> list[dict[str, str]]:
    """Return the rows of a run, in the file's columns."""
    start = {"family": "main", "data": "subj", "model": "qwen", "optimizer": "CAPO", "seed": "42"} | name
    return [
        start | {"step": str(s + 1), "prompt": p, "characters": str(c), "test": f"{test:.4f}", "dev": f"{dev:.4f}"}
        for s in range(steps)
        for p, (c, test, devs) in POPULATION.items()
        if (dev := devs[s]) is not None
    ]


def write(path: Path, table: list[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def test_each_rule_chooses_the_prompt_it_should(published: Any, data: Any) -> None:
    def chosen(rules: Mapping[str, Any]) -> dict[str, list[str]]:
        return {name: [run.prompts[p] for p in rule(run)] for name, rule in rules.items()}

    run = data.make_run(rows())
    names = list(run.prompts)
    assert [names.index(name) for name in ("long", "early", "steady", "short", "lucky")] == [0, 1, 2, 3, 4]
    expected = {name: sorted(prompts, key=names.index) for name, prompts in (CHOICES | BOUNDS).items()}
    assert chosen({**published.RULES, **published.BOUNDS}) == expected


def test_items_are_the_fewest_blocks_that_explain_all_scores(data: Any) -> None:
    nan = np.nan
    races = [
        [0.5000, 0.5000, 0.5167],  # 30 items explain the first score, and one more block the last
        [nan, 0.8167, 0.8167],  # a newcomer on two blocks
        [nan, 0.8333, nan],  # one block would explain it, but it came with the newcomer above
    ]
    assert data.items_seen(np.array(races)).tolist() == [120, 60, 60]
    assert data.make_run(rows(optimizer="OPRO")).items.tolist() == [300] * 5


def test_a_run_that_is_the_beginning_of_another_one_counts_once(data: Any, tmp_path: Path) -> None:
    broken = rows(seed="43")
    broken[0]["test"] = ""
    flat = [row | {"dev": "0.5000"} for row in rows(seed="44")]
    table = rows() + rows(2, family="hp", optimizer="CAPO_pop_10") + rows(2, data="copa") + broken + flat

    runs, incomplete = data.read(write(tmp_path / "runs.csv.gz", table))

    assert (len(runs), incomplete) == (5, 1)
    assert [run.name[1::3] for run in data.distinct(runs)] == [
        ("copa", "42"),
        ("subj", "42"),
        ("subj", "43"),
        ("subj", "44"),
    ]
    assert [data.informative(run) for run in runs] == [True, True, True, True, False]


def test_cells_count_alike_and_a_rule_is_judged_where_it_was_not_chosen(published: Any, data: Any) -> None:
    runs = [
        data.make_run(rows(data=name, seed=seed)) for name, seed in (("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"))
    ]
    tests = {"good": np.array([0.6, 0.8, 0.5, 0.2]), "odd": np.array([0.1, 0.1, 0.1, 0.9])}

    assert published.by_cell(runs, tests["good"]).tolist() == pytest.approx([0.7, 0.5, 0.2])
    chosen, names = published.left_out(runs, tests)
    # Without a: .7 against 1.0; without b: .9 against 1.0; without c: 1.2 against .2.
    assert chosen.tolist() == pytest.approx([0.1, 0.1, 0.2])
    assert names == {"odd": 2, "good": 1}


def test_a_lead_on_few_items_shrinks_below_a_smaller_one_on_many(published: Any, data: Any) -> None:
    dev, items = np.array([[0.79], [0.78], [0.60], [0.40]]), np.array([30.0, 300, 300, 300])
    run = data.make_run(rows())._replace(dev=dev, items=items)

    first, second, *_, last = published.shrunken(run)
    assert first < second < 0.78
    assert last > 0.40


def test_a_lead_on_dev_that_is_the_same_on_test_has_slope_one(published: Any, data: Any) -> None:
    run = data.make_run(rows())
    equal = run._replace(test=published.latest(run) - 0.1)

    assert published.slope([equal, equal]) == pytest.approx(1)
    assert published.usual_gap([equal]).tolist() == pytest.approx([0.1])


def test_the_published_runs(published: Any, data: Any) -> None:
    if not PUBLISHED.exists():
        pytest.skip(f"needs the published runs at {PUBLISHED}")
    runs, incomplete = data.read(PUBLISHED)
    last, first = (
        published.judged(runs, rule)[0] for rule in (published.RULES["last step"], published.BOUNDS["first step"])
    )

    assert (len(runs), len(data.distinct(runs)), incomplete) == (272, 254, 0)
    assert (last < first).sum() == 62
