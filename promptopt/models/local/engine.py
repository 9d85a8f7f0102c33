"""Runs token tries through a network: each distinct token once, in passes of bounded size.

Knows nothing of text, labels or sampling.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from promptopt.models.local import attention, kernels
from promptopt.models.local.attention import Pass, States
from promptopt.models.local.trie import Blocks, blocks, merge, stems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from promptopt.models.local.attention import Layers
    from promptopt.models.local.trie import Bools, Ints, Trie

_log = logging.getLogger(__name__)

# Tokens in a pass. Two cores, SmolLM2 in bfloat16, best of four, 1 and 4 demonstrations a class: 384 tokens 49.2 and 38.8
# sequences/s, 512 50.6 and 39.7, 1,024 52.6 and 40.2. A GPU needs more rows to fill its multiprocessors (a guess: no GPU
# was at hand to measure).
_PASS_TOKENS = {"cpu": 1024, "cuda": 4096}
_BLOCK = 64  # nodes that attend as one block: with 32, 53.8 and 38.8 sequences/s; larger ones look at columns in vain
# Tokens of a stem that are cached as one. A pass of 64 wastes more on reading weights, longer ones are shared less often.
_STEM = 128
_CACHED = 2**28  # bytes of cached states: of some 11,000 tokens of SmolLM2 in bfloat16
_TOGETHER = 8  # growing rows that attend as one block: their common start is fetched once
_SCORES = 2**26  # attention scores alive at once: 256 MB in float32


class Engine:
    """A network that runs tries.

    Args:
        network: a transformers causal language model; changed in place.
    """

    def __init__(self, network: Any) -> None:
        self.computed = 0  # tokens so far
        self._stems = StemCache()
        self._network = network
        self._device: torch.device = network.device
        self._heads: int = network.config.get_text_config().num_attention_heads
        self._most = _PASS_TOKENS.get(self._device.type, _PASS_TOKENS["cpu"])
        self._before: str = network.config._attn_implementation  # noqa: SLF001  what transformers calls it
        ALL_ATTENTION_FUNCTIONS.register(attention.NAME, attention.attend)
        network.set_attn_implementation(attention.NAME)
        self._last = kernels.read_rows(network.base_model)

    def speed_up(self) -> None:
        """Replace parts of the network by faster ones, for good."""
        if self._device.type == "cpu":
            kernels.speed_up(self._network)

    def release(self) -> None:
        """Give the network back as it was."""
        self._network.set_attn_implementation(self._before)
        for part in self._last:
            part.rows = None

    def read(self, trie: Trie, wanted: Ints, kept: States | None = None) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Yield the wanted nodes and their hidden states [nodes, hidden], a pass at a time.

        Args:
            trie: each of its nodes is computed once, or was in an earlier call.
            wanted: nodes in ascending order.
            kept: empty; gets the states of all nodes, each at its node's number. Else only one path's are kept.
        """
        states = States() if kept is None else kept
        # Stems whose hidden states are wanted, too, are run like all else: the cache has none.
        known = [stem for stem in stems(trie, _STEM) if not len(_inside(wanted, *stem))]
        start = 0
        for stem, stop in [*known, (len(trie), len(trie))]:
            yield from self._read_nodes(trie, start, stem, wanted, states, whole=kept is not None)
            for start in range(stem, stop, _STEM):
                self._run_stem(trie, start, states, whole=kept is not None)
            start = stop

    def _read_nodes(
        self, trie: Trie, start: int, end: int, wanted: Ints, states: States, *, whole: bool
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run the nodes from `start` up to `end`; `whole` keeps the states of all, else those of the path to `end`."""
        while start < end:
            stop = start + self._size(end - start, trie.paths.shape[1])
            nodes = _inside(wanted, start, stop)
            plan, places = self._plan(trie, start, stop, whole=whole)
            try:
                hidden = self.run(trie.tokens[start:stop], trie.depths[start:stop], plan, states, nodes - start)
            except RuntimeError as error:
                self._retreat(error)
                continue
            if whole:
                states.length = stop
            elif stop < len(trie):
                states.keep(self.tensor(places(trie.above(stop))))
            start = stop
            if len(nodes):
                yield nodes, hidden

    @torch.inference_mode()  # kept states, too, are written where a pass of inference mode wrote
    def _run_stem(self, trie: Trie, start: int, states: States, *, whole: bool) -> None:
        """Put the states of `_STEM` nodes behind the others, from an earlier call where it had the same start.

        Such a pass is always of one size and has nothing else in it, so that its states are the same to the last bit
        whether they were kept or not: what a run computes must not depend on what was computed before.
        """
        stop = start + _STEM
        key = trie.tokens[[*trie.above(start), *range(start, stop)]].tobytes()
        layers = self._stems.get(key)
        if layers is None:
            plan, _ = self._plan(trie, start, stop, whole=whole)
            self.run(trie.tokens[start:stop], trie.depths[start:stop], plan, states, np.zeros(0, np.int64))
            self._stems.put(key, states.tail(_STEM))
        else:
            for layer, (keys, values) in layers.items():
                states.put(layer, keys, values)
        states.length += _STEM

    def _plan(self, trie: Trie, start: int, stop: int, *, whole: bool) -> tuple[Blocks, Callable[[Ints], Ints]]:
        """Return what the nodes of a pass attend to, as places among the states, and what turns nodes into places."""
        before = int(trie.depths[start])

        def places(nodes: Ints) -> Ints:
            return nodes if whole else np.where(nodes >= start, nodes - start + before, trie.depths[nodes])

        plan = blocks(trie, start, stop, _BLOCK)
        return plan._replace(columns=np.where(plan.columns >= 0, places(plan.columns), -1)), places

    @torch.inference_mode()
    def run(self, tokens: Ints, depths: Ints, plan: Blocks, states: States, read: Ints) -> torch.Tensor:
        """Run one pass; its states are put behind those that are kept, but not yet kept.

        Args:
            tokens: [tokens].
            depths: [tokens], their positions.
            plan: whose columns are places among the states, any place for padding.
            states: of earlier tokens.
            read: places in the pass, ascending.

        Returns:
            Hidden states [read, hidden].
        """
        rows = self.tensor(read)
        for part in self._last:
            part.rows = rows
        columns, *seen = map(self.tensor, plan._replace(columns=np.maximum(plan.columns, 0)))
        out = self._network.base_model(
            input_ids=self.tensor(tokens)[None],
            position_ids=self.tensor(depths)[None],
            use_cache=False,
            promptopt_pass=Pass(states, columns.reshape(-1), *seen),
        )
        self.computed += len(tokens)
        return torch.as_tensor(out.last_hidden_state[0, rows])

    def continued(self) -> Continued:
        """Return an empty set of growing rows."""
        return Continued(self)

    def _size(self, left: int, longest: int) -> int:
        """Return the tokens of the next pass, so that all that is left makes passes of like size."""
        most = max(_BLOCK, min(self._most, _SCORES // (self._heads * (longest + _BLOCK))))
        return -(-left // -(-left // most))

    def _retreat(self, error: RuntimeError) -> None:
        """Halve the passes after one that did not fit into memory.

        Raises:
            RuntimeError: the error itself, where it is another one or passes cannot be smaller.
        """
        if not _out_of_memory(error) or self._most <= _BLOCK:
            raise error
        self._most //= 2
        _log.warning("out of memory: passes have %d tokens from now on", self._most)

    def tensor(self, array: Any) -> torch.Tensor:
        """Move an array to where the network is."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _inside(wanted: Ints, start: int, stop: int) -> Ints:
    """Return the wanted nodes from `start` up to `stop`."""
    return wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]


def _out_of_memory(error: RuntimeError) -> bool:
    """Tell memory that ran out from other errors; the CPU's allocator has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class StemCache:
    """States of recent starts; the longest unused are dropped when there are more than `_CACHED` bytes."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, Layers] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Layers | None:
        """Return the states, layer by layer, or None."""
        if key in self._found:
            self._found.move_to_end(key)
        return self._found.get(key)

    def put(self, key: bytes, layers: Layers) -> None:
        """Keep states."""
        self._found[key] = layers
        self._bytes += _size_of(layers)
        while self._bytes > _CACHED:
            self._bytes -= _size_of(self._found.popitem(last=False)[1])


def _size_of(layers: Layers) -> int:
    return sum(states.nbytes for pair in layers.values() for states in pair)


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
