"""Claims in a folder: processes share work, and a claim ends with its process."""

from __future__ import annotations

import errno
import fcntl
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from memo_places import running
from servers import climbing
from servers.climbing import CONCURRENCY, Climb
from servers.loopback import Loopback

from promptopt import Memo
from promptopt.memo import claims
from promptopt.memo.folder import ReadOnlyStore
from promptopt.memo.salvage import salvage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

KEYS = [f"key-{n}" for n in range(2500)]
slow_server = partial(Loopback, climbing.answer, latency=0.05, waits=False)


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path / "memo") as opened:
        yield opened


def files(memo: Memo) -> list[Path]:
    return [file for file in Path(memo.location, "claims").iterdir() if file.name != "mutex"]


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


# Whole runs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, int]:
    """The result of the run by itself, and its requests."""
    with slow_server() as server:
        climb = Climb.at(tmp_path_factory.mktemp("alone"), server.url, forked=True)
        climb.start().communicate()
        return climb.result(), len(server.requests)


def test_two_processes_with_the_same_run_make_the_requests_of_one(alone: tuple[object, int], tmp_path: Path) -> None:
    expected, requests = alone
    with slow_server() as server:
        climbs = [Climb.at(tmp_path / name, server.url, tmp_path / "memo", forked=True) for name in "ab"]
        for process in [climb.start() for climb in climbs]:
            process.communicate()
        assert (len(server.requests), server.duplicates) == (requests, 0)
        assert [climb.result() for climb in climbs] == [expected] * 2
    with Memo(tmp_path / "memo") as memo:
        assert files(memo) == []


def test_of_two_processes_one_is_killed_and_the_other_repeats_nothing_that_was_stored(
    alone: tuple[object, int], tmp_path: Path
) -> None:
    expected, requests = alone
    with slow_server() as server:
        first, second = (Climb.at(tmp_path / name, server.url, tmp_path / "memo", forked=True) for name in "ab")
        killed, left = first.start(), second.start()
        assert server.wait_answered(requests // 2)
        seen = list(server.requests)
        stored = second.held(second.keys(seen))
        killed.kill()
        left.communicate()
        assert not stored & second.keys(server.requests[len(seen) :])
        assert requests <= len(server.requests) <= requests + CONCURRENCY  # what was in flight is asked again
        assert second.result() == expected


# Death

HOLDS = """
import os, sys, time
from promptopt.memo import Memo
with Memo(sys.argv[1]).claim(["a", "b"]) as claim:
    child = os.fork() if sys.argv[2] == "forks" else 1
    if child:
        print(*claim.mine, flush=True)
    time.sleep(600 if child else 60)  # the forked process outlives the test
"""


@pytest.mark.parametrize("way", ["alone", "forks"])
def test_a_claim_ends_with_its_process_by_whatever_signal(memo: Memo, way: str) -> None:
    with running(HOLDS, memo.location, way) as child:
        assert said(child) == "a b"
        with memo.claim(["a", "b", "c"]) as claim:
            assert (claim.mine, claim.theirs) == (["c"], ["a", "b"])
        assert not claim.flights[0].wait(0)
        child.kill()
        claim.wait()
        with memo.claim(["a", "b", "c"]) as claim:
            assert claim.mine == ["a", "b", "c"]
            assert len(files(memo)) == 1  # what the dead left behind is gone
    assert files(memo) == []


# Sharing


def test_what_two_memos_claim_is_shared_out_and_freed(memo: Memo) -> None:
    with Memo(memo.location) as other:
        with memo.claim(KEYS[:1500]) as first, other.claim(KEYS) as second:
            assert (first.mine, first.theirs) == (KEYS[:1500], [])
            assert (second.mine, second.theirs) == (KEYS[1500:], KEYS[:1500])
        with other.claim(KEYS) as third:
            assert third.mine == KEYS
        second.wait()
    assert files(memo) == []


def test_claims_are_no_entries(memo: Memo) -> None:
    memo.put("stored", 1)
    with memo.claim(KEYS):
        assert memo.stats().entries == 1
        assert [line for line in memo.lines() if b"key-" in line] == []
        assert [entry.key for entry in salvage(memo._store.folder)] == ["stored"]  # type: ignore[attr-defined]
        assert memo.prune(0) == 1
        assert len(files(memo)) == 1


def test_who_waits_long_is_told_why(
    memo: Memo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "_LOG_SECONDS", -1.0)
    with Memo(memo.location) as other, memo.claim(["key"]), caplog.at_level(logging.INFO, "promptopt.memo.memo"):
        with other.claim(["key"]) as claim:
            assert claim.theirs == ["key"]
        assert not claim.flights[0].wait(0)
        (file,) = files(memo)
    assert f"still waiting for another process to get the same replies (its claim is {file})" in caplog.text


# Where nothing can be claimed


def test_where_no_claim_can_be_written_all_is_ours_as_if_alone(memo: Memo) -> None:
    Path(memo.location, "claims").write_text("in the way")
    with (
        Memo(memo.location) as other,
        memo.claim(KEYS) as first,
        other.claim(KEYS) as second,
        memo.claim(KEYS) as third,
    ):
        assert first.mine == second.mine == third.theirs == KEYS  # threads of one memo share as ever


def test_a_process_that_is_suspended_in_the_middle_of_a_claim_stops_nobody(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_MUTEX_SECONDS", 0.0)
    with Memo(memo.location) as other, other.claim(KEYS), Path(memo.location, "claims", "mutex").open("ab") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        with memo.claim(KEYS) as claim:
            assert claim.mine == KEYS


def test_a_full_disk_is_no_hindrance(memo: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "flock", full)
    with Memo(memo.location) as other, memo.claim(KEYS) as first, other.claim(KEYS) as second:
        assert first.mine == second.mine == KEYS
    assert files(memo) == []


def test_a_memo_that_is_only_read_claims_among_its_threads(memo: Memo) -> None:
    with ReadOnlyStore(Path(memo.location)).claim(KEYS) as claim:
        assert claim.mine == KEYS
    assert not Path(memo.location, "claims").exists()
