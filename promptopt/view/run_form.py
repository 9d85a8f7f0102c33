"""A run as a form describes it: the command that starts it, and what `promptopt doctor` says of it.

Both read the same values; a test holds them together. Only data files below a folder are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING

from promptopt.data.task_file import build_task
from promptopt.data.task_spec import parse_spec
from promptopt.errors import InputError
from promptopt.models.kinds import IN_PROCESS, KINDS
from promptopt.optimization.checkup import Checkup, examine
from promptopt.optimization.job import prepare, read_model
from promptopt.strategies.auto import AUTO
from promptopt.strategies.registry import known_strategies
from promptopt.view.data_files import data_path

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.models.base import Model
    from promptopt.task import Task
    from promptopt.view.posted import Fields

OWN_CODE = "python"
"""The kind of models whose names are code to import: not from a form."""

MODEL_KINDS = tuple(kind for kind in KINDS if kind != OWN_CODE)


@dataclass(frozen=True, kw_only=True)
class RunForm:
    """What was filled in.

    Args:
        folder: where data files are looked for.
        data: name of a data file below it.
        inputs: columns that the model sees.
        label: column of the answers, or "".
        labels: answers that are allowed; () for free text.
        drop_unusable: whether rows that cannot be used are skipped.
        seed_prompt: prompt that the search starts from; "" for the task's own.
        model: the task model, as KIND:NAME.
        writer: the model that writes prompts; "" for the task model.
        strategy: name of the strategy.
        budget: as text; "" for none.
    """

    folder: Path
    data: str
    inputs: tuple[str, ...] = ()
    label: str = ""
    labels: tuple[str, ...] = ()
    drop_unusable: bool = False
    seed_prompt: str = ""
    model: str = ""
    writer: str = ""
    strategy: str = AUTO
    budget: str = "500 calls"

    @classmethod
    def of(cls, folder: Path, fields: Fields) -> RunForm:
        """Return what a sent form holds."""
        labels = (line.strip() for line in fields.text("labels").split("\n"))
        return cls(
            folder=folder,
            data=fields.text("data"),
            inputs=fields.texts("input"),
            label=fields.text("label"),
            labels=tuple(dict.fromkeys(filter(None, labels))),
            drop_unusable=bool(fields.text("drop")),
            seed_prompt=fields.text("prompt").strip("\n"),
            model=fields.text("model").strip(),
            writer=fields.text("writer").strip(),
            strategy=fields.text("strategy") or AUTO,
            budget=fields.text("budget").strip(),
        )

    @property
    def words(self) -> list[str]:
        """The words after `promptopt optimize` that start the run."""
        words = ["--data", self.data]
        for column in self.inputs:
            words += ["--input", column]
        words += ["--label", self.label] if self.label else []
        if any("," in label or "=" in label for label in self.labels):
            words += [word for label in self.labels for word in ("--labels", label)]
        elif self.labels:
            words += ["--labels", ",".join(self.labels)]
        words += ["--drop-unusable"] if self.drop_unusable else []
        words += ["--seed-prompt", self.seed_prompt] if self.seed_prompt else []
        words += ["--model", self.model]
        words += ["--writer", self.writer] if self.writer else []
        words += ["--strategy", self.strategy] if self.strategy != AUTO else []
        return [*words, "--budget", self.budget] if self.budget else words

    @cached_property
    def checkup(self) -> Checkup:
        """What `promptopt doctor` says. No model is called."""
        return examine(
            lambda: self._task,
            lambda: self._model,
            self._checked_strategy,
            read_writer=lambda: self._writer,
            memo=None,
            budget=self.budget or None,
            seed=0,
            settings={},
        )

    @cached_property
    def folder_name(self) -> str:
        """Name of the run's folder: the same for the same run, as on the command line.

        Raises:
            InputError: the run cannot start.
        """
        job = prepare(
            self._task,
            self._model,
            self._checked_strategy(),
            writer=self._writer,
            budget=self.budget or None,
            seed=0,
            settings={},
        )
        return job.folder_name

    @cached_property
    def _task(self) -> Task:
        """The task, as the command line builds it from the same words.

        Raises:
            InputError: the data or a column cannot be used.
        """
        data_path(self.folder, self.data)
        if not self.inputs:
            raise InputError("no input column is ticked: tick the columns that the model is to see")
        if len(self.labels) == 1:
            raise InputError(f"there is one label, {self.labels[0]!r}: give two or more, or none for free text")
        data = {"file": self.data, "inputs": list(self.inputs), "seed": 0}
        data |= {"label": self.label} if self.label else {}
        data |= {"drop_unusable": True} if self.drop_unusable else {}
        task = {"name": PurePosixPath(self.data).stem, "data": data}
        task |= {"labels": list(self.labels)} if self.labels else {}
        task |= {"seed_prompt": self.seed_prompt} if self.seed_prompt else {}
        return build_task(parse_spec(task, "the form"), self.folder)

    @cached_property
    def _model(self) -> Model:
        return _named_model(self.model, "task model", self.folder)

    @cached_property
    def _writer(self) -> Model | None:
        return _named_model(self.writer, "writer", self.folder) if self.writer else None

    def _checked_strategy(self) -> str:
        if self.strategy != AUTO and self.strategy not in known_strategies():
            raise InputError(f"there is no strategy {self.strategy!r}: choose one of those on the form")
        return self.strategy


def _named_model(name: str, role: str, folder: Path) -> Model:
    """Return the model of a name.

    Raises:
        InputError: there is none, its name is code to import, or a file or folder outside `folder`.
    """
    if not name:
        raise InputError(f"the {role} has no name: write KIND:NAME, such as openai:gpt-4.1-mini or local:smollm2")
    kind, _, rest = name.partition(":")
    if kind == OWN_CODE:
        raise InputError(
            f"{name!r} is your own code, which a page does not import: start this run on the command line, or use one of "
            f"{', '.join(MODEL_KINDS)}"
        )
    if kind in IN_PROCESS and _leads_out(rest, folder):
        raise InputError(
            f"{name!r} names a file or folder outside {folder}: a form takes known names, names of the hub and paths below "
            "that folder; start this run on the command line"
        )
    return read_model(name)


def _leads_out(name: str, folder: Path) -> bool:
    """Whether the name of a model on this machine is a path that leads out of a folder. Says nothing of what is there."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("~"):
        return True
    return not (folder / path).resolve().is_relative_to(folder.resolve())
