"""Runs token tries through a network: each distinct token once, in passes of bounded size.

Knows nothing of text, labels or sampling.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from promptopt.models.local.attention import Pass, States
from promptopt.models.local.trie import Blocks, between, blocks, merge, unread_prefixes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from promptopt.models.local.attention import Layers
    from promptopt.models.local.trie import Bools, Ints, Segments, Trie

_log = logging.getLogger(__name__)

# Tokens per pass. SmolLM2 in bfloat16 on two cores, best of four, with 1 and 4 demonstrations per class: 49.2 and 38.8
# sequences/s at 384 tokens, 50.6 and 39.7 at 512, 52.6 and 40.2 at 1,024. A GPU needs more rows to be busy (a guess, not
# measured).
_PASS_TOKENS = {"cpu": 1024, "cuda": 4096}
_BLOCK = 64  # nodes per attention block; 53.8 and 38.8 sequences/s at 32; larger blocks waste work on masked columns
# Tokens per cached segment of a shared prefix. Shorter passes waste more time reading weights; longer ones are shared less.
_SEGMENT = 128
_CACHE_BYTES = 2**28  # of cached states: about 11,000 tokens of SmolLM2 in bfloat16
_ROWS_PER_BLOCK = 8  # decoding rows that attend as one block: their shared prefix is gathered once
_MAX_SCORES = 2**26  # attention scores in memory at once: 256 MB in float32


class Network(Protocol):
    """A network that runs passes."""

    @property
    def device(self) -> torch.device: ...

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        ...

    def hidden(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass, rows: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of the tokens at `rows`, [rows, hidden]; see `NativeNetwork`."""
        ...

    def grown(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass) -> torch.Tensor:
        """Return the hidden states of all tokens of a decoding step, [tokens, hidden]: those of `hidden` up to rounding."""
        ...


