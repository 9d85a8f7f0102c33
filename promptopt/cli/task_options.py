"""The command line's options of a task, and the task and prompts that they describe."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli.model_options import read_price
from promptopt.data.rows import read_rows
from promptopt.data.task_file import build_task, load_task
from promptopt.data.task_spec import parse_spec
from promptopt.errors import InputError
from promptopt.optimization.preflight import notes_on_leaks
from promptopt.parsing.slots import check_slots
from promptopt.program import DEFAULT_THREADS
from promptopt.prompt import Prompt, Prompts
from promptopt.results.saved import folder_of
from promptopt.results.saved_prompt import read_prompt
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from promptopt.task import Task


TaskArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Task file (TOML), or MODULE:NAME of a Task made in Python; use instead of --data.", show_default=False
    ),
]
Data = Annotated[
    str | None, typer.Option(help="Data file: CSV, TSV, JSON or JSONL. Rows keep their split when rows are added.")
]
Input = Annotated[list[str] | None, typer.Option(help="Input column (repeatable).")]
Images = Annotated[
    list[str] | None,
    typer.Option(
        help="Input column with image files, which are sent to the model (repeatable). Paths start from the data file's folder."
    ),
]
Label = Annotated[str | None, typer.Option(help="Column with the correct answer.")]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="Column with a unique name of each row, for reports and test.csv.",
        show_default="the file and line",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        help="Allowed labels: a,b or VALUE=WORD,VALUE=WORD. To use labels that contain ',' or '=', repeat the option with one "
        "label or VALUE=WORD each."
    ),
]
DropUnusable = Annotated[
    bool,
    typer.Option("--drop-unusable", help="Skip and list unusable rows instead of stopping with an error."),
]
PromptText = Annotated[str | None, typer.Option("--seed-prompt", help="Prompt that the search starts from.")]
PromptFrom = Annotated[
    Path | None,
    typer.Option(help="Start from the prompt of this run (folder), or of this file: text, or exported with --as json."),
]
NoLogprobs = Annotated[
    bool, typer.Option("--no-logprobs", help="Do not request log-probabilities; parse labels from the reply text.")
]
Read = Annotated[
    str | None,
    typer.Option(
        "--read",
        help="How the test reads answers: 'labels' (most likely label), or 'text' to also test the text the model writes.",
        show_default="from the task file, or labels",
    ),
]
Reward = Annotated[str | None, typer.Option(help="Built-in reward, json:SCHEMA.json or MODULE:FUNCTION.")]
SplitSeed = Annotated[int, typer.Option(help="Random seed of the train/validation/test split.")]
SplitColumn = Annotated[str | None, typer.Option(help="Column that names each row's split: train, validation or test.")]
GroupColumn = Annotated[
    str | None, typer.Option(help="Column of groups, such as customers, that are kept in one split each.")
]
Predict = Annotated[
    str | None,
    typer.Option(
        help="Code that asks models by itself, as MODULE:FUNCTION: a Python file beside the task file (with --data, in the "
        "current folder) or an installed module. The function maps {name: prompt} and the example's inputs to an output."
    ),
]
PredictVersion = Annotated[
    str | None,
    typer.Option(
        help="Version of the code of --predict, which identifies its outputs in the memo; change it whenever the code changes."
    ),
]
PredictThreads = Annotated[
    int | None, typer.Option(min=1, help="Maximum concurrent calls of --predict.", show_default=str(DEFAULT_THREADS))
]
PredictTimeout = Annotated[float | None, typer.Option(help="Timeout of one call of --predict, in seconds.")]
PredictPrice = Annotated[
    str | None, typer.Option(help="Price of the tokens that --predict reports, in the format of --price.")
]
PromptFolder = Annotated[
    Path | None,
    typer.Option(help="Folder with the seed prompts of --predict or of the task's program: NAME.txt or NAME.md each."),
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The task of a command: a task file, or a data file and what is in it."""

    task: TaskArgument = None
    data: Data = None
    input: Input = None
    images: Images = None
    label: Label = None
    labels: Labels = None
    row_id: Id = None
    seed_prompt: PromptText = None
    reward: Reward = None
    no_logprobs: NoLogprobs = False
    drop_unusable: DropUnusable = False
    split_seed: SplitSeed = 0
    split_column: SplitColumn = None
    group_column: GroupColumn = None

    @property
    def folder(self) -> Path:
        """Folder in which files of `module:name` are looked for: that of the task file, or the current one."""
        return Path.cwd() if self.task is None else folder_of(self.task)

    def load(self, **more: Any) -> Task:
        """Load or build the task.

        Args:
            more: further keys of a task file.

        Raises:
            InputError: an option, the task file or the data is invalid.
        """
        self._check_characters()
        options = {"seed_prompt": self.seed_prompt, "reward": self.reward, **more}
        task_keys: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        task_keys |= {"logprobs": False} if self.no_logprobs else {}
        drop_option = {"drop_unusable": True} if self.drop_unusable else {}
        if self.task is not None:
            data_options = (self.data, self.input, self.images, self.label, self.labels, self.row_id)
            if any((*data_options, self.split_column, self.group_column)):
                raise InputError("give either a task file or --data with its columns, not both")
            return load_task(self.task, task_keys | {f"data.{key}": value for key, value in drop_option.items()})
        if not self.data or not self.input:
            raise InputError(
                "give a task file, or --data FILE and --input COLUMN (with --label COLUMN and --labels a,b for classification)"
            )
        data_keys: dict[str, Any] = {"file": self.data, "inputs": self.input, "seed": self.split_seed, **drop_option}
        columns = {
            "label": self.label,
            "id": self.row_id,
            "split_column": self.split_column,
            "group_column": self.group_column,
        }
        data_keys |= {key: column for key, column in columns.items() if column}
        task_keys |= {"labels": self._labels(self.labels, self.data)} if self.labels else {}
        task_keys |= {"images": self.images} if self.images else {}
        name = Path(self.data).stem
        return build_task(parse_spec({"name": name, **task_keys, "data": data_keys}, "the command line"), Path.cwd())

    def _check_characters(self) -> None:
        """Refuse characters that cannot be sent; they occur if the console's encoding differs from Python's."""
        texts: dict[str, list[str | None]] = {
            "--seed-prompt": [self.seed_prompt],
            "--labels": [*(self.labels or [])],
            "--input": [*(self.input or [])],
            "--images": [*(self.images or [])],
            "--label": [self.label],
            "--id": [self.row_id],
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


@dataclass(frozen=True, kw_only=True)
class TaskOptions(DataOptions):
    """The task of a search: also code that asks models by itself, and the prompt to start from."""

    prompt_from: PromptFrom = None
    predict: Predict = None
    predict_version: PredictVersion = None
    predict_threads: PredictThreads = None
    predict_timeout: PredictTimeout = None
    predict_price: PredictPrice = None
    prompts: PromptFolder = None
    read_as: Read = None

    def load(self, **more: Any) -> Task:
        """Load or build the task; see `DataOptions`."""
        if self.prompt_from is not None and (self.seed_prompt is not None or self.prompts is not None):
            other = "--seed-prompt" if self.seed_prompt is not None else "--prompts"
            raise InputError(f"--prompt-from and {other} both give the prompt that the search starts from: remove one")
        task = super().load(read=self.read_as, **self._predict_keys(), **more)
        return task if self.prompt_from is None else _starting_from(task, self.prompt_from)

    def _predict_keys(self) -> dict[str, Any]:
        """Return the keys of a task file that the options of --predict set.

        Raises:
            InputError: an option needs another one.
        """
        if self.predict is not None and self.predict_version is None:
            raise InputError(
                "--predict needs --predict-version, which identifies its code in the memo: give a text such as "
                "--predict-version 1, and another one whenever the code changes"
            )
        if self.predict_timeout is not None and not 0 < self.predict_timeout < math.inf:
            raise InputError(f"--predict-timeout must be a number of seconds above 0, not {self.predict_timeout:g}")
        price = read_price(self.predict_price, "--predict-price")
        if self.task is None:
            self._check_predict()
        return {
            "predict": self.predict,
            "version": self.predict_version,
            "threads": self.predict_threads,
            "timeout": self.predict_timeout,
            "price": None if price is None else [value for value in price if value is not None],
            "prompts": None if self.prompts is None else str(self.prompts.absolute()),
        }

    def _check_predict(self) -> None:
        """Refuse options that make no program together, where no task file could have the rest."""
        if self.predict is not None and self.prompts is None:
            raise InputError("--predict needs --prompts FOLDER, a folder with a .txt or .md file for each prompt")
        if self.predict is None and self.prompts is not None:
            raise InputError(
                "--prompts needs the code that uses them: give --predict MODULE:FUNCTION, or a task file with a program"
            )
        options = {
            "--predict-version": self.predict_version,
            "--predict-threads": self.predict_threads,
            "--predict-timeout": self.predict_timeout,
            "--predict-price": self.predict_price,
        }
        alone = [name for name, value in options.items() if value is not None]
        if self.predict is None and alone:
            raise InputError(f"{alone[0]} needs --predict MODULE:FUNCTION, or a task file with the key predict")


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
