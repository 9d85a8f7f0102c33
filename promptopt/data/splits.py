"""Splits examples into train, validation and test: by a hash, by a column, or at random.

Pure functions over examples. Knows nothing of files, tasks or models.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError, nearest
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from promptopt.prompt import Example

DEFAULT_SHARES = (0.4, 0.3, 0.3)

_TOLERANCE = 0.05  # share of all examples by which a border may miss its place before it is moved: near the shares, and stable (docs/log.md)
_ROUNDING = 1e-9
_BYTES = 6  # of a digest: fewer bits than a float holds
_OTHER_NAMES = {"dev": "validation", "val": "validation", "valid": "validation"}


class Splits(NamedTuple):
    """Three disjoint sets of examples."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


def split_by_hash(
    examples: Sequence[Example],
    seed: int,
    shares: Sequence[float] = DEFAULT_SHARES,
    *,
    labels: Sequence[str] = (),
) -> Splits:
    """Split examples into train, validation and test by a hash of their inputs; each split keeps the order.

    Examples that are added, removed or reordered leave the others where they are, and examples with equal inputs are in the same split.
    So are examples of one group, which is hashed in place of their inputs.
    A hash in [0, 1) below the first share means train, below the sum of the first two validation. A border between two splits moves only as
    far as it must so that the number of examples below it is within five percent of all examples of its share; then a few examples
    next to it change sides.

    Args:
        examples: to split.
        seed: part of each hash: other seeds give other splits.
        shares: of train, validation and test.
        labels: those that must occur in train; of a label that does not, the examples with the lowest hash are moved there.

    Raises:
        InputError: the shares are not three positive numbers that sum to 1, or a split would be empty.
    """
    _check_shares(shares)
    hashes = [_hash(dict(e.inputs) if e.group is None else e.group, seed) for e in examples]
    borders = [_border(hashes, share) for share in list(accumulate(shares))[:-1]]
    sides = [bisect_right(borders, value) for value in hashes]
    sides = _with_labels_in_train(sides, hashes, [e.target for e in examples], labels)
    parts = [tuple(e for e, side in zip(examples, sides, strict=True) if side == part) for part in range(len(shares))]
    return _refuse_empty(Splits(*parts), len(examples), shares)


def split_by_column(examples: Sequence[Example], names: Mapping[str, str], column: str) -> Splits:
    """Split examples by the names of splits that a column holds; each split keeps the order.

    Args:
        examples: to split.
        names: id -> "train", "validation" (also "dev", "val" or "valid") or "test", in any case.
        column: of the names, for messages.

    Raises:
        InputError: a name is another one.
    """
    parts: dict[str, list[Example]] = {split: [] for split in Splits._fields}
    for example in examples:
        name = names[example.id].lower()
        split = _OTHER_NAMES.get(name, name)
        if split not in parts:
            raise InputError(
                f"example {example.id!r}: the column {column!r} holds {names[example.id]!r}{nearest(name, parts)}; a split is train, "
                "validation (or dev, val, valid) or test"
            )
        parts[split].append(example)
    return Splits(*map(tuple, parts.values()))


def split_examples(examples: Sequence[Example], seed: int, shares: Sequence[float] = DEFAULT_SHARES) -> Splits:
    """Split examples at random into train, validation and test, stratified by target; each split keeps the order.

    Raises:
        InputError: the shares are not three positive numbers that sum to 1, or a split would be empty.
    """
    _check_shares(shares)
    parts = _stratified_parts(examples, shares, named_generator(seed, "split"))
    return _refuse_empty(Splits(*parts), len(examples), shares)


def split_folds(examples: Sequence[Example], folds: int, seed: int) -> tuple[tuple[Example, ...], ...]:
    """Split examples at random into folds of nearly equal size, stratified by target; each fold keeps the order.

    Examples with equal inputs are in the same fold.

    Args:
        examples: to split.
        folds: number of folds.
        seed: of the split.

    Raises:
        InputError: there are fewer different inputs than folds.
    """
    alike: dict[str, list[Example]] = {}
    for example in examples:
        alike.setdefault(json.dumps(dict(example.inputs), sort_keys=True), []).append(example)
    if len(alike) < folds:
        raise InputError(f"{len(alike)} different examples do not fill {folds} folds: give more examples")
    firsts = {group[0].id: group for group in alike.values()}
    position = {example.id: i for i, example in enumerate(examples)}
    parts = _stratified_parts(
        [group[0] for group in alike.values()], [1 / folds] * folds, named_generator(seed, "folds")
    )
    return tuple(
        tuple(sorted((e for first in part for e in firsts[first.id]), key=lambda e: position[e.id])) for part in parts
    )


