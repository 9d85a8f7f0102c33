"""Options that several commands have, and groups of them.

A command takes a group, a dataclass of options, as one parameter; on the command line it is one option for each field.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

MemoLocation = Annotated[
    str | None, typer.Option("--memo", help="Memo (store of replies): a folder or redis://HOST:PORT/DB.")
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", help="Limit, such as '500 calls', '2 dollars' or '1M tokens'.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Strategy setting NAME=VALUE (repeatable).")]
StrategyName = Annotated[
    str, typer.Option(help="Search strategy (see `promptopt strategies`), or one of your own as MODULE:CLASS.")
]
WriterName = Annotated[str | None, typer.Option(help="Model that writes new prompts. Default: the task model.")]
WriterUrl = Annotated[str | None, typer.Option(help="URL of the writer's endpoint.")]
WriterPrice = Annotated[str | None, typer.Option(help="Price of the writer, in the format of --price.")]
Objectives = Annotated[
    str | None,
    typer.Option(
        help="Several objectives: 'reward' and tokens, dollars or names of the reward's numbers, such as 'reward,tokens'. "
        "The result is a front."
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        help="Point of the front to recommend, such as 'reward, tokens <= 300' or 'tokens, reward >= best - 0.01'."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Estimate calls and cost without calling a model.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON to stdout.")]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command in whose signature each parameter that is a dataclass is replaced by the fields of the dataclass."""
    signature = inspect.signature(command, eval_str=True)
    kinds: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }
    fields: dict[str, dict[str, inspect.Parameter]] = {
        name: dict(inspect.signature(kind, eval_str=True).parameters) for name, kind in kinds.items()
    }
    parameters = {
        name: option
        for group, parameter in signature.parameters.items()
        for name, option in fields.get(group, {group: parameter}).items()
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        groups = {
            group: kinds[group](**{name: values.pop(name) for name in options}) for group, options in fields.items()
        }
        command(**values, **groups)

    ordered = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in parameters.values()]
    run.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {option.name: option.annotation for option in ordered}
    return run


def read_settings(assignments: list[str] | None) -> dict[str, str]:
    """Return the settings of --set.

    Raises:
        InputError: one of them is not NAME=VALUE.
    """
    settings = {}
    for assignment in assignments or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"cannot read --set {assignment!r}: write NAME=VALUE")
        settings[name.strip()] = value.strip()
    return settings
