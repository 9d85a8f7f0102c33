"""Reads the replies of a run for some candidates, filtered, a page at a time. Knows nothing of pages in a browser."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.report.curves import kind_of
from promptopt.results.cells import CELLS, prompt_key, table_of_outcomes
from promptopt.results.outcomes import Answer, read_trace
from promptopt.view.library import is_own_file

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from promptopt.prompt import Prompt
    from promptopt.results.outcomes import Outcome
    from promptopt.results.result import Result

_COLUMNS = ("reward", "reply", "reason", "finish", "more")
_MOST_CHOICES = 40  # of a filter


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which examples are shown; "" is all.

    Args:
        part: "training", "validation" or "test".
        label: the target.
        outcome: "won", "lost" or "tied", of the second candidate against the first.
        kind: kind of outcome of any of the candidates, as in the report.
        words: in input, target, a reply or a reason.
    """

    part: str = ""
    label: str = ""
    outcome: str = ""
    kind: str = ""
    words: str = ""


class Cell(NamedTuple):
    """One candidate's reply to an example.

    Args:
        answer: the first reply.
        replies: number of replies, as replicates.
        mean: mean reward of all replies; None if all failed.
    """

    answer: Answer
    replies: int
    mean: float | None


class Item(NamedTuple):
    """An example with the replies of each candidate; None where it was not scored."""

    id: str
    part: str
    inputs: dict[str, str]
    target: str | None
    cells: list[Cell | None]


class ItemPage(NamedTuple):
    """Some of the examples, and what there is to filter by.

    Args:
        items: of the page.
        total: number of examples that match.
        parts: of the data, with replies of one of the candidates.
        labels: targets; [] if there are too many to choose from.
        kinds: of outcomes.
    """

    items: list[Item]
    total: int
    parts: list[str]
    labels: list[str]
    kinds: list[str]


@contextmanager
def open_cells(folder: Path, result: Result, outcomes: tuple[Outcome, ...]) -> Generator[sqlite3.Connection]:
    """Open the recorded replies of a run; without any, those of its test.

    Raises:
        InputError: they cannot be read.
    """
    file = folder / CELLS
    if is_own_file(file):
        try:
            connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        except sqlite3.Error as error:
            raise InputError(f"cannot read {file} ({error})") from error
    else:
        connection = table_of_outcomes(outcomes, result.seed_prompt, result.prompt).connection
    with closing(connection):
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.create_function("kind", 3, _kind, deterministic=True)
            connection.create_function("holds", 2, _holds, deterministic=True)
            yield connection
        except sqlite3.Error as error:
            raise InputError(f"cannot read {file} ({error}): run again to write it again") from error


def measured_prompts(connection: sqlite3.Connection) -> set[str]:
    """Return the keys (`prompt_key`) of all prompts with a recorded reply."""
    return {text for (text,) in connection.execute("SELECT prompt FROM prompts")}


def read_items(
    connection: sqlite3.Connection, prompts: Sequence[Prompt], chosen: Filter, *, first: int, most: int
) -> ItemPage:
    """Return a page of the examples that one of some prompts was scored on.

    Args:
        connection: see `open_cells`.
        prompts: of the candidates, two or three; one is possible.
        chosen: which examples.
        first: number of the first example of the page among those that match.
        most: examples on the page.
    """
    ids = [_id_of(connection, prompt) for prompt in prompts]
    joins = "".join(
        f" LEFT JOIN cells c{i} ON c{i}.prompt = {number} AND c{i}.example = e.id AND c{i}.replicate = 0"
        for i, number in enumerate(ids)
    )
    scored = " OR ".join(f"c{i}.prompt IS NOT NULL" for i in range(len(ids)))
    source = f"FROM examples e{joins} WHERE ({scored})"
    condition, values = _condition(chosen, len(ids))
    columns = ", ".join(f"c{i}.{name}" for i in range(len(ids)) for name in ("prompt", *_COLUMNS))
    query = (
        f"SELECT e.id, e.name, e.part, e.inputs, e.target, {columns} {source}{condition} ORDER BY e.id LIMIT ? OFFSET ?"
    )
    rows = connection.execute(query, [*values, most, first]).fetchall()
    (count,) = connection.execute(f"SELECT count(*) {source}{condition}", values).fetchone()
    means = _means(connection, ids, [row[0] for row in rows])
    return ItemPage(
        [_item(row, ids, means) for row in rows],
        count,
        _distinct(connection, f"SELECT DISTINCT e.part {source}"),
        _few(_distinct(connection, f"SELECT DISTINCT e.target {source} LIMIT {_MOST_CHOICES + 1}")),
        _kinds(connection, source, len(ids)),
    )


