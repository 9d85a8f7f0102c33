"""The memo: what goes in comes out, whoever dies, races or meddles."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import diskcache
import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt import memo_store
from promptopt.errors import InputError
from promptopt.memo import KeyMaker, Memo, default_folder, memo_key, parse_age

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINGERPRINT = {"provider": "openai", "endpoint": "https://api.openai.com/v1", "model": "gpt-4.1-mini"}
BODY = {"context": [["user", "Ist «gut» gut?"]], "max_tokens": 5, "temperature": 0.7, "stop": []}
GOLDEN = "9a341d6d4ca3fca2ed46caea5da061baba4d115ccf25f2e48829da64a09966c8"

floats = st.floats(allow_nan=False, allow_infinity=False)
# The second kind has halves of surrogate pairs, as models send them.
texts = st.text(max_size=2000) | st.text(st.sampled_from("é\ud83d\ude00"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path / "memo") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memo]:
    with Memo(tmp_path_factory.mktemp("shared")) as opened:
        yield opened


def database(memo: Memo) -> sqlite3.Connection:
    return sqlite3.connect(memo.folder / "cache.db", isolation_level=None)


def meddle(memo: Memo, key: str, mode: int, value: Any, filename: str | None = None) -> None:
    """Put a row into the database behind the memo's back."""
    connection = database(memo)
    row = (key, mode, filename, value)
    connection.execute("INSERT INTO Cache(key, raw, store_time, mode, filename, value) VALUES (?, 1, 0, ?, ?, ?)", row)
    connection.close()


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script beside the test, and kill it where it has not ended by then."""
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


# Keys


def test_a_key_is_the_sha256_of_the_canonical_json() -> None:
    canonical = json.dumps(
        [FINGERPRINT, "generate", BODY, 3], sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    assert memo_key(FINGERPRINT, "generate", BODY, 3) == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_key_stays_what_it_was_in_earlier_versions() -> None:
    assert memo_key(FINGERPRINT, "generate", BODY) == GOLDEN


def test_a_key_does_not_depend_on_the_order_of_fields() -> None:
    turned = dict(reversed(BODY.items()))
    assert memo_key(dict(reversed(FINGERPRINT.items())), "generate", turned) == memo_key(FINGERPRINT, "generate", BODY)


def test_keys_differ_where_anything_that_decides_the_reply_differs() -> None:
    keys = [
        memo_key(FINGERPRINT, "generate", BODY),
        memo_key(FINGERPRINT | {"model": "gpt-4.1"}, "generate", BODY),
        memo_key(FINGERPRINT | {"endpoint": "http://localhost:8000/v1"}, "generate", BODY),
        memo_key(FINGERPRINT, "label_logprobs", BODY),
        memo_key(FINGERPRINT, "generate", BODY | {"temperature": 0.8}),
        memo_key(FINGERPRINT, "generate", BODY, 1),
    ]
    assert len(set(keys)) == len(keys)


@given(values, st.integers(0, 100), st.dictionaries(st.text(), values, max_size=3), st.text())
def test_a_key_maker_makes_the_same_keys(
    body: Any, replicate: int, fingerprint: dict[str, Any], operation: str
) -> None:
    canonical = json.dumps(
        [fingerprint, operation, body, replicate], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    key = KeyMaker(MappingProxyType(fingerprint), operation)(body, replicate)
    assert key == memo_key(fingerprint, operation, body, replicate)
    assert key == hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def test_a_key_maker_does_not_remember_earlier_requests() -> None:
    make = KeyMaker(FINGERPRINT, "generate")
    assert [make("a"), make("b"), make("a")] == [memo_key(FINGERPRINT, "generate", body) for body in "aba"]


@pytest.mark.parametrize("body", [{"temperature": float("nan")}, {"logit_bias": float("inf")}, {"stop": {"a"}}])
def test_a_request_that_is_no_json_has_no_key(body: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the request cannot be written as JSON"):
        memo_key(FINGERPRINT, "generate", body)


# Values


@given(values)
def test_what_goes_in_comes_out(shared: Memo, value: Any) -> None:
    key = hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()
    shared.put(key, value)
    assert repr(shared.get(key)) == repr(
        value
    )  # repr tells 0 from -0.0, 1 from True, and one order of fields from another


@given(st.lists(floats, min_size=100, max_size=400))
def test_long_lists_of_floats_come_back_to_the_last_bit(shared: Memo, numbers: list[float]) -> None:
    shared.put("numbers", numbers)
    assert [number.hex() for number in shared.get("numbers") or []] == [number.hex() for number in numbers]


def test_what_is_not_there_is_none(memo: Memo) -> None:
    assert memo.get("missing") is None
    assert memo.get_many(["missing"]) == {}
    assert memo.get_many([]) == {}
    assert memo.corrupted == 0


def test_many_values_come_back_in_the_order_of_the_keys(memo: Memo) -> None:
    stored = {hashlib.sha256(str(n).encode()).hexdigest(): n for n in range(1203)}
    memo.put_many(stored)
    keys = [*reversed(stored), "missing"]
    assert list(memo.get_many(keys).items()) == list(reversed(stored.items()))


def test_a_stored_null_is_a_hit_among_many(memo: Memo) -> None:
    memo.put("null", None)
    assert memo.get_many(["null", "missing"]) == {"null": None}


def test_a_value_can_be_overwritten(memo: Memo) -> None:
    memo.put("key", "old")
    memo.put("key", "new")
    assert memo.get("key") == "new"
    assert memo.stats().entries == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), {1, 2}, b"bytes"])
def test_what_is_no_json_is_refused_and_nothing_of_its_batch_is_stored(memo: Memo, bad: Any) -> None:
    with pytest.raises(InputError, match="the value of bad cannot be written as JSON"):
        memo.put_many({"good": 1, "bad": [bad]})
    assert memo.stats().entries == 0


def test_long_values_are_compressed(memo: Memo) -> None:
    memo.put("long", ["positive"] * 10_000)
    connection = database(memo)
    ((size,),) = connection.execute("SELECT length(value) FROM Cache").fetchall()
    connection.close()
    assert size < 2_000


def test_all_is_in_the_database_and_nothing_is_a_pickle(memo: Memo) -> None:
    memo.put_many({"short": {"text": "yes"}, "long": "no " * 100_000})
    assert {file.name for file in memo.folder.iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}
    connection = database(memo)
    rows = connection.execute(
        "SELECT key, raw, mode, filename, typeof(value), hex(substr(value, 1, 1)) FROM Cache"
    ).fetchall()
    connection.close()
    assert sorted(rows) == [("long", 1, 1, None, "blob", "01"), ("short", 1, 1, None, "blob", "00")]


def test_the_disk_takes_text_and_bytes_only(memo: Memo) -> None:
    disk = memo._store.disk
    for key in (1, b"bytes", ("a", "tuple"), None, "ä"):
        with pytest.raises(InputError, match="a key of the memo must be ASCII text"):
            disk.put(key)
    for value in ("text", 1, None, {"a": "dict"}):
        with pytest.raises(InputError, match="a value of the memo must be bytes"):
            disk.store(value, read=False)


def test_nothing_is_ever_evicted(memo: Memo) -> None:
    assert (memo._store.eviction_policy, memo._store.cull_limit) == ("none", 0)
    assert memo._store.size_limit > 2**60


# Broken entries


class Malice:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_pickle_in_the_database_is_a_miss_and_is_not_run(memo: Memo, tmp_path: Path, *, in_a_file: bool) -> None:
    target = tmp_path / "run by the pickle"
    payload = pickle.dumps(Malice(target))
    if in_a_file:
        (memo.folder / "evil.val").write_bytes(payload)
    meddle(memo, "evil", diskcache.core.MODE_PICKLE, None if in_a_file else payload, "evil.val" if in_a_file else None)
    assert memo.get("evil") is None
    assert memo.get_many(["evil"]) == {}
    assert memo.export(tmp_path / "out.jsonl") == 0
    assert memo.corrupted == 1
    assert not target.exists()
    pickle.loads(payload)  # noqa: S301  # it would have worked
    assert target.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00{",
        b"\x00NaN",
        b"\x00\xff\xfe",
        b"\x00" + b"[" * 100_000,
        b"\x01garbage",
        b"\x02[]",
        b"[1]",
        "text",
        7,
        None,
    ],
    ids=lambda data: repr(data)[:20],
)
def test_a_broken_entry_is_a_miss_is_counted_and_can_be_overwritten(memo: Memo, data: Any) -> None:
    meddle(memo, "broken", diskcache.core.MODE_RAW, data)
    memo.put("whole", 1)
    assert memo.get_many(["broken", "whole"]) == {"whole": 1}
    assert memo.get("broken") is None
    assert memo.corrupted == 1
    memo.put("broken", [2])
    assert memo.get("broken") == [2]


def test_a_value_cut_short_is_a_miss(memo: Memo) -> None:
    memo.put_many({"long": "yes " * 1000, "short": "yes"})
    connection = database(memo)
    connection.execute("UPDATE Cache SET value = substr(value, 1, length(value) - 1)")
    connection.close()
    assert memo.get_many(["long", "short"]) == {}
    assert memo.corrupted == 2


def test_broken_entries_are_reported_once(memo: Memo, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("one", "two"):
        meddle(memo, key, diskcache.core.MODE_RAW, b"garbage")
    with caplog.at_level(logging.WARNING, "promptopt.memo"):
        memo.get_many(["one", "two"])
        memo.get("one")
    (record,) = caplog.records
    assert "has a broken entry" in record.getMessage()
    assert memo.corrupted == 2


def test_a_file_that_is_no_database_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(InputError, match=r"file is not a database.*move the folder away") as caught:
        Memo(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/memo cannot be used .*PROMPTOPT_CACHE_DIR"):
        Memo(tmp_path / "file" / "memo")


def test_a_full_disk_is_an_error_and_the_memo_works_on_after_it(memo: Memo) -> None:
    pages = memo._store._sql("PRAGMA page_count").fetchone()[0]
    memo._store._sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match=r"full.*make room"):
        memo.put_many({"small": 1, "large": os.urandom(100_000).hex()})
    memo._store._sql("PRAGMA max_page_count = 1000000")
    assert memo.stats().entries == 0
    memo.put("small", 1)
    assert memo.get("small") == 1


# Death and company

DIES = """
import sys, time
from promptopt.memo import Memo
memo = Memo(sys.argv[1])
memo.put_many({f"before-{i}": i for i in range(50)})
connection = memo._store._con
connection.execute("PRAGMA cache_size = 5")  # so that pages reach the disk before the commit
seen = 0
def watch(statement):
    global seen
    seen += statement.lstrip().startswith(sys.argv[2])
    if seen == int(sys.argv[3]):
        print("inside", flush=True)
        time.sleep(600)
