"""Tasks that a Python file makes, named `FILE:NAME` where a task file could be: programs, environments, data of any origin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from promptopt.data.user_code import import_value
from promptopt.errors import InputError
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def is_python_name(path: Path) -> bool:
    """Whether a path is `module:name`, and no file."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", path.name) is not None and not path.exists()


def python_task(path: Path, overrides: Mapping[str, Any]) -> Task:
    """Return the task called `module:name`: a `Task`, or a function without arguments that returns one.

    Args:
        path: the name, after the folder of the module if it is not the current one.
        overrides: settings of a task file, which such a task does not take.

    Raises:
        InputError: there is no such module or name, it is no task, or there are overrides.
    """
    if overrides:
        raise InputError(f"{path.name} is made in Python, so set {', '.join(overrides)} there")
    value = import_value(path.name, path.parent, key="the task", instead="MODULE:NAME of a Task, or a task file")
    task = value() if callable(value) and not isinstance(value, type) else value
    if not isinstance(task, Task):
        found = f"the class {task.__name__}" if isinstance(task, type) else type(task).__name__
        raise InputError(f"{path.name} is no task but {found}: name a Task, or a function that returns one")
    return task
