"""The options that a run was started with, in its folder, so that its task and models can be loaded again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from typer.models import ArgumentInfo

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.search_options import SearchOptions
from promptopt.cli.task_options import TaskOptions
from promptopt.errors import InputError
from promptopt.optimization.job import prepare
from promptopt.utils.files import write_private
from promptopt.utils.json_values import json_object
from promptopt.view.recorded import RecordedRun

FILE = "options.json"
"""Name of the file in the folder of a run."""

_PATHS = frozenset({"task", "prompt_from", "prompts"})
_START = frozenset({"seed_prompt", "prompt_from", "prompts"})
_NOT_RECORDED = "its folder does not record how its task is loaded"


def record_options(
    folder: Path, task: TaskOptions, model: TaskModelOptions, search: SearchOptions, **more: str | None
) -> None:
    """Write the options of a run into its folder; nothing if one may hold a secret.

    Args:
        folder: of the run.
        task: how the task is loaded.
        model: how the models are loaded.
        search: how is searched.
        more: budget, objectives and preference.
    """
    if _may_hold_secret(model, search):
        return
    groups = {"task": asdict(task), "model": asdict(model), "search": asdict(search)}
    try:
        start = os.path.relpath(
            Path.cwd().resolve(), folder.resolve()
        )  # so that the file names no path of this machine
    except ValueError:  # another drive
        return
    values = {"start": start, **groups, "more": more}
    write_private(folder / FILE, json.dumps(values, indent=1, default=str))


def read_recorded(folder: Path) -> RecordedRun:
    """Return a run that `record_options` wrote, loaded again. Imports code of the user's own that it names.

    Raises:
        InputError: the folder records none, or the task or a model cannot be loaded.
    """
    try:
        values = json_object((folder / FILE).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{_NOT_RECORDED}: it was started from Python, in a sweep, by an earlier version, or with a secret among its options"
        ) from None
    try:
        start, more = (folder.resolve() / values["start"]).resolve(), values["more"]  # type: ignore[index]
        task = TaskOptions(**_with_paths(values["task"]))  # type: ignore[index]
        model, search = TaskModelOptions(**values["model"]), SearchOptions(**values["search"])  # type: ignore[index]
        budget, objectives, prefer = more["budget"], more["objectives"], more["prefer"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{_NOT_RECORDED}: {FILE} cannot be read ({error})") from error
    if start != Path.cwd().resolve():
        raise InputError(f"this run was started in {start}: start promptopt view there, where its files are found")
    job = prepare(
        task.load(),
        model.task_model(),
        **search.read(task.folder, model),
        budget=budget,
        objectives=objectives,
        prefer=prefer,
    )
    limits = [("--budget", budget), ("--objectives", objectives), ("--prefer", prefer)]
    search_words = [*_words(search), *(word for name, value in limits if value for word in (name, value))]
    return RecordedRun(job=job, task_words=(*_words(task), *_words(model)), search_words=tuple(search_words))


def _may_hold_secret(model: TaskModelOptions, search: SearchOptions) -> bool:
    """Whether an option may hold a secret: a header that is not read from the environment, or an address with a password."""
    headers = [option for option in model.model_option or [] if option.strip().startswith("header:")]
    literal = any(not option.partition("=")[2].strip().startswith("env:") for option in headers)
    return literal or any("@" in (url or "") for url in (model.base_url, search.writer_base_url))


def _with_paths(values: dict[str, Any]) -> dict[str, Any]:
    return {name: Path(value) if name in _PATHS and value is not None else value for name, value in values.items()}


def _words(group: TaskOptions | TaskModelOptions | SearchOptions) -> list[str]:
    """Return the options of a group that differ from their defaults, as on the command line, but for the prompt to start from."""
    kinds, words = get_type_hints(type(group), include_extras=True), list[str]()
    for field in fields(group):
        value = getattr(group, field.name)
        if value == field.default or field.name in _START:
            continue
        option = kinds[field.name].__metadata__[0]
        if isinstance(option, ArgumentInfo):
            words.append(str(value))
            continue
        declared = (option.default, *(option.param_decls or ()))  # typer's first argument is a name, or no default
        name = next((each for each in declared if isinstance(each, str)), f"--{field.name.replace('_', '-')}")
        values = value if isinstance(value, list) else [value]
        words += [name] if value is True else [word for each in values for word in (name, str(each))]
    return words
