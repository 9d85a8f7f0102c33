"""How long imports take beside a bare interpreter: `python benchmarks/imports.py`, medians of whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
CODE = ("pass", "import numpy", "import promptopt", "from promptopt import optimize")


def seconds(code: str) -> float:
    """Run one process and return how long it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  fixed words
    return time.perf_counter() - started


def main() -> None:
    """Run in turns, so that a slow moment of the machine affects all."""
    rows = [[seconds(code) for code in CODE] for _ in range(RUNS)]
    for code, column in zip(CODE, zip(*rows, strict=True), strict=True):
        print(f"{code:32} {statistics.median(column) * 1000:6.0f} ms")


if __name__ == "__main__":
    main()
