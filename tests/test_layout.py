"""The shape of the project: one import root, a light import, one top-level name in the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from servers.loopback import Loopback

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


FIRST_RUN = """
import os, sys
os.environ |= {"OPENAI_API_KEY": "a-key-of-no-use", "ANTHROPIC_API_KEY": "a-key-of-no-use"}
from promptopt import Message, Request, load_model, optimize

for name, base in (("openai:m", sys.argv[1] + "/v1"), ("anthropic:m", sys.argv[1])):
    model = load_model(name, base_url=base)
    for arrival in model.generate([Request(context=(Message("user", "one"),), max_tokens=3)]):
        print(arrival.reply.text)
print(optimize("task.toml", "python:mine:model", "tapruning", budget="2000 calls", memo="memo", run_dir="run").headline)
"""
TASK = """
seed_prompt = "Say how good loudly: {text}"
reward = "mine:share"
[data]
file = "rows.csv"
inputs = ["text"]
label = "label"
"""


@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_wheel_holds_one_top_level_name_and_runs_in_a_clean_environment(tmp_path: Path, versions: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"promptopt"}

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = [re.sub(r">=([\w.]+).*", r"==\1", requirement) for requirement in declared]
    (tmp_path / "constraints.txt").write_text("\n".join(lowest if versions == "lowest" else []), encoding="utf-8")
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    install = [
        str(word)
        for word in (python, "-m", "pip", "install", "--quiet", "--constraint", tmp_path / "constraints.txt", wheel)
    ]
    subprocess.run(install, check=True)
    rows = "".join(f"item {number},{number % 7 / 7}\n" for number in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "from promptopt import FunctionModel\n"
        "model = FunctionModel(lambda _: '0', name='zero', version='1')\n"
        "def share(example, response): return float(example.target)\n",
        encoding="utf-8",
    )
    with Loopback(lambda _: "yes") as server:
        done = subprocess.run(
            [python, "-c", FIRST_RUN, server.url], capture_output=True, text=True, check=False, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["yes", "yes"]
    assert "Its test reward is" in done.stdout
    command = [str(tmp_path / "clean" / "bin" / "promptopt"), "strategies"]
    assert "promptquine" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
