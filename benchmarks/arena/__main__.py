"""The arena: `python -m benchmarks.arena run` runs the cells that are missing, `... table` prints the tables of the kept ones.

    python -m benchmarks.arena run --tasks subj --methods seed gepa --seeds 1 --model smollm2 --writer qwen15
    python -m benchmarks.arena table

A run may be stopped at any moment: cells that are finished are kept, the one in progress is run again.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from promptopt import InputError

from .cells import CELLS, Setting, keep, read_cells, run
from .command import add_options, missing, report
from .contestants import METHODS
from .models import file_of, server
from .tables import print_tables
from .tasks import TASKS


def main() -> None:
    """Do what the command line says."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the server is stopped too
    os.environ.setdefault("OPENAI_API_KEY", "none")  # the server on this machine takes any
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="run the cells that are missing")
    running.set_defaults(command=run_missing)
    add_options(running, TASKS, METHODS, out=Path("runs/arena"))
    running.add_argument(
        "--peers", type=Path, default=Path("runs/arena/peers"), help="folder of the peers' environments"
    )
    running.add_argument("--threads", type=int, help="threads of the server that is started")
    running.add_argument(
        "--server", help="base URL, with /v1, of a running `promptopt serve` of the same files and dtype"
    )
    table = commands.add_parser("table", help="print the tables of the kept cells")
    table.set_defaults(command=lambda given: print_tables(list(read_cells(given.cells).values())))
    for command in (running, table):
        command.add_argument("--cells", type=Path, default=CELLS, help="file of the kept cells")
    given = parser.parse_args()
    given.command(given)


def run_missing(given: argparse.Namespace) -> None:
    """Run the cells that are missing."""
    places = missing(given)
    if not places:
        return
    files = {"task": file_of(given.model, given.models), "writer": file_of(given.writer, given.models)}
    running = nullcontext(given.server) if given.server else server(list(files.values()), given.dtype, given.threads)
    with running as url:
        models = {role: (url, str(file)) for role, file in files.items()}
        setting = Setting(given.data, models, given.out.resolve(), given.peers.resolve(), versions(given.dtype))
        for place in places:
            try:
                cell = run(place, setting)
            except (InputError, RuntimeError) as error:  # of this contestant only
                print(f"{' | '.join(map(str, place))} | no cell: {error}", flush=True)
                continue
            keep(cell, given.cells)
            report(cell)


def versions(dtype: str) -> dict[str, str]:
    """Return what is run: versions, the models' dtype, and the machine."""
    return {
        "dtype": dtype,
        "promptopt": version("promptopt-toolkit"),
        "torch": version("torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    main()