def _id_of(connection: sqlite3.Connection, prompt: Prompt) -> int:
    row = connection.execute("SELECT id FROM prompts WHERE prompt = ?", (prompt_key(prompt),)).fetchone()
    return -1 if row is None else int(row[0])


def _condition(chosen: Filter, candidates: int) -> tuple[str, list[Any]]:
    """Return the filter as SQL, with its values."""
    parts, values = list[str](), list[Any]()
    for column, value in (("e.part", chosen.part), ("e.target", chosen.label)):
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    if chosen.outcome and candidates > 1:
        sign = {"won": ">", "lost": "<"}.get(chosen.outcome, "=")
        parts.append(f"c1.reward {sign} c0.reward")
    if chosen.kind:
        parts.append("(" + " OR ".join(f"kind({_kind_columns(i)}) = ?" for i in range(candidates)) + ")")
        values += [chosen.kind] * candidates
    if chosen.words:
        columns = [
            "e.name",
            "e.inputs",
            "e.target",
            *(f"c{i}.{n}" for i in range(candidates) for n in ("reply", "reason", "more")),
        ]
        parts.append("(" + " OR ".join(f"holds({column}, ?)" for column in columns) + ")")
        values += [chosen.words.casefold()] * len(columns)
    return "".join(f" AND {part}" for part in parts), values


def _kinds(connection: sqlite3.Connection, source: str, candidates: int) -> list[str]:
    names = {
        name
        for i in range(candidates)
        for name in _distinct(connection, f"SELECT DISTINCT kind({_kind_columns(i)}) {source} LIMIT {_MOST_CHOICES}")
    }
    return sorted(names, key=lambda name: (name != "correct", name))[:_MOST_CHOICES]


def _kind_columns(candidate: int) -> str:
    return f"c{candidate}.reward, c{candidate}.reason, c{candidate}.finish"


def _distinct(connection: sqlite3.Connection, query: str) -> list[str]:
    return sorted(value for (value,) in connection.execute(query) if value is not None)


def _few(choices: list[str]) -> list[str]:
    return choices if len(choices) <= _MOST_CHOICES else []


def _means(
    connection: sqlite3.Connection, prompts: Sequence[int], examples: Sequence[int]
) -> dict[tuple[int, int], tuple[int, float | None]]:
    """Return (prompt, example) -> number of replies and their mean reward."""
    query = "SELECT count(*), avg(reward) FROM cells WHERE prompt = ? AND example = ?"
    return {(p, e): connection.execute(query, (p, e)).fetchone() for p in prompts for e in examples}


def _item(row: Sequence[Any], ids: Sequence[int], means: dict[tuple[int, int], tuple[int, float | None]]) -> Item:
    example, name, part, inputs, target = row[:5]
    width = len(_COLUMNS) + 1
    cells = [
        _cell(row[5 + i * width : 5 + (i + 1) * width], means.get((prompt, example), (0, None)))
        for i, prompt in enumerate(ids)
    ]
    return Item(name, part, json.loads(inputs), target, cells)


def _cell(columns: Sequence[Any], replies: tuple[int, float | None]) -> Cell | None:
    prompt, reward, reply, reason, finish, more = columns
    if prompt is None:
        return None
    return Cell(answer_from(reward, reply, reason, finish, more), *replies)


def answer_from(reward: float | None, reply: str, reason: str, finish: str, more: str | None) -> Answer:
    """Return the answer that a row of the table holds."""
    held = json.loads(more) if more else {}
    return Answer(
        text=reply,
        reward=reward,
        reason=reason,
        finish=finish,
        events=tuple(held.get("events") or ()),
        trace=read_trace(held.get("trace")),
    )


def _kind(reward: float | None, reason: str | None, finish: str | None) -> str | None:
    """Return the kind of an outcome, for SQL; None for a cell that is not there."""
    return None if finish is None else kind_of(Answer(text="", reward=reward, reason=reason or "", finish=finish))


def _holds(text: str | None, words: str) -> bool:
    return text is not None and words in text.casefold()
