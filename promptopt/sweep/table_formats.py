"""The table of a sweep as CSV, one row for each run or pair of strategies, and as a LaTeX table."""

from __future__ import annotations

import csv
import io
import math
import re
from itertools import combinations, groupby
from typing import TYPE_CHECKING

from promptopt.sweep.table import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.statistics import Interval
    from promptopt.sweep.table import Row, Table

_RUN_COLUMNS = (
    "task",
    "model",
    "strategy",
    "seed",
    "run",
    "failed",
    "test",
    "seed_prompt",
    "gain",
    "examples",
    "calls",
    "tokens",
    "dollars",
    "prompt",
)
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def runs_csv(table: Table) -> str:
    """Return the runs as CSV, with the columns task, model, strategy, seed, run, failed and so on to prompt.

    `strategy` is that of the row; in a portfolio, the one that the seed ended with. `test` and `seed_prompt` are the test rewards of the
    chosen prompt and of the seed prompt. What a run does not have is empty.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, _RUN_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in table.to_json()["rows"]:
        for run in row["seeds"]:
            writer.writerow({"task": row["task"], "model": row["model"], **run})
    return out.getvalue()


def differences_csv(table: Table) -> str:
    """Return a row for each pair of strategies on a task and model: test reward of the first minus that of the second.

    Paired by seed and test example, with the 95 % interval over both (empty with fewer than two examples); not corrected for the
    number of pairs. Pairs without a common test example are left out.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("task", "model", "first", "second", "difference", "low", "high", "examples"))
    for (task, model), rows in groupby(table.rows, key=lambda row: (row.task, row.model)):
        for first, second in combinations(rows, 2):
            if (found := difference(first, second)) is not None:
                interval, examples = found
                bounds = [value if math.isfinite(value) else "" for value in interval]
                writer.writerow((task, model, first.strategy, second.strategy, *bounds, examples))
    return out.getvalue()


def latex(table: Table) -> str:
    """Return the table for LaTeX with the package booktabs: a line for each strategy, the best of a task and model in bold."""
    lines = [r"% \usepackage{booktabs}", r"\begin{tabular}{lrrrrr}", r"\toprule"]
    lines.append(r"strategy & test examples & test reward & gain over seed prompt & calls & tokens \\")
    for (task, model), rows in groupby(table.rows, key=lambda row: (row.task, row.model)):
        lines += [r"\midrule", rf"\multicolumn{{6}}{{l}}{{{_escaped(task)}, {_escaped(model)}}} \\"]
        lines += [_latex_row(row) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", *_latex_notes(table)]
    return "\n".join(lines) + "\n"


def _latex_row(row: Row) -> str:
    test = _latex_interval(row.test)
    cells = [
        _escaped(row.strategy),
        row.tested,
        rf"\textbf{{{test}}}" if row.best else test,
        _latex_interval(row.gain, "+"),
        *("" if mean is None else f"{mean:,.0f}" for mean in (row.calls, row.tokens)),
    ]
    return " & ".join(cells) + r" \\"


def _latex_notes(table: Table) -> Sequence[str]:
    about = "95 % intervals over seeds and test examples; bold: ahead of the runner-up, paired, by more than chance"
    return [f"% {' '.join(line.split())}" for line in (about, *table.failures, *table.notes)]


def _latex_interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    estimate, low, high = (format(value, f"{sign}.3f").replace("-", "$-$").replace("+", "$+$") for value in interval)
    return f"{estimate} [{low}, {high}]"


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^<>&%$#_{}]", lambda match: _ESCAPES.get(match[0], f"\\{match[0]}"), " ".join(text.split()))
