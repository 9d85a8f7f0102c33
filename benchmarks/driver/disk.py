"""What entries of the memo take on disk or in Redis, and what a candidate takes in the folder of a run."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from promptopt import Memo, Response, Run, Usage, optimize
from promptopt.memo.memo import KeyMaker
from promptopt.randomness import named_generator

from .work import FINGERPRINT, LABELS, Answering, prompts_of, task_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WHOLE = 20_000  # entries in a transaction
_WORDS = 77  # of some reply of 100 tokens
_LETTERS = "etaoinshrdlu"
_ITEMS = 8


def replies(kind: str, count: int) -> Iterator[Response]:
    """Yield replies of one kind, each another."""
    rng = named_generator(0, f"replies for the disk, {kind}")
    for _ in range(count):
        if kind == "labels":
            low = float(rng.normal(-2, 1))
            yield Response(LABELS[0], (low, float(rng.normal(-2, 1))), Usage(300))
        else:
            letters = rng.choice(list(_LETTERS), size=(_WORDS, 5))
            yield Response(" ".join("".join(word) for word in letters), None, Usage(300, 0, 100))


def entries(count: int, redis: str) -> None:
    """Print what entries take, of each kind of reply and each way to store them."""
    print("| reply | stored | bytes an entry | of them the index | 1 million, GB | 100 million, GB |")
    print("|---|---|---:|---:|---:|---:|")
    make = KeyMaker(FINGERPRINT, "label_logprobs")
    for kind in ("labels", "100 tokens"):
        values = {make(f"{kind} {n}"): reply.to_json() for n, reply in enumerate(replies(kind, count))}
        for unit in ("batch", "reply"):
            with tempfile.TemporaryDirectory() as folder:
                with Memo(folder) as memo:
                    _store(memo, values, unit)
                    memo.get("")
                file = Path(folder) / "cache.db"
                with closing(sqlite3.connect(file)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    (index,) = connection.execute(
                        "SELECT SUM(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE type = 'index')"
                    ).fetchone()
                _row(kind, f"folder, unit {unit}", file.stat().st_size / count, index / count)
        if redis:
            _row(kind, "Redis, in memory", _in_redis(redis, values) / count, None)


def _store(memo: Memo, values: Mapping[str, object], unit: str) -> None:
    names = list(values)
    size = _WHOLE if unit == "batch" else 1
    for start in range(0, len(names), size):
        memo.put_many({name: values[name] for name in names[start : start + size]})


def growing(count: int, every: int) -> None:
    """Print what storing takes while a memo grows to so many entries."""
    print("| entries | microseconds of the processor to store one | written to the disk for each, bytes |")
    print("|---:|---:|---:|")
    make = KeyMaker(FINGERPRINT, "label_logprobs")
    with tempfile.TemporaryDirectory(dir=".") as folder, Memo(folder) as memo:
        seconds, written, rows = 0.0, _written(), list(replies("labels", _WHOLE))
        for start in range(0, count, _WHOLE):
            values = {make(f"entry {start + n}"): reply.to_json() for n, reply in enumerate(rows)}
            began = time.process_time()
            memo.put_many(values)
            seconds += time.process_time() - began
            if (start + _WHOLE) % every == 0:
                each = (_written() - written) / every
                print(f"| {start + _WHOLE:,} | {1e6 * seconds / every:.1f} | {each:,.0f} |", flush=True)
                seconds, written = 0.0, _written()


def _written() -> int:
    """Return the bytes that this process gave to the disk, as Linux counts them."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _in_redis(url: str, values: Mapping[str, object]) -> int:
    from redis import Redis  # noqa: PLC0415  only where it is asked for

    with closing(Redis.from_url(url)) as client, Memo(url) as memo:
        if client.dbsize():
            raise SystemExit(f"{url} is not empty: give a database of its own")
        before = client.info("memory")["used_memory"]
        _store(memo, values, "batch")
        taken: int = client.info("memory")["used_memory"] - before
        client.flushdb()
    return taken


def _row(kind: str, how: str, each: float, index: float | None) -> None:
    shown = "" if index is None else f"{index:,.0f}"
    print(f"| {kind} | {how} | {each:,.0f} | {shown} | {each / 1e3:,.2f} | {each / 10:,.1f} |", flush=True)


@dataclass(frozen=True)
class Many:
    """A search that scores so many prompts, 50 at a time."""

    count: int

    writes: ClassVar[bool] = False

    def search(self, run: Run) -> None:
        """Score them."""
        for turn in range(self.count // 50):
            scores = run.score(prompts_of(turn))
            run.step(best=float(np.max(scores.mean)))


def candidates(counts: list[int]) -> None:
    """Print what runs of so many candidates leave behind, and the seconds that they take."""
    print(
        "| candidates | seconds | seconds without a folder | result.json, bytes each | study.db, bytes each | report.md, bytes |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    task = task_of(_ITEMS)
    for count in counts:
        with tempfile.TemporaryDirectory() as folder, Memo(f"{folder}/memo") as memo:
            start = time.process_time()
            optimize(task, Answering(), Many(count), memo=memo)
            middle = time.process_time()
            optimize(task, Answering(), Many(count), memo=memo, run_dir=f"{folder}/run")
            end = time.process_time()
            result, study, report = (
                (Path(folder) / "run" / name).stat().st_size for name in ("result.json", "study.db", "report.md")
            )
        print(
            f"| {count:,} | {end - middle:,.1f} | {middle - start:,.1f} | {result / count:,.0f} | {study / count:,.0f} | "
            f"{report:,} |",
            flush=True,
        )
