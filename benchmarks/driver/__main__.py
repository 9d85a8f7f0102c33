"""Read the options, measure or simulate, and print tables in Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3

from . import __doc__ as about
from .disk import candidates, entries, growing
from .simulation import Driver, Setting, Simulation, table
from .stages import Timed, cutting, replicas, stages, sustained, tokens, whole
from .work import Answering

_LINK = 1.25e9  # bytes a second: ten gigabits
_CELL = 1_400  # bytes of a context and its reply, as they cross the link
_CUT = 1e-5  # seconds to cut a cell off, where Ray is not installed


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=about)
    add = parser.add_argument
    add("--turns", type=int, default=5, help="of which medians are taken")
    add("--replicas", type=int, default=0, help="fake ones on Ray, measured too")
    add("--sustained", type=int, default=0, help="instead: one run of so many sequences")
    add("--every", type=int, default=0, help="a line for so many sequences or entries")
    add("--simulate", type=int, default=0, help="instead: replicas up to 64, so many sequences for each setting")
    add("--long", type=int, default=0, help="instead: simulate one run of so many sequences with 64 replicas")
    add("--disk", type=int, default=0, help="instead: bytes an entry, of so many entries")
    add("--entries", type=int, default=0, help="instead: what storing takes in a memo that grows to so many entries")
    add("--redis", default="", help="URL of an empty Redis, for --disk")
    add("--candidates", type=int, nargs="+", default=[], help="instead: runs of so many candidates")
    return parser.parse_args()


def print_rates(each: dict[str, float], heading: str) -> None:
    """Print seconds a cell as a table."""
    print(f"\n| {heading} | microseconds a sequence | sequences a second |\n|---|---:|---:|")
    for name, seconds in each.items():
        print(f"| {name} | {seconds * 1e6:,.1f} | {1 / seconds:,.0f} |", flush=True)


def print_wholes(name: str, found: dict[str, Timed]) -> None:
    """Print rates of whole batches."""
    for what, taken in found.items():
        print(f"| {name}{what} | {1 / taken.processor:,.0f} | {1 / taken.wall:,.0f} |", flush=True)


def driver_of(turns: int) -> Driver:
    """Measure the driver that is simulated."""
    each, cold = stages(turns), whole(Answering(), turns)["nothing in the memo"].processor
    cut = cutting(turns).get("cut for 64 replicas")
    before = each["render"] + each["key"] + each["look up, not there"] + (cut.processor if cut else _CUT)
    storing = each["pack and store"]
    after = each["reward by label"] + each["archive"]
    known = before - (cut.processor if cut else _CUT) + storing + after + each["(the fake itself)"]
    arriving = max(cold - known, each["account"])  # with all that no stage names
    print(
        f"Driver, microseconds a sequence: {1e6 * before:.1f} before, {1e6 * arriving:.1f} as replies arrive, "
        f"{1e6 * storing:.1f} storing, {1e6 * after:.1f} after; link {1e6 * _CELL / _LINK:.1f}.\n"
    )
    return Driver(before, arriving, storing, after, _CELL / _LINK)


def long_run(driver: Driver, sequences: int) -> None:
    """Print one run of very many sequences, for a small model and a large one."""
    print("| sequences/s of a replica | sequences | hours | sequences/s | replicas wait |\n" + "|---:" * 5 + "|")
    for rate in (2_000.0, 50.0):
        out = Simulation(driver, Setting(64, rate, sequences=sequences)).outcome()
        print(
            f"| {rate:,.0f} | {sequences:,} | {out.seconds / 3600:,.1f} | {out.rate:,.0f} | {out.waiting:.0%} |",
            flush=True,
        )


def measure(turns: int, count: int) -> None:
    """Print the stages, whole batches, what a local engine does before its network, and replicas on Ray."""
    print_rates(stages(turns), "stage")
    print("\n| a whole batch | sequences a second of the processor | on the wall |\n|---|---:|---:|")
    print_wholes("unit batch, ", whole(Answering(), turns))
    print_wholes("unit reply, ", whole(Answering("reply"), turns, 5))
    print_wholes("", cutting(turns))
    if count:
        print_wholes("", replicas(turns, count))
    print_rates(tokens(turns), "local engine, before the network")


def main() -> None:
    """Do what the options ask for."""
    given = read_options()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores\n", flush=True)
    if given.sustained:
        sustained(given.sustained, given.every or given.sustained // 10)
    elif given.simulate:
        table(driver_of(given.turns), given.simulate)
    elif given.long:
        long_run(driver_of(given.turns), given.long)
    elif given.disk:
        entries(given.disk, given.redis)
    elif given.entries:
        growing(given.entries, given.every or given.entries // 5)
    elif given.candidates:
        candidates(given.candidates)
    else:
        measure(given.turns, given.replicas)


if __name__ == "__main__":
    main()
