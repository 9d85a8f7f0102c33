"""A driver with the rates measured here and replicas that are numbers: what becomes of the two together, event by event.

A run scores generation after generation: prompts are rendered, looked up and cut into parts; parts go over one link to
replicas, which take a stated time over each; the driver takes replies in as they come, one part after the other; when
all are there it stores and judges them, and only then knows what to ask next. Several runs have a core each, and share
replicas, link and memo.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from promptopt.statistics.arrays import Floats

PART = 250  # cells that are worth a part of their own, as `promptopt.models.replicas` cuts them
EACH = 4  # parts a replica, at most
SPREAD = 0.05  # replicas and parts differ by so much, up and down


class Driver(NamedTuple):
    """Seconds of a driver's core for each cell.

    Args:
        before: to render, look up, account and cut.
        arriving: to take a reply in.
        storing: in the one transaction of a memo, which other runs wait for.
        after: to judge, and to enter into the archive.
        link: on the network.
    """

    before: float
    arriving: float
    storing: float
    after: float
    link: float


class Setting(NamedTuple):
    """What is simulated.

    Args:
        replicas: how many.
        rate: cells that one computes in a second.
        latency: seconds that each part takes besides.
        generation: cells that a run scores at once.
        runs: beside each other.
        sequences: in all.
    """

    replicas: int
    rate: float
    latency: float = 0.01
    generation: int = 20_000
    runs: int = 1
    sequences: int = 1_000_000


class Outcome(NamedTuple):
    """What came of it.

    Args:
        seconds: in all.
        rate: sequences a second.
        waiting: share of the replicas' time in which they wait.
        driver: share of the busiest driver's time in which it works.
        memo: share of the time in which the memo is written to.
        link: share of the time in which the link is used.
    """

    seconds: float
    rate: float
    waiting: float
    driver: float
    memo: float
    link: float


class Simulation:
    """One course of events.

    Args:
        driver: its rates.
        setting: all else.
    """

    def __init__(self, driver: Driver, setting: Setting) -> None:
        self._driver, self._setting = driver, setting
        self._rng = named_generator(0, f"replicas {setting}")
        self._speeds = self._spread(setting.replicas) * setting.rate
        self._free = list(range(setting.replicas))
        self._queue: deque[tuple[int, float]] = deque()  # (run, cells) that wait for a replica
        self._events: list[tuple[float, int, str, int, float, int]] = []
        self._number = 0
        self._left = [-(-setting.sequences // (setting.generation * setting.runs))] * setting.runs  # generations
        self._open = [0] * setting.runs  # parts that are not in yet
        self._until = [0.0] * setting.runs  # when each driver is done with what it has
        self._worked = [0.0] * setting.runs
        self._memo = self._link = self._stored = self._sent = self._busy = 0.0

    def outcome(self) -> Outcome:
        """Let it happen."""
        for run in range(self._setting.runs):
            self._begin(run, 0.0)
        end = 0.0
        while self._events:
            now, _, kind, run, cells, replica = heapq.heappop(self._events)
            end = max(end, now)
            if kind == "part":
                self._queue.append((run, cells))
            elif kind == "done":
                self._free.append(replica)
                self._arrived(run, cells, now)
            else:
                self._begin(run, now)
            self._assign(now)
        setting = self._setting
        done = setting.generation * setting.runs * -(-setting.sequences // (setting.generation * setting.runs))
        return Outcome(
            end,
            done / end,
            1 - self._busy / (end * setting.replicas),
            max(self._worked) / end,
            self._stored / end,
            self._sent / end,
        )

    def _begin(self, run: int, now: float) -> None:
        if not self._left[run]:
            return
        self._left[run] -= 1
        cells = self._setting.generation
        rounds = min(max(math.ceil(cells / PART / self._setting.replicas), 1), EACH)
        count = min(rounds * self._setting.replicas, cells)
        sizes = self._spread(count)
        self._open[run] = count
        ready = now + self._work(run, self._driver.before * cells)
        for size in sizes * (cells / sizes.sum()):
            self._link = max(self._link, ready) + self._driver.link * size
            self._sent += self._driver.link * size
            self._tell(self._link, "part", run, float(size))

    def _assign(self, now: float) -> None:
        while self._queue and self._free:
            run, cells = self._queue.popleft()
            replica = self._free.pop()
            took = self._setting.latency + cells / self._speeds[replica]
            self._busy += took
            self._tell(now + took, "done", run, cells, replica)

    def _arrived(self, run: int, cells: float, now: float) -> None:
        self._until[run] = max(self._until[run], now) + self._work(run, self._driver.arriving * cells)
        self._open[run] -= 1
        if self._open[run]:
            return
        whole = self._setting.generation
        self._memo = max(self._memo, self._until[run]) + self._work(run, self._driver.storing * whole)
        self._stored += self._driver.storing * whole
        self._tell(self._memo + self._work(run, self._driver.after * whole), "next", run, 0.0)

    def _work(self, run: int, seconds: float) -> float:
        self._worked[run] += seconds
        return seconds

    def _tell(self, when: float, kind: str, run: int, cells: float, replica: int = -1) -> None:
        self._number += 1  # of equal times, the first to be told is the first to happen
        heapq.heappush(self._events, (when, self._number, kind, run, cells, replica))

    def _spread(self, count: int) -> Floats:
        return 1.0 + SPREAD * (2 * self._rng.random(count) - 1)


def table(driver: Driver, sequences: int) -> None:
    """Print what replicas of a small model and of a large one give, one run and several."""
    print(
        "| sequences/s of a replica | prompts x items | runs | replicas | sequences/s | of what replicas could do | "
        "replicas wait | driver works | memo is written | link is used |\n" + "|---:" * 10 + "|"
    )
    for rate in (2_000.0, 50.0):
        for prompts, runs in ((10, 1), (50, 1), (500, 1), (50, 8)):
            for replicas in (1, 2, 4, 8, 16, 32, 64):
                setting = Setting(replicas, rate, generation=prompts * 400, runs=runs, sequences=sequences)
                out = Simulation(driver, setting).outcome()
                print(
                    f"| {rate:,.0f} | {prompts} x 400 | {runs} | {replicas} | {out.rate:,.0f} | "
                    f"{out.rate / (rate * replicas):.0%} | {out.waiting:.0%} | {out.driver:.0%} | {out.memo:.0%} | "
                    f"{out.link:.0%} |",
                    flush=True,
                )
