"""Time from process start to first score: `python benchmarks/ready.py MODEL.gguf ... [--llama-python PYTHON]`, whole processes in turns.

Ours gives two labels' log-probabilities after a short text in float32, llama-cpp-python evaluates that text. One thread; medians of the
processor time and of the clock. Run it twice: the first time converts the files.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

OURS = """
import sys
from promptopt.models.local import LocalModel
list(LocalModel(sys.argv[1], dtype="float32").label_logprobs(["A review: good film. It is"], ["great", "terrible"]))
"""
LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True)
model.eval(model.tokenize(b"A review: good film. It is great"))
"""


def seconds(python: str, code: str, model: str) -> tuple[float, float]:
    """Run one process; return its processor time and the clock's."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([python, "-c", code, model], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S603  our own words
    clock, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def main() -> None:
    """Run in turns, print a row for each model."""
    parser = argparse.ArgumentParser(prog="python benchmarks/ready.py", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="known models or GGUF files")
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python; for GGUF files")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ways = [("ours", sys.executable, OURS)]
    if options.llama_python:
        ways.append(("llama-cpp-python", options.llama_python, LLAMA))
    for model in options.models:
        turns = [[seconds(python, code, model) for _, python, code in ways] for _ in range(options.repeats)]
        for (name, _, _), column in zip(ways, zip(*turns, strict=True), strict=True):
            processor, clock = map(statistics.median, zip(*column, strict=True))
            print(f"{model}  {name:18} {processor:6.1f} s of processor time  {clock:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