connection.set_trace_callback(watch)
memo.put_many({f"batch-{i}": [str(i)] * 500 for i in range(200)})
connection.set_trace_callback(None)
print("stored", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("statement", "count", "said", "stored"),
    [("INSERT", 1, "inside", 0), ("INSERT", 150, "inside", 0), ("COMMIT", 1, "inside", 0), ("never", 1, "stored", 200)],
)
def test_of_a_batch_all_or_nothing_is_there_after_a_kill(
    tmp_path: Path, statement: str, count: int, said: str, stored: int
) -> None:
    with running(DIES, str(tmp_path), statement, str(count)) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == said
        child.send_signal(signal.SIGKILL)
    with Memo(tmp_path) as memo:
        assert memo.get_many([f"before-{i}" for i in range(50)]) == {f"before-{i}": i for i in range(50)}
        assert len(memo.get_many([f"batch-{i}" for i in range(200)])) == stored
        memo.put("after", 1)
        assert memo.stats().entries == 51 + stored


WRITES = """
import sys
from promptopt.memo import Memo
with Memo(sys.argv[1]) as memo:
    for i in range(0, 300, 3):
        memo.put(f"{sys.argv[2]}-{i}", i)
        memo.put_many({f"{sys.argv[2]}-{j}": j for j in (i + 1, i + 2)})
        memo.put("both", sys.argv[2])
"""