def divide_groups(
    examples: Sequence[Example], shares: Sequence[float], seed: int, name: str
) -> tuple[tuple[Example, ...], ...]:
    """Divide examples at random into parts near these shares, without dividing a group; each part keeps the order.

    The largest group goes first, each to the part that is furthest below its share. Parts are not stratified by target.

    Args:
        examples: to divide; each has a group.
        shares: of the parts.
        seed: of the division.
        name: what the parts are for; divisions of different names are independent.
    """
    members: dict[str | None, list[int]] = {}
    for i, example in enumerate(examples):
        members.setdefault(example.group, []).append(i)
    drawn = list(members.values())
    shuffled = [drawn[i] for i in named_generator(seed, f"groups {name}").permutation(len(drawn)).tolist()]
    parts: list[list[int]] = [[] for _ in shares]
    for group in sorted(shuffled, key=len, reverse=True):
        deficits = [share * len(examples) - len(part) for share, part in zip(shares, parts, strict=True)]
        parts[deficits.index(max(deficits))] += group
    return tuple(tuple(examples[i] for i in sorted(part)) for part in parts)


def sample_examples(examples: Sequence[Example], size: int, seed: int, name: str) -> tuple[Example, ...]:
    """Draw at most `size` examples at random, stratified by target, in their original order.

    Args:
        examples: to draw from.
        size: of the sample.
        seed: of the draw.
        name: what the sample is for; samples of different names are independent.
    """
    if size >= len(examples):
        return tuple(examples)
    share = size / len(examples)
    return _stratified_parts(examples, (share, 1 - share), named_generator(seed, f"sample {name}"))[0]


def _check_shares(shares: Sequence[float]) -> None:
    if len(shares) != len(Splits._fields) or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise InputError(f"shares must be three positive numbers that sum to 1, not {list(shares)}")


def _refuse_empty(splits: Splits, count: int, shares: Sequence[float]) -> Splits:
    for name, part in splits._asdict().items():
        if not part:
            raise InputError(
                f"{count} examples in shares of {list(shares)} leave {name} empty: give more examples or a larger share"
            )
    return splits


def _hash(value: object, seed: int) -> float:
    """Return a number in [0, 1) that depends on the value and the seed only."""
    text = json.dumps([value, seed], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:_BYTES])
    return number / float(256**_BYTES)


def _border(hashes: Sequence[float], share: float) -> float:
    """Return the hash at which a split ends so that about this share of the hashes is below it.

    That is the share itself, if the number below is within the tolerance; else the nearest hash with which it is, or nearly so where many
    hashes are equal.
    """
    ordered, count = sorted(hashes), len(hashes)
    below = bisect_left(ordered, share)
    low, high = (
        math.ceil((share - _TOLERANCE) * count - _ROUNDING),
        math.floor((share + _TOLERANCE) * count + _ROUNDING),
    )
    if low > high:  # fewer examples than have a whole number within the tolerance
        low = high = round(share * count)
    if low <= below <= high:
        return share
    nearest_allowed = min(max(below, low), high)
    starts = {value: start for start, value in reversed(list(enumerate(ordered)))} | {1.0: count}
    return min(starts, key=lambda value: (abs(starts[value] - nearest_allowed), value))


def _with_labels_in_train(
    sides: list[int], hashes: Sequence[float], targets: Sequence[str | None], labels: Sequence[str]
) -> list[int]:
    """Return the sides, 0 for train, with the lowest hash of each label that does not occur in train moved there."""
    for label in labels:
        rows = [i for i, target in enumerate(targets) if target == label]
        if rows and all(sides[i] for i in rows):
            lowest = min(hashes[i] for i in rows)
            sides = [0 if value == lowest else side for value, side in zip(hashes, sides, strict=True)]
    return sides


def _stratified_parts(
    examples: Sequence[Example], shares: Sequence[float], generator: np.random.Generator
) -> tuple[tuple[Example, ...], ...]:
    """Shuffle, group by target, and assign each example to the part that is furthest below its share.

    Grouping stratifies the parts by target; it changes nothing if all targets differ.
    """
    groups: dict[str | None, list[int]] = {}
    for i in generator.permutation(len(examples)).tolist():
        groups.setdefault(examples[i].target, []).append(i)
    parts: list[list[int]] = [[] for _ in shares]
    for count, i in enumerate(chain.from_iterable(groups.values()), 1):
        deficits = [share * count - len(part) for share, part in zip(shares, parts, strict=True)]
        parts[deficits.index(max(deficits))].append(i)
    return tuple(tuple(examples[i] for i in sorted(part)) for part in parts)
