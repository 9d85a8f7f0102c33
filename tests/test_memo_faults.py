"""A memo that is damaged, read-only, full or gone: no wrong value, nothing lost, and what can be read is read."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import diskcache
import numpy as np
import pytest
import toys
from conftest import ROOT
from shell import promptopt

from promptopt import FunctionModel, Memo, optimize
from promptopt.errors import MemoError
from promptopt.memo.format import pack, unpack
from promptopt.memo.salvage import salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS = [f"{number:064x}" for number in range(300)]
VALUES: dict[str, Any] = {key: {"text": f"reply {number}", "n": number} for number, key in enumerate(KEYS)}
VALUES[KEYS[7]] = {"text": os.urandom(30_000).hex()}  # goes on in other pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Memo(tmp_path / "memo") as memo:
        memo.put_many(VALUES)
    return tmp_path / "memo"


def checkpointed(folder: Path) -> Path:
    """Return the database, with what its log held."""
    connection = sqlite3.connect(folder / "cache.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder / "cache.db"


# ---------------------------------------------------------------- checksums


@pytest.mark.parametrize("value", [{"text": "great"}, ["positive"] * 500], ids=["plain", "deflated"])
def test_no_flip_of_a_bit_gives_another_value(value: Any) -> None:
    data = pack("key", value, "it")
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert unpack("key", bytes(flipped)) == value, bit
        except ValueError:
            continue


def test_a_value_under_another_key_is_none_of_its() -> None:
    with pytest.raises(ValueError, match="checksum"):
        unpack("other", pack("key", 1, "it"))


def test_entries_of_earlier_versions_are_read(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        connection = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
        for key, data in (("old", b'\x00{"text":"great"}'), ("older", b"\x00[1]")):
            connection.execute(
                "INSERT INTO Cache(key, raw, store_time, mode, value) VALUES (?, 1, 0, 1, ?)", (key, data)
            )
        connection.close()
        assert memo.get_many(["old", "older"]) == {"old": {"text": "great"}, "older": [1]}
        assert memo.corrupted == 0


def test_a_flipped_bit_on_disk_is_a_miss_that_is_counted(folder: Path) -> None:
    database = checkpointed(folder)
    data = database.read_bytes()
    at = data.index(b"reply 20")
    database.write_bytes(data[: at + 6] + b"3" + data[at + 7 :])  # reply 30
    with Memo(folder) as memo:
        found = memo.get_many(KEYS)
        assert memo.corrupted == 1
    assert len(found) == len(KEYS) - 1
    assert all(found[key] == VALUES[key] for key in found)


# ---------------------------------------------------------------- salvage


def ruin_header(data: bytearray) -> None:
    data[:100] = bytes(100)


def ruin_branches(data: bytearray) -> None:
    """Make every page that leads to others unreadable, the root of the table among them."""
    for start in range(0, len(data), 4096):
        if data[start] in (2, 5, 10):
            data[start : start + 4096] = bytes(4096)


def cut_short(data: bytearray) -> None:
    del data[len(data) // 2 :]


def scribble(data: bytearray) -> None:
    rng = np.random.default_rng(0)
    for place in rng.integers(4096, len(data), 40):
        data[place] ^= 0xFF


@pytest.mark.parametrize(
    ("ruin", "least"),
    [(lambda _: None, 300), (ruin_header, 300), (ruin_branches, 300), (cut_short, 10), (scribble, 200)],
)
def test_what_is_left_of_a_damaged_memo_is_found_and_right(
    folder: Path, ruin: Callable[[bytearray], None], least: int
) -> None:
    database = checkpointed(folder)
    data = bytearray(database.read_bytes())
    ruin(data)
    database.write_bytes(data)
    found = {entry.key: entry.value for entry in salvage(folder)}
    assert len(found) >= least
    assert all(VALUES[key] == value for key, value in found.items())


def test_what_is_only_in_the_log_is_found(folder: Path) -> None:
    with Memo(folder) as memo:  # open, so that the log is not written back
        memo.put("last", {"text": "z" * 20})
        memo.put(KEYS[3], "newer")
        found = {entry.key: entry.value for entry in salvage(folder)}
    assert found == VALUES | {"last": {"text": "z" * 20}, KEYS[3]: "newer"}


def test_the_command_salvages_a_memo_that_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    database = checkpointed(folder)
    data = bytearray(database.read_bytes())
    ruin_header(data)
    database.write_bytes(data)
    refused = promptopt(ROOT, "memo", "stats", "--memo", str(folder))
    assert refused.returncode == 1
    assert "promptopt memo salvage FILE" in refused.stderr

    assert promptopt(ROOT, "memo", "salvage", str(tmp_path / "left.jsonl"), "--memo", str(folder)).returncode == 0
    assert (
        promptopt(ROOT, "memo", "import", str(tmp_path / "left.jsonl"), "--memo", str(tmp_path / "new")).returncode == 0
    )
    with Memo(tmp_path / "new") as memo:
        assert memo.get_many(KEYS) == VALUES


def test_an_export_to_standard_output_is_the_file(folder: Path, tmp_path: Path) -> None:
    with Memo(folder) as memo:
        memo.export(tmp_path / "file.jsonl")
    assert (
        promptopt(ROOT, "memo", "export", "-", "--memo", str(folder)).stdout.encode()
        == (tmp_path / "file.jsonl").read_bytes()
    )


def test_a_file_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    done = promptopt(ROOT, "memo", "salvage", str(tmp_path / "nowhere/left.jsonl"), "--memo", str(folder))
    assert done.returncode == 2
    assert "nowhere/left.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_of_an_export_may_leave(folder: Path) -> None:
    words = [sys.executable, "-m", "promptopt", "memo", "export", "-", "--memo", str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == b""


def test_a_log_of_noise_is_no_hindrance(folder: Path) -> None:
    database = checkpointed(folder)
    database.with_name("cache.db-wal").write_bytes(b"\xff" * 20_000)
    assert len(salvage(folder)) == len(KEYS)


def test_a_memo_that_is_only_busy_is_not_taken_for_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, *given: object, **settings: object) -> None:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    monkeypatch.setattr(diskcache.Cache, "__init__", refuse)
    monkeypatch.setattr(diskcache.Cache, "close", lambda _: None)
    with pytest.raises(MemoError, match="database is locked"):
        Memo(folder)


# ---------------------------------------------------------------- read only, full


def search(memo: Any, **settings: Any) -> Any:
    model = FunctionModel(settings.pop("answer", toys.answer), name="answer", version="1")
    return optimize(
        toys.TASK,
        model,
        "random",
        writer=FunctionModel(toys.writer, name="writer", version="1"),
        settings={"prompts": 6, "batch": 2},
        memo=memo,
        tracking=False,
        **settings,
    )


def make_unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite say what it says of a file on a read-only disk; the superuser may write any other."""

    def refuse(self: object, *given: object, **settings: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    monkeypatch.setattr(diskcache.Cache, "__init__", refuse)
    monkeypatch.setattr(diskcache.Cache, "close", lambda _: None)


def test_a_read_only_memo_replays_a_whole_run_and_keeps_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def paid(request: object) -> str:
        raise AssertionError("a call was made")

    first = search(tmp_path / "memo")
    before = checkpointed(tmp_path / "memo").read_bytes()
    make_unwritable(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    assert search(tmp_path / "memo", answer=paid) == first
    assert "can be read but not written" in caplog.text
    other = search(tmp_path / "memo", seed=1)
    assert "is read-only" in other.unfinished
    assert (tmp_path / "memo/cache.db").read_bytes() == before
    with Memo(tmp_path / "memo") as memo:
        assert memo.stats().entries > 0
        with pytest.raises(MemoError, match="is read-only"):
            memo.prune(0)


def test_a_memo_that_fills_up_ends_the_search_in_good_order_and_loses_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    asked: list[object] = []

    def answer(request: Any) -> str:
        asked.append(request)
        return toys.answer(request)

    with Memo(tmp_path / "memo") as memo:
        whole = search(tmp_path / "other")
        put, room = memo._store.write, [40]

        def write(batches: Any) -> None:
            room[0] -= 1
            if room[0] < 0:
                raise MemoError("the memo is full: make room")
            put(batches)

        monkeypatch.setattr(memo._store, "write", write)
        result = search(memo, answer=answer, run_dir=tmp_path / "run")
        monkeypatch.undo()

        assert result.unfinished.startswith("the memo is full: make room; the unstored entries")
        assert (tmp_path / "run/result.json").exists()
        for file in (tmp_path / "caches/promptopt/unstored").iterdir():
            memo.import_(file)
        before = len(asked)
        assert search(memo, answer=answer) == whole
        assert len(asked) == len({(request.context, request.replicate) for request in asked})  # type: ignore[attr-defined]
        assert len(asked) > before


def test_the_command_ends_with_1_and_its_result_where_the_memo_is_full(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"item {n},{('yes', 'no')[n % 2]}\n" for n in range(30)), "utf-8"
    )
    (tmp_path / "mine.py").write_text(
        "from promptopt import FunctionModel, Memo\n"
        "from promptopt.errors import MemoError\n"
        "store, left = Memo.put, [8]\n"
        "def put(self, key, value):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: raise MemoError('the memo is full: make room')\n"
        "    store(self, key, value)\n"
        "Memo.put = put\n"
        "model = FunctionModel(lambda request: 'yes', name='yes', version='1')\n"
    )
    words = ["--data", "rows.csv", "--input", "text", "--label", "label", "--labels", "yes,no", "--budget", "400 calls"]
    done = subprocess.run(
        [sys.executable, "-m", "promptopt", "optimize", *words, "--model", "python:mine:model", "--strategy", "tapruning", "--run-dir", "run", "--memo", "memo"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the memo is full: make room" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
