"""The memo on a real server: work that is shared, processes and servers that die, and what is never shown."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import toys
from memo_places import RedisServer, running
from typer.testing import CliRunner

from promptopt import FakeModel, FunctionModel, InputError, Memo, MissingExtraError, Result, estimate, optimize
from promptopt.cli import app
from promptopt.memo.memo import public_location

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

SECRET = "canary-5f1d"  # noqa: S105  of a server of the tests' own
TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def server(started: RedisServer) -> RedisServer:
    with started.client() as client:
        client.flushall()
        client.config_resetstat()
    return started


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill."""
    folder = tmp_path / "own"
    folder.mkdir()
    server = RedisServer(folder, "always")
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


# Work that is shared

RUNS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import toys
from promptopt import FunctionModel, optimize

log = open(sys.argv[4], "a")

def answer(request):
    log.write(f"{os.getpid()} {toys.text_of(request.context)!r}\\n")
    log.flush()
    time.sleep(0.01)
    return toys.answer(request)

print("ready", flush=True)
sys.stdin.readline()
optimize(toys.TASK, FunctionModel(answer, name="fake", version="1"), "tapruning", memo=sys.argv[2], run_dir=sys.argv[3])
"""


def start_runs(
    stack: ExitStack, server: RedisServer, folder: Path, count: int
) -> tuple[list[subprocess.Popen[str]], Path]:
    """Start equal runs on one server at the same moment; return them and the log of their calls."""
    log = folder / "calls.log"
    log.touch()
    runs = [
        stack.enter_context(running(RUNS, TESTS, server.url(), str(folder / str(n)), str(log))) for n in range(count)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    return runs, log


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, int]:
    """The result of the same run alone, and how many calls that takes."""
    asked = []

    def answer(request: object) -> str:
        asked.append(request)
        return toys.answer(request)  # type: ignore[arg-type]

    model = FunctionModel(answer, name="fake", version="1")
    return optimize(toys.TASK, model, "tapruning", memo=tmp_path_factory.mktemp("alone")), len(asked)


def results(folder: Path, numbers: range) -> list[Result]:
    return [Result.load(folder / str(n) / "result.json") for n in numbers]


def test_two_processes_with_the_same_run_make_the_calls_of_one(
    server: RedisServer, alone: tuple[Result, int], tmp_path: Path
) -> None:
    expected, calls = alone
    with ExitStack() as stack:
        runs, log = start_runs(stack, server, tmp_path, 2)
        assert [run.wait() for run in runs] == [0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == len({line.partition(" ")[2] for line in lines}) == calls
    assert results(tmp_path, range(2)) == [expected] * 2


@pytest.mark.parametrize("after", [pytest.param(5, marks=pytest.mark.wide), 40])
def test_of_three_processes_one_is_killed_and_only_its_call_in_flight_is_repeated(
    server: RedisServer, alone: tuple[Result, int], tmp_path: Path, after: int
) -> None:
    expected, calls = alone
    with ExitStack() as stack:
        runs, log = start_runs(stack, server, tmp_path, 3)
        while len(lines := log.read_text().splitlines()) < after:
            assert [run.poll() for run in runs] == [None] * 3
            time.sleep(0.005)
        killed = next(run for run in runs if str(run.pid) == lines[-1].split()[0])
        killed.kill()
        killed.wait()
        with server.client() as client:  # its lease would end by itself, in half a minute
            for lease in client.scan_iter("promptopt:lease:*"):
                client.pexpire(lease, 200)
        left = [n for n, run in enumerate(runs) if run is not killed]
        assert [runs[n].wait() for n in left] == [0, 0]
    lines = log.read_text().splitlines()
    twice = {text for text, count in Counter(line.partition(" ")[2] for line in lines).items() if count > 1}
    last = [line.partition(" ")[2] for line in lines if line.startswith(f"{killed.pid} ")][-1]
    assert len(lines) - calls == len(twice) <= 1
    assert twice <= {last}
    assert [Result.load(tmp_path / str(n) / "result.json") for n in left] == [expected] * 2


def test_what_two_memos_claim_is_shared_out_and_freed(server: RedisServer) -> None:
    with Memo(server.url()) as one, Memo(server.url()) as two:
        keys = [f"key-{n}" for n in range(2500)]
        with one.claim(keys[:1500]) as first, two.claim(keys) as second:
            assert (first.mine, first.theirs) == (keys[:1500], [])
            assert (second.mine, second.theirs) == (keys[1500:], keys[:1500])
        with two.claim(keys) as third:
            assert third.mine == keys
        second.wait()
    with server.client() as client:
        assert client.dbsize() == 0


def test_a_lease_that_ended_is_taken_over_and_not_freed_by_who_lost_it(server: RedisServer) -> None:
    with Memo(server.url()) as memo, server.client() as client:
        with memo.claim(["key"]):
            client.delete(*client.keys("promptopt:lease:*"))
            taken = memo.claim(["key"])
            assert taken.__enter__().mine == ["key"]
        with memo.claim(["key"]) as third:
            assert third.theirs == ["key"]
        taken.__exit__(None, None, None)


def test_a_lease_is_renewed_while_it_is_held_even_after_the_server_forgot_it(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptopt.memo import server as memo_redis

    monkeypatch.setattr(memo_redis, "_LEASE_SECONDS", 0.3)
    with Memo(server.url()) as memo, server.client() as client:
        with memo.claim(["key"]):
            client.delete(*client.keys("promptopt:lease:*"))
            while not client.keys("promptopt:lease:*"):
                time.sleep(0.01)
        assert client.dbsize() == 0


def test_a_claim_whose_answer_was_lost_can_be_repeated(server: RedisServer) -> None:
    from promptopt.memo.server import RedisStore

    store = RedisStore(server.url(), server.url())
    assert store._claim_keys(["key"], "holder") == store._claim_keys(["key"], "holder") == [b""]
    assert store._claim_keys(["key"], "another") == [b"holder"]
    store._release_keys(["key"], "holder")
    store.close()


def test_a_dry_run_reads_the_server_and_writes_nothing(server: RedisServer) -> None:
    model = FakeModel(toys.answer)
    with Memo(server.url()) as memo:
        before = estimate(toys.TASK, model, "tapruning", memo=memo)
        with server.client() as client:
            assert client.dbsize() == 0
            assert "cmdstat_mset" not in client.info("commandstats")
        optimize(toys.TASK, model, "tapruning", memo=memo)
        after = estimate(toys.TASK, model, "tapruning", memo=server.url())
    assert (before.known.calls, after.known.calls) == (0, after.asked.calls + after.known.calls)


# Death

DIES = """
import sys, time
import redis.connection
from promptopt.memo import Memo

