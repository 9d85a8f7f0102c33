"""Token sequences merged by their common starts, so that what they share is computed once. Pure functions over integers.

Knows nothing of models. Nodes are numbered depth first, and that order carries all the rest: any run of consecutive
nodes is a pass, and what the run attends to lies in the run itself or on the one path to its first node. So passes need
to keep no more than one path between them, and no token is ever computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Trie:
    """Sequences merged by their common starts.

    Rows are the distinct sequences in lexicographic order; a row's own nodes are its tokens past those that it shares
    with the row before.

    Args:
        tokens: [nodes].
        depths: [nodes], tokens before this one.
        rows: [nodes], the row whose own node it is.
        paths: [rows, longest], the node at each depth; -1 past the row's end.
        lengths: [rows].
        row_of: [sequences].
    """

    tokens: Ints
    depths: Ints
    rows: Ints
    paths: Ints
    lengths: Ints
    row_of: Ints

    def __len__(self) -> int:
        """Count the nodes, which is the number of distinct prefixes."""
        return len(self.tokens)

    def above(self, node: int) -> Ints:
        """Return the nodes on the path to `node`, which is not among them; [depth]."""
        return self.paths[self.rows[node], : self.depths[node]]

    def nodes(self, sequence: int) -> Ints:
        """Return the nodes of a sequence; their tokens are the sequence."""
        row = self.row_of[sequence]
        return self.paths[row, : self.lengths[row]]


class Blocks(NamedTuple):
    """What the nodes of a run may attend to, in blocks of consecutive nodes.

    A block's columns are the path to its first node, padded, then the block's own nodes. The last block is filled up
    with copies of the run's last node.

    Args:
        columns: [blocks, columns], nodes; -1 for padding.
        visible: [blocks, size, columns], whether a node attends to a column: to its ancestors and to itself.
        depths: [blocks, size], of the nodes.
        column_depths: [blocks, columns].
    """

    columns: Ints
    visible: Bools
    depths: Ints
    column_depths: Ints


def merge(sequences: Sequence[Sequence[int]]) -> Trie:
    """Merge non-empty token sequences into a trie."""
    place: dict[int, int] = {}
    places = [place.setdefault(id(sequence), len(place)) for sequence in sequences]
    distinct = list({id(sequence): sequence for sequence in sequences}.values())  # labels of one token share theirs
    grid, lengths = _grid(distinct)
    # Big-endian bytes sort like the numbers; 0 stands for the padding, so that a prefix comes before what continues it.
    order = np.argsort(np.ascontiguousarray(grid + 1, ">u4").view(f"S{4 * grid.shape[1]}")[:, 0], kind="stable")
    grid, lengths = grid[order], lengths[order]
    same = grid[1:] == grid[:-1]
    shared = np.concatenate([[0], np.where(same.all(1), lengths[1:], same.argmin(1))])
    first = np.concatenate([[True], (shared < lengths)[1:]])  # of equal sequences
    row_of = np.empty(len(distinct), np.int64)
    row_of[order] = np.cumsum(first) - 1
    grid, lengths, shared = grid[first], lengths[first], shared[first]

    depth = np.arange(grid.shape[1])
    begins = np.concatenate([[0], np.cumsum(lengths - shared)[:-1]])  # each row's first own node
    inside = depth < lengths[:, None]
    own = inside & (depth >= shared[:, None])
    # The node at a depth is the own node of the last row, up to this one, that begins there or before.
    owner = np.maximum.accumulate(np.where(depth >= shared[:, None], np.arange(len(grid))[:, None], 0), axis=0)
    paths = np.where(inside, (begins - shared)[owner] + depth, -1)
    rows, depths = np.nonzero(own)
    return Trie(grid[own], depths, rows, paths, lengths, row_of[places])


def blocks(trie: Trie, start: int, stop: int, size: int) -> Blocks:
    """Return what the nodes from `start` up to `stop` attend to, in blocks of `size`."""
    firsts = np.arange(start, stop, size)
    own = np.minimum(firsts[:, None] + np.arange(size), stop - 1)  # [blocks, size]
    longest = int(trie.depths[firsts].max())
    inside = np.arange(longest) < trie.depths[firsts][:, None]
    above = np.where(inside, trie.paths[trie.rows[firsts], :longest], -1)  # [blocks, longest]
    paths = trie.paths[trie.rows[own]]  # [blocks, size, longest of all], through each node
    # A column is an ancestor where the path through the node has it at the column's depth, and no later than the node.
    seen_above = (paths[:, :, :longest] == above[:, None]) & inside[:, None]
    at_depth = np.take_along_axis(paths, np.broadcast_to(trie.depths[own][:, None], (*own.shape, size)), axis=2)
    # By number, not by node: a copy of the last node must not be seen by the others.
    seen_own = (at_depth == own[:, None]) & np.tri(size, dtype=bool)
    columns = np.concatenate([above, own], axis=1)
    return Blocks(
        columns, np.concatenate([seen_above, seen_own], axis=2), trie.depths[own], trie.depths[np.maximum(columns, 0)]
    )


def stems(trie: Trie, size: int) -> list[tuple[int, int]]:
    """Return runs of nodes, from a first token on, in which nothing branches or ends: (start, stop), whole times `size`.

    They are what many sequences start with, and later calls, too: a prompt before its examples.
    """
    begins = np.searchsorted(trie.rows, np.arange(len(trie.lengths)))  # each row's first own node
    shared = trie.depths[begins]
    firsts = np.flatnonzero(shared == 0)  # rows that share nothing with the row before
    out = []
    for row, after in zip(firsts, [*firsts[1:], len(begins)], strict=True):
        if after - row > 1:
            straight = min(shared[row + 1 : after].min(), trie.lengths[row:after].min() - 1)
            if straight >= size:
                out.append((int(begins[row]), int(begins[row] + straight // size * size)))
    return out


def _grid(sequences: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Return token ids [sequences, longest], padded by -1, and lengths."""
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    grid = np.full((len(sequences), int(lengths.max())), -1, np.int64)
    grid[np.arange(grid.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(sequences), np.int64)
    return grid, lengths
