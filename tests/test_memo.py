"""The memo in a folder: its keys, its file, its place, and what happens to it when somebody dies or meddles."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import diskcache
import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memo_places import running

from promptopt.errors import InputError
from promptopt.memo import Memo, memo_key
from promptopt.memo import folder as memo_store
from promptopt.memo.memo import KeyMaker, default_location, parse_age

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT = {"provider": "openai", "endpoint": "https://api.openai.com/v1", "model": "gpt-4.1-mini"}
BODY = {"context": [["user", "Ist «gut» gut?"]], "max_tokens": 5, "temperature": 0.7, "stop": []}
GOLDEN = "9a341d6d4ca3fca2ed46caea5da061baba4d115ccf25f2e48829da64a09966c8"

# The second kind has halves of surrogate pairs, as models send them.

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


def store_of(memo: Memo) -> Any:
    return memo._store


def database(memo: Memo) -> sqlite3.Connection:
    return sqlite3.connect(Path(memo.location) / "cache.db", isolation_level=None)


def meddle(memo: Memo, key: str, mode: int, value: Any, filename: str | None = None) -> None:
    """Put a row into the database behind the memo's back."""
    connection = database(memo)
    row = (key, mode, filename, value)
    connection.execute("INSERT INTO Cache(key, raw, store_time, mode, filename, value) VALUES (?, 1, 0, ?, ?, ?)", row)
    connection.close()


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


def test_all_is_in_the_database_and_nothing_is_a_pickle(memo: Memo) -> None:
    memo.put_many({"short": {"text": "yes"}, "long": "no " * 100_000})
    assert {file.name for file in Path(memo.location).iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}
    connection = database(memo)
    rows = connection.execute(
        "SELECT key, raw, mode, filename, typeof(value), hex(substr(value, 1, 1)) FROM Cache"
    ).fetchall()
    connection.close()
    assert sorted(rows) == [("long", 1, 1, None, "blob", "03"), ("short", 1, 1, None, "blob", "02")]


def test_the_disk_takes_text_and_bytes_only(memo: Memo) -> None:
    disk = store_of(memo).disk
    for key in (1, b"bytes", ("a", "tuple"), None, "ä"):
        with pytest.raises(InputError, match="a key of the memo must be ASCII text"):
            disk.put(key)
    for value in ("text", 1, None, {"a": "dict"}):
        with pytest.raises(InputError, match="a value of the memo must be bytes"):
            disk.store(value, read=False)


def test_nothing_is_ever_evicted(memo: Memo) -> None:
    assert (store_of(memo).eviction_policy, store_of(memo).cull_limit) == ("none", 0)
    assert store_of(memo).size_limit > 2**60


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
        (Path(memo.location) / "evil.val").write_bytes(payload)
    meddle(memo, "evil", diskcache.core.MODE_PICKLE, None if in_a_file else payload, "evil.val" if in_a_file else None)
    assert memo.get("evil") is None
    assert memo.get_many(["evil"]) == {}
    assert memo.export(tmp_path / "out.jsonl") == 0
    assert memo.corrupted == 1
    assert not target.exists()
    pickle.loads(payload)  # noqa: S301  # it would have worked
    assert target.exists()


def test_a_file_that_is_no_database_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(InputError, match=r"file is not a database.*memo salvage FILE.*move the folder away") as caught:
        Memo(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/memo cannot be used .*PROMPTOPT_CACHE_DIR"):
        Memo(tmp_path / "file" / "memo")


def test_a_full_disk_is_an_error_that_loses_nothing_and_the_memo_works_on_after_it(
    memo: Memo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    pages = store_of(memo)._sql("PRAGMA page_count").fetchone()[0]
    store_of(memo)._sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match=r"full.*free disk space"):
        memo.put_many({"small": 1, "large": os.urandom(100_000).hex()})
    store_of(memo)._sql("PRAGMA max_page_count = 1000000")
    assert memo.stats().entries == 0
    (file,) = (tmp_path / "caches" / "promptopt" / "unstored").iterdir()
    assert memo.import_(file) == 2
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


# Housekeeping


# Places


def test_folder_and_file_are_private(tmp_path: Path) -> None:
    with Memo(tmp_path / "deep" / "memo") as memo:
        memo.put("key", 1)
        assert stat.S_IMODE(Path(memo.location).stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in Path(memo.location).iterdir()} == {0o600}


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Memo("memo") as memo:
        assert memo.location == str(tmp_path / "memo")
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
        assert memo.location == str(tmp_path / "films")
    assert (tmp_path / "films" / "cache.db").is_file()


CHECKOUT = '[project]\nname = "promptopt-toolkit"\n'


def test_the_environment_goes_before_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "pyproject.toml").write_text(CHECKOUT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", str(tmp_path / "named"))
    assert default_location() == str(tmp_path / "named")
    monkeypatch.delenv("PROMPTOPT_CACHE_DIR")
    assert default_location() == str(tmp_path / "cache")


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
    assert default_location() == str(platformdirs.user_cache_path("promptopt") / "memo")


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
    script = "import sys, promptopt.memo.memo; print(sorted({'openai', 'anthropic', 'redis', 'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
