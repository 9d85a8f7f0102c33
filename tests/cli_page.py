"""The page docs/reference/cli.md, made of what the commands say of themselves: `python tests/cli_page.py` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conftest import ROOT
from typer.core import TyperGroup
from typer.main import get_command

from promptopt.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Made by `make docs` from what the commands say of themselves; `promptopt COMMAND --help` says the same. Exit codes: 0 done,
1 a run failed or is unfinished, 2 wrong usage. Results go to standard output, everything else to standard error; with `--json`
standard output holds JSON alone.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group of commands with its full name, as listed."""
    waiting: list[tuple[str, Any]] = [("promptopt", get_command(app))]
    while waiting:
        name, command = waiting.pop(0)
        yield name, command
        if isinstance(command, TyperGroup):
            waiting[:0] = [(f"{name} {key}", part) for key, part in command.commands.items()]


def page() -> str:
    """What the page says."""
    return "\n".join([HEAD, *(_section(name, command) for name, command in commands())])


def _section(name: str, command: Any) -> str:
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option"]
    words = [part.name.upper() if part.required else f"[{part.name.upper()}]" for part in arguments]
    more = ["[OPTIONS]"] if options else []
    more += ["COMMAND"] if isinstance(command, TyperGroup) else []
    rows = [(part.name.upper(), part) for part in arguments] + [(", ".join(part.opts), part) for part in options]
    table = ["|  |  | default |", "|---|---|---|", *(_row(shown, part) for shown, part in rows)] if rows else []
    return "\n".join([f"## {name}\n\n    {' '.join([name, *more, *words])}\n", f"{command.help}\n", *table]) + "\n"


def _row(shown: str, part: Any) -> str:
    default = part.show_default if isinstance(part.show_default, str) else part.default
    silent = default is None or default is False or default == () or callable(default)
    about = " ".join((part.help or "").split()).replace("|", "\\|")
    return f"| `{shown}` | {about} | {'' if silent else f'`{default}`'} |".replace("|  |", "| |")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
