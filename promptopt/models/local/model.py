"""Local language models through transformers: label log-probabilities and text generation.

Combines the parts: texts become a token trie (`encoding`, `trie`), an engine runs it (`engine`, or `padded` as a fallback),
and the head computes log-probabilities (`head`) or replies are generated token by token (`decoding`). Knows nothing of tasks
or rewards.
"""

from __future__ import annotations

import hashlib
import math
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from promptopt.errors import InputError
from promptopt.models.base import Price
from promptopt.models.local.decoding import NAN_FAILURE, decode
from promptopt.models.local.encoding import Encoder, PairEncoder, pieces
from promptopt.models.local.head import Head
from promptopt.models.local.loading import Files, choose_device, choose_dtype
from promptopt.models.local.trial import engine_for
from promptopt.models.local.trie import merge
from promptopt.replies import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.models.local.encoding import Query
    from promptopt.models.local.trial import AnyEngine
    from promptopt.models.local.trie import Ints
    from promptopt.prompt import Context
    from promptopt.statistics.arrays import Floats

_MAX_TABLE = 2**22  # sequences x longest of one trie: its tables take about 200 MB
_HEAD_ROWS = 512  # hidden states per product with the output matrix
_MAX_ROWS = 32  # replies generated at once
_MAX_STATE_TOKENS = 16_384  # tokens in a batch: about 400 MB of states for a model with 135 million weights in bfloat16


