"""The files of a sweep: figures over common seeds, the page in a browser, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from results import BETTER, HISTORY, OUTCOMES, SEED, a_result, data_of

from promptopt.evaluation.ledger import Spending
from promptopt.prompt import Layout
from promptopt.results.predictor import Predictor
from promptopt.statistics import Interval
from promptopt.sweep.figures import figures
from promptopt.sweep.single_run import RunOutcome
from promptopt.sweep.table import Entry, Row, Table, label_biases, ranked, row_of, unequal_examples
from promptopt.sweep.table_formats import differences_csv, latex, runs_csv

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Result

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")

from promptopt.sweep.page import sweep_page, write_figures


def searched(*levels: tuple[int, float]) -> Result:
    """A result whose candidates were first scored after these calls, with these rewards."""
    records = [replace(HISTORY[0], number=i, calls=calls, reward=reward) for i, (calls, reward) in enumerate(levels)]
    return a_result(history=tuple(records))


def entry(seed: int, result: Result, rewards: list[float], reason: str = "") -> Entry:
    outcomes = tuple(
        replace(OUTCOMES[2], id=str(i), chosen=replace(OUTCOMES[2].chosen, reward=reward))
        for i, reward in enumerate(rewards)
    )
    return Entry(
        seed, "s", f"run-{seed}", RunOutcome(result=result, outcomes=outcomes, reason=reason), Spending(10, 40, 0, 30)
    )


def a_row(strategy: str, *entries: Entry) -> Row:
    return row_of("50% off_task", "m", strategy, entries)


def a_table() -> Table:
    """Three strategies: two with equal searches, and one that missed a seed and was tested on fewer examples."""
    quick, slow = searched((10, 0.5), (40, 0.579)), searched((20, 0.25), (30, 0.579))
    rows = [
        a_row("alpha", entry(0, quick, [1.0] * 12), entry(1, slow, [1.0] * 11 + [0.0])),
        a_row("beta", entry(0, quick, [0.0] * 12), entry(1, slow, [1.0] * 6 + [0.0] * 6)),
        a_row("gamma", entry(0, searched((40, 0.579)), [0.0] * 9), entry(1, slow, [], reason="no\nkey")),
    ]
    return Table(name="trial", rows=ranked(rows), notes=tuple(unequal_examples(rows)))


def test_a_figure_compares_over_the_seeds_that_every_strategy_finished() -> None:
    (figure,) = figures(a_table())

    assert figure.seeds == (0,)
    assert figure.notes == ("not drawn: seed 1, which not every strategy finished",)
    assert [curve.name for curve in figure.drawn] == ["alpha, beta (equal)", "gamma"]
    assert figure.table()[1] == [
        ["alpha", "0.500", "0.500", "0.500", "0.579"],
        ["beta", "0.500", "0.500", "0.500", "0.579"],
        ["gamma", "nothing scored yet", "nothing scored yet", "nothing scored yet", "0.579"],
    ]


def test_a_strategy_without_a_finished_run_is_named_and_the_others_are_drawn() -> None:
    failed = a_row("failed", entry(0, searched((10, 0.5)), [], reason="no key"))
    (figure,) = figures(Table(name="t", rows=(a_row("alpha", entry(0, searched((10, 0.5)), [1.0])), failed)))

    assert figure.notes == ("failed has no finished run, so it is not drawn",)
    assert [curve.name for curve in figure.drawn] == ["alpha"]
    assert figures(Table(name="t", rows=(failed,))) == []


def test_the_table_says_on_how_many_test_examples_each_row_and_the_lead_are() -> None:
    table = a_table()
    first = table.rows[0].formatted()

    assert [row.tested for row in table.rows] == ["12", "12", "9"]
    assert first[4] == "12"
    assert first[7].endswith(" on 12 examples")
    (note,) = table.notes
    assert note.startswith("50% off_task, m: the runs were tested on different examples (9 to 12 of 12)")
    assert unequal_examples(table.rows[:2]) == []


def test_a_label_bias_that_was_tested_is_said_to_be_left_out() -> None:
    biased = Predictor(
        prompt=SEED,
        labels=("a", "b"),
        bias=(0.5, -0.5),
        layout=Layout(("x",), "{x}"),
        max_tokens=8,
        model="m",
        fitted=10,
        validation=1.0,
    )
    plain, other = (
        a_row("alpha", entry(0, a_result(), [1.0])),
        a_row("beta", entry(0, a_result(predictor=biased), [1.0])),
    )

    assert label_biases([plain]) == []
    (note,) = label_biases([plain, other])
    assert note.startswith("50% off_task, m: rewards and gains are those of the prompts alone")


def test_the_csv_has_a_row_for_each_run_and_the_latex_table_one_for_each_strategy() -> None:
    table = a_table()
    runs = list(csv.DictReader(io.StringIO(runs_csv(table))))
    tex = latex(table).splitlines()

    assert [(run["strategy"], run["seed"], run["failed"]) for run in runs][-2:] == [
        ("s", "0", ""),
        ("s", "1", "no\nkey"),
    ]
    assert runs[0]["prompt"] == str(a_result().prompt)
    assert (runs[0]["tokens"], runs[0]["seed_prompt"]) == ("70", str(BETTER.seed.estimate))
    assert r"\multicolumn{6}{l}{50\% off\_task, m} \\" in tex
    assert tex[6].startswith("alpha & 12 & 0.958 [")
    assert tex[6].endswith(r"$+$0.488] & 10 & 70 \\")
    assert r"& \textbf{0.958 [" in latex(replace(table, rows=(replace(table.rows[0], lead=Interval(0.3, 0.1, 0.5)),)))
    assert all(line.startswith(("%", "\\")) or line.endswith(r"\\") for line in tex)


def test_every_pair_of_strategies_has_its_paired_difference() -> None:
    table = a_table()
    pairs = list(csv.DictReader(io.StringIO(differences_csv(table))))
    lead = table.rows[0].lead

    assert [(pair["first"], pair["second"], pair["examples"]) for pair in pairs] == [
        ("alpha", "beta", "12"),
        ("alpha", "gamma", "9"),
        ("beta", "gamma", "9"),
    ]
    assert lead is not None
    assert [float(pairs[0][name]) for name in ("difference", "low", "high")] == list(lead)
    assert float(pairs[1]["difference"]) == 1.0  # seed 0 alone: the other seed of gamma failed


def test_figures_are_written_as_svg_and_pdf_with_a_legend(tmp_path: Path) -> None:
    write_figures(figures(a_table()), tmp_path)
    svg = (tmp_path / "sweep.svg").read_text(encoding="utf-8")

    assert (tmp_path / "sweep.pdf").read_bytes().startswith(b"%PDF")
    assert "alpha, beta (equal)" in svg
    assert "gamma" in svg


def test_the_page_has_a_legend_for_each_line_and_says_what_is_not_drawn() -> None:
    table = a_table()
    text = sweep_page(table, figures(table))
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)

    assert len(data_of(text)["figures"]) == 1
    assert shown.count('<svg class="swatch"') == 2
    assert "Not drawn: seed 1, which not every strategy finished." in shown
    assert "compare gains and the lead" in shown
    assert "Failed: no\nkey" in shown