def test_two_processes_that_open_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path / "memo")
    with running(WRITES, folder, "a") as first, running(WRITES, folder, "b") as second:
        assert (first.wait(), second.wait()) == (0, 0)
    with Memo(tmp_path / "memo") as memo:
        expected = {f"{name}-{i}": i for name in "ab" for i in range(300)}
        assert memo.get_many(list(expected)) == expected
        assert memo.get("both") in ("a", "b")


def test_a_write_waits_while_another_process_writes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo_store, "_BUSY_SECONDS", 0.01)
    with Memo(tmp_path) as memo:
        other = database(memo)
        other.execute("BEGIN IMMEDIATE")
        waiting = threading.Event()
        monkeypatch.setattr(memo_store._log, "warning", lambda *_: waiting.set())

        def put() -> None:
            try:
                memo.put("key", 1)
            finally:
                waiting.set()
                memo.close()

        thread = threading.Thread(target=put)
        thread.start()
        waiting.wait()
        assert memo.get("key") is None  # reading goes on
        other.execute("COMMIT")
        other.close()
        thread.join()
        assert memo.get("key") == 1


# Single flight


def test_of_threads_that_want_the_same_key_one_computes(memo: Memo) -> None:
    computed: list[str] = []
    threads = 8
    barrier = threading.Barrier(threads)
    keys = ["a", "b", "c"]

    def work(turn: int) -> dict[str, Any]:
        barrier.wait()
        with memo.claim(keys[turn % 3 :] + keys[: turn % 3]) as claim:
            for key in claim.mine:
                if memo.get(key) is None:
                    computed.append(key)
                    memo.put(key, key.upper())
            claim.wait()
        found = memo.get_many(keys)
        memo.close()
        return found

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(work, range(threads)))
    assert sorted(computed) == keys
    assert results == [{"a": "A", "b": "B", "c": "C"}] * threads


