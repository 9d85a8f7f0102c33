"""Where the task and the prompts of a command come from: files, or options."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.data.rows import read_rows, read_text
from promptopt.data.task_file import build_task, load_task, parse_spec
from promptopt.errors import InputError
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Prompt
from promptopt.results.result import FILE, Result
from promptopt.utils.characters import character_fault

if TYPE_CHECKING:
    from promptopt.task import Task


@dataclass(frozen=True)
class Source:
    """Where the task comes from: a task file, or options."""

    file: Path | None
    data: str | None
    inputs: list[str] | None
    label: str | None
    labels: list[str] | None
    seed_prompt: str | None
    reward: str | None
    split_seed: int
    no_logprobs: bool = False
    drop_unusable: bool = False
    read: str | None = None

    def task(self) -> Task:
        """Read the task.

        Raises:
            InputError: an option, the task file or the data cannot be used.
        """
        self._check_characters()
        given = {"seed_prompt": self.seed_prompt, "reward": self.reward, "read": self.read}
        top: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        top |= {"logprobs": False} if self.no_logprobs else {}
        dropping = {"drop_unusable": True} if self.drop_unusable else {}
        if self.file is not None:
            if self.data or self.inputs or self.label or self.labels:
                raise InputError("give a task file, or --data with its columns, but not both")
            return load_task(self.file, top | {f"data.{key}": value for key, value in dropping.items()})
        if not self.data or not self.inputs:
            raise InputError("give a task file, or --data FILE with --input COLUMN (and --label COLUMN, --labels a,b)")
        section: dict[str, Any] = {"file": self.data, "inputs": self.inputs, "seed": self.split_seed, **dropping}
        section |= {"label": self.label} if self.label else {}
        top |= {"labels": self._labels(self.labels, self.data)} if self.labels else {}
        name = Path(self.data).stem
        return build_task(parse_spec({"name": name, **top, "data": section}, "the command line"), Path.cwd())

    def _check_characters(self) -> None:
        """Refuse texts that no request could hold; a console in another encoding than Python's makes such."""
        texts: dict[str, list[str | None]] = {
            "--seed-prompt": [self.seed_prompt],
            "--labels": [*(self.labels or [])],
            "--input": [*(self.inputs or [])],
            "--label": [self.label],
        }
        for option, values in texts.items():
            for value in values:
                check_option(value or "", option)

    def _labels(self, given: list[str], data: str) -> dict[str, str] | list[str]:
        """Read --labels: once as a,b or VALUE=WORD,VALUE=WORD; several times with one label, or one VALUE=WORD, in each."""
        parts = [part.strip() for part in (given[0].split(",") if len(given) == 1 else given)]
        if not all("=" in part for part in parts):
            return parts
        if len(given) > 1 and set(parts) & self._values(data):
            return parts
        values = Counter(part.partition("=")[0] for part in parts)
        twice = next((value for value, count in values.items() if count > 1), None)
        if twice is not None:
            raise InputError(
                f"--labels maps {twice!r} twice: for labels that hold '=' or ',', give --labels once for each label, or "
                "list them in a task file"
            )
        return dict(part.split("=", 1) for part in parts)

    def _values(self, data: str) -> set[str]:
        """The values of the label column."""
        return {row.values[self.label].strip() for row in read_rows(data) if self.label in row.values}


def check_option(text: str, option: str) -> str:
    """Return the text.

    Raises:
        InputError: it holds a character that cannot be used; names the option.
    """
    fault = character_fault(text)
    if fault:
        raise InputError(f"{option} holds {fault}")
    return text


def read_prompts(texts: list[str], files: list[Path], task: Task) -> list[Prompt]:
    """Return the prompts of --prompt and --prompt-file, whose slots fit the task.

    Raises:
        InputError: one cannot be read, or names another field.
    """
    prompts = [Prompt(check_option(text, "--prompt")) for text in texts]
    for prompt in prompts:
        check_slots(prompt.text, task.fields, "the prompt", task.template)
    for file in files:
        prompt = _read_prompt(file)
        check_slots(prompt.text, task.fields, str(file), task.template)
        prompts.append(prompt)
    return prompts


def _read_prompt(path: Path) -> Prompt:
    """Return what a file of text says, or what a run chose, where its folder or its result is named."""
    if path.is_dir() or path.name == FILE:
        return Result.load(path).prompt
    text = read_text(path).replace("\r\n", "\n").rstrip("\n")
    return Prompt(check_option(text, str(path)))
