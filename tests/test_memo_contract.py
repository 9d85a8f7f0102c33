"""What holds of a memo wherever it is: the same tests on a folder and on a real server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memo_places import FolderPlace, RedisServer, ServerPlace, running

from promptopt.errors import InputError
from promptopt.memo import Memo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Place: TypeAlias = FolderPlace | ServerPlace


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.kill()


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return FolderPlace(str(tmp_path / "contract"))
    return ServerPlace(request.getfixturevalue("server"))


@pytest.fixture
def memo(place: Place) -> Iterator[Memo]:
    with Memo(place.name) as opened:
        yield opened


floats = st.floats(allow_nan=False, allow_infinity=False)


texts = st.text(max_size=2000) | st.text(st.sampled_from("é\ud83d\ude00"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


SAME_PLACE = settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(value=values)
@SAME_PLACE
def test_what_goes_in_comes_out(memo: Memo, value: Any) -> None:
    key = hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()
    memo.put(key, value)
    assert repr(memo.get(key)) == repr(
        value
    )  # repr tells 0 from -0.0, 1 from True, and one order of fields from another


@given(numbers=st.lists(floats, min_size=100, max_size=400))
@SAME_PLACE
def test_long_lists_of_floats_come_back_to_the_last_bit(memo: Memo, numbers: list[float]) -> None:
    memo.put("numbers", numbers)
    assert [number.hex() for number in memo.get("numbers") or []] == [number.hex() for number in numbers]


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


def test_both_keep_the_same_bytes_and_long_ones_compressed(memo: Memo, place: Place) -> None:
    memo.put_many({"short": {"text": "yes"}, "long": ["positive"] * 10_000})
    assert place.raw("short")[:1] + place.raw("short")[5:] == b'\x02{"text":"yes"}'
    assert place.raw("long")[:1] == b"\x03"
    assert len(place.raw("long")) < 2_000


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
    ],
    ids=lambda data: repr(data)[:20],
)
def test_a_broken_entry_is_a_miss_is_counted_and_can_be_overwritten(memo: Memo, place: Place, data: bytes) -> None:
    place.meddle("broken", data)
    memo.put("whole", 1)
    assert memo.get_many(["broken", "whole"]) == {"whole": 1}
    assert memo.get("broken") is None
    assert memo.corrupted == 1
    memo.put("broken", [2])
    assert memo.get("broken") == [2]


def test_a_value_cut_short_is_a_miss(memo: Memo, place: Place) -> None:
    memo.put_many({"long": "yes " * 1000, "short": "yes"})
    for key in ("long", "short"):
        place.meddle(key, place.raw(key)[:-1])
    assert memo.get_many(["long", "short"]) == {}
    assert memo.corrupted == 2


def test_broken_entries_are_reported_once(memo: Memo, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("one", "two"):
        place.meddle(key, b"garbage")
    with caplog.at_level(logging.WARNING, "promptopt.memo.memo"):
        memo.get_many(["one", "two"])
        memo.get("one")
    (record,) = caplog.records
    assert "has a corrupted entry" in record.getMessage()
    assert memo.corrupted == 2


WRITES = """
import sys
from promptopt.memo import Memo
with Memo(sys.argv[1]) as memo:
    for i in range(0, 300, 3):
        memo.put(f"{sys.argv[2]}-{i}", i)
        memo.put_many({f"{sys.argv[2]}-{j}": j for j in (i + 1, i + 2)})
        memo.put("both", sys.argv[2])