class LocalModel:
    """A language model on this machine, decoder-only or (in padded batches, which are slower) encoder-decoder.

    Weights are loaded at the first call, so a run answered from the memo never loads them.

    Args:
        name: a known model (`smollm2`, once fetched), a GGUF file, a folder, or a hub name.
        dtype: "auto" is bfloat16 on a GPU and on CPUs with native bfloat16, else float32.
        device: "auto" uses a GPU if there is one.

    Raises:
        InputError: the model cannot be found, or the dtype is unknown.
    """

    unit: Literal["batch"] = "batch"
    price = Price(0.0, 0.0)

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = name
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self._files = Files(name)

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, dtype={self.dtype}, device={self.device})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Digest of the files (commit of a hub model), dtype, and digest of the chat template."""
        return self._fingerprint

    @property
    def computed_tokens(self) -> int:
        """Number of tokens computed by the network; a shared prefix counts once."""
        return self._parts[0].computed

    def pieces(self, text: str) -> list[str]:
        """Split `text` into the substrings of its tokens; tokens that share a character stay together."""
        return pieces(self._files.tokenizer, text)

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | context), normalized over the whole vocabulary.

        Context and label are tokenized together; the label's tokens are those that extend past the context's end. A label
        follows plain text after a space; after a chat it begins the reply.

        In an encoder-decoder model the encoder reads the context; the label is tokenized separately and scored after the
        decoder's start token. Neither kind scores an end-of-reply token.
        """
        contexts = list(contexts)
        queries = self._encoder.queries(contexts, [labels] * len(contexts))
        lengths = {query.context: len(query.sequence) + 1 for query in queries}
        too_long = {query.context for query in queries if len(query.sequence) > self._longest}
        yield from (Arrival(index, self._too_long(lengths[index])) for index in sorted(too_long))
        label_sums: dict[int, dict[int, float]] = {}
        for query, logprobs in self._logprobs([query for query in queries if query.context not in too_long]):
            values = label_sums.setdefault(query.context, {})
            values[query.ending] = float(logprobs.sum())
            if len(values) == len(labels):
                row = tuple(values[i] for i in range(len(labels)))
                if not all(map(math.isfinite, row)):
                    yield Arrival(query.context, NAN_FAILURE)
                    continue
                likeliest = labels[max(range(len(labels)), key=row.__getitem__)]
                yield Arrival(query.context, Response(likeliest, row, Usage(input=lengths[query.context])))

    def token_logprobs(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[Floats]:
        """Return natural log p(token | preceding tokens) for each text's tokens, [texts][tokens].

        Useful for rewards such as perplexity, which is exp of the negative mean.

        Args:
            texts: answers or whole prompts to score.
            contexts: [texts], the context that each text follows; by default none, so that a text's first token follows the
                token that begins texts.

        Raises:
            InputError: a text is longer than the model's maximum length, or contexts are missing for an encoder-decoder
                model.
        """
        if contexts is None and self._files.is_encoder_decoder:
            raise InputError(
                f"{self.name} is an encoder-decoder model, which scores texts only after a context: pass contexts"
            )
        given_contexts: Sequence[Context] = [""] * len(texts) if contexts is None else contexts
        queries = self._encoder.queries(given_contexts, [[text] for text in texts])
        for query in queries:
            if len(query.sequence) > self._longest:
                raise InputError(f"text {query.context}: {self._too_long(len(query.sequence) + 1).reason}")
        by_text = {query.context: logprobs for query, logprobs in self._logprobs(queries)}
        return [by_text[i] for i in range(len(texts))]

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield a reply to each request; requests with a shared prefix are batched and compute it once.

        Each (request, replicate) has its own random numbers, so a sample does not depend on the rest of the batch beyond
        rounding.
        """
        requests = list(requests)
        prompts = self._encoder.prompts([request.context for request in requests])
        total_tokens = [len(prompt) + request.max_tokens for prompt, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(requests)), key=lambda i: (prompts[i], i))
        yield from (Arrival(i, self._too_long(total_tokens[i])) for i in order if total_tokens[i] > self._longest)
        engine, head = self._parts
        for batch in _batches([i for i in order if total_tokens[i] <= self._longest], total_tokens):
            replies = decode(
                [requests[i] for i in batch],
                [prompts[i] for i in batch],
                batch=engine.decoding_batch(),
                head=head,
                ends=self._ends,
                tokenizer=self._files.tokenizer,
            )
            yield from (Arrival(batch[number], reply) for number, reply in replies)

    def _logprobs(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        """Yield each query with its tokens' log-probabilities, as passes finish."""
        yield from ((query, np.zeros(0)) for query in queries if not query.wanted)  # empty texts
        for chunk in _chunks([query for query in queries if query.wanted]):
            yield from self._score(chunk)

    def _score(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        engine, head = self._parts
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
        for ready_nodes, hidden in _collected(engine.read(trie, np.unique(nodes)), _HEAD_ROWS):
            stop = int(np.searchsorted(nodes[order], ready_nodes[-1], side="right"))
            indices, done = order[done:stop], stop
            rows = torch.from_numpy(np.searchsorted(ready_nodes, nodes[indices])).to(self.device)
            wanted = torch.from_numpy(tokens[indices]).to(self.device)
            values[indices] = head.logprobs(hidden, rows, wanted).cpu().numpy()
            np.subtract.at(remaining, query_of[indices], 1)
            for i in np.unique(query_of[indices]):
                if not remaining[i]:
                    yield queries[i], values[ends[i] - counts[i] : ends[i]]

    def _too_long(self, tokens: int) -> Failure:
        return Failure(
            f"{tokens} tokens are more than the {self._longest} that {self.name} supports: shorten the prompt or the example"
        )

    @cached_property
    def _encoder(self) -> Encoder | PairEncoder:
        return (PairEncoder if self._files.is_encoder_decoder else Encoder)(self.name, self._files.tokenizer)

    @cached_property
    def _parts(self) -> tuple[AnyEngine, Head]:
        """The engine and the output head; loads the network."""
        network = self._files.network(self.dtype, self.device)
        head = Head.of(network)
        self._generation = network.generation_config
        return engine_for(network, head, self.name), head

    @property
    def _longest(self) -> int:
        """Maximum sequence length of the model; recurrent ones have no limit."""
        return int(getattr(self._files.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def _ends(self) -> frozenset[int]:
        """Tokens that end a reply."""
        eos = self._generation.eos_token_id
        ends = eos if isinstance(eos, list) else [eos]
        return frozenset(end for end in (*ends, self._files.tokenizer.eos_token_id) if end is not None)

    @cached_property
    def _fingerprint(self) -> Mapping[str, Any]:
        template = self._files.tokenizer.chat_template or ""
        return {
            "provider": "local",
            "model": Path(self.name).name if Path(self.name).exists() else self.name,
            "digest": self._files.digest(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "template": hashlib.sha256(str(template).encode()).hexdigest()[:16],
        }


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


def _collected(passes: Iterator[tuple[Ints, torch.Tensor]], enough: int) -> Iterator[tuple[Ints, torch.Tensor]]:
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