memo = Memo(sys.argv[1])
memo.put_many({f"before-{i}": i for i in range(50)})
send = redis.connection.Connection.send_packed_command

def half(connection, command, check_health=True):
    whole = b"".join(command)
    send(connection, [whole[: int(len(whole) * float(sys.argv[2]))]], check_health)
    print("inside", flush=True)
    time.sleep(600)

redis.connection.Connection.send_packed_command = half
memo.put_many({f"batch-{i}": i for i in range(2200)})
"""


@pytest.mark.parametrize(("share", "stored"), [("0.3", 0), ("0.9999", 0), ("1", 2200)])
def test_of_a_batch_all_or_nothing_is_there_after_a_kill(server: RedisServer, share: str, stored: int) -> None:
    with running(DIES, server.url(), share) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "inside\n"
        if stored:
            with server.client() as client:
                while client.dbsize() < stored:
                    time.sleep(0.01)
        child.kill()
        child.wait()
    with Memo(server.url()) as memo:
        assert memo.get_many([f"before-{i}" for i in range(50)]) == {f"before-{i}": i for i in range(50)}
        assert len(memo.get_many([f"batch-{i}" for i in range(2200)])) == stored


def test_a_server_that_is_killed_and_started_again_lost_nothing_and_is_waited_for(own: RedisServer) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    def put() -> None:
        number = 0
        while not enough.is_set():
            memo.put_many({f"{number}-{n}": n for n in range(20)})
            acknowledged.append(number)
            number += 1

    with Memo(own.url()) as memo:
        thread = threading.Thread(target=put)
        thread.start()
        for _ in range(3):
            before = len(acknowledged)
            while len(acknowledged) < before + 20:
                assert thread.is_alive()
                time.sleep(0.001)
            own.kill()
            own.start()
        enough.set()
        thread.join()
        names = [f"{number}-{n}" for number in acknowledged for n in range(20)]
        assert len(memo.get_many(names)) == len(names)
        assert memo.stats().entries == len(names)


def test_a_server_that_stays_away_ends_the_run_with_its_name_and_what_it_did_not_take_in_a_file(
    own: RedisServer, alone: tuple[Result, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptopt.memo import server as memo_redis

    monkeypatch.setattr(memo_redis, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(memo_redis, "_LEASE_SECONDS", 0.5)  # that the run leaves behind, and the next waits for
    expected, calls = alone
    asked = []

    def answer(request: object) -> str:
        asked.append(request)
        if len(asked) == 30:
            own.kill()
        return toys.answer(request)  # type: ignore[arg-type]

    result = optimize(toys.TASK, FunctionModel(answer, name="fake", version="1"), "tapruning", memo=own.url())
    (file,) = (tmp_path / "caches" / "promptopt" / "unstored").iterdir()
    assert re.search(r"cannot be used .*start the server or fix the connection", result.unfinished)
    assert f"127.0.0.1:{own.port}/0" in result.unfinished
    assert f"the unstored entries (1) were saved to {file}" in result.unfinished
    own.start()
    with Memo(own.url()) as memo:
        assert memo.stats().entries == 29
        assert memo.import_(file) == 1
        assert optimize(toys.TASK, FunctionModel(answer, name="fake", version="1"), "tapruning", memo=memo) == expected
    assert len(asked) == calls


def test_an_import_that_is_cut_short_says_how_far_it_came(own: RedisServer, tmp_path: Path) -> None:
    lines = [json.dumps({"key": f"k{n}", "value": n, "stored": 1}) for n in range(2500)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with Memo(own.url()) as memo:
        with own.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 150_000)
        with pytest.raises(
            InputError,
            match=r"used memory > .maxmemory.*the first 1,000 entries were stored: run it again to add the rest",
        ):
            memo.import_(tmp_path / "in.jsonl")
        with own.client() as client:
            client.config_set("maxmemory", 0)
        assert memo.import_(tmp_path / "in.jsonl") == 1500
        assert memo.stats().entries == 2500


def test_what_is_no_text_under_our_names_is_passed_over(server: RedisServer, tmp_path: Path) -> None:
    with Memo(server.url()) as memo, server.client() as client:
        client.lpush("promptopt:memo:list", "x")
        client.set("promptopt:memo:short", b"1234")
        client.set(b"promptopt:memo:\xff", b"12345678\x00{}")
        memo.put("key", 1)
        assert memo.get_many(["list", "short", "key"]) == {"key": 1}
        assert (memo.get("list"), memo.get("short")) == (None, None)
        assert memo.export(tmp_path / "out.jsonl") == 1


# Settings


def test_a_server_that_evicts_is_refused(own: RedisServer) -> None:
    with own.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        Memo(own.url()).close()
        client.config_set("maxmemory", "100mb")
    with pytest.raises(InputError, match=r"evicts entries .*allkeys-lru.*set maxmemory-policy to noeviction"):
        Memo(own.url())


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("appendonly", "no", "set appendonly to yes"), ("appendfsync", "no", "set appendfsync to everysec or always")],
)
def test_a_server_that_may_forget_is_warned_of(
    own: RedisServer, caplog: pytest.LogCaptureFixture, setting: str, value: str, said: str
) -> None:
    with caplog.at_level(logging.WARNING, "promptopt.memo.memo"):
        Memo(own.url()).close()
        assert not caplog.records
        with own.client() as client:
            client.config_set(setting, value)
        Memo(own.url()).close()
    assert said in caplog.text


def test_a_server_that_hides_its_settings_is_used_all_the_same(own: RedisServer) -> None:
    with own.client() as client:
        allowed = ["+@all", "-info", "-config"]
        client.acl_setuser("guest", enabled=True, passwords=[f"+{SECRET}"], keys=["promptopt:*"], commands=allowed)
    with Memo(own.url(user=f"guest:{SECRET}@")) as memo:
        memo.put("key", 1)
        assert (memo.get("key"), memo.stats().entries) == (1, 1)
    with pytest.raises(InputError, match="check the user and password in its URL") as caught:
        Memo(own.url(user=f"guest:not-{SECRET}@"))
    assert SECRET not in str(caught.value)


# Names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        (f"redis://:{SECRET}@host:1/2", "redis://host:1/2"),
        (f"rediss://user:{SECRET}@host/7?ssl_cert_reqs=none", "rediss://host:6379/7"),
        (f"valkey://[::1]:5?db=3&password={SECRET}", "valkey://[::1]:5/3"),
        ("valkeys://host", "valkeys://host:6379/0"),
        ("a/folder", "a/folder"),
    ],
)
def test_a_place_is_named_without_user_and_password(url: str, name: str) -> None:
    assert public_location(url) == name


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/more@host/0",
        "redis://:12/34@host/0",
        "redis://:12#34@host/0",
        "redis://:12?34@host/0",
        f"redis://host:{SECRET}/0",
        f"redis://host/{SECRET}",
        f"redis://[{SECRET}/0",
        f"http://:{SECRET}@host",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError, match="the memo's URL cannot be used: write redis://") as caught:
        Memo(url)
    assert not {SECRET, "34", "12"} & set(str(caught.value).replace("/", " ").split())
    assert caught.value.__cause__ is None


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "promptopt.memo.server", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"a memo on a server needs the extra 'scale'"):
        Memo("redis://localhost")


def test_the_password_stands_nowhere(own: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own.client() as client:
        client.config_set("requirepass", SECRET)
    url = own.url(user=f":{SECRET}@")
    monkeypatch.setenv("PROMPTOPT_CACHE_DIR", url)
    with Memo() as memo:
        assert memo.location == f"redis://127.0.0.1:{own.port}/0"
        shown = [repr(memo), repr(vars(memo)), str(memo.stats())]
        with memo.claim(["key"]) as claim, memo.claim(["key"]) as other:
            shown += [repr(claim), repr(other)]
    result = optimize(toys.TASK, FakeModel(toys.answer), "tapruning", run_dir=tmp_path / "run")
    shown += [repr(result), *(file.read_text("latin-1") for file in (tmp_path / "run").rglob("*") if file.is_file())]
    export = str(tmp_path / "out.jsonl")
    commands = ["path", "stats", "stats --json", f"export {export}", "prune --older-than 0s", f"import {export}"]
    entries = 0
    for command in commands:
        ended = CliRunner().invoke(app, ["memo", *command.split()])
        assert ended.exit_code == 0, ended.output
        shown.append(ended.output)
        entries = json.loads(ended.output)["entries"] if "--json" in command else entries
    assert f"{entries:,} entries written" in shown[-3]
    assert f"{entries:,} entries deleted" in shown[-2]
    assert f"{entries:,} new entries" in shown[-1]
    ended = CliRunner().invoke(app, ["memo", "stats", "--memo", own.url(1, user=f":{SECRET}@"), "--json"])
    assert json.loads(ended.output)["place"] == f"redis://127.0.0.1:{own.port}/1"
    assert not [text for text in shown if SECRET in text]
    assert SECRET in os.environ["PROMPTOPT_CACHE_DIR"]
