"""Finds the image files that rows of data name, and refers to them.

Knows columns and folders, but nothing of splits, tasks or models.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from promptopt.data.rows import HUB, UnusableRowError
from promptopt.errors import InputError
from promptopt.images import Image, check_file, reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.data.rows import Row
    from promptopt.prompt import Example

_ANY_SIZE = 2**63  # the limit is the model's


def image_folder(folder: Path, sources: Iterable[str]) -> Path:
    """Return the folder from which references to images start: that of the data files, or the one that holds all of theirs.

    Raises:
        InputError: the data is no file on this machine.
    """
    sources = tuple(sources)
    elsewhere = next((source for source in sources if source.startswith(HUB)), None)
    if elsewhere is not None:
        raise InputError(
            f"{elsewhere} holds no image files: images need a data file, with the paths of files beside it"
        )
    return Path(os.path.commonpath([(folder / source).parent.resolve() for source in sources]))


class ImageFiles:
    """The image files that one data file names.

    Args:
        source: the data file; paths of images start from its folder, and stay inside it.
        columns: field -> column of each image.
        base: the folder from which references start.
    """

    def __init__(self, source: Path, columns: Mapping[str, str], base: Path) -> None:
        self._folder = source.parent.resolve()
        self._columns = columns
        self._base = base
        self._references: dict[str, str] = {}

    def usable_rows(self, rows: Sequence[Row], dropped: list[UnusableRowError] | None) -> list[Row]:
        """Return the rows whose images can be sent; rows without a value are left to others.

        Args:
            rows: of the data file.
            dropped: receives the errors of other rows; None makes them raise.

        Raises:
            UnusableRowError: an image cannot be read, is outside the folder, or has an unsupported type.
        """
        usable = []
        for row in rows:
            error = next(self._errors(row), None)
            if error is None:
                usable.append(row)
            elif dropped is None:
                raise error
            else:
                dropped.append(error)
        return usable

    def with_references(self, example: Example) -> Example:
        """Return an example of the usable rows with references to images in place of their paths."""
        references = {field: self._references[example.inputs[field]] for field in self._columns}
        return replace(example, inputs={**example.inputs, **references})

    def _errors(self, row: Row) -> Iterator[UnusableRowError]:
        for column in self._columns.values():
            path = row.values.get(column)
            if path is None or path in self._references:
                continue
            try:
                self._references[path] = self._reference(path)
            except InputError as error:
                yield UnusableRowError(
                    row.where, f"{column!r}: {error}", "or drop the row (drop_unusable, --drop-unusable)"
                )

    def _reference(self, path: str) -> str:
        check_file(Image(Path(path), "", self._folder), _ANY_SIZE)
        return reference(self._folder.relative_to(self._base) / path, self._base)


def image_columns(images: Sequence[str], inputs: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> dict[str, str]:
    """Return field -> column of the images: of the columns that a field accepts, the first that the rows have.

    Raises:
        InputError: a field is no input.
    """
    unknown = next((field for field in images if field not in inputs), None)
    if unknown is not None:
        raise InputError(
            f"images names {unknown!r}, which is no field of the inputs ({', '.join(inputs)}): name one of them"
        )
    columns = {name for row in rows for name in row.values}
    return {field: next((name for name in inputs[field] if name in columns), field) for field in images}
