"""The shape of the project: one import root, a light import, one top-level name in the wheel."""

from __future__ import annotations

import importlib
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
from promptopt import Example, Memo, Number, Response
from promptopt._moved import MODULES
from promptopt.images import reference, referred

HEAVY = ("numpy", "torch", "transformers", "openai", "anthropic", "optuna", "scipy.stats", "pydantic", "rich", "typer")


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


def test_without_the_extra_local_the_command_line_works_and_a_local_model_says_what_it_needs() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'tokenizers')))\n"
        "import promptopt, promptopt.cli\n"
        "try: promptopt.load_model('local:gpt2')\n"
        "except promptopt.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "needs the extra 'local'" in done.stdout


def test_root_folder_strategies_is_the_package() -> None:
    link = ROOT / "strategies"
    if not link.is_dir():
        pytest.skip("this checkout has no symbolic links")

    assert link.resolve() == Path(promptopt.strategies.__path__[0]).resolve()


def test_public_names_are_the_same_for_type_checkers_and_at_run_time() -> None:
    listed = {
        line.partition("  #")[0].rpartition(" as ")[2].strip()
        for line in Path(promptopt.__file__).read_text(encoding="utf-8").splitlines()
        if line.startswith("    from ")
    }

    assert listed == set(promptopt._MODULE_OF)
    assert listed <= set(dir(promptopt))
    assert all(getattr(promptopt, name) is not None for name in listed)


def test_a_star_import_gives_the_public_names_without_torch_or_an_sdk() -> None:
    code = (
        "import sys, promptopt; from promptopt import *\n"
        "print(set(promptopt._MODULE_OF) - set(globals()), [name for name in ('torch', 'openai', 'anthropic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set() []\n"


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'promptopt' has no attribute 'optimise'"):
        _ = promptopt.optimise  # type: ignore[attr-defined]


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_holds_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == {"promptopt"}


@pytest.mark.wide
@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path, versions: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = [re.sub(r">=([\w.]+).*", r"==\1", requirement) for requirement in declared]
    (tmp_path / "constraints.txt").write_text("\n".join(lowest if versions == "lowest" else []), encoding="utf-8")
    venv.create(tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--constraint", str(tmp_path / "constraints.txt"), str(wheel)], check=True)
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


def test_the_root_holds_nouns_and_packages_alone() -> None:
    files = {path.stem for path in (ROOT / "promptopt").glob("*.py")}

    assert files - {"__init__", "__main__", "_moved", "_version"} == {
        *("environment", "errors", "images", "mcp", "program", "prompt", "randomness", "replies", "rewards", "scores"),
        *("task", "tools"),
    }


@pytest.mark.parametrize("old", MODULES)
def test_a_former_name_gives_the_module_and_a_warning(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{MODULES[old]}; the old name will be removed") as caught:
        found = importlib.import_module(old)

    assert found is importlib.import_module(MODULES[old])
    assert caught[0].filename == __file__


def test_a_former_name_in_scores_gives_the_class_and_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"promptopt\.replies\.Response"):
        from promptopt.scores import Response as Former  # type: ignore[attr-defined]

    assert Former is Response
    with pytest.raises(ImportError, match="Nothing"):
        from promptopt.scores import Nothing  # noqa: F401


def test_former_names_of_errors_are_the_same_classes() -> None:
    assert promptopt.PassingModelError is promptopt.TransientModelError
    assert promptopt.FinalModelError is promptopt.PermanentModelError


def test_former_names_of_attributes_work_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"Memo\(location="):
        memo = Memo(place=tmp_path / "memo")
    with memo, pytest.warns(DeprecationWarning, match=r"Memo\.location"):
        assert memo.place == memo.location == str(tmp_path / "memo")
    with memo, pytest.warns(DeprecationWarning, match=r"MemoStats\.location"):
        assert memo.stats().place == memo.location
    with pytest.warns(DeprecationWarning, match="truncated_before_text"):
        assert Response("", finish_reason="length").speechless
    with pytest.warns(DeprecationWarning, match="target_number"):
        assert Number().wanted(Example({"text": "six times seven"}, "42", "1")) == 42
    image = tmp_path / "cat.png"
    image.write_bytes(b"cat")
    with pytest.warns(DeprecationWarning, match="parse_reference"):
        assert referred(reference(image)).path == image
