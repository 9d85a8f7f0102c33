"""Runs a local model's network: log-probabilities of tokens, and replies.

Combines the parts: sequences become a token trie (`trie`), an engine runs it (`engine`, or `padded` as a fallback), and the
head computes log-probabilities (`head`) or replies are generated token by token (`decoding`). Knows nothing of text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from promptopt.errors import InputError
from promptopt.models.local.decoding import decode
from promptopt.models.local.engine import Engine
from promptopt.models.local.head import DecodingHead
from promptopt.models.local.kernels import HalfLinear, decoding_linear
from promptopt.models.local.trie import merge, unread_prefixes
from promptopt.replies import Arrival

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.models.base import Request
    from promptopt.models.local.decoding import Head as AnyHead
    from promptopt.models.local.encoding import Ids, Query
    from promptopt.models.local.engine import Network
    from promptopt.models.local.head import Head
    from promptopt.models.local.loading import Files
    from promptopt.models.local.trial import AnyEngine
    from promptopt.models.local.trie import Ints, Segments
    from promptopt.statistics.arrays import Floats

_MAX_TABLE = 2**22  # sequences x longest of one trie: its tables take about 200 MB
_HEAD_ROWS = 512  # hidden states per product with the output matrix
_MAX_ROWS = 32  # replies generated at once
_MAX_STATE_TOKENS = 16_384  # tokens in a batch: about 400 MB of states for a model with 135 million weights in bfloat16


def load(files: Files, dtype: torch.dtype, device: torch.device, segments: Segments = unread_prefixes) -> Runner:
    """Load a network: by ourselves on a CPU where that gives the same results, else by transformers.

    Args:
        files: of the model.
        dtype: of its weights.
        device: where it runs.
        segments: chooses what the engine caches.
    """
    parts = files.native(dtype) if device.type == "cpu" else None
    if parts is not None:
        return _native_runner(files, *parts, segments)
    from promptopt.models.local.head import Head  # noqa: PLC0415
    from promptopt.models.local.trial import engine_for  # noqa: PLC0415  transformers, which takes seconds

    loaded = files.network(dtype, device)
    head, eos = Head.of(loaded), loaded.generation_config.eos_token_id
    ends = frozenset(eos if isinstance(eos, list) else [eos])
    return Runner(
        engine_for(loaded, head, files.name, segments), head, _ends(ends, files.tokenizer), files.tokenizer, device
    )


def load_halved(files: Files, segments: Segments = unread_prefixes) -> Runner:
    """Load a network for the CPU whose matrix products have weights in float16 and arithmetic in float32.

    Raises:
        InputError: the network needs transformers, or this processor has no such product.
    """
    parts = files.native(torch.float32, HalfLinear)
    if parts is None:
        raise InputError(
            f"{files.name} cannot run in w16a32, which takes models of the Llama, Qwen 2 and Gemma 3 families: use float32"
        )
    network, head, ends = parts
    return _native_runner(files, network, replace(head, weight=head.weight.half()), ends, segments)


def _native_runner(files: Files, network: Network, head: Head, ends: frozenset[int], segments: Segments) -> Runner:
    return Runner(Engine(network, segments), head, _ends(ends, files.tokenizer), files.tokenizer, torch.device("cpu"))


@dataclass(frozen=True)
class Runner:
    """A network that is loaded.

    Args:
        engine: runs it.
        head: its output layer.
        ends: tokens that end a reply.
        tokenizer: decodes replies.
        device: of the network.
    """

    engine: AnyEngine
    head: Head
    ends: frozenset[int]
    tokenizer: Any
    device: torch.device

    @cached_property
    def decoding_head(self) -> AnyHead:
        """The head for decoding steps: with packed weights if that is faster here."""
        linear = decoding_linear(self.head.weight)
        return self.head if linear is None else DecodingHead(self.head, linear)

    def generate(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Ids],
        order: Sequence[int],
        total_tokens: Sequence[int],
    ) -> Iterator[Arrival]:
        """Yield replies to some requests, in batches whose states fit into memory.

        Args:
            requests: all of them.
            prompts: their tokens.
            order: the indices of those to run; neighbours share prefixes.
            total_tokens: the most tokens that each can have, reply included.
        """
        for batch in _batches(order, total_tokens):
            replies = decode(
                [requests[i] for i in batch],
                [prompts[i] for i in batch],
                batch=self.engine.decoding_batch(),
                head=self.decoding_head,
                ends=self.ends,
                tokenizer=self.tokenizer,
            )
            yield from (Arrival(batch[number], reply) for number, reply in replies)

    def logprobs(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        """Yield each query with its tokens' log-probabilities, as passes finish."""
        yield from ((query, np.zeros(0)) for query in queries if not query.wanted)  # empty texts
        for chunk in _chunks([query for query in queries if query.wanted]):
            yield from self._score(chunk)

    def _score(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        trie = merge([query.sequence for query in queries])
        counts = np.array([len(query.wanted) for query in queries])
        query_of = np.repeat(np.arange(len(queries)), counts)  # [tokens], the query of each wanted token
        ends = np.cumsum(counts)
        # A token is scored at the preceding node.
        nodes = np.concatenate(
            [trie.nodes(i)[len(query.sequence) - len(query.wanted) :] for i, query in enumerate(queries)]
        )
        tokens = np.concatenate([query.wanted for query in queries])
        order = np.argsort(nodes, kind="stable")
        values, remaining, done = np.empty(len(nodes)), counts.copy(), 0
        for ready_nodes, hidden in collected(self.engine.read(trie, np.unique(nodes)), _HEAD_ROWS):
            stop = int(np.searchsorted(nodes[order], ready_nodes[-1], side="right"))
            indices, done = order[done:stop], stop
            rows = torch.from_numpy(np.searchsorted(ready_nodes, nodes[indices])).to(self.device)
            wanted = torch.from_numpy(tokens[indices]).to(self.device)
            values[indices] = self.head.logprobs(hidden, rows, wanted).cpu().numpy()
            np.subtract.at(remaining, query_of[indices], 1)
            for i in np.unique(query_of[indices]):
                if not remaining[i]:
                    yield queries[i], values[ends[i] - counts[i] : ends[i]]


def _ends(ends: frozenset[int | None], tokenizer: Any) -> frozenset[int]:
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _chunks(queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
    """Split queries into consecutive chunks with small tables, so that neighbours with shared prefixes stay together."""
    start, longest = 0, 0
    for stop, query in enumerate(queries):
        longest = max(longest, len(query.sequence))
        if (stop + 1 - start) * longest > _MAX_TABLE and stop > start:
            yield queries[start:stop]
            start, longest = stop, len(query.sequence)
    if queries:
        yield queries[start:]


def collected(passes: Iterator[tuple[Ints, torch.Tensor]], enough: int) -> Iterator[tuple[Ints, torch.Tensor]]:
    """Join the results of passes until there are `enough` rows for one product with the output matrix."""
    nodes: list[Ints] = []
    hidden: list[torch.Tensor] = []
    for pass_nodes, states in passes:
        nodes.append(pass_nodes)
        hidden.append(states)
        if sum(map(len, nodes)) >= enough:
            yield np.concatenate(nodes), torch.cat(hidden)
            nodes, hidden = [], []
    if nodes:
        yield np.concatenate(nodes), torch.cat(hidden)


def _batches(order: Sequence[int], total_tokens: Sequence[int]) -> Iterator[list[int]]:
    """Split requests into batches whose states fit into memory."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == _MAX_ROWS or sum(total_tokens[j] for j in [*batch, i]) > _MAX_STATE_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
