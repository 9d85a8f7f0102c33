"""Decoding steps of llama.cpp, for `benchmarks/decoding.py`; run by a Python that has llama-cpp-python.

    python llama_decoding.py MODEL THREADS

Reads one job a line from standard input: JSON of `prompts` (rows of tokens; equal ones are computed once) and `steps`. Answers with
JSON: clock and processor seconds of the steps alone. Tokens are chosen greedily.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as llama  # type: ignore[import-not-found]
import numpy as np

CONTEXT = 16_384


class Rows:
    """Sequences that grow together."""

    def __init__(self, path: str, threads: int) -> None:
        llama.llama_backend_init()
        self._quiet = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        settings = llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max, settings.kv_unified = CONTEXT, 2048, 64, True
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, settings)
        self._batch = llama.llama_batch_init(2048, 0, 1)
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._lengths: list[int] = []
        self._next: list[int] = []

    def start(self, prompts: list[list[int]]) -> None:
        """Forget all rows, and read new prompts."""
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_clear(memory, True)  # noqa: FBT003  llama.cpp's own signature
        first: dict[tuple[int, ...], int] = {}
        self._lengths, self._next = [len(prompt) for prompt in prompts], []
        for row, prompt in enumerate(prompts):
            source = first.setdefault(tuple(prompt), row)
            if source == row:
                self._run([(token, place, row) for place, token in enumerate(prompt)], [len(prompt) - 1])
                self._next += self._chosen([len(prompt) - 1])
            else:
                llama.llama_memory_seq_cp(memory, source, row, -1, -1)
                self._next.append(self._next[source])

    def step(self) -> None:
        """Append one token to every row."""
        rows = range(len(self._lengths))
        self._run([(self._next[row], self._lengths[row], row) for row in rows], rows)
        self._next = self._chosen(rows)
        self._lengths = [length + 1 for length in self._lengths]

    def _run(self, tokens: list[tuple[int, int, int]], wanted: Any) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, place, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, place, 1, i in wanted
            batch.seq_id[i][0] = row
        if llama.llama_decode(self._context, batch):
            raise SystemExit("llama_decode failed")

    def _chosen(self, indices: Any) -> list[int]:
        logits = (llama.llama_get_logits_ith(self._context, i) for i in indices)
        return [int(np.ctypeslib.as_array(row, (self._vocabulary,)).argmax()) for row in logits]


def main() -> None:
    """Answer jobs until standard input ends."""
    rows = Rows(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        job = json.loads(line)
        rows.start(job["prompts"])
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(job["steps"]):
            rows.step()
        spent = time.perf_counter() - clock, time.process_time() - processor
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main()
