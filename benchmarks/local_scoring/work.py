"""What is scored: mutants of one parent prompt, each before the same examples of a public data set.

Knows a tokenizer and no model.
"""

from __future__ import annotations

import csv
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Ids = list[int]


class DataSet(NamedTuple):
    """How an item is put to the model; a space and a label follow."""

    template: str
    labels: tuple[str, ...]


DATA_SETS = {
    "sst-2": DataSet("Review: {}\nSentiment:", ("terrible", "great")),
    "agnews": DataSet("Article: {}\nTopic:", ("World", "Sports", "Business", "Tech")),
}


class Cell(NamedTuple):
    """What one table is about.

    Args:
        data_set: one of `DATA_SETS`.
        demonstrations: of each label, in the parent prompt.
        prompts: mutants of a parent.
        examples: after each prompt.
        own_demonstrations: whether each sequence begins with random demonstrations of its own, as with the nearest ones, so that
            sequences share no prefix.
    """

    data_set: str
    demonstrations: int
    prompts: int
    examples: int
    own_demonstrations: bool = False


class Work(NamedTuple):
    """What is scored in one turn.

    Args:
        contexts: texts [prompts][examples].
        ids: their tokens [prompts][examples].
        labels: words.
        label_ids: the one token of each label.
    """

    contexts: list[list[str]]
    ids: list[list[Ids]]
    labels: tuple[str, ...]
    label_ids: Ids

    @property
    def texts(self) -> list[str]:
        """All contexts, prompt by prompt."""
        return [text for row in self.contexts for text in row]

    @property
    def sequences(self) -> list[Ids]:
        """Tokens of all contexts, prompt by prompt."""
        return [ids for row in self.ids for ids in row]

    def first(self, prompts: int) -> Work:
        """Return the part with the first `prompts` prompts."""
        return self._replace(contexts=self.contexts[:prompts], ids=self.ids[:prompts])


class Distinct(NamedTuple):
    """What is left of sequences when a prefix that several share counts once.

    Args:
        tokens: distinct prefixes.
        pairs: of a token and one that it attends to: itself and all before it.
    """

    tokens: int
    pairs: int


def make_work(cell: Cell, turn: int, data: Path, tokenizer: Any, cut: Callable[[str], Sequence[str]]) -> Work:
    """Return the sequences of a turn.

    Args:
        cell: what the turn belongs to.
        turn: its number; each has demonstrations of its own.
        data: folder of the data sets.
        tokenizer: of the model.
        cut: cuts a text into the strings that its tokens cover.
    """
    template, labels = DATA_SETS[cell.data_set]
    seed = f"{cell.data_set} {cell.demonstrations} {turn}"
    endings = [template.format(text) for text in items(cell, data)]
    if cell.own_demonstrations:
        contexts = own_contexts(cell, data, endings, seed)
    else:
        prompts = mutants(cut(parent(cell, turn, data)), cell.prompts, seed)
        contexts = [[prompt + ending for ending in endings] for prompt in prompts]
    return tokenise(contexts, labels, tokenizer)


def items(cell: Cell, data: Path) -> list[str]:
    """Return the texts of the examples."""
    return [text for text, _ in read(data / cell.data_set / "dev200.tsv")[: cell.examples]]


def read(file: Path) -> list[tuple[str, int]]:
    """Return the (text, label) rows of a table."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(text, int(label)) for text, label in rows[1:]]


def parent(cell: Cell, turn: int, data: Path) -> str:
    """Return a prompt of demonstrations, the labels in turn."""
    by_label = demonstrations_by_label(cell, data)
    turns = min(map(len, by_label)) // cell.demonstrations
    if turn >= turns:
        raise SystemExit(
            f"{cell.data_set} has demonstrations for {turns - 1} turns and one to warm up: lower --repeats"
        )
    chosen = slice(turn * cell.demonstrations, (turn + 1) * cell.demonstrations)
    return joined(cell, [texts[chosen] for texts in by_label])


def own_contexts(cell: Cell, data: Path, endings: Sequence[str], seed: str) -> list[list[str]]:
    """Return contexts [prompts][examples] that each begin with random demonstrations, the labels in turn."""
    by_label = demonstrations_by_label(cell, data)
    rng = random.Random(seed)  # noqa: S311  no secret

    def shown() -> str:
        return joined(cell, [rng.sample(texts, cell.demonstrations) for texts in by_label])

    return [[shown() + ending for ending in endings] for _ in range(cell.prompts)]


def demonstrations_by_label(cell: Cell, data: Path) -> list[list[str]]:
    """Return the texts that may be shown, [labels][texts]."""
    train = read(data / cell.data_set / "fewshot-13-train.tsv")
    return [[text for text, label in train if label == n] for n in range(len(DATA_SETS[cell.data_set].labels))]


def joined(cell: Cell, texts: Sequence[Sequence[str]]) -> str:
    """Return demonstrations [labels][texts] as one text, the labels in turn."""
    template, labels = DATA_SETS[cell.data_set]
    return "".join(
        f"{template.format(text)} {label}\n\n"
        for column in zip(*texts, strict=True)
        for text, label in zip(column, labels, strict=True)
    )


def mutants(pieces: Sequence[str], count: int, seed: str) -> list[str]:
    """Return texts that each leave out 1 to 4 random pieces."""
    rng = random.Random(seed)  # noqa: S311  no secret
    dropped = [set(rng.sample(range(len(pieces)), rng.randint(1, 4))) for _ in range(count)]
    return ["".join(piece for n, piece in enumerate(pieces) if n not in drop) for drop in dropped]


def tokenise(contexts: list[list[str]], labels: tuple[str, ...], tokenizer: Any) -> Work:
    """Tokenise contexts, and make sure that every label is one token after each of them."""
    work = Work(contexts, [tokenizer(row)["input_ids"] for row in contexts], labels, [])
    for label in labels:
        whole = tokenizer([f"{context} {label}" for context in work.texts])["input_ids"]
        label_id = whole[0][-1]
        if whole != [[*ids, label_id] for ids in work.sequences]:
            raise SystemExit(f"with this tokenizer the label {label!r} is not one token of its own")
        work.label_ids.append(label_id)
    return work


def common(a: Ids, b: Ids) -> int:
    """Return the length of the longest common prefix."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def distinct(sequences: Sequence[Ids]) -> Distinct:
    """Count distinct prefixes: in sorted order, those of a sequence that the one before it does not have."""
    ordered = sorted(sequences)
    shared = [0, *(common(a, b) for a, b in pairwise(ordered))]
    lengths = list(map(len, ordered))
    pairs = sum(triangle(n) - triangle(k) for n, k in zip(lengths, shared, strict=True))
    return Distinct(sum(lengths) - sum(shared), pairs)


def triangle(n: int) -> int:
    """Return 1 + 2 + ... + n."""
    return n * (n + 1) // 2


def like_lengths(sequences: Sequence[Ids], most: int) -> Iterator[list[int]]:
    """Yield batches of indices in order of length: of one sequence, or of at most `most` tokens, padding included."""
    batch: list[int] = []
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if batch and (len(batch) + 1) * len(sequences[i]) > most:
            yield batch
            batch = []
        batch.append(i)
    yield batch