@pytest.mark.parametrize("fails", [False, True])
def test_waiting_ends_when_the_other_claim_does_not_before(memo: Memo, *, fails: bool) -> None:
    order: list[str] = []
    claimed, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        with memo.claim(["key"]):
            claimed.set()
            waiting.wait()
            order.append("computed")
            if fails:
                raise RuntimeError("the model failed")

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        claimed.wait()
        with memo.claim(["key"]) as claim:
            waiting.set()
            claim.wait()
            order.append("waited")
        assert isinstance(holder.exception(), RuntimeError) == fails
    assert order == ["computed", "waited"]


def test_a_claim_ends_with_an_error_in_its_context(memo: Memo) -> None:
    with pytest.raises(RuntimeError, match="the model failed"), memo.claim(["key"]):
        raise RuntimeError("the model failed")
    with memo.claim(["key"]) as claim:
        assert claim.mine == ["key"]


def test_a_claim_names_each_key_once_in_the_order_given(memo: Memo) -> None:
    with memo.claim(["b", "a", "b"]) as outer, memo.claim(["c", "a", "b"]) as inner:
        assert (outer.mine, outer.theirs) == (["b", "a"], [])
        assert (inner.mine, inner.theirs) == (["c"], ["a", "b"])


# Housekeeping


def set_age(memo: Memo, key: str, seconds: float) -> None:
    connection = database(memo)
    connection.execute("UPDATE Cache SET store_time = store_time - ? WHERE key = ?", (seconds, key))
    connection.close()


def test_statistics_of_an_empty_memo(memo: Memo) -> None:
    stats = memo.stats()
    assert (stats.folder, stats.entries, stats.oldest, stats.newest) == (memo.folder, 0, None, None)


def test_statistics_say_how_much_and_since_when(memo: Memo) -> None:
    memo.put_many({"old": os.urandom(50_000).hex(), "new": 2})
    set_age(memo, "old", 100)
    stats = memo.stats()
    assert stats.entries == 2
    assert stats.bytes > 50_000
    assert stats.oldest is not None
    assert stats.newest is not None
    assert stats.newest - stats.oldest == pytest.approx(100)


def test_prune_deletes_the_old_and_frees_the_room(memo: Memo) -> None:
    memo.put_many({"old": os.urandom(500_000).hex(), "new": 2})
    set_age(memo, "old", 3600)
    assert memo.prune(7200) == 0
    assert memo.prune(1800) == 1
    assert memo.get_many(["old", "new"]) == {"new": 2}
    assert memo.stats().bytes < 200_000


@pytest.mark.parametrize("age", [-1.0, float("nan")])
def test_prune_refuses_an_age_that_is_none(memo: Memo, age: float) -> None:
    with pytest.raises(InputError, match="the age must be 0 seconds or more, not"):
        memo.prune(age)


def test_an_export_holds_all_entries_and_imports_elsewhere(memo: Memo, tmp_path: Path) -> None:
    stored = {"float": 0.1 + 0.2, "text": "«ja»\n\ud83d", "list": [1, None, {"a": True}], "long": "x" * 5000}
    memo.put_many(stored)
    path = tmp_path / "export.jsonl"
    assert memo.export(path) == 4
    assert [sorted(json.loads(line)) for line in path.read_bytes().splitlines()] == [["key", "stored", "value"]] * 4
    with Memo(tmp_path / "other") as other:
        assert other.import_(path) == 4
        assert other.get_many(list(stored)) == stored
        assert other.stats()[3:] == memo.stats()[3:]


