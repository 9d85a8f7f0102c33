"""Token sequences merged into a trie, so that shared prefixes are computed once. Pure functions over integers.

Knows nothing of models. Nodes are numbered depth first. Any run of consecutive nodes can be a pass: it attends only to
nodes within the run and to the path to its first node. So only one path is kept between passes, and no token is computed
twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Trie:
    """Sequences merged by their shared prefixes.

    Rows are the distinct sequences in lexicographic order. A row's own nodes are its tokens past the prefix that it shares
    with the previous row.

    Args:
        tokens: [nodes].
        depths: [nodes], number of preceding tokens.
        rows: [nodes], the row that owns the node.
        paths: [rows, longest], the node at each depth; -1 past the row's end.
        lengths: [rows].
        row_of: [sequences], the row of each sequence.
    """

    tokens: Ints
    depths: Ints
    rows: Ints
    paths: Ints
    lengths: Ints
    row_of: Ints

    def __len__(self) -> int:
        """Return the number of nodes, which is the number of distinct prefixes."""
        return len(self.tokens)

    def ancestors(self, node: int) -> Ints:
        """Return the nodes on the path to `node`, excluding it; [depth]."""
        return self.paths[self.rows[node], : self.depths[node]]

    def nodes(self, sequence: int) -> Ints:
        """Return the nodes of a sequence, [length]."""
        row = self.row_of[sequence]
        return self.paths[row, : self.lengths[row]]


Segments: TypeAlias = "Callable[[Trie, Ints, int], list[tuple[int, int]]]"
"""Chooses the runs of nodes (start, stop) whose states are cached, from a trie, its wanted nodes and a size."""


class Blocks(NamedTuple):
    """What the nodes of a run attend to, in blocks of consecutive nodes.

    A block's columns are the padded path to its first node, then the block's own nodes. The last block is padded with copies
    of the run's last node.

    Args:
        columns: [blocks, columns], nodes; -1 for padding.
        visible: [blocks, size, columns], whether a node attends to a column, i.e. it is an ancestor or the node itself.
        depths: [blocks, size], of the nodes.
        column_depths: [blocks, columns].
    """

    columns: Ints
    visible: Bools
    depths: Ints
    column_depths: Ints


def merge(sequences: Sequence[Sequence[int]]) -> Trie:
    """Merge non-empty token sequences into a trie."""
    index: dict[int, int] = {}
    distinct_of = [index.setdefault(id(sequence), len(index)) for sequence in sequences]
    distinct = list(
        {id(sequence): sequence for sequence in sequences}.values()
    )  # labels of one token share one sequence object
    grid, lengths = _grid(distinct)
    # Big-endian bytes sort like the numbers; padding is 0, so that a prefix comes before its continuations.
    order = np.argsort(np.ascontiguousarray(grid + 1, ">u4").view(f"S{4 * grid.shape[1]}")[:, 0], kind="stable")
    grid, lengths = grid[order], lengths[order]
    same = grid[1:] == grid[:-1]
    shared = np.concatenate([[0], np.where(same.all(1), lengths[1:], same.argmin(1))])
    first = np.concatenate([[True], (shared < lengths)[1:]])  # of each group of equal sequences
    row_of = np.empty(len(distinct), np.int64)
    row_of[order] = np.cumsum(first) - 1
    grid, lengths, shared = grid[first], lengths[first], shared[first]

    depth = np.arange(grid.shape[1])
    first_own = np.concatenate([[0], np.cumsum(lengths - shared)[:-1]])  # each row's first own node
    inside = depth < lengths[:, None]
    own = inside & (depth >= shared[:, None])
    # The node at a depth is the own node of the last row, up to this one, that begins there or before.
    owner = np.maximum.accumulate(np.where(depth >= shared[:, None], np.arange(len(grid))[:, None], 0), axis=0)
    paths = np.where(inside, (first_own - shared)[owner] + depth, -1)
    rows, depths = np.nonzero(own)
    return Trie(grid[own], depths, rows, paths, lengths, row_of[distinct_of])


def blocks(trie: Trie, start: int, stop: int, size: int) -> Blocks:
    """Return what the nodes from `start` to `stop` (exclusive) attend to, in blocks of `size`."""
    firsts = np.arange(start, stop, size)
    own = np.minimum(firsts[:, None] + np.arange(size), stop - 1)  # [blocks, size]
    longest = int(trie.depths[firsts].max())
    inside = np.arange(longest) < trie.depths[firsts][:, None]
    prefix = np.where(inside, trie.paths[trie.rows[firsts], :longest], -1)  # [blocks, longest]
    paths = trie.paths[trie.rows[own]]  # [blocks, size, longest row], through each node
    # A column is an ancestor if the path through the node has it at the column's depth, no deeper than the node.
    visible_prefix = (paths[:, :, :longest] == prefix[:, None]) & inside[:, None]
    at_depth = np.take_along_axis(paths, np.broadcast_to(trie.depths[own][:, None], (*own.shape, size)), axis=2)
    # By position, not by node: the padding copies of the last node must stay invisible to the others.
    visible_own = (at_depth == own[:, None]) & np.tri(size, dtype=bool)
    columns = np.concatenate([prefix, own], axis=1)
    return Blocks(
        columns,
        np.concatenate([visible_prefix, visible_own], axis=2),
        trie.depths[own],
        trie.depths[np.maximum(columns, 0)],
    )


def shared_prefixes(trie: Trie, size: int) -> list[tuple[int, int]]:
    """Return the unbranched prefixes as (start, stop), cut to multiples of `size`.

    Many sequences, in this call and later ones, share them: for instance a prompt before its examples.
    """
    first_own = np.searchsorted(trie.rows, np.arange(len(trie.lengths)))  # each row's first own node
    shared = trie.depths[first_own]
    firsts = np.flatnonzero(shared == 0)  # rows that share nothing with the previous row
    out = []
    for row, next_row in zip(firsts, [*firsts[1:], len(first_own)], strict=True):
        if next_row - row > 1:
            length = min(shared[row + 1 : next_row].min(), trie.lengths[row:next_row].min() - 1)
            if length >= size:
                out.append((int(first_own[row]), int(first_own[row] + length // size * size)))
    return out


def unread_prefixes(trie: Trie, wanted: Ints, size: int) -> list[tuple[int, int]]:
    """Return the shared prefixes without wanted nodes, as (start, stop)."""
    return [prefix for prefix in shared_prefixes(trie, size) if not len(between(wanted, *prefix))]


def all_segments(trie: Trie, wanted: Ints, size: int) -> list[tuple[int, int]]:  # noqa: ARG001  one type of function
    """Return all runs of `size` nodes along one sequence that begin at a multiple of `size`, as (start, stop).

    A later call may begin like any of these sequences: shorter passes now, none then.
    """
    firsts = np.flatnonzero(trie.depths[:-size] % size == 0) if len(trie) > size else np.zeros(0, np.int64)
    starts = firsts[trie.depths[firsts + size] == trie.depths[firsts] + size]  # a depth is at most 1 above the last
    return [(int(start), int(start) + size) for start in starts]


def between(wanted: Ints, start: int, stop: int) -> Ints:
    """Return the wanted nodes from `start` to `stop` (exclusive), of ascending ones."""
    return wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]


def _grid(sequences: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Return token ids [sequences, longest], padded with -1, and lengths [sequences]."""
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    grid = np.full((len(sequences), int(lengths.max())), -1, np.int64)
    grid[np.arange(grid.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(sequences), np.int64)
    return grid, lengths
