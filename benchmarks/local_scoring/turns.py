"""Turns of all ways over one cell, and the tables that come of them."""

from __future__ import annotations

import sys
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .ways import Way, by_length_way, harness_way, llama_cpp_way, naive, naive_name, our_name, ours
from .work import distinct, make_work

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from promptopt.models.local import LocalModel

    from .ways import Timed
    from .work import Cell, Ids, Work

REFERENCE = torch.float32
PRODUCT_ROWS = {"cpu": (512, 1024), "cuda": (2048, 8192)}  # at which the rate of matrix products is measured


class Models(NamedTuple):
    """What is loaded once for all cells.

    Args:
        path: a GGUF file or a folder.
        device: of all networks.
        tokenizer: the model's.
        plain: networks of plain transformers by dtype, the reference's among them.
        ours: engines by dtype.
    """

    path: Path
    device: torch.device
    tokenizer: Any
    plain: Mapping[torch.dtype, Any]
    ours: Mapping[torch.dtype, LocalModel]


class Flops(NamedTuple):
    """Floating-point operations that sequences take when every distinct token is computed once.

    Args:
        linear: all linear layers of the decoder.
        attention: scores and weighted values, in every layer over all tokens before.
        output: the whole vocabulary, once per sequence.
    """

    linear: int
    attention: int
    output: int


class Turn(NamedTuple):
    """One turn.

    Args:
        work: what was scored.
        timed: by name of the way.
        rates: FLOP/s of matrix products by dtype.
    """

    work: Work
    timed: Mapping[str, Timed]
    rates: Mapping[torch.dtype, float]


def measure(cell: Cell, models: Models, data: Path, *, repeats: int, baseline_prompts: int) -> None:
    """Run all ways in turns and print the tables of a cell."""
    cut = next(iter(models.ours.values())).pieces
    warm, *works = (make_work(cell, turn, data, models.tokenizer, cut) for turn in range(repeats + 1))
    longest = max(len(ids) for work in (warm, *works) for ids in work.sequences)
    chosen, left_out = choose(cell, models, baseline_prompts, warm.first(2), longest)
    turns = [run_turn(work, chosen, [models.plain[dtype] for dtype in models.ours]) for work in works]
    heading = f"{cell.data_set}, {cell.demonstrations} of each label: {cell.prompts} prompts x {cell.examples} examples"
    heading += ", demonstrations of their own" if cell.own_demonstrations else ""
    print(f"\n### {heading}, {len(warm.labels)} labels of one token\n")
    print_tokens(turns, models.ours)
    print_ways(turns, models.ours, cell)
    print_shares(turns, models)
    for reason in left_out:
        print(f"{reason}.\n", flush=True)


def choose(cell: Cell, models: Models, prompts: int, warm: Work, longest: int) -> tuple[list[Way], list[str]]:
    """Return the ways, warmed up, and why others are left out."""
    plain, on_gpu = models.plain, models.device.type == "cuda"
    as_in_a = plain[torch.bfloat16 if on_gpu and torch.bfloat16 in plain else REFERENCE]
    found: list[Way | str] = [
        *(Way(our_name(dtype), cell.prompts, partial(ours, model)) for dtype, model in models.ours.items()),
        *(Way(naive_name(dtype), prompts, partial(naive, network)) for dtype, network in plain.items()),
        harness_way(as_in_a, models.tokenizer, prompts, cell.examples, longest),
        *(by_length_way(plain[dtype], prompts, warm) for dtype in models.ours),
        llama_cpp_way(models.path, models.device, prompts, longest),
    ]
    chosen = [way for way in found if isinstance(way, Way)]
    for way in chosen:
        way.score(warm.first(1))
    return chosen, [way for way in found if isinstance(way, str)]


def run_turn(work: Work, chosen: Sequence[Way], networks: Sequence[Any]) -> Turn:
    """Run every way once, and beside them measure the rate of matrix products in the networks' dtypes."""
    timed = {}
    for way in chosen:
        timed[way.name] = way.timed(work)
        print(f"{way.name}: {timed[way.name].seconds:.1f} s", file=sys.stderr, flush=True)
    return Turn(work, timed, {network.dtype: product_rate(network) for network in networks})


# Rates


def linear_layers(network: Any) -> list[torch.nn.Linear]:
    """Return the decoder's linear layers: all but the output matrix."""
    output = network.get_output_embeddings()
    return [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear) and layer is not output]


def head_width(config: Any) -> int:
    """Return the width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def flops(network: Any, sequences: Sequence[Ids]) -> Flops:
    """Count what the distinct tokens of sequences take."""
    config = network.config
    width = config.num_attention_heads * head_width(config)
    tokens, pairs = distinct(sequences)
    return Flops(
        linear=2 * tokens * sum(layer.weight.numel() for layer in linear_layers(network)),
        attention=2 * 2 * pairs * width * config.num_hidden_layers,
        output=2 * len(sequences) * network.get_output_embeddings().weight.numel(),
    )


def product_rate(network: Any) -> float:
    """Return FLOP/s of the fastest of torch's linear layers in the shapes and the dtype of a network."""
    return max(
        2 * rows * outputs * inputs / product_seconds(rows, outputs, inputs, network)
        for outputs, inputs in {tuple(layer.weight.shape) for layer in linear_layers(network)}
        for rows in PRODUCT_ROWS[network.device.type]
    )


