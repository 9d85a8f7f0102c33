"""The ways to score labels that are compared.

    ours  the local engine
    (a)   naive: one padded batch per prompt, logits of all positions
    (b)   lm-evaluation-harness, given the network of (a) and one request per context and label
    (c)   the best of plain transformers: batches in order of length, logits of the last position
    (d)   llama.cpp on the model's own GGUF file: in sorted order, going on from the prefix shared with the last sequence

Knows nothing of turns and tables.
"""

from __future__ import annotations

import importlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from promptopt import Response

from .work import Ids, common, like_lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from promptopt.models.local import LocalModel

    from .work import Work

BATCH_TOKENS = {"cpu": (1024, 4096), "cuda": (8192, 32_768)}  # of a batch of (c), padding included; the faster counts
HARNESS_LOGITS = {"cpu": 2**29, "cuda": 2**31}  # of a batch of (b), which holds two copies of them: 4 GiB in float32


class Scored(NamedTuple):
    """What a way gives.

    Args:
        logprobs: log p(label | context), float32 [sequences, labels].
        tokens: sent through the network, padding included; None where they cannot be counted from outside.
    """

    logprobs: torch.Tensor
    tokens: int | None


class Timed(NamedTuple):
    """What a way gives, and how long it took."""

    scored: Scored
    seconds: float

    @property
    def per_sequence(self) -> float:
        """Seconds."""
        return self.seconds / len(self.scored.logprobs)


class Way(NamedTuple):
    """One way to score, and how many prompts of a turn it gets: slow ones get few."""

    name: str
    prompts: int
    score: Callable[[Work], Scored]

    def timed(self, work: Work) -> Timed:
        """Score its part of a turn."""
        part = work.first(self.prompts)
        start = time.perf_counter()
        scored = self.score(part)
        return Timed(scored, time.perf_counter() - start)


def our_name(dtype: torch.dtype) -> str:
    """Return what the engine is called in tables."""
    return f"ours, {short(dtype)}"


def naive_name(dtype: torch.dtype) -> str:
    """Return what (a) is called in tables."""
    return f"(a) naive, {short(dtype)}"


def short(dtype: torch.dtype) -> str:
    """Return the plain name of a dtype."""
    return str(dtype).removeprefix("torch.")


# Setting up


def by_length_way(network: Any, prompts: int, warm: Work) -> Way:
    """Return (c) with the batch size that is the faster one here."""
    tried = [
        Way(
            f"(c) by length, {short(network.dtype)}, {most:,} tokens a batch",
            prompts,
            partial(by_length, network, most),
        )
        for most in BATCH_TOKENS[network.device.type]
    ]
    tried[0].score(warm.first(1))
    return min(tried, key=lambda way: way.timed(warm).seconds)


def harness_way(network: Any, tokenizer: Any, prompts: int, rows: int, longest: int) -> Way | str:
    """Return (b) in batches of up to `rows` sequences of up to `longest` tokens, or why it is left out."""
    try:
        huggingface = importlib.import_module("lm_eval.models.huggingface")
    except ImportError:
        return "(b) left out: lm_eval is not installed"
    most = HARNESS_LOGITS[network.device.type] // (longest * network.config.vocab_size)
    batch = max(1, min(rows, most))
    model = huggingface.HFLM(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=batch)
    return Way(f"(b) lm_eval, {short(network.dtype)}, batches of {batch}", prompts, partial(harness, model))


def llama_cpp_way(path: Path, device: torch.device, prompts: int, longest: int) -> Way | str:
    """Return (d) for sequences of up to `longest` tokens, or why it is left out."""
    if device.type != "cpu":
        return "(d) left out: it is measured on the processor only"
    if path.suffix != ".gguf":
        return f"(d) left out: {path.name} is no GGUF file"
    try:
        library = importlib.import_module("llama_cpp")
    except ImportError:
        return "(d) left out: llama-cpp-python is not installed"
    threads = torch.get_num_threads()
    model = library.Llama(str(path), n_ctx=longest + 1, n_threads=threads, n_threads_batch=threads, verbose=False)
    logits_of = library.llama_get_logits_ith
    return Way(f"(d) llama.cpp, {path.stem}", prompts, partial(llama_cpp, model, logits_of))


# Scoring


def ours(model: LocalModel, work: Work) -> Scored:
    """Score by the engine."""
    before = model.computed_tokens
    rows: dict[int, tuple[float, ...]] = {}
    for number, reply in model.label_logprobs(work.texts, work.labels):
        if not isinstance(reply, Response) or reply.label_logprobs is None:
            raise SystemExit(f"the engine did not score {work.texts[number]!r}: {reply}")
        rows[number] = reply.label_logprobs
    return Scored(torch.tensor([rows[number] for number in range(len(rows))]), model.computed_tokens - before)


@torch.inference_mode()
def naive(network: Any, work: Work) -> Scored:
    """(a) One left-padded batch per prompt, logits of all positions."""
    rows, tokens = [], 0
    for sequences in work.ids:
        inputs = left_padded(sequences, network.device)
        logits = network(**inputs, use_cache=False).logits  # [rows, tokens, vocabulary]
        rows.append(logits[:, -1].float().log_softmax(-1)[:, work.label_ids].cpu())
        tokens += inputs["input_ids"].numel()
    return Scored(torch.cat(rows), tokens)


def harness(model: Any, work: Work) -> Scored:
    """(b) One request per context and label."""
    instance = importlib.import_module("lm_eval.api.instance").Instance
    pairs = [(text, f" {label}") for text in work.texts for label in work.labels]
    requests = [instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    values = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
    return Scored(torch.tensor(values).view(-1, len(work.labels)), None)


@torch.inference_mode()
def by_length(network: Any, most: int, work: Work) -> Scored:
    """(c) Batches in order of length, logits of the last position only."""
    sequences = work.sequences
    logprobs = torch.empty(len(sequences), len(work.labels))
    tokens = 0
    for batch in like_lengths(sequences, most):
        inputs = left_padded([sequences[i] for i in batch], network.device)
        logits = network(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]  # [rows, vocabulary]
        logprobs[batch] = logits.float().log_softmax(-1)[:, work.label_ids].cpu()
        tokens += inputs["input_ids"].numel()
    return Scored(logprobs, tokens)


def llama_cpp(model: Any, logits_of: Callable[[Any, int], Any], work: Work) -> Scored:
    """(d) One sequence after the other in sorted order; only what the last one does not share is computed."""
    sequences = work.sequences
    logprobs = torch.empty(len(sequences), len(work.labels))
    tokens, last = 0, Ids()
    for i in sorted(range(len(sequences)), key=sequences.__getitem__):
        ids = sequences[i]
        kept = min(common(last, ids), len(ids) - 1)  # logits come with a token that is computed
        model.n_tokens = kept
        model.eval(ids[kept:])
        logits = np.ctypeslib.as_array(logits_of(model.ctx, -1), shape=(model.n_vocab(),))
        logprobs[i] = torch.from_numpy(logits).log_softmax(-1)[work.label_ids]
        tokens, last = tokens + len(ids) - kept, ids
    return Scored(logprobs, tokens)


def left_padded(rows: Sequence[Ids], device: torch.device) -> dict[str, torch.Tensor]:
    """Return a batch [rows, longest] with its mask and positions."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