class Engine:
    """Runs tries through a network.

    Args:
        network: the network.
        segments: chooses the parts of a trie whose states are cached.
    """

    def __init__(self, network: Network, segments: Segments = unread_prefixes) -> None:
        self.computed = 0  # tokens
        self._segments = segments
        self._prefix_cache = PrefixCache()
        self._network = network
        self._device = network.device
        self._pass_tokens = _PASS_TOKENS.get(self._device.type, _PASS_TOKENS["cpu"])

    def read(self, trie: Trie, wanted: Ints, all_states: States | None = None) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Yield the wanted nodes and their hidden states [nodes, hidden], one pass at a time.

        Args:
            trie: each node is computed once, or comes from the cache of an earlier call.
            wanted: nodes in ascending order.
            all_states: empty; if given, receives the states of all nodes, in order. Else only one path is kept at a time.
        """
        states = States() if all_states is None else all_states
        keep_all, start = all_states is not None, 0
        for cached_start, stop in [*self._segments(trie, wanted, _SEGMENT), (len(trie), len(trie))]:
            yield from self._read_nodes(trie, start, cached_start, wanted, states, keep_all=keep_all)
            for start in range(cached_start, stop, _SEGMENT):
                nodes = between(wanted, start, start + _SEGMENT)
                hidden = self._run_segment(trie, start, nodes, states, keep_all=keep_all)
                if hidden is not None:
                    yield nodes, hidden
            start = stop

    def _read_nodes(
        self, trie: Trie, start: int, end: int, wanted: Ints, states: States, *, keep_all: bool
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run the nodes from `start` to `end` (exclusive); keep all their states, or only those on the path to `end`."""
        while start < end:
            stop = start + self._size(end - start, trie.paths.shape[1])
            nodes = between(wanted, start, stop)
            plan, positions = self._plan(trie, start, stop, keep_all=keep_all)
            try:
                hidden = self.run(trie.tokens[start:stop], trie.depths[start:stop], plan, states, nodes - start)
            except RuntimeError as error:
                self._halve_passes(error)
                continue
            if keep_all:
                states.length = stop
            elif stop < len(trie):
                states.keep(self.tensor(positions(trie.ancestors(stop))))
            start = stop
            if len(nodes):
                yield nodes, hidden

    @torch.inference_mode()  # cached states are written into tensors made in inference mode
    def _run_segment(
        self, trie: Trie, start: int, nodes: Ints, states: States, *, keep_all: bool
    ) -> torch.Tensor | None:
        """Append the states of `_SEGMENT` nodes, from the cache if an earlier call had the same prefix.

        Such a pass always has the same size and contains nothing else, so that its states are bitwise equal whether cached
        or computed: results must not depend on what was computed before.

        Returns:
            The hidden states of the wanted `nodes` among them, for which the pass is run again: the cache holds none.
        """
        stop, hidden = start + _SEGMENT, None
        key = trie.tokens[[*trie.ancestors(start), *range(start, stop)]].tobytes()
        layers = None if len(nodes) else self._prefix_cache.get(key)
        if layers is None:
            plan, _ = self._plan(trie, start, stop, keep_all=keep_all)
            hidden = self.run(trie.tokens[start:stop], trie.depths[start:stop], plan, states, nodes - start)
            self._prefix_cache.put(key, states.tail(_SEGMENT))
        else:
            for layer, (keys, values) in layers.items():
                states.append(layer, keys, values)
        states.length += _SEGMENT
        return hidden if len(nodes) else None

    def _plan(self, trie: Trie, start: int, stop: int, *, keep_all: bool) -> tuple[Blocks, Callable[[Ints], Ints]]:
        """Return what the nodes of a pass attend to, as positions in the states, and the function from nodes to positions."""
        preceding = int(trie.depths[start])

        def positions(nodes: Ints) -> Ints:
            return nodes if keep_all else np.where(nodes >= start, nodes - start + preceding, trie.depths[nodes])

        plan = blocks(trie, start, stop, _BLOCK)
        return plan._replace(columns=np.where(plan.columns >= 0, positions(plan.columns), -1)), positions

    @torch.inference_mode()
    def run(self, tokens: Ints, depths: Ints, plan: Blocks, states: States, output: Ints) -> torch.Tensor:
        """Run one pass; its states are written after the kept ones, but not yet kept.

        Args:
            tokens: [tokens].
            depths: [tokens], their positions in the sequence.
            plan: its columns are positions in the states; arbitrary for padding.
            states: of earlier tokens.
            output: indices of tokens in the pass whose hidden states are returned, ascending.

        Returns:
            Hidden states [len(output), hidden].
        """
        self.computed += len(tokens)
        return self._network.hidden(
            self.tensor(tokens), self.tensor(depths), self._pass(plan, states), self.tensor(output)
        )

    @torch.inference_mode()
    def grow(self, tokens: Ints, depths: Ints, plan: Blocks, states: States) -> torch.Tensor:
        """Run one decoding step; return the hidden states of all its tokens. Takes arguments of `run`."""
        self.computed += len(tokens)
        return self._network.grown(self.tensor(tokens), self.tensor(depths), self._pass(plan, states))

    def _pass(self, plan: Blocks, states: States) -> Pass:
        columns, *masks = map(self.tensor, plan._replace(columns=np.maximum(plan.columns, 0)))
        return Pass(states, columns.reshape(-1), *masks)

    def decoding_batch(self) -> DecodingBatch:
        """Return an empty batch for decoding."""
        return DecodingBatch(self)

    def _size(self, remaining: int, longest: int) -> int:
        """Return the size of the next pass, such that the remaining tokens form passes of similar size."""
        limit = max(_BLOCK, min(self._pass_tokens, _MAX_SCORES // (self._network.heads * (longest + _BLOCK))))
        return -(-remaining // -(-remaining // limit))

    def _halve_passes(self, error: RuntimeError) -> None:
        """Halve the pass size after an out-of-memory error.

        Raises:
            RuntimeError: the error itself, if it is a different one or passes cannot be smaller.
        """
        if not _out_of_memory(error) or self._pass_tokens <= _BLOCK:
            raise error
        self._pass_tokens //= 2
        _log.warning("out of memory: passes have %d tokens from now on", self._pass_tokens)

    def tensor(self, array: Any) -> torch.Tensor:
        """Move an array to the network's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means out of memory; the CPU allocator has no exception class for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class PrefixCache:
    """Least-recently-used cache of prefix states, limited to `_CACHE_BYTES` bytes."""

    def __init__(self) -> None:
        self._layers_of: OrderedDict[bytes, Layers] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Layers | None:
        """Return the states, layer by layer, or None."""
        if key in self._layers_of:
            self._layers_of.move_to_end(key)
        return self._layers_of.get(key)

    def put(self, key: bytes, layers: Layers) -> None:
        """Store states, and evict the least recently used ones."""
        self._bytes += _size_of(layers) - _size_of(self._layers_of.pop(key, {}))
        self._layers_of[key] = layers
        while self._bytes > _CACHE_BYTES:
            self._bytes -= _size_of(self._layers_of.popitem(last=False)[1])


def _size_of(layers: Layers) -> int:
    return sum(states.nbytes for pair in layers.values() for states in pair)


class DecodingBatch:
    """Rows of tokens on one engine that grow by one token per step.

    Internally, rows are in the trie's order, where neighbours share the longest prefixes; inputs and outputs are in the
    caller's order.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states = States()
        self._paths: list[Ints] = []  # [rows][length], positions in the states
        self._order: Ints = np.zeros(0, np.int64)  # [rows], the caller's index
        self._rows: Ints = np.zeros((0, 0), np.int64)  # [blocks, size]; padded with the last row
        self._columns: Ints = np.zeros((0, 0), np.int64)  # [blocks, columns], positions in the states; -1 for padding
        self._depths: Ints = np.zeros((0, 0), np.int64)  # [blocks, columns]
        self._visible: Bools = np.zeros((0, 0, 0), np.bool_)  # [blocks, size, columns]

    def start(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add rows after the others and run their prompts; return the hidden state at each one's last token, [rows, hidden]."""
        trie, states = merge(prompts), States()
        ends = np.array([trie.nodes(i)[-1] for i in range(len(prompts))])
        wanted = np.unique(ends)
        hidden = torch.cat([rows for _, rows in self._engine.read(trie, wanted, states)])
        order = np.argsort(trie.row_of, kind="stable")
        self._order = np.concatenate([self._order, order + len(self._order)])
        self._paths += [trie.nodes(int(i)) + self._states.length for i in order]
        self._states.extend(states)
        self._arrange()
        return hidden[self._engine.tensor(np.searchsorted(wanted, ends))]

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row; return its hidden states, [rows, hidden]."""
        count = len(self._paths)
        positions = self._states.length + np.arange(count)
        depths = np.array([len(path) for path in self._paths])
        self._paths = [np.append(path, position) for path, position in zip(self._paths, positions, strict=True)]
        own = np.broadcast_to(np.eye(self._rows.shape[1], dtype=bool), (*self._rows.shape, self._rows.shape[1]))
        self._columns = np.concatenate([self._columns, positions[self._rows]], axis=1)
        self._depths = np.concatenate([self._depths, depths[self._rows]], axis=1)
        self._visible = np.concatenate([self._visible, own], axis=2)
        plan = Blocks(self._columns, self._visible, depths[self._rows], self._depths)
        ordered_tokens = np.array(tokens)[self._order]
        hidden = self._engine.grow(ordered_tokens, depths, plan, self._states)
        self._states.length += count
        return hidden[self._engine.tensor(np.argsort(self._order))]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, renumbered in this order, and drop states that no row needs."""
        new_index = {row: i for i, row in enumerate(rows)}
        kept = [i for i, row in enumerate(self._order) if int(row) in new_index]
        self._order = np.array([new_index[int(self._order[i])] for i in kept], np.int64)
        paths = [self._paths[i] for i in kept]
        used = np.unique(np.concatenate(paths))
        self._states.keep(self._engine.tensor(used))
        self._paths = [np.searchsorted(used, path) for path in paths]
        self._arrange()

    def _arrange(self) -> None:
        """Arrange the rows in blocks, each with the union of its rows' paths as columns."""
        count = len(self._paths)
        size = min(_ROWS_PER_BLOCK, count)
        self._rows = np.minimum(np.arange(0, count, size)[:, None] + np.arange(size), count - 1)
        members = [[self._paths[i] for i in block] for block in self._rows]
        unions = [np.unique(np.concatenate(paths)) for paths in members]
        shape = (len(unions), max(map(len, unions)))
        self._columns, self._depths = np.full(shape, -1), np.zeros(shape, np.int64)
        self._visible = np.zeros((shape[0], size, shape[1]), np.bool_)
        for b, (union, paths) in enumerate(zip(unions, members, strict=True)):
            self._columns[b, : len(union)] = union
            for i, path in enumerate(paths):
                columns = np.searchsorted(union, path)
                self._depths[b, columns] = np.arange(len(path))
                self._visible[b, i, columns] = True
