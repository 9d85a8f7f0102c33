"""Labels that people give to a run's test replies: what they are asked, and the files in the run's folder that keep the labels.

A file holds the labels of one person in the order in which they were given, so its last line is what "undo" takes back. Knows
nothing of which prompt a reply is of: codes hide it, as in a sheet of `promptopt claim`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.data.rows import read_rows
from promptopt.errors import InputError
from promptopt.optimization.human_claim import HUMAN, ITEM, PROMPT, REPLY
from promptopt.randomness import named_generator
from promptopt.results.table import as_csv
from promptopt.utils.files import make_private_folder, write_private
from promptopt.utils.json_values import json_object
from promptopt.view.library import is_own_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FOLDER = "labels"
"""Name of the folder with labels in a run's folder."""

SCORES, COMPARISONS = "scores", "comparisons"
LEFT, SAME, RIGHT = "left", "same", "right"
VALUES = {SCORES: ("0", "0.25", "0.5", "0.75", "1"), COMPARISONS: (LEFT, SAME, RIGHT)}
"""Kind of labels -> what a label can be."""

SKIPPED = ""
"""The label of what a person would not decide."""

_ENDINGS = {SCORES: ".csv", COMPARISONS: ".jsonl"}
_LONGEST_NAME = 40  # characters of a person's name in a file's name
_HASH_DIGITS = 6


