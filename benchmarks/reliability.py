"""What reaches the server under each fault: `python -m benchmarks.reliability` prints one table, in some two minutes.

The run is the tests' own: hill climbing, 160 scored calls and 3 to the writer, concurrency 32, as a real process. Before
a row is printed the run's files and output are searched for the key.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from servers import climbing
from servers.climbing import CALLS, Climb
from servers.loopback import Fault, Loopback

if TYPE_CHECKING:
    from servers.loopback import Kind

    from promptopt import Result

MID = CALLS // 2 - 11  # the fault begins within the first batch that is larger than the concurrency
QUOTA = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
BROKEN: dict[Kind, str] = {
    "html": "HTML",
    "empty": "`choices: []`",
    "null": "null content",
    "truncated": "invalid JSON",
}
FAULTS: dict[str, Fault] = {
    "401 from the start": Fault(401, retry_after=None),
    "403 from the start": Fault(403, retry_after=None),
    "404 model from the start": Fault(404, retry_after=None),
    "400 from the start": Fault(400, retry_after=None),
    "429 `insufficient_quota` from the start": Fault(429, error=QUOTA, retry_after=None),
    "key dies mid-run (401)": Fault(401, start=MID, retry_after=None),
    "429 with Retry-After 5 s, mid-run": Fault(429, start=MID, seconds=5, retry_after=5),
    "every 4th reply 500": Fault(500, every=4, retry_after=None),
    "every 10th hangs past the timeout (2 s)": Fault("hang", every=10),
    "every 10th connection reset": Fault("reset", every=10),
    "every 10th half a body": Fault("half", every=10),
    "all 500 from the start": Fault(500, retry_after=None),
    "all 500 mid-run": Fault(500, start=MID, retry_after=None),
    **{f"200 with {words}, every 10th": Fault(kind, every=10) for kind, words in BROKEN.items()},
}


@dataclass
class Table:
    """Runs the cases, and prints a row for each.

    Args:
        folder: where the runs lie.
        healthy: the result of the run that nothing disturbed.
    """

    folder: Path
    healthy: Result | None = None
    _rows: int = field(default=0)

    def row(self, case: str, server: Loopback, climb: Climb, *, code: int, seconds: float, note: str = "") -> None:
        """Print one row."""
        tries = max(Counter(str(seen.body) for seen in server.requests).values(), default=0)
        spoiled = sum(seen.spoiled is not None for seen in server.requests)
        outcome = note or self._outcome(climb)
        cells = (case, len(server.requests), spoiled, server.repeated, tries, code, f"{seconds:.1f}", outcome)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    def _outcome(self, climb: Climb) -> str:
        if not (climb.run_dir / "result.json").exists():
            return "nothing was scored"
        result = climb.result()
        if result.unfinished:
            return f"saved, unfinished ({result.unfinished})"
        gap = f", {result.failed} reply failed" if result.failed else ""
        return f"finished{gap}, {'the' if result == self.healthy else 'not the'} healthy run's result"

    @property
    def last_cell(self) -> str:
        """What the healthy run asked of an item with its last prompt."""
        if self.healthy is None:
            raise SystemExit("run the healthy case first")
        return self.healthy.history[-1].prompt.text.replace("{number}", "103")

    def climb(self) -> Path:
        """Return a folder for another run."""
        self._rows += 1
        return self.folder / str(self._rows)


def server() -> Loopback:
    """Return the server that every case starts with."""
    return Loopback(climbing.answer, latency=0.01, waits=False)


def finish(climb: Climb, process: Any = None) -> tuple[int, float, str]:
    """Run to the end; return the exit code, the seconds, and what was said on standard error."""
    start = time.monotonic()
    process = process or climb.start()
    out, err = process.communicate()
    if climb.leaks(out, err):
        raise SystemExit(f"the key stands in {climb.leaks(out, err)}")
    return process.returncode, time.monotonic() - start, err.strip()


def healthy_and_again(table: Table) -> None:
    """The undisturbed run, and its repetition by a new process."""
    with server() as running:
        climb = Climb.at(table.climb(), running.url)
        code, seconds, _ = finish(climb)
        table.healthy = climb.result()
        table.row("healthy run", running, climb, code=code, seconds=seconds)
        running.requests.clear()
        code, seconds, _ = finish(climb)
        table.row("the same again, new process", running, climb, code=code, seconds=seconds)


def faulty(table: Table, case: str, fault: Fault) -> None:
    """A run that meets a fault; where it does not end as the healthy one did, the same again with a healthy server."""
    with server() as running:
        running.fail(fault)
        climb = Climb.at(table.climb(), running.url, timeout=2.0)
        code, seconds, err = finish(climb)
        said = "".join(line for line in err.splitlines() if line.startswith("error: "))
        table.row(case, running, climb, code=code, seconds=seconds, note=said.replace(running.url, "http://127.0.0.1"))
        if fault.start == 1 and code:
            return
        if code or climb.result() != table.healthy:
            running.fail(None)
            running.requests.clear()
            code, seconds, _ = finish(climb)
            table.row("... and again, server healthy", running, climb, code=code, seconds=seconds)


def interrupted(table: Table) -> None:
    """Ctrl-C in the middle, then again."""
    with server() as running:
        climb = Climb.at(table.climb(), running.url)
        process = climb.start()
        running.wait_answered(MID)
        process.send_signal(signal.SIGINT)
        code, seconds, _ = finish(climb, process)
        table.row("Ctrl-C mid-run", running, climb, code=code, seconds=seconds)
        running.requests.clear()
        code, seconds, _ = finish(climb)
        table.row("... and again", running, climb, code=code, seconds=seconds)


def killed(table: Table) -> None:
    """SIGKILL at 20 random moments, then to the end."""
    with server() as running:
        climb = Climb.at(table.climb(), running.url)
        start = time.monotonic()
        repeated = climb.killed(running, 20, np.random.default_rng(7))
        same = climb.result() == table.healthy and not climb.leaks()
        note = f"{repeated} stored calls repeated, {'the' if same else 'not the'} healthy run's result"
        table.row(
            "SIGKILL at 20 random moments, then again",
            running,
            climb,
            code=0,
            seconds=time.monotonic() - start,
            note=note,
        )


def together(table: Table) -> None:
    """Two processes on one memo, and two endpoints on one memo."""
    memo = table.folder / "shared"
    with ExitStack() as stack:
        first, second = (stack.enter_context(server()) for _ in range(2))
        climbs = [Climb.at(table.climb(), first.url, memo) for _ in range(2)]
        start = time.monotonic()
        processes = [climb.start() for climb in climbs]
        codes = [finish(climb, process)[0] for climb, process in zip(climbs, processes, strict=True)]
        same = all(climb.result() == table.healthy for climb in climbs)
        held = len(climbs[0].held(climbs[0].keys(first.requests)))
        note = f"{held} entries, {'the' if same else 'not the'} healthy run's result, twice"
        table.row(
            "two processes on one memo", first, climbs[0], code=max(codes), seconds=time.monotonic() - start, note=note
        )
        other = Climb.at(table.climb(), second.url, memo)
        code, seconds, _ = finish(other)
        table.row("another endpoint with that model name, on that memo", second, other, code=code, seconds=seconds)


def main() -> None:
    """Print the table."""
    print("| case | HTTP calls | spoiled | answered before | most tries of a call | exit | seconds | outcome |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        healthy_and_again(table)
        for case, fault in FAULTS.items():
            faulty(table, case, fault)
        for kind, words in BROKEN.items():
            faulty(table, f"200 with {words}, one reply always", Fault(kind, text=table.last_cell))
        interrupted(table)
        killed(table)
        together(table)


if __name__ == "__main__":
    main()
