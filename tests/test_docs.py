"""Every page of the documentation is held to the code: blocks run or are read, links lead somewhere, the command line is as said."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import cli_page
import pytest
from conftest import ROOT
from newcomer import script, shell_blocks, walk_through
from shell import promptopt as in_this_process
from typer.main import get_command

import promptopt
from promptopt import FakeModel
from promptopt.cli import app
from promptopt.data.task_file import build_task
from promptopt.data.task_spec import parse_spec
from promptopt.sweep.spec import parse_sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("*.md"))
# Blocks that are not run as they stand: (page, its number among the page's Python blocks) -> why.
READ_ONLY = {
    ("README.md", 0): "a whole search with a hosted model, which needs a key",
    ("docs/environments.md", 1): "a whole search with a hosted model, which needs a key",
    ("docs/predictor.md", 0): "a whole search with a real model",
    ("docs/strategies/unsupervised.md", 0): "takes texts of the reader's own, and a real model",
}
LANGUAGES = {"python", "sh", "toml", "text", "json", ""}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    number: int
    text: str


def blocks(language: str) -> list[Block]:
    """All blocks in a language."""
    out = []
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        found = re.findall(
            rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        out += [Block(name, language, number, text) for number, text in enumerate(found)]
    return out


def named(block: Block) -> str:
    return f"{block.page}-{block.number}"


def test_every_block_names_a_language_that_is_checked() -> None:
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(fences[::2]) <= LANGUAGES - {""}, page
        assert set(fences[1::2]) <= {""}, page


@pytest.mark.parametrize("block", [b for b in blocks("python") if (b.page, b.number) not in READ_ONLY], ids=named)
def test_a_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("promptopt.optimization.job.load_model", lambda name: FakeModel(lambda _: "yes", name))

    module = ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)  # dataclasses look their module up
    exec(compile(block.text, block.page, "exec"), vars(module))  # noqa: S102  our own page


@pytest.mark.parametrize("block", [b for b in blocks("python") if (b.page, b.number) in READ_ONLY], ids=named)
def test_a_python_block_that_is_not_run_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_blocks_said_not_to_run_exist() -> None:
    assert {(block.page, block.number) for block in blocks("python")} >= set(READ_ONLY)


@pytest.mark.parametrize("block", blocks("toml"), ids=named)
def test_a_toml_block_is_a_task_a_sweep_or_an_entry_point(block: Block) -> None:
    values = tomllib.loads(block.text)

    if "project" in values:
        assert set(values["project"]["entry-points"]) == {"promptopt.strategies"}
    elif "strategy" in values:
        assert parse_sweep(values, block.page).strategy
    else:
        spec = parse_spec(values, block.page)
        assert spec.environment is None or build_task(spec, ROOT).environment is not None


def commands() -> Iterator[Any]:
    """Every command that a page shows, as words: of fenced blocks, and of lines that are set in."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        shell = "".join(shell_blocks(text)) + "".join(
            re.findall(r"^    (promptopt (?!\[|COMMAND).*\n)", text, flags=re.MULTILINE)
        )
        shell = re.sub(r"<<'(\w+)'\n.*?^\1$", "", shell, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
        lines = [line for line in shell.splitlines() if not name.endswith("reference/cli.md")]
        for line in dict.fromkeys(lines):
            if words := shlex.split(line, comments=True):
                yield pytest.param(words, id=f"{name}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", list(commands()))
def test_a_shown_command_is_one_that_there_is(words: list[str]) -> None:
    while "=" in words[0]:  # a variable of the environment
        words = words[1:]
    if words[:3] == ["python", "-m", "promptopt"]:
        words = words[2:]
    match words:
        case ["promptopt", *arguments]:
            understood(arguments)
        case ["make", *targets]:
            rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert set(targets) <= set(rules)
        case ["python", "-m", module, *_]:
            ours = ROOT.joinpath(*module.split("."))
            assert ours.is_dir() or ours.with_suffix(".py").is_file() or importlib.util.find_spec(module)
        case ["python", "-"]:  # reads the lines that follow
            pass
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case ["pip", "install", *what]:
            assert extras(what) <= set(project()["optional-dependencies"])
        case [first, *_]:
            assert first in {"cat", "export", "head", "optuna-dashboard", "./gate_prompts.sh"}


def test_the_transcript_of_a_claim_is_what_the_commands_print(tmp_path: Path) -> None:
    copy = tmp_path / "examples" / "tickets" / "tickets.csv"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / "examples/tickets/tickets.csv").read_bytes())
    page = (ROOT / "docs/judges.md").read_text(encoding="utf-8")
    section = page.partition("\n## From the shell, start to end\n")[2].partition("\n## ")[0]
    printed, compared = "", 0
    for language, text in re.findall(r"^```(sh|text)\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE):
        if language == "sh":
            printed = output_of(text, tmp_path)
        else:
            expected = text.removeprefix("...\n")
            assert printed == expected or (expected != text and printed.endswith(expected))
            compared += 1

    assert compared == 4


def output_of(block: str, folder: Path) -> str:
    """Run a shell block in a folder; what it prints."""
    printed = ""
    for part in re.split(r"^(promptopt .*\n)", block, flags=re.MULTILINE):
        if part.startswith("promptopt "):
            done = in_this_process(folder, *shlex.split(part)[1:])
            assert done.returncode == 0, done.stderr
            printed += done.stderr + done.stdout
        elif part:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            command = ["bash", "-euc", part]
            done = subprocess.run(
                command, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True, text=True
            )
            printed += done.stdout
    return printed


def understood(arguments: list[str]) -> None:
    """Read the words as the command line would, and run nothing."""
    command: Any = get_command(app)
    parent = None
    while hasattr(command, "commands"):
        if not arguments:
            return
        name, *arguments = arguments
        if name.startswith("--"):
            return
        parent = command.make_context(command.name, [name], parent=parent, resilient_parsing=True)
        command = command.commands[name]
    command.make_context(command.name, arguments, parent=parent)


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def extras(requirements: list[str]) -> set[str]:
    return {extra for name in requirements for extra in name.partition("[")[2].rstrip("]").split(",") if extra}


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run `make docs`"


def test_the_reference_holds_all_public_names() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    public = re.findall(
        r"import \w+ as ([A-Za-z]\w+)$", Path(promptopt.__file__).read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    errors = {name for name in public if name.endswith("Error")}  # `promptopt.errors` as a whole

    assert (
        not {name for name in public if not re.search(rf"^::: promptopt\.{name}$", text, flags=re.MULTILINE)}
        - errors
        - {"__version__"}
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    docs = ROOT / "docs"

    assert {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} == listed


def walk_in_this_process(folder: Path, model: str | None) -> None:
    """As `walk_through`, with the commands of promptopt in this process and the rest of the page in bash."""
    page = script(model).replace("\\\n", " ")
    for number, part in enumerate(re.split(r"^(promptopt .*)$", page, flags=re.MULTILINE)):
        if number % 2:
            done = in_this_process(folder, *shlex.split(part)[1:])
            assert done.returncode == 0, done.stderr
        else:
            subprocess.run(["bash", "-euc", part], cwd=folder, check=True)  # noqa: S607  that of the system


@pytest.mark.parametrize("walk", [walk_in_this_process, pytest.param(walk_through, marks=pytest.mark.wide)])
def test_a_newcomer_comes_to_a_report(walk: Callable[[Path, str | None], None], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra 'report'")
    (tmp_path / "fake.py").write_text(
        "from promptopt import FakeLabelModel\n"
        "def logprobs(context, labels):\n"
        "    return [-0.5 - (sum(map(ord, str(context))) + i) % 3 for i, _ in enumerate(labels)]\n"
        "model = FakeLabelModel(logprobs)\n",
        encoding="utf-8",
    )

    walk(tmp_path, "python:fake:model")

    assert "</html>" in (tmp_path / "runs" / "first" / "report.html").read_text(encoding="utf-8")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the extra 'docs'")
    pytest.importorskip("material", reason="needs the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "python" / "index.html").exists()
