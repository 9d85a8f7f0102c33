"""The shape of the project: one import root, a light import, one top-level name in the wheel."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import promptopt
import promptopt.strategies

HEAVY = ("torch", "transformers", "openai", "anthropic", "optuna", "scipy.stats", "pydantic", "rich", "typer")


def test_import_is_light() -> None:
    code = f"import sys, promptopt; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_search_on_a_fake_model_loads_nothing_heavy_but_the_interval() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import toys, promptopt; "
        "promptopt.optimize(toys.TASK, promptopt.FakeModel(toys.answer), settings={}, budget='600 calls'); "
        "print([name for name in ('torch', 'transformers', 'openai', 'anthropic', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def test_root_folder_strategies_is_the_package() -> None:
    link = ROOT / "strategies"
    if not link.is_dir():
        pytest.skip("this checkout has no symbolic links")

    assert link.resolve() == Path(promptopt.strategies.__path__[0]).resolve()


def test_public_names_are_those_that_init_lists() -> None:
    public = {name for name in vars(promptopt) if not name.startswith("_")}
    modules = {name for name in public if f"promptopt.{name}" in sys.modules and name != "optimize"}
    listed = {
        line.rpartition(" as ")[2].strip()
        for line in Path(promptopt.__file__).read_text(encoding="utf-8").splitlines()
        if line.startswith("from ")
    }

    assert public - modules == listed - {"__version__"}


def test_wheel_holds_one_top_level_name_and_starts_in_a_clean_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    command = [str(tmp_path / "clean" / "bin" / "promptopt"), "strategies"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert {name for name in names if not name.endswith(".dist-info")} == {"promptopt"}
    assert "promptquine" in done.stdout
