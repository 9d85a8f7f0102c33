"""Every reply that a run scored, in one SQLite file: prompt x example x replicate.

Written while the run goes on and read by pages; results do not depend on it.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from promptopt.results.outcomes import answer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from promptopt.prompt import Example, Prompt
    from promptopt.results.outcomes import Answer, Outcome
    from promptopt.scores import Scores
    from promptopt.task import Task

CELLS = "cells.db"
"""Name of the file in the folder of a run."""

_SCHEMA = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL);
CREATE TABLE examples (id INTEGER PRIMARY KEY, name TEXT NOT NULL, part TEXT NOT NULL, inputs TEXT NOT NULL, target TEXT);
CREATE TABLE cells (
    prompt INTEGER, example INTEGER, replicate INTEGER, reward REAL, reply TEXT, reason TEXT, finish TEXT, more TEXT,
    PRIMARY KEY (prompt, example, replicate)
) WITHOUT ROWID;
"""
_ADD = (
    "INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET reward = excluded.reward, "
    "reply = excluded.reply, reason = excluded.reason, finish = excluded.finish, more = excluded.more WHERE reward IS NULL"
)
_log = logging.getLogger(__name__)


class CellTable:
    """The table of cells, being written. A cell keeps its first value; a failed one is filled when a reply arrives.

    A failure to write ends the recording with one warning; the run goes on.

    Args:
        connection: to an empty database.
        part_of: id of an example -> "training", "validation" or "test".
    """

    def __init__(self, connection: sqlite3.Connection, part_of: Mapping[str, str]) -> None:
        self.connection = connection
        self._part_of = part_of
        self._prompts: dict[Prompt, int] = {}
        self._examples: dict[str, int] = {}
        connection.executescript(_SCHEMA)

    def add(self, prompt: Prompt, example: Example, replicate: int, answer: Answer) -> None:
        """Add one cell."""
        more = {"events": answer.events, "trace": answer.to_json().get("trace")}
        values = (answer.reward, answer.text, answer.reason, answer.finish, _json(more) if any(more.values()) else None)
        row = (self._prompt(prompt), self._example(example), replicate, *values)
        self.connection.execute(_ADD, [_storable(value) for value in row])

    def _prompt(self, prompt: Prompt) -> int:
        if prompt not in self._prompts:
            self._prompts[prompt] = len(self._prompts)
            row = (self._prompts[prompt], prompt_key(prompt))
            self.connection.execute("INSERT INTO prompts VALUES (?, ?)", row)
        return self._prompts[prompt]

    def _example(self, example: Example) -> int:
        if example.id not in self._examples:
            self._examples[example.id] = len(self._examples)
            part = self._part_of.get(example.id, "training")
            row = (self._examples[example.id], example.id, part, _json(dict(example.inputs)), example.target)
            self.connection.execute("INSERT INTO examples VALUES (?, ?, ?, ?, ?)", [_storable(value) for value in row])
        return self._examples[example.id]


class CellRecorder:
    """Writes each score of a run into `cells.db` in its folder. A context manager.

    Args:
        folder: of the run; it exists.
        task: of the run.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self._path = folder / CELLS
        parts = {"training": task.train, "validation": task.validation, "test": task.test}
        self._part_of = {example.id: part for part, examples in parts.items() for example in examples}
        self._table: CellTable | None = None

    def __enter__(self) -> Self:
        try:
            self._path.unlink(missing_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
            connection = sqlite3.connect(self._path)
            connection.execute("PRAGMA synchronous = OFF")  # a run that is killed is run again, and writes it again
            self._table = CellTable(connection, self._part_of)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table is not None:
            with suppress(sqlite3.Error):
                self._table.connection.commit()
                self._table.connection.close()

    def add(self, scores: Scores) -> None:
        """Write the cells of one call of the scorer, as one transaction."""
        if self._table is None:
            return
        try:
            with self._table.connection:
                for p, prompt in enumerate(scores.prompts):
                    for e, example in enumerate(scores.examples):
                        for r in range(len(scores.replies[p][e])):
                            self._table.add(prompt, example, r, answer_of(scores, p, e, r))
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._table = None
        _log.warning("%s: replies are no longer recorded, the run continues (%s)", self._path, error)


def prompt_key(prompt: Prompt) -> str:
    """Return the text by which the table knows a prompt."""
    return _json(prompt.to_json())


def table_of_outcomes(outcomes: Iterable[Outcome], seed: Prompt, chosen: Prompt) -> CellTable:
    """Return a table in memory with the replies of a test: all that a run of an earlier version keeps."""
    from promptopt.prompt import Example  # noqa: PLC0415  a type elsewhere in this module

    table = CellTable(sqlite3.connect(":memory:", check_same_thread=False), {o.id: "test" for o in outcomes})
    for outcome in outcomes:
        example = Example(dict(outcome.inputs), outcome.target, outcome.id)
        table.add(seed, example, 0, outcome.seed)
        table.add(chosen, example, 0, outcome.chosen)
    table.connection.commit()
    return table


def _json(value: Any) -> str:
    return str(_storable(json.dumps(value, ensure_ascii=False, sort_keys=True)))


def _storable(value: Any) -> Any:
    """Return a value that SQLite can store: unpaired surrogates are escaped, as in the run's other files."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
