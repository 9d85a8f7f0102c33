"""The notebooks run, cell by cell, from the project's root, with the data and scripted models of the examples."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOKS = ROOT / "examples" / "notebooks"


@pytest.mark.parametrize("name", ["first_prompt", pytest.param("own_method", marks=pytest.mark.wide)])
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = ModuleType("notebook")

    shown = [run(cell, vars(module)) for cell in code_cells(NOTEBOOKS / f"{name}.ipynb")]

    assert all("<" in page for page in shown if page is not None)


def code_cells(path: Path) -> list[str]:
    """The source of each code cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, object]) -> str | None:
    """Run a cell as Jupyter does; return the page that its last expression is shown as, None if it has none."""
    tree = ast.parse(source)
    end = tree.body[-1]
    last = end if isinstance(end, ast.Expr) else None
    tree.body = tree.body[:-1] if last else tree.body
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102  our own notebook
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307  our own notebook
    show = getattr(value, "_repr_html_", None)
    return show() if show is not None else None
