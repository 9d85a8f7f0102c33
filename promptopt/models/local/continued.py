"""Sequences that grow by a token at a time; what several of them start with is computed and kept once.

Knows nothing of text, and not how tokens are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from promptopt.models.local.attention import States
from promptopt.models.local.trie import Blocks, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local.engine import Engine
    from promptopt.models.local.trie import Bools, Ints

_TOGETHER = 8  # rows that attend as one block: their common start is fetched once


class Continued:
    """Growing rows of tokens on one engine.

    Inside they stand in the trie's order, in which neighbours share the most; what comes in and goes out is in the
    caller's order.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states = States()
        self._paths: list[Ints] = []  # [rows][length], places among the states
        self._order: Ints = np.zeros(0, np.int64)  # [rows], the caller's number
        self._rows: Ints = np.zeros((0, 0), np.int64)  # [blocks, size]; the last row again to fill the last block
        self._columns: Ints = np.zeros((0, 0), np.int64)  # [blocks, columns], places; -1 for padding
        self._depths: Ints = np.zeros((0, 0), np.int64)  # [blocks, columns]
        self._visible: Bools = np.zeros((0, 0, 0), np.bool_)  # [blocks, size, columns]

    def start(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Run the prompts; return the hidden state at each one's last token, [rows, hidden]."""
        trie = merge(prompts)
        ends = np.array([trie.nodes(i)[-1] for i in range(len(prompts))])
        wanted = np.unique(ends)
        hidden = torch.cat([states for _, states in self._engine.read(trie, wanted, self._states)])
        self._order = np.argsort(trie.row_of, kind="stable")
        self._paths = [trie.nodes(int(i)) for i in self._order]
        self._arrange()
        return hidden[self._engine.tensor(np.searchsorted(wanted, ends))]

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to every row; return the hidden states there, [rows, hidden]."""
        count = len(self._paths)
        places = self._states.length + np.arange(count)
        depths = np.array([len(path) for path in self._paths])
        self._paths = [np.append(path, place) for path, place in zip(self._paths, places, strict=True)]
        own = np.broadcast_to(np.eye(self._rows.shape[1], dtype=bool), (*self._rows.shape, self._rows.shape[1]))
        self._columns = np.concatenate([self._columns, places[self._rows]], axis=1)
        self._depths = np.concatenate([self._depths, depths[self._rows]], axis=1)
        self._visible = np.concatenate([self._visible, own], axis=2)
        plan = Blocks(self._columns, self._visible, depths[self._rows], self._depths)
        taken = np.array(tokens)[self._order]
        hidden = self._engine.run(taken, depths, plan, self._states, np.arange(count))
        self._states.length += count
        return hidden[self._engine.tensor(np.argsort(self._order))]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, numbered anew in this order; states that no row needs are dropped."""
        number = {row: i for i, row in enumerate(rows)}
        inside = [i for i, row in enumerate(self._order) if int(row) in number]
        self._order = np.array([number[int(self._order[i])] for i in inside], np.int64)
        paths = [self._paths[i] for i in inside]
        used = np.unique(np.concatenate(paths))
        self._states.keep(self._engine.tensor(used))
        self._paths = [np.searchsorted(used, path) for path in paths]
        self._arrange()

    def _arrange(self) -> None:
        """Lay the rows out in blocks, each with the union of its rows' paths as columns."""
        count = len(self._paths)
        size = min(_TOGETHER, count)
        self._rows = np.minimum(np.arange(0, count, size)[:, None] + np.arange(size), count - 1)
        members = [[self._paths[i] for i in block] for block in self._rows]
        unions = [np.unique(np.concatenate(paths)) for paths in members]
        shape = (len(unions), max(map(len, unions)))
        self._columns, self._depths = np.full(shape, -1), np.zeros(shape, np.int64)
        self._visible = np.zeros((shape[0], size, shape[1]), np.bool_)
        for b, (union, paths) in enumerate(zip(unions, members, strict=True)):
            self._columns[b, : len(union)] = union
            for i, path in enumerate(paths):
                found = np.searchsorted(union, path)
                self._depths[b, found] = np.arange(len(path))
                self._visible[b, i, found] = True
