"""Local language models through transformers: log-probabilities of given answers, and text.

Puts the parts together: texts become a token trie (`encoding`, `trie`), an engine runs it (`engine`, or `padded` where a
network cannot), the head reads log-probabilities off (`head`), or a reply is written token by token (`decoding`). Knows
nothing of tasks or rewards.
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
from promptopt.models.local.decoding import NO_NUMBERS, decode
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

_CELLS = 2**22  # sequences x longest of one trie: its tables take some 200 MB
_READ = 512  # hidden states for which log-probabilities are computed at once
_ROWS = 32  # replies written at once
_STATE_TOKENS = 16_384  # whose states they may hold: some 400 MB for a model of 135 million weights in bfloat16


class LocalModel:
    """A language model on this machine, decoder-only or (by padded batches, which are slower) encoder-decoder.

    Weights are loaded when the first reply is computed, so that a run answered from the memo never loads them.

    Args:
        name: a known model (`smollm2`, once fetched), a GGUF file, a folder, or a hub name.
        dtype: "auto" is bfloat16 on a GPU and on processors with native bfloat16, else float32.
        device: "auto" takes a GPU where there is one.

    Raises:
        InputError: the model is not there, or an unknown dtype.
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
        """Tokens that went through the network so far; a token that several sequences start with counts once."""
        return self._parts[0].computed

    def pieces(self, text: str) -> list[str]:
        """Cut `text` into the strings that its tokens cover; tokens that share a character stay together."""
        return pieces(self._files.tokenizer, text)

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | context), normalised over the whole vocabulary.

        Context and label are tokenised together; the label's tokens are those that reach past the context's end. After
        a text to be continued the label follows a space, after a chat it begins the reply.

        An encoder-decoder's encoder reads the context. What is scored are the label's own tokens after the token that
        the decoder starts from, the label tokenised alone. Neither kind scores a token that ends the reply.
        """
        texts = list(contexts)
        queries = self._encoder.queries(texts, [labels] * len(texts))
        lengths = {query.context: len(query.sequence) + 1 for query in queries}
        long = {query.context for query in queries if len(query.sequence) > self._longest}
        yield from (Arrival(index, self._too_long(lengths[index])) for index in sorted(long))
        found: dict[int, dict[int, float]] = {}
        for query, logprobs in self._logprobs([query for query in queries if query.context not in long]):
            values = found.setdefault(query.context, {})
            values[query.ending] = float(logprobs.sum())
            if len(values) == len(labels):
                row = tuple(values[i] for i in range(len(labels)))
                if not all(map(math.isfinite, row)):
                    yield Arrival(query.context, NO_NUMBERS)
                    continue
                likeliest = labels[max(range(len(labels)), key=row.__getitem__)]
                yield Arrival(query.context, Response(likeliest, row, Usage(input=lengths[query.context])))

    def token_logprobs(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[Floats]:
        """Return natural log p(token | all before it) of each text's tokens, [texts][tokens].

        For rewards of the kind of a perplexity: exp of the negative mean.

        Args:
            texts: given answers, or whole prompts.
            contexts: [texts], what each follows; by default nothing, so that a text's first token follows the token that
                texts start with.

        Raises:
            InputError: a text that is longer than the model can read, or no contexts for an encoder-decoder, of which
                the decoder scores a text as `label_logprobs` has it.
        """
        if contexts is None and self._files.paired:
            raise InputError(
                f"{self.name} is an encoder-decoder model, which scores a text only after what its encoder reads: give contexts"
            )
        before: Sequence[Context] = [""] * len(texts) if contexts is None else contexts
        queries = self._encoder.queries(before, [[text] for text in texts])
        for query in queries:
            if len(query.sequence) > self._longest:
                raise InputError(f"text {query.context}: {self._too_long(len(query.sequence) + 1).reason}")
        found = {query.context: logprobs for query, logprobs in self._logprobs(queries)}
        return [found[i] for i in range(len(texts))]

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield a reply to each request; requests with a common start are written together and read it once.

        Every (request, replicate) has random numbers of its own, so that a sample does not depend on its neighbours
        beyond rounding.
        """
        requests = list(requests)
        prompts = self._encoder.prompts([request.context for request in requests])
        needed = [len(prompt) + request.max_tokens for prompt, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(requests)), key=lambda i: (prompts[i], i))
        yield from (Arrival(i, self._too_long(needed[i])) for i in order if needed[i] > self._longest)
        engine, head = self._parts
        for batch in _batches([i for i in order if needed[i] <= self._longest], needed):
            replies = decode(
                [requests[i] for i in batch],
                [prompts[i] for i in batch],
                continued=engine.continued(),
                head=head,
                ends=self._ends,
                tokenizer=self._files.tokenizer,
            )
            yield from (Arrival(batch[number], reply) for number, reply in replies)

    def _logprobs(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        """Yield each query with its tokens' log-probabilities, as passes finish them."""
        yield from ((query, np.zeros(0)) for query in queries if not query.wanted)  # an empty text
        for part in _slices([query for query in queries if query.wanted]):
            yield from self._read(part)

    def _read(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Floats]]:
        engine, head = self._parts
        trie = merge([query.sequence for query in queries])
        counts = np.array([len(query.wanted) for query in queries])
        number = np.repeat(np.arange(len(queries)), counts)  # [asked], the query
        ends = np.cumsum(counts)
        # A token is read at the node before its own.
        nodes = np.concatenate(
            [trie.nodes(i)[len(query.sequence) - len(query.wanted) :] for i, query in enumerate(queries)]
        )
        tokens = np.concatenate([query.wanted for query in queries])
        order = np.argsort(nodes, kind="stable")
        values, left, done = np.empty(len(nodes)), counts.copy(), 0
        for found, hidden in _gathered(engine.read(trie, np.unique(nodes)), _READ):
            stop = int(np.searchsorted(nodes[order], found[-1], side="right"))
            asked, done = order[done:stop], stop
            rows = torch.from_numpy(np.searchsorted(found, nodes[asked])).to(self.device)
            wanted = torch.from_numpy(tokens[asked]).to(self.device)
            values[asked] = head.logprobs(hidden, rows, wanted).cpu().numpy()
            np.subtract.at(left, number[asked], 1)
            for i in np.unique(number[asked]):
                if not left[i]:
                    yield queries[i], values[ends[i] - counts[i] : ends[i]]

    def _too_long(self, tokens: int) -> Failure:
        return Failure(
            f"{tokens} tokens are more than the {self._longest} that {self.name} can read: shorten the prompt or the item"
        )

    @cached_property
    def _encoder(self) -> Encoder | PairEncoder:
        return (PairEncoder if self._files.paired else Encoder)(self.name, self._files.tokenizer)

    @cached_property
    def _parts(self) -> tuple[AnyEngine, Head]:
        """The network in the two parts that it is used in; loaded here."""
        network = self._files.network(self.dtype, self.device)
        head = Head.of(network)
        self._generation = network.generation_config
        return engine_for(network, head, self.name), head

    @property
    def _longest(self) -> int:
        """Tokens that the model can read; a recurrent one has no limit."""
        return int(getattr(self._files.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def _ends(self) -> frozenset[int]:
        """Tokens that end a reply."""
        given = self._generation.eos_token_id
        ends = given if isinstance(given, list) else [given]
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


def _slices(queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
    """Cut queries into runs whose tables stay small; neighbours, which share the most, stay together."""
    start, longest = 0, 0
    for stop, query in enumerate(queries):
        longest = max(longest, len(query.sequence))
        if (stop + 1 - start) * longest > _CELLS and stop > start:
            yield queries[start:stop]
            start, longest = stop, len(query.sequence)
    if queries:
        yield queries[start:]


def _gathered(passes: Iterator[tuple[Ints, torch.Tensor]], enough: int) -> Iterator[tuple[Ints, torch.Tensor]]:
    """Join what passes yield until there is enough for one product with the output matrix."""
    nodes: list[Ints] = []
    hidden: list[torch.Tensor] = []
    for some, states in passes:
        nodes.append(some)
        hidden.append(states)
        if sum(map(len, nodes)) >= enough:
            yield np.concatenate(nodes), torch.cat(hidden)
            nodes, hidden = [], []
    if nodes:
        yield np.concatenate(nodes), torch.cat(hidden)


def _batches(order: Sequence[int], needed: Sequence[int]) -> Iterator[list[int]]:
    """Cut requests into batches whose states fit."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == _ROWS or sum(needed[j] for j in [*batch, i]) > _STATE_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