def product_seconds(rows: int, outputs: int, inputs: int, network: Any) -> float:
    """Return how long one product takes, median of five times four."""
    x = torch.randn(rows, inputs).to(network.device, network.dtype)
    weight = torch.randn(outputs, inputs).to(network.device, network.dtype)
    seconds = []
    for _ in range(5):
        finish(network.device)
        start = time.perf_counter()
        for _ in range(4):
            torch.nn.functional.linear(x, weight)
        finish(network.device)
        seconds.append((time.perf_counter() - start) / 4)
    return median(seconds)


def finish(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Tables


def print_tokens(turns: Sequence[Turn], engines: Iterable[torch.dtype]) -> None:
    """Say how many tokens there are and how many the engine computed."""
    naive_tokens = median(sum(map(len, turn.work.sequences)) for turn in turns)
    once = [distinct(turn.work.sequences).tokens for turn in turns]
    rows = [["naive, without padding", f"{naive_tokens:,.0f}", ""], ["distinct", f"{median(once):,.0f}", ""]]
    for dtype in engines:
        computed = [turn.timed[our_name(dtype)].scored.tokens or 0 for turn in turns]
        most = max(n / d for n, d in zip(computed, once, strict=True))
        rows.append([f"computed by {our_name(dtype)}", f"{median(computed):,.0f}", f"{most:.3f}"])
    print_table(["tokens", "of all sequences", "times the distinct, at most"], rows)


def print_ways(turns: Sequence[Turn], engines: Iterable[torch.dtype], cell: Cell) -> None:
    """Compare the ways by seconds, and their answers with those of (a) in float32."""
    engines = list(engines)
    rows = []
    for name in turns[0].timed:
        timed = [turn.timed[name] for turn in turns]
        count = len(timed[0].scored.logprobs)
        tokens = [t.scored.tokens for t in timed if t.scored.tokens is not None]
        each = median(t.per_sequence for t in timed)
        ratios = [
            median(t.timed[name].per_sequence / t.timed[our_name(d)].per_sequence for t in turns) for d in engines
        ]
        off = torch.cat([difference(turn, name) for turn in turns])
        rows.append(
            [
                name,
                f"{count // cell.examples} of {cell.prompts}",
                f"{median(tokens) / count:.1f}" if tokens else "",
                f"{median(t.seconds for t in timed):.1f}",
                f"{1 / each:.2f}",
                *(f"{ratio:.2f}" for ratio in ratios),
                f"{off.max():.1e}",
                f"{off.mean():.1e}",
            ]
        )
    print_table(
        [
            "way",
            "prompts",
            "tokens per sequence",
            "seconds",
            "sequences/s",
            *(f"time per sequence / {our_name(dtype)}" for dtype in engines),
            "largest difference",
            "mean difference",
        ],
        rows,
    )


def difference(turn: Turn, name: str) -> torch.Tensor:
    """Return |log p - log p of (a) in float32| over the sequences that (a) was given, [sequences, labels]."""
    reference = turn.timed[naive_name(REFERENCE)].scored.logprobs
    return (turn.timed[name].scored.logprobs[: len(reference)] - reference).abs()


def print_shares(turns: Sequence[Turn], models: Models) -> None:
    """Compare the engine with the rate of matrix products."""
    rows = []
    for dtype in models.ours:
        counted = [flops(models.plain[dtype], turn.work.sequences) for turn in turns]
        seconds = [turn.timed[our_name(dtype)].seconds for turn in turns]
        rates = [turn.rates[dtype] for turn in turns]
        possible = [s * rate for s, rate in zip(seconds, rates, strict=True)]  # FLOPs that products do in that time
        rows.append(
            [
                our_name(dtype),
                *(f"{median(column) / 1e9:,.1f}" for column in zip(*counted, strict=True)),
                f"{median(rates) / 1e9:,.0f}",
                f"{median(sum(f) / p for f, p in zip(counted, possible, strict=True)):.0%}",
                f"{median(f.linear / p for f, p in zip(counted, possible, strict=True)):.0%}",
            ]
        )
    print_table(
        [
            "way",
            "linear layers, GFLOP",
            "attention, GFLOP",
            "output rows, GFLOP",
            "matrix products, GFLOP/s",
            "share",
            "share, linear layers alone",
        ],
        rows,
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print Markdown, the first column as words and the others as numbers."""
    print(f"| {' | '.join(header)} |\n|---{'|---:' * (len(header) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)