def test_an_import_keeps_what_is_there_and_mends_what_is_broken(memo: Memo, tmp_path: Path) -> None:
    memo.put_many({"known": "theirs", "new": "theirs", "broken": "theirs"})
    memo.export(tmp_path / "export.jsonl")
    with Memo(tmp_path / "other") as other:
        other.put("known", "ours")
        meddle(other, "broken", diskcache.core.MODE_RAW, b"garbage")
        assert other.import_(tmp_path / "export.jsonl") == 2
        assert other.get_many(["known", "new", "broken"]) == {"known": "ours", "new": "theirs", "broken": "theirs"}
        assert other.import_(tmp_path / "export.jsonl") == 0


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "",
        "[]",
        '{"key": "k", "value": 1}',
        '{"key": 3, "value": 1, "stored": 1}',
        '{"key": "ä", "value": 1, "stored": 1}',
        '{"key": "k", "value": 1, "stored": "now"}',
        '{"key": "k", "value": 1, "stored": true}',
        '{"key": "k", "value": 1, "stored": NaN}',
        '{"key": "k", "value": 1, "stored": 1' + "0" * 400 + "}",
        '{"key": "k", "value": NaN, "stored": 1}',
        '{"key": "k", "value": [1e999], "stored": 1}',
    ],
    ids=lambda line: line[:40],
)
def test_an_import_with_a_bad_line_names_it_and_adds_nothing(memo: Memo, tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"key": "good", "value": 1, "stored": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2"):
        memo.import_(path)
    assert memo.stats().entries == 0
    memo.put("later", 1)
    assert memo.get("later") == 1


def test_an_import_of_no_file_names_it(memo: Memo, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.jsonl cannot be read"):
        memo.import_(tmp_path / "missing.jsonl")


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    memo: Memo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo.put("key", 1)
    path = tmp_path / "out" / "export.jsonl"
    path.parent.mkdir()
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        memo.export(path)
    assert [file.name for file in path.parent.iterdir()] == ["export.jsonl"]
    assert path.read_text() == "old"


def test_an_export_into_no_folder_names_the_file(memo: Memo, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/export\.jsonl"):
        memo.export(tmp_path / "nowhere" / "export.jsonl")


def test_what_is_stored_is_there_after_closing(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        memo.put("key", 1)
    with Memo(tmp_path) as memo:
        assert memo.get("key") == 1


# Places


def test_folder_and_file_are_private(tmp_path: Path) -> None:
    with Memo(tmp_path / "deep" / "memo") as memo:
        memo.put("key", 1)
        assert stat.S_IMODE(memo.folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in memo.folder.iterdir()} == {0o600}


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Memo("memo") as memo:
        assert memo.folder == tmp_path / "memo"
        memo.put("key", 1)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with ThreadPoolExecutor(1) as pool:  # another thread, another connection
            assert pool.submit(memo.get, "key").result() == 1
            pool.submit(memo.close).result()


def test_home_and_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROJECT", "films")
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", "~/$PROJECT")
    with Memo() as memo:
        assert memo.folder == tmp_path / "films"
    assert (tmp_path / "films" / "cache.db").is_file()


CHECKOUT = '[project]\nname = "promptopt-toolkit"\n'


def test_the_environment_goes_before_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "pyproject.toml").write_text(CHECKOUT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", str(tmp_path / "named"))
    assert default_folder() == tmp_path / "named"
    monkeypatch.delenv("PROMPTOPT_CACHE_DIR")
    assert default_folder() == tmp_path / "cache"


@pytest.mark.parametrize(
    ("pyproject", "has_cache"),
    [
        (CHECKOUT, False),
        (None, True),
        ('[project]\nname = "another"\n', True),
        ("[tool.ruff]\n", True),
        ("project = 3\n", True),
        ("no toml at all", True),
        ("\udcff", True),
    ],
)
def test_elsewhere_it_is_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, pyproject: str | None, has_cache: bool
) -> None:
    if has_cache:
        (tmp_path / "cache").mkdir()
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject, encoding="utf-8", errors="surrogateescape")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", "")
    assert default_folder() == platformdirs.user_cache_path("promptopt") / "memo"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("3600s", 3_600), ("1.5h", 5_400)]
)
def test_ages_are_read(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "3 weeks", "1e3s", "infs", "٣d"])
def test_an_age_without_number_or_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 30d, 12h, 90m or 3600s"):
        parse_age(text)


def test_importing_the_memo_loads_nothing_heavy() -> None:
    script = (
        "import sys, promptopt.memo; print(sorted({'openai', 'anthropic', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
