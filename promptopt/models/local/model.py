"""Local language models: label log-probabilities and text generation.

Texts become tokens here (`encoding`); a `Runner`, which is loaded at the first call, computes. Knows nothing of tasks or
rewards.
"""

from __future__ import annotations

import hashlib
import logging
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from promptopt.errors import InputError
from promptopt.models.base import Price
from promptopt.models.local.encoding import Encoder, PairEncoder, conversation, pieces
from promptopt.models.local.failures import NAN_FAILURE, too_long
from promptopt.models.local.loading import W16A32, Files, choose_device, choose_dtype
from promptopt.models.local.tool_calls import with_tool_calls
from promptopt.models.local.trie import unread_prefixes
from promptopt.replies import Arrival, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from promptopt.models.base import Request
    from promptopt.models.local.runner import Runner
    from promptopt.models.local.trie import Segments
    from promptopt.prompt import Context
    from promptopt.replies import Failure
    from promptopt.statistics.arrays import Floats

_log = logging.getLogger(__name__)


class LocalModel:
    """A language model on this machine, decoder-only or (in padded batches, which are slower) encoder-decoder.

    Weights are loaded at the first call, so a run answered from the memo never loads them.

    Args:
        name: a known model (`smollm2`, once fetched), a GGUF file, a folder, or a hub name.
        dtype: "auto" is bfloat16 on a GPU and on CPUs with native bfloat16, else float32. "w16a32" is weights in float16 and
            arithmetic in float32: faster generation on a CPU, of GGUF files.
        device: "auto" uses a GPU if there is one.

    Raises:
        InputError: the model cannot be found, or the dtype is unknown.
    """

    unit: Literal["batch"] = "batch"
    price = Price(0.0, 0.0)
    _segments: Segments = staticmethod(unread_prefixes)  # the runs of tokens whose states are cached

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        self.name = name
        self._device_name = choose_device(device)
        self._dtype_name = choose_dtype(dtype, self._device_name)
        self._files = Files(name)

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, dtype={self._dtype_name!r}, device={self._device_name!r})"

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        import torch  # noqa: PLC0415  takes seconds

        return torch.device(self._device_name)

    @property
    def dtype(self) -> torch.dtype:
        """The type of hidden states, and of the weights except in w16a32."""
        import torch  # noqa: PLC0415  takes seconds

        return torch.float32 if self._dtype_name == W16A32 else getattr(torch, self._dtype_name)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Digest of the files (commit of a hub model), dtype, and digest of the chat template."""
        return self._fingerprint

    @property
    def computed_tokens(self) -> int:
        """Number of tokens computed by the network; a shared prefix counts once."""
        return self._runner.engine.computed

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
        too_long = {query.context for query in queries if len(query.sequence) > self._files.longest}
        yield from (Arrival(index, self._too_long(lengths[index])) for index in sorted(too_long))
        label_sums: dict[int, dict[int, float]] = {}
        for query, logprobs in self._runner.logprobs([query for query in queries if query.context not in too_long]):
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
            if len(query.sequence) > self._files.longest:
                raise InputError(f"text {query.context}: {self._too_long(len(query.sequence) + 1).reason}")
        by_text = {query.context: logprobs for query, logprobs in self._runner.logprobs(queries)}
        return [by_text[i] for i in range(len(texts))]

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield a reply to each request; requests with a shared prefix are batched and compute it once.

        Each (request, replicate) has its own random numbers, so a sample does not depend on the rest of the batch beyond
        rounding.
        """
        requests = list(requests)
        prompts = self._encoder.prompts([conversation(request) for request in requests])
        total_tokens = [len(prompt) + request.max_tokens for prompt, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(requests)), key=lambda i: (prompts[i], i))
        yield from (Arrival(i, self._too_long(total_tokens[i])) for i in order if total_tokens[i] > self._files.longest)
        fitting = [i for i in order if total_tokens[i] <= self._files.longest]
        for number, reply in self._runner.generate(requests, prompts, fitting, total_tokens):
            tools = requests[number].tools
            parsed = with_tool_calls(reply, tools) if tools and isinstance(reply, Response) else reply
            yield Arrival(number, parsed)

    def _too_long(self, tokens: int) -> Failure:
        return too_long(tokens, self._files.longest, self.name)

    @cached_property
    def _encoder(self) -> Encoder | PairEncoder:
        if self._files.is_encoder_decoder:
            return PairEncoder(self.name, self._files.tokenizer)
        return Encoder(self.name, self._files.tokenizer, self._files.has_seams)

    @cached_property
    def _runner(self) -> Runner:
        """Runs the network, which is loaded now."""
        _log.info("loading %s (%s, %s)", self.name, self._dtype_name, self._device_name)
        from promptopt.models.local import runner  # noqa: PLC0415  torch, which takes seconds

        if self._dtype_name == W16A32:
            return runner.load_halved(self._files, self._segments)
        return runner.load(self._files, self.dtype, self.device, self._segments)

    @cached_property
    def _fingerprint(self) -> Mapping[str, Any]:
        template = self._files.tokenizer.chat_template or ""
        return {
            "provider": "local",
            "model": Path(self.name).name if Path(self.name).exists() else self.name,
            "digest": self._files.digest(),
            "dtype": self._dtype_name,
            "template": hashlib.sha256(str(template).encode()).hexdigest()[:16],
        }
