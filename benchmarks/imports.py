"""How long `import promptopt` takes beside a bare interpreter: `python benchmarks/imports.py`, medians of whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11


def seconds(code: str) -> float:
    """Run one process and return how long it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  fixed words
    return time.perf_counter() - started


def main() -> None:
    """Take turns, so that a slow moment of the machine meets both."""
    pairs = [(seconds("pass"), seconds("import promptopt")) for _ in range(RUNS)]
    bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"bare interpreter  {bare * 1000:6.0f} ms")
    print(f"import promptopt  {ours * 1000:6.0f} ms   (target: under 300)")


if __name__ == "__main__":
    main()
