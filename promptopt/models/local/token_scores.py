"""Log-probabilities of all tokens of sequences, and of the likeliest tokens at each place; each distinct prefix is read once.

What was read is kept for later calls, in segments from a sequence's start. Knows nothing of text.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from promptopt.models.local.likeliest import likeliest_tokens
from promptopt.models.local.runner import collected
from promptopt.models.local.trie import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.models.local.encoding import Ids
    from promptopt.models.local.head import Head
    from promptopt.models.local.trial import AnyEngine
    from promptopt.models.local.trie import Bools, Ints, Trie
    from promptopt.statistics.arrays import Floats

_ROWS = 256  # hidden states per product with the output matrix: 50 MB of logits for 49,152 tokens
_SEGMENT = (
    128  # tokens per cached segment, as in the engine, so that it need not read a segment whose scores are cached
)
_MAX_SEGMENTS = 4096  # 8 to 40 KB each


class TokenScores(NamedTuple):
    """Natural log-probabilities at the tokens of a sequence.

    Args:
        logprobs: [tokens], of each token after those before it; NaN for the first, which follows nothing.
        tokens: [tokens, count], the likeliest tokens after each token.
        likeliest: [tokens, count], their log-probabilities, descending.
    """

    logprobs: Floats
    tokens: Ints
    likeliest: Floats

    def at(self, indices: Ints) -> TokenScores:
        """Return the values at some tokens."""
        return TokenScores(self.logprobs[indices], self.tokens[indices], self.likeliest[indices])


class SegmentScores:
    """Least-recently-used cache: the scores of a segment, and the hidden state at its end, by all tokens up to there."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[TokenScores, torch.Tensor]] = OrderedDict()

    def get(self, key: bytes, count: int) -> tuple[TokenScores, torch.Tensor] | None:
        """Return an entry with at least `count` likeliest tokens, or None."""
        entry = self._entries.get(key)
        if entry is None or entry[0].tokens.shape[1] < count:
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, scores: TokenScores, end: torch.Tensor) -> None:
        """Store an entry, and evict the least recently used one."""
        self._entries[key] = scores, end
        self._entries.move_to_end(key)
        if len(self._entries) > _MAX_SEGMENTS:
            self._entries.popitem(last=False)


def score_tokens(
    engine: AnyEngine, head: Head, sequences: Sequence[Ids], count: int, cache: SegmentScores
) -> list[TokenScores]:
    """Return the scores of sequences, in their order.

    Args:
        engine: runs the trie.
        head: its output layer.
        sequences: at least one token each.
        count: likeliest tokens at each place; 1 or more.
        cache: of earlier calls with this engine; receives what is new.
    """
    reading = _Reading(merge(sequences), head, count, cache)
    reading.run(engine)
    return [reading.scores(i) for i in range(len(sequences))]


class _Reading:
    """The scores at all nodes of a trie: what is cached is filled in, the rest computed, and then cached."""

    def __init__(self, trie: Trie, head: Head, count: int, cache: SegmentScores) -> None:
        self._trie = trie
        self._head = head
        self._cache = cache
        self._count = count
        nodes = len(trie)
        self._values = TokenScores(np.full(nodes, np.nan), np.zeros((nodes, count), np.int64), np.zeros((nodes, count)))
        self._scored: Bools = np.zeros(nodes, np.bool_)
        self._ends: dict[int, torch.Tensor] = {}  # node at the end of a segment -> hidden state
        inner = np.flatnonzero(trie.depths)
        parents = trie.paths[trie.rows[inner], trie.depths[inner] - 1]
        order = np.argsort(parents, kind="stable")
        self._children, self._parents = inner[order], parents[order]

    @torch.inference_mode()
    def run(self, engine: AnyEngine) -> None:
        """Score all nodes."""
        segments = dict(self._segments())
        cached = {node: entry for node, key in segments.items() if (entry := self._cache.get(key, self._count))}
        for end, (scores, hidden) in cached.items():
            self._fill(end, scores)
            self._ends[end] = hidden
        # The first tokens after a cached segment are not in it.
        for node, hidden in self._ends.items():
            self._score(np.array([node]), hidden[None])
        for nodes, hidden in collected(engine.read(self._trie, np.flatnonzero(~self._scored)), _ROWS):
            for start in range(0, len(nodes), _ROWS):
                self._score(nodes[start : start + _ROWS], hidden[start : start + _ROWS])
            self._ends |= {int(nodes[i]): hidden[i].clone() for i in np.flatnonzero(np.isin(nodes, [*segments]))}
        for end in segments.keys() - cached.keys():
            self._cache.put(segments[end], self._values.at(self._segment(end)), self._ends[end])

    def scores(self, sequence: int) -> TokenScores:
        """Return the scores of a sequence."""
        return self._values.at(self._trie.nodes(sequence))

    def _segments(self) -> Iterator[tuple[int, bytes]]:
        """Yield the last node of every segment, and all tokens up to there."""
        for node in np.flatnonzero(self._trie.depths % _SEGMENT == _SEGMENT - 1).tolist():
            yield node, self._trie.tokens[[*self._trie.ancestors(node), node]].tobytes()

    def _segment(self, end: int) -> Ints:
        """Return the nodes of the segment that ends with a node."""
        return np.append(self._trie.ancestors(end)[1 - _SEGMENT :], end)

    def _fill(self, end: int, scores: TokenScores) -> None:
        own = self._segment(end)
        self._values.logprobs[own] = scores.logprobs
        self._values.tokens[own] = scores.tokens[:, : self._count]
        self._values.likeliest[own] = scores.likeliest[:, : self._count]
        self._scored[own] = True

    def _score(self, nodes: Ints, hidden: torch.Tensor) -> None:
        """Score what follows some nodes, ascending; hidden [nodes, hidden]."""
        found = likeliest_tokens(self._head.logits(hidden), self._count)
        self._values.tokens[nodes] = found.tokens.cpu().numpy()
        self._values.likeliest[nodes] = found.logprobs.cpu().numpy()
        pairs = np.flatnonzero(np.isin(self._parents, nodes))
        children = self._children[pairs]
        rows, tokens = np.searchsorted(nodes, self._parents[pairs]), self._trie.tokens[children]
        device = hidden.device
        self._values.logprobs[children] = (
            found.logprobs_of(torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)).cpu().numpy()
        )
