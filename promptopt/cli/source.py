"""Build a command's task and prompts from files or options."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.data.rows import read_rows
from promptopt.data.task_file import build_task, load_task, parse_spec
from promptopt.errors import InputError
from promptopt.optimization.preflight import notes_on_leaks
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Prompt, Prompts
from promptopt.results.saved_prompt import read_prompt
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from promptopt.models.base import Price
    from promptopt.task import Task


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of code that asks models by itself, and the folder of its prompts."""

    predict: str | None = None
    version: str | None = None
    threads: int | None = None
    timeout: float | None = None
    price: Price | None = None
    prompts: Path | None = None

    def task_keys(self, file: Path | None) -> dict[str, Any]:
        """Return the keys of a task file that the options set; `file` is the task file, if there is one.

        Raises:
            InputError: an option needs another one.
        """
        if self.predict is not None and self.version is None:
            raise InputError(
                "--predict needs --predict-version, by which the memo knows its code: give a text such as "
                "--predict-version 1, and another one whenever the code changes"
            )
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise InputError(f"--predict-timeout must be a number of seconds above 0, not {self.timeout:g}")
        if file is None:
            self._check_complete()
        keys = {
            "predict": self.predict,
            "version": self.version,
            "threads": self.threads,
            "timeout": self.timeout,
            "price": None if self.price is None else [value for value in self.price if value is not None],
            "prompts": None if self.prompts is None else str(self.prompts.absolute()),
        }
        return {key: value for key, value in keys.items() if value is not None}

    def _check_complete(self) -> None:
        """Refuse options that make no program together, where no task file could have the rest."""
        if self.predict is not None and self.prompts is None:
            raise InputError("--predict needs --prompts FOLDER, a folder with a .txt or .md file for each prompt")
        if self.predict is None and self.prompts is not None:
            raise InputError(
                "--prompts needs the code that uses them: give --predict MODULE:FUNCTION, or a task file with a program"
            )
        options = {
            "--predict-version": self.version,
            "--predict-threads": self.threads,
            "--predict-timeout": self.timeout,
            "--predict-price": self.price,
        }
        given = [name for name, value in options.items() if value is not None]
        if self.predict is None and given:
            raise InputError(f"{given[0]} needs --predict MODULE:FUNCTION, or a task file with the key predict")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The task of a command, given as a task file or as options."""

    file: Path | None
    data: str | None
    inputs: list[str] | None
    label: str | None
    labels: list[str] | None
    seed_prompt: str | None
    reward: str | None
    split_seed: int
    split_column: str | None = None
    group_column: str | None = None
    no_logprobs: bool = False
    drop_unusable: bool = False
    read: str | None = None
    predict: PredictOptions = field(default_factory=PredictOptions)
    prompt_from: Path | None = None

    @property
    def folder(self) -> Path:
        """Folder in which files of `module:name` are looked for: that of the task file, or the current one."""
        if self.file is None:
            return Path.cwd()
        return self.file if self.file.is_dir() else self.file.parent

    def task(self) -> Task:
        """Load or build the task.

        Raises:
            InputError: an option, the task file or the data is invalid.
        """
        if self.prompt_from is None:
            return self._task()
        if self.seed_prompt is not None or self.predict.prompts is not None:
            other = "--seed-prompt" if self.seed_prompt is not None else "--prompts"
            raise InputError(f"--prompt-from and {other} both give the prompt that the search starts from: remove one")
        return _starting_from(self._task(), self.prompt_from)

    def _task(self) -> Task:
        self._check_characters()
        options = {"seed_prompt": self.seed_prompt, "reward": self.reward, "read": self.read}
        task_keys: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        task_keys |= {"logprobs": False} if self.no_logprobs else {}
        task_keys |= self.predict.task_keys(self.file)
        drop_option = {"drop_unusable": True} if self.drop_unusable else {}
        if self.file is not None:
            if any((self.data, self.inputs, self.label, self.labels, self.split_column, self.group_column)):
                raise InputError("give either a task file or --data with its columns, not both")
            return load_task(self.file, task_keys | {f"data.{key}": value for key, value in drop_option.items()})
        if not self.data or not self.inputs:
            raise InputError(
                "give a task file, or --data FILE and --input COLUMN (with --label COLUMN and --labels a,b for classification)"
            )
        data_keys: dict[str, Any] = {"file": self.data, "inputs": self.inputs, "seed": self.split_seed, **drop_option}
        columns = {"label": self.label, "split_column": self.split_column, "group_column": self.group_column}
        data_keys |= {key: column for key, column in columns.items() if column}
        task_keys |= {"labels": self._labels(self.labels, self.data)} if self.labels else {}
        name = Path(self.data).stem
        return build_task(parse_spec({"name": name, **task_keys, "data": data_keys}, "the command line"), Path.cwd())

    def _check_characters(self) -> None:
        """Refuse characters that cannot be sent; they occur if the console's encoding differs from Python's."""
        texts: dict[str, list[str | None]] = {
            "--seed-prompt": [self.seed_prompt],
            "--labels": [*(self.labels or [])],
            "--input": [*(self.inputs or [])],
            "--label": [self.label],
            "--split-column": [self.split_column],
            "--group-column": [self.group_column],
        }
        for option, values in texts.items():
            for value in values:
                check_option(value or "", option)

    def _labels(self, options: list[str], data: str) -> dict[str, str] | list[str]:
        """Parse --labels: a single a,b or VALUE=WORD,VALUE=WORD; or several, with one label or VALUE=WORD each."""
        parts = [part.strip() for part in (options[0].split(",") if len(options) == 1 else options)]
        if not all("=" in part for part in parts):
            return parts
        if len(options) > 1 and set(parts) & self._values(data):
            return parts
        values = Counter(part.partition("=")[0] for part in parts)
        duplicate = next((value for value, count in values.items() if count > 1), None)
        if duplicate is not None:
            raise InputError(
                f"--labels maps {duplicate!r} twice: for labels that contain '=' or ',', repeat --labels for each label or "
                "list them in a task file"
            )
        return dict(part.split("=", 1) for part in parts)

    def _values(self, data: str) -> set[str]:
        """Return the values of the label column."""
        return {row.values[self.label].strip() for row in read_rows(data) if self.label in row.values}


def check_option(text: str, option: str) -> str:
    """Return the text unchanged.

    Raises:
        InputError: the text contains an unusable character; the message names the option.
    """
    fault = character_fault(text)
    if fault:
        raise InputError(f"{option} contains {fault}")
    return text


def read_prompts(texts: list[str], files: list[Path], task: Task) -> list[Prompt]:
    """Return the prompts of --prompt and --prompt-file, and check their slots against the task.

    Raises:
        InputError: a prompt cannot be read, or has a slot that is not a field of the task.
    """
    prompts = [Prompt(check_option(text, "--prompt")) for text in texts]
    for prompt in prompts:
        check_slots(prompt.text, task.fields, "the prompt", task.template)
    for file in files:
        prompt = read_prompt(file)
        check_slots(prompt.text, task.fields, str(file), task.template)
        prompts.append(prompt)
    return prompts


def _starting_from(task: Task, path: Path) -> Task:
    """Return the task with the prompt of a run or file as its seed prompt."""
    prompt = read_prompt(path)
    names, found = _names(task.seed_prompt), _names(prompt)
    if names != found:
        raise InputError(
            f"--prompt-from {path} holds {_in_words(found)}, but the task needs {_in_words(names)}: give a run of this task"
        )
    if not found:
        check_slots(prompt.text, task.fields, str(path), task.template)
    return replace(task, seed_prompt=prompt, notes=(*task.notes, *notes_on_leaks(task, [prompt])))


def _names(prompt: Prompt) -> set[str]:
    """Return the names of a program's prompts; none for one prompt."""
    return set(prompt.names) if isinstance(prompt, Prompts) else set()


def _in_words(names: set[str]) -> str:
    return f"the prompts {', '.join(sorted(names))}" if names else "one prompt"
