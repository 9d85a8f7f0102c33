"""Peak memory of the engine while it scores many examples after many prompts, above what the loaded model takes."""

from __future__ import annotations

import ctypes
import gc
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from .work import Cell, items, mutants, parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local import LocalModel

PROMPTS, EXAMPLES = 50, 200
PROMPT_TOKENS, EXAMPLE_TOKENS = 272, 30
LABELS = ("terrible", "great")
PROCESS = Path("/proc/self")


def measure_memory(model: LocalModel, cell: Cell, data: Path) -> None:
    """Score sequences of about 300 tokens and print the peak."""
    prompts = mutants(filled(model.pieces(parent(cell, 0, data)), PROMPT_TOKENS), cell.prompts, "memory")
    examples = ["".join(filled(model.pieces(f" {text}"), EXAMPLE_TOKENS)) for text in items(cell, data)]
    contexts = [prompt + example for prompt in prompts for example in examples]
    lengths = [len(model.pieces(context)) for context in contexts[:: len(examples)]]
    score(model, contexts[0][:1])  # loads the weights
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed would hide what scoring takes
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")  # the peak is reset, see proc(5)
    before, start = mebibytes("VmRSS"), time.perf_counter()
    score(model, *contexts)
    seconds, peak = time.perf_counter() - start, mebibytes("VmHWM")
    print(f"{len(contexts):,} sequences of {min(lengths)} to {max(lengths)} tokens in {seconds:,.0f} s, {model.dtype}")
    print(f"loaded {before:,.0f} MiB, peak {peak:,.0f} MiB: {peak - before:,.0f} MiB above the loaded model")


def filled(pieces: Sequence[str], count: int) -> list[str]:
    """Repeat or cut pieces until there are `count`."""
    return list(islice(cycle(pieces), count))


def score(model: LocalModel, *contexts: str) -> None:
    """Score and drop the answers, as a caller does that writes them away."""
    for _ in model.label_logprobs(contexts, LABELS):
        pass


def mebibytes(field: str) -> float:
    """Return what the kernel says of this process's memory."""
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