"""


def test_two_processes_that_open_and_write_at_once_lose_nothing(place: Place) -> None:
    with running(WRITES, place.name, "a") as first, running(WRITES, place.name, "b") as second:
        assert (first.wait(), second.wait()) == (0, 0)
    with Memo(place.name) as memo:
        expected = {f"{name}-{i}": i for name in "ab" for i in range(300)}
        assert memo.get_many(list(expected)) == expected
        assert memo.get("both") in ("a", "b")


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


def test_statistics_of_an_empty_memo(memo: Memo) -> None:
    stats = memo.stats()
    assert (stats.location, stats.entries, stats.oldest, stats.newest) == (memo.location, 0, None, None)


def test_statistics_say_how_much_and_since_when(memo: Memo, place: Place) -> None:
    memo.put_many({"old": os.urandom(50_000).hex(), "new": 2})
    place.age("old", 100)
    stats = memo.stats()
    assert stats.entries == 2
    assert stats.bytes > 50_000
    assert stats.oldest is not None
    assert stats.newest is not None
    assert stats.newest - stats.oldest == pytest.approx(100)


def test_prune_deletes_the_old_and_frees_the_room(memo: Memo, place: Place) -> None:
    memo.put_many({"old": os.urandom(500_000).hex(), "new": 2})
    place.age("old", 3600)
    assert memo.prune(7200) == 0
    assert memo.prune(1800) == 1
    assert memo.get_many(["old", "new"]) == {"new": 2}
    assert memo.stats().bytes < 200_000


@pytest.mark.parametrize("age", [-1.0, float("nan")])
def test_prune_refuses_an_age_that_is_none(memo: Memo, age: float) -> None:
    with pytest.raises(InputError, match="the age must be 0 seconds or more, not"):
        memo.prune(age)


def test_an_export_holds_all_entries_and_imports_elsewhere(memo: Memo, place: Place, tmp_path: Path) -> None:
    stored = {"float": 0.1 + 0.2, "text": "«ja»\n\ud83d", "list": [1, None, {"a": True}], "long": "x" * 5000}
    memo.put_many(stored)
    path = tmp_path / "export.jsonl"
    assert memo.export(path) == 4
    assert [sorted(json.loads(line)) for line in path.read_bytes().splitlines()] == [["key", "stored", "value"]] * 4
    with Memo(place.other()) as other:
        assert other.import_(path) == 4
        assert other.get_many(list(stored)) == stored
        assert other.stats()[3:] == memo.stats()[3:]


def test_an_import_keeps_what_is_there_and_mends_what_is_broken(memo: Memo, place: Place, tmp_path: Path) -> None:
    memo.put_many({"known": "theirs", "new": "theirs", "broken": "theirs"})
    memo.export(tmp_path / "export.jsonl")
    memo.prune(0)
    memo.put("known", "ours")
    place.meddle("broken", b"garbage")
    assert memo.import_(tmp_path / "export.jsonl") == 2
    assert memo.get_many(["known", "new", "broken"]) == {"known": "ours", "new": "theirs", "broken": "theirs"}
    assert memo.import_(tmp_path / "export.jsonl") == 0


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


def test_what_is_stored_is_there_after_closing(place: Place) -> None:
    with Memo(place.name) as memo:
        memo.put("key", 1)
    with Memo(place.name) as memo:
        assert memo.get("key") == 1


def test_entries_go_from_a_folder_to_a_server_and_back_line_for_line(server: RedisServer, tmp_path: Path) -> None:
    there = ServerPlace(server)
    with Memo(tmp_path / "one") as first, Memo(there.name) as shared, Memo(tmp_path / "two") as second:
        first.put_many({"old": [0.1 + 0.2, None, "«ja»\n\ud83d"], "long": "yes " * 1000})
        first.put_many({hashlib.sha256(str(n).encode()).hexdigest(): {"number": n} for n in range(2345)})
        FolderPlace(first.location).age("old", 1e6)
        assert first.export(tmp_path / "1.jsonl") == 2347
        assert shared.import_(tmp_path / "1.jsonl") == 2347
        assert shared.export(tmp_path / "2.jsonl") == 2347
        assert second.import_(tmp_path / "2.jsonl") == 2347
        assert second.export(tmp_path / "3.jsonl") == 2347
        assert shared.stats()[3:] == first.stats()[3:] == second.stats()[3:]
    one, two, three = ((tmp_path / f"{n}.jsonl").read_bytes() for n in (1, 2, 3))
    assert one == two == three


def test_of_a_key_that_an_export_has_twice_the_first_is_imported(memo: Memo, tmp_path: Path) -> None:
    lines = [json.dumps({"key": key, "value": n, "stored": 1}) for n, key in enumerate(["a", "b", "a"])]
    (tmp_path / "twice.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert memo.import_(tmp_path / "twice.jsonl") == 2
    assert memo.get_many(["a", "b"]) == {"a": 0, "b": 1}


def test_a_key_that_is_no_ascii_text_is_refused(memo: Memo) -> None:
    with pytest.raises(InputError, match="a key of the memo must be ASCII text, not 'ä'"):
        memo.put("ä", 1)


def test_waiting_for_a_claim_can_be_ended(memo: Memo) -> None:
    class EnoughError(Exception):
        pass

    def check() -> None:
        raise EnoughError

    with memo.claim(["key"]):
        with memo.claim(["key"]) as claim:
            pass
        with pytest.raises(EnoughError):
            claim.wait(check)