class Question(NamedTuple):
    """Something to label.

    Args:
        rows: rows of a sheet: one reply to score, or two to compare, the left one first.
    """

    rows: tuple[dict[str, Any], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The item and the codes of the replies."""
        return (self.rows[0][ITEM], *(row[PROMPT] for row in self.rows))


class Label(NamedTuple):
    """What a person said: one of `VALUES`, or `SKIPPED`."""

    question: Question
    value: str


def person_key(name: str) -> str:
    """Return a person's name as a part of a file's name: letters, digits, "_" and "-" only; a key is its own key.

    Raises:
        InputError: the name is empty.
    """
    plain = unicodedata.normalize("NFKC", name).casefold().strip()
    if not plain:
        raise InputError("labels need a name, so that those of two people stay apart: enter yours")
    key = re.sub(r"[^\w-]+", "-", plain).strip("-")
    if key == plain and len(key) <= _LONGEST_NAME:
        return key
    digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{key[: _LONGEST_NAME - _HASH_DIGITS - 1] or 'person'}-{digest}"


def questions(kind: str, items: Sequence[Sequence[dict[str, Any]]], *, seed: int, person: str) -> list[Question]:
    """Return what a person is asked, in order; a coin for each item decides which reply comes first, or left.

    Args:
        kind: "scores" or "comparisons"; equal replies are not compared.
        items: rows of each item in the order of a sheet (`sheet_items`), so that anyone who stops early has labelled a random sample.
        seed: of the run.
        person: whose key; another person has other coins, so that no two share a habit of preferring one side.
    """
    coins = named_generator(seed, f"{kind} by {person}").random(len(items)) < 0.5  # noqa: PLR2004  a fair coin
    ordered = [tuple(reversed(item)) if coin else tuple(item) for item, coin in zip(items, coins, strict=True)]
    if kind == SCORES:
        return [Question((row,)) for item in ordered for row in item]
    return [Question(item) for item in ordered if len(item) > 1]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """The labels of one kind by one person.

    Args:
        run: the run's folder.
        kind: "scores" or "comparisons".
        person: key of the person's name.
    """

    run: Path
    kind: str
    person: str

    @property
    def path(self) -> Path:
        """The file: a sheet of `promptopt claim`, or a line of JSON for each comparison."""
        return self.run / FOLDER / f"{self.kind}-{self.person}{_ENDINGS[self.kind]}"

    @property
    def sheet(self) -> Path:
        """What `promptopt claim` reads: the file of scores itself; of comparisons, a file that is written when they are finished."""
        return self.path.with_suffix(".csv")

    @property
    def finished(self) -> bool:
        """Whether the person said that nothing will be added."""
        return is_own_file(self._mark)

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.finished")

    def read(self, asked: Sequence[Question]) -> list[Label]:
        """Return the labels in the order in which they were given.

        Args:
            asked: all questions to this person.

        Raises:
            InputError: the file cannot be read, or has labels of other replies.
        """
        _check_folder(self.run)
        if not is_own_file(self.path):
            return []
        by_key = {question.key: question for question in asked}
        stored = list(_scores(self.path) if self.kind == SCORES else _comparisons(self.path))
        if any(key not in by_key for key, _ in stored):
            raise InputError(
                f"{self.path} has labels of replies that are not in the run's test: move it away to start over"
            )
        return [Label(by_key[key], value) for key, value in stored]

    def write(self, labels: Sequence[Label]) -> None:
        """Replace the file, atomically; without labels there is none.

        Raises:
            InputError: it cannot be written.
        """
        _check_folder(self.run)
        try:
            if labels:
                make_private_folder(self.path.parent)
                write_private(self.path, _text(self.kind, labels))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {self.path} ({error.strerror}): check its folder's permissions") from error

    def finish(self, items: Sequence[Sequence[dict[str, Any]]], labels: Sequence[Label]) -> None:
        """Note that the person has finished.

        Args:
            items: as in `questions`.
            labels: of the person.

        Raises:
            InputError: it cannot be written.
        """
        _check_folder(self.run)
        try:
            if self.kind == COMPARISONS:
                write_private(self.sheet, as_csv(comparison_scores(items, labels)))
            write_private(self._mark, "")
        except OSError as error:
            raise InputError(f"cannot write {self._mark} ({error.strerror}): check its folder's permissions") from error


def label_files(run: Path, kind: str) -> list[LabelFile]:
    """Return the label files of a kind, by person."""
    _check_folder(run)
    start, end = f"{kind}-", _ENDINGS[kind]
    paths = (run / FOLDER).glob(f"{start}*{end}")
    people = sorted(path.name[len(start) : -len(end)] for path in paths if is_own_file(path))
    return [LabelFile(run=run, kind=kind, person=name) for name in people if name and person_key(name) == name]


def comparison_scores(items: Sequence[Sequence[dict[str, Any]]], labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Return comparisons as rows with human scores: 1 for the better reply, 0 for the other, 0.5 for both if they are the same.

    Equal replies are the same; they count as far as the comparisons went, so that the items are a random sample of all.

    Args:
        items: as in `questions`.
        labels: the comparisons.
    """
    scores = {
        (row[ITEM], row[PROMPT]): 0.5 if label.value == SAME else float(label.value == side)
        for label in labels
        if label.value
        for side, row in zip((LEFT, RIGHT), label.question.rows, strict=True)
    }
    compared = {item for item, _ in scores}
    reached = max((n for n, item in enumerate(items, 1) if item[0][ITEM] in compared), default=0)
    equal = {(item[0][ITEM], item[0][PROMPT]): 0.5 for item in items[:reached] if len(item) == 1}
    return [{ITEM: item, PROMPT: code, HUMAN: score} for (item, code), score in (scores | equal).items()]


def _check_folder(run: Path) -> None:
    """Raise InputError if labels would be kept elsewhere."""
    if (run / FOLDER).is_symlink():
        raise InputError(f"{run / FOLDER} is a link, which is not followed: replace it by a folder")


def _text(kind: str, labels: Sequence[Label]) -> str:
    if kind == SCORES:
        return as_csv([label.question.rows[0] | {HUMAN: label.value} for label in labels])
    return "".join(json.dumps(_comparison(label), ensure_ascii=False) + "\n" for label in labels)


def _comparison(label: Label) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    left, right = label.question.rows
    common = {name: value for name, value in left.items() if name not in {PROMPT, REPLY, HUMAN}}
    sides = {side: {PROMPT: row[PROMPT], REPLY: row[REPLY]} for side, row in ((LEFT, left), (RIGHT, right))}
    return {**common, **sides, "better": label.value or None}


def _scores(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    for row in read_rows(path):
        yield (row.values.get(ITEM, ""), row.values.get(PROMPT, "")), row.values.get(HUMAN, "").strip()


def _comparisons(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the key and the label of each line.

    Raises:
        InputError: the file does not hold comparisons.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): move it away to start over") from error
    for number, line in enumerate(lines, 1):
        if line:
            value = json_object(line) or {}
            try:
                key = (value[ITEM], value[LEFT][PROMPT], value[RIGHT][PROMPT])
                better = value["better"] or SKIPPED
            except (KeyError, TypeError):
                raise InputError(f"{path}, line {number} is no comparison: correct it, or delete the line") from None
            yield key, better
