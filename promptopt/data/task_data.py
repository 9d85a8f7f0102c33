"""Reads the data that a task file names, and splits it.

Knows nothing of models, rewards or prompts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.data.image_files import ImageFiles, image_columns, image_folder
from promptopt.data.rows import HUB, dropped_note, read_rows, to_examples, values_by_id
from promptopt.data.splits import Splits, sample_examples, split_by_column, split_by_hash, split_examples
from promptopt.errors import InputError
from promptopt.images import reference
from promptopt.prompt import IMAGE
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.data.rows import Row, UnusableRowError
    from promptopt.data.task_spec import DataSpec, TaskSpec
    from promptopt.prompt import Example


def read_splits(spec: TaskSpec, data: DataSpec, folder: Path, notes: list[str]) -> Splits:
    """Read and split the data of a task file.

    Args:
        spec: the contents of the task file.
        data: its section on data.
        folder: base of relative paths.
        notes: receives notes on dropped rows.

    Raises:
        InputError: the data cannot be read or split.
    """
    base = image_folder(folder, data.sources) if spec.images else None
    reader = _Reader(spec, data, folder, notes, base)
    if data.file is not None:
        rows, examples, images = reader.read(data.file)
        parts = _split(rows, examples, spec, data)._asdict()
        splits = Splits(**{name: reader.with_images(part, data.file, images) for name, part in parts.items()})
    else:
        files = {"train": data.train, "validation": data.validation, "test": data.test}
        splits = Splits(**{name: reader.split(name, path) for name, path in files.items()})
    notes += _notes_on_divided_groups(splits)
    return splits


def _notes_on_divided_groups(splits: Splits) -> list[str]:
    """Return a note for each held-out split that shares groups with the training examples, as files or a column may divide them."""
    trained = {example.group for example in splits.train} - {None}
    shared = {name: sum(e.group in trained for e in getattr(splits, name)) for name in ("validation", "test")}
    return [
        f"{count} {name} examples are of groups that the training examples have too: rewards on them may be too high for new groups"
        for name, count in shared.items()
        if count
    ]


def _split(rows: Sequence[Row], examples: Sequence[Example], spec: TaskSpec, data: DataSpec) -> Splits:
    """Split the examples of one file."""
    if data.split_column is not None:
        return split_by_column(examples, values_by_id(rows, data.split_column, id=data.id), data.split_column)
    if data.split == "shuffle":
        return split_examples(examples, data.seed, data.shares)
    return split_by_hash(examples, data.seed, data.shares, labels=spec.words)


class _Reader(NamedTuple):
    """Reads the files of a task; the arguments are those of `read_splits`, and the folder of images if the task has any."""

    spec: TaskSpec
    data: DataSpec
    folder: Path
    notes: list[str]
    images: Path | None

    def split(self, name: str, path: str | None) -> tuple[Example, ...]:
        """Return the examples of a split's own file; none without a file."""
        if path is None:
            return ()
        _, examples, images = self.read(path, name)
        return self.with_images(examples, path, images)

    def read(self, source: str, split: str = "") -> tuple[list[Row], tuple[Example, ...], ImageFiles | None]:
        """Return the rows of a file, its examples, and the images that they name if the task declares any."""
        data = self.data
        dropped: list[UnusableRowError] | None = [] if data.drop_unusable else None
        place = source if source.startswith(HUB) else self.folder / source
        rows = read_rows(place, quoting=data.quoting, dropped=dropped)
        total = len(rows) + len(dropped or ())
        images = None
        if self.images is not None:
            columns = image_columns(self.spec.images, data.inputs, rows)
            images = ImageFiles(self.folder / source, columns, self.images)
            rows = images.usable_rows(rows, dropped)
        examples = to_examples(
            rows,
            inputs=data.inputs,
            label=None if split == "train" and self._unlabelled(rows) else data.label,
            id=data.id,
            labels=self.spec.labels or None,
            split=split,
            group=data.group_column,
            filled=data.split_column,
            dropped=dropped,
        )
        if dropped:
            self.notes.append(dropped_note(dropped, total))
        return rows, examples, images

    def _unlabelled(self, rows: Sequence[Row]) -> bool:
        """Whether training rows have no labels, which they need not if validation or test rows have."""
        held_out = bool(self.data.validation or self.data.test)
        return held_out and all(self.data.label not in row.values for row in rows)

    def with_images(self, examples: tuple[Example, ...], source: str, images: ImageFiles | None) -> tuple[Example, ...]:
        """Return examples with references to images: after the split, which must not depend on folders and contents."""
        if images is not None:
            return tuple(map(images.with_references, examples))
        if self.spec.format != "caption":
            return examples
        inputs = self.data.inputs
        if IMAGE not in inputs:
            raise InputError(f"captions need a field {IMAGE!r}: write inputs = {{ {IMAGE} = {next(iter(inputs))!r} }}")
        base = (self.folder / source).parent  # image paths are relative to the data file
        return tuple(replace(e, inputs={**e.inputs, IMAGE: reference(base / e.inputs[IMAGE])}) for e in examples)


def draw_demonstrations(train: Sequence[Example], spec: TaskSpec, seed: int) -> tuple[Example, ...]:
    """Draw a task file's demonstrations at random: as many for each label, or in total for free text.

    Raises:
        InputError: there are too few examples.
    """
    count = spec.demonstrations
    if not count:
        return ()
    generator = named_generator(seed, "demonstrations")
    shuffled = [train[i] for i in generator.permutation(len(train)).tolist()]
    pools = {word: [e for e in shuffled if e.target == word] for word in spec.words} or {"": shuffled}
    for word, pool in pools.items():
        if len(pool) < count:
            kind = f"examples with the label {word!r}" if word else "examples"
            raise InputError(
                f"demonstrations = {count}, but train has only {len(pool)} {kind}: give fewer or more data"
            )
    drawn = [example for pool in pools.values() for example in pool[:count]]
    return tuple(drawn[i] for i in generator.permutation(len(drawn)).tolist())


def apply_limit(examples: tuple[Example, ...], split: str, data: DataSpec) -> tuple[Example, ...]:
    """Return the examples of a split, or a sample of them if there are more than its limit."""
    limit = {"train": data.limit.train, "validation": data.limit.validation, "test": data.limit.test}[split]
    return examples if limit is None else sample_examples(examples, limit, data.seed, split)
