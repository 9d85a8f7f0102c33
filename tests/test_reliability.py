"""The fault matrix: one hill-climbing run, as a real process, against a server that fails on command.

The healthy run is a new interpreter, the others are forked. Each case counts what reached the server. What must not differ is the result: it is compared with the healthy run's.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from servers import climbing
from servers.climbing import CALLS, CONCURRENCY, Climb
from servers.loopback import Fault, Loopback

from promptopt import Memo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forked import Forked
    from servers.loopback import Kind

    from promptopt import Result

TESTS = Path(__file__).parent
TRIES = 4  # of a request that meets passing errors
WAITS = 2  # seconds, of a Retry-After
KILLS = 20
WIDE = ("null", "truncated")  # replies that are broken in other words


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


class Healthy(NamedTuple):
    """The run that nothing disturbed."""

    result: Result
    server: dict[str, Any]
    climb: Climb


def healthy_server() -> Loopback:
    return Loopback(climbing.answer, latency=0.01, waits=False)


climb_at = partial(Climb.at, forked=True)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with healthy_server() as running:
        yield running


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    with healthy_server() as running:
        climb = Climb.at(tmp_path_factory.mktemp("healthy"), running.url)
        ended = finish(climb)
        assert ended.code == 0, ended.err
        return Healthy(climb.result(), running.state(), climb)


class Case(NamedTuple):
    """A run that met a fault."""

    fault: Fault
    server: Loopback
    climb: Climb
    ended: Ended


def wanted(request: pytest.FixtureRequest) -> set[Any]:
    """Return for which kinds of faults there is a test in this session."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    return {item.callspec.params["kind"] for item in items if request.fixturename in item.fixturenames}


def kinds(*faults: int | Kind) -> list[Any]:
    """Return them as parameters, of which some are for `make test-all`."""
    return [pytest.param(kind, id=str(kind), marks=[pytest.mark.wide] * (kind in WIDE)) for kind in faults]


def run_all(folder: Path, faults: Sequence[Fault], timeout: float = 300.0) -> Iterator[dict[Any, Case]]:
    """Run once against each fault, at the same time, for most of it is waiting; yield the runs by kind of fault."""
    with ExitStack() as stack:
        servers = [stack.enter_context(healthy_server()) for _ in faults]
        for server, fault in zip(servers, faults, strict=True):
            server.fail(fault)
        hangs = [fault.kind == "hang" for fault in faults]
        climbs = [
            climb_at(folder / str(fault.kind), server.url, timeout=6.0 if hang else timeout)
            for server, fault, hang in zip(servers, faults, hangs, strict=True)
        ]
        processes = [climb.start() for climb in climbs]
        ended = [finish(climb, process) for climb, process in zip(climbs, processes, strict=True)]
        cases = map(Case, faults, servers, climbs, ended)
        yield {case.fault.kind: case for case in cases}


def finish(climb: Climb, process: subprocess.Popen[str] | Forked | None = None) -> Ended:
    """Let a run end, and see that it left the key nowhere."""
    process = process or climb.start()
    out, err = process.communicate(timeout=900)
    assert not climb.leaks(out, err)
    assert "Traceback" not in err
    assert process.returncode is not None
    return Ended(process.returncode, out, err)


def tries(server: Loopback) -> Counter[str]:
    """Return how often each request came."""
    return Counter(str(seen.body) for seen in server.requests)


def stored(climb: Climb) -> int:
    with Memo(climb.memo) as memo:
        entries = memo.stats().entries
        assert memo.corrupted == 0
    return entries


def test_a_healthy_run_asks_nothing_twice(healthy: Healthy) -> None:
    assert healthy.server["requests"] == healthy.server["answered"] == CALLS
    assert healthy.server["duplicates"] == 0
    assert 1 < healthy.server["most_in_flight"] <= CONCURRENCY
    assert healthy.result.failed == 0
    assert len({record.fitness for record in healthy.result.history}) > 2  # there is something to climb


def test_the_same_run_in_a_new_process_asks_nothing(healthy: Healthy, server: Loopback, tmp_path: Path) -> None:
    climb = climb_at(tmp_path, server.url)
    finish(climb)
    before = len(server.requests)
    ended = finish(climb)

    assert len(server.requests) == before == CALLS
    assert ended.code == 0
    assert climb.result() == healthy.result


@pytest.mark.parametrize(
    ("status", "error", "mend"),
    [
        (401, {"message": f"Incorrect API key provided: {climbing.KEY}"}, "check OPENAI_API_KEY"),
        pytest.param(403, {"message": "no access"}, "check OPENAI_API_KEY", marks=pytest.mark.wide),
        pytest.param(
            *(404, {"message": "The model `some-model` does not exist", "code": "model_not_found"}, "check the name"),
            marks=pytest.mark.wide,
        ),
        pytest.param(
            400,
            {"message": "stop is too long"},
            "stop is too long): correct the request settings",
            marks=pytest.mark.wide,
        ),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, "add credit"),
    ],
)
def test_a_final_error_from_the_start_costs_one_call(
    server: Loopback, tmp_path: Path, status: int, error: dict[str, Any], mend: str
) -> None:
    server.fail(Fault(status, error=error, retry_after=None))
    ended = finish(climb_at(tmp_path, server.url))

    assert len(server.requests) == 1
    assert ended.code == 1
    assert ended.out == ""
    (said,) = ended.err.splitlines()
    assert said.startswith("error: ")
    assert mend in said


def test_a_key_that_dies_mid_run_costs_at_most_the_calls_in_flight(
    healthy: Healthy, server: Loopback, tmp_path: Path
) -> None:
    server.fail(Fault(401, start=70, retry_after=None))
    climb = climb_at(tmp_path, server.url)
    ended = finish(climb)
    unfinished = climb.result()

    assert 1 <= len(server.requests) - 69 <= CONCURRENCY
    assert ended.code == 1
    assert "check OPENAI_API_KEY" in unfinished.unfinished
    assert unfinished.history
    assert stored(climb) == server.answered == 69

    server.fail(None)
    assert finish(climb).code == 0
    assert climb.result() == healthy.result
    assert server.repeated == 0


def test_nobody_calls_before_a_retry_after_ends(healthy: Healthy, server: Loopback, tmp_path: Path) -> None:
    server.fail(Fault(429, start=70, seconds=WAITS, retry_after=WAITS))
    climb = climb_at(tmp_path, server.url)
    ended = finish(climb)

    first = next(seen for seen in server.requests if seen.status == 429)
    assert first.ended is not None
    early = [seen for seen in server.requests if first.arrived < seen.arrived < first.ended + WAITS]
    assert len(early) < CONCURRENCY  # those in flight when the answer was on its way
    assert ended.code == 0, ended.err
    assert climb.result() == healthy.result
    assert server.repeated == 0
    assert len(server.requests) == CALLS + sum(seen.status == 429 for seen in server.requests)


BROKEN: tuple[Kind, ...] = ("html", "empty", "null", "truncated")


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Climb, Loopback, Future[int]]]:
    """A run that is being killed, beside others, for all of them wait most of the time."""
    with healthy_server() as running, ThreadPoolExecutor(1) as beside:
        climb = climb_at(tmp_path_factory.mktemp("killed"), running.url)
        yield climb, running, beside.submit(climb.killed, running, KILLS, np.random.default_rng(7))


@pytest.fixture(scope="module")
def passing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, killing: object
) -> Iterator[dict[Any, Case]]:
    # However the requests interleave, none meets the fault at each of its tries.
    faults = [Fault(kind, every=4 if kind == 500 else 10, retry_after=None, most=TRIES - 1) for kind in wanted(request)]
    yield from run_all(tmp_path_factory.mktemp("passing"), faults)


@pytest.mark.parametrize("kind", kinds(500, "hang", "reset", "half", *BROKEN))
def test_faults_that_pass_change_nothing(healthy: Healthy, passing: dict[Any, Case], kind: int | Kind) -> None:
    fault, server, climb, ended = passing[kind]
    spoiled = sum(seen.spoiled is not None for seen in server.requests)

    assert spoiled >= CALLS // fault.every
    assert max(tries(server).values()) <= TRIES
    if kind != "hang":  # whose short timeout gives up slow replies of a busy machine, too
        assert len(server.requests) == CALLS + spoiled
        assert server.repeated == 0
    assert ended.code == 0, ended.err
    assert climb.result() == healthy.result
    assert stored(climb) == CALLS


@pytest.fixture(scope="module")
def staying(
    request: pytest.FixtureRequest, healthy: Healthy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Any, Case]]:
    """Runs in which one reply, and no other, is broken for ever."""
    prompt = healthy.result.history[-1].prompt.text
    faults = [Fault(kind, text=prompt.replace("{number}", "103")) for kind in wanted(request)]
    yield from run_all(tmp_path_factory.mktemp("staying"), faults)


@pytest.mark.parametrize("kind", kinds(*BROKEN))
def test_a_reply_that_stays_broken_is_a_gap_with_its_reason_and_never_stored(
    healthy: Healthy, staying: dict[Any, Case], kind: Kind
) -> None:
    _, server, climb, ended = staying[kind]
    gap, (asked,) = climb.result(), {str(seen.body) for seen in server.requests if seen.spoiled}

    assert ended.code == 0, ended.err
    assert tries(server)[asked] == TRIES
    assert gap.failed == gap.history[-1].failed == 1
    assert gap.history[-1].cells == healthy.result.history[-1].cells - 1
    assert gap.headline.endswith("Failed replies: 1.")
    assert stored(climb) == server.answered

    server.fail(None)
    assert finish(climb).code == 0
    assert climb.result() == healthy.result
    assert server.repeated == 0


# From the start: the task model's first call and the writer's. Later: those that were out when it began to fail, and
# those that took their places.
@pytest.mark.parametrize(("start", "most"), [(1, TRIES), (70, TRIES * CONCURRENCY)])
def test_a_server_that_only_fails_is_left_alone(
    healthy: Healthy, server: Loopback, tmp_path: Path, start: int, most: int
) -> None:
    server.fail(Fault(500, start=start, retry_after=None))
    climb = climb_at(tmp_path, server.url)
    ended = finish(climb)

    assert TRIES <= len(server.requests) - (start - 1) <= most
    assert max(tries(server).values()) == TRIES
    assert ended.code == 1
    if start == 1:
        (said,) = (line for line in ended.err.splitlines() if line.startswith("error: "))
        assert "answered 500" in said
        return
    assert climb.result().unfinished
    assert stored(climb) == server.answered == start - 1
    server.fail(None)
    assert finish(climb).code == 0
    assert climb.result() == healthy.result
    assert server.repeated == 0


def test_ctrl_c_saves_the_best_so_far_and_repeats_nothing(healthy: Healthy, server: Loopback, tmp_path: Path) -> None:
    climb = climb_at(tmp_path, server.url)
    process = climb.start()
    assert server.wait_answered(70)
    process.send_signal(signal.SIGINT)
    ended = finish(climb, process)
    stopped = climb.result()

    assert ended.code == 1
    assert stopped.unfinished == "stopped by the user"
    assert stopped.history
    assert len(server.requests) < CALLS
    assert stored(climb) == server.answered == len(server.requests)

    assert finish(climb).code == 0
    assert climb.result() == healthy.result
    assert len(server.requests) == CALLS
    assert server.duplicates == 0


def test_killed_at_twenty_random_moments_a_run_ends_the_same_and_repeats_no_stored_call(
    healthy: Healthy, killing: tuple[Climb, Loopback, Future[int]]
) -> None:
    climb, server, repeated = killing

    assert repeated.result() == 0
    assert climb.result() == healthy.result
    assert climb.held(climb.keys(server.requests)) == climb.keys(server.requests)
    assert stored(climb) == CALLS
    assert not climb.leaks()


def test_two_processes_share_one_memo(healthy: Healthy, server: Loopback, tmp_path: Path) -> None:
    climbs = [climb_at(tmp_path / name, server.url, memo=tmp_path / "memo") for name in ("one", "two")]
    processes = [climb.start() for climb in climbs]
    ended = [finish(climb, process) for climb, process in zip(climbs, processes, strict=True)]
    asked = len(server.requests)

    assert (asked, server.duplicates) == (CALLS, 0)
    assert [end.code for end in ended] == [0, 0]
    assert [climb.result() for climb in climbs] == [healthy.result] * 2
    assert stored(climbs[0]) == CALLS
    assert finish(climbs[0]).code == 0
    assert len(server.requests) == asked


def test_two_endpoints_with_one_model_name_have_separate_entries(
    healthy: Healthy, server: Loopback, tmp_path: Path
) -> None:
    def other(text: str) -> str:
        return re.sub("odd|even", "neither", climbing.answer(text)) if "<prompt>" not in text else climbing.answer(text)

    memo = tmp_path / "memo"
    with Loopback(other, latency=0.01, waits=False) as elsewhere:
        climbs = [climb_at(tmp_path / str(n), url, memo=memo) for n, url in enumerate((server.url, elsewhere.url))]
        assert [finish(climb).code for climb in climbs] == [0, 0]

        assert len(server.requests) == CALLS
        assert stored(climbs[0]) == CALLS + len(elsewhere.requests)
    assert climbs[0].result() == healthy.result
    assert {record.fitness for record in climbs[1].result().history} == {0.0}


def test_the_server_runs_as_a_process_of_its_own_and_is_told_its_faults(tmp_path: Path) -> None:
    words = ["--port-file", tmp_path / "port", "--log", tmp_path / "log", "--answer", "servers.climbing:answer"]
    command = [sys.executable, "-m", "servers.loopback", *map(str, words), "--model", "some-model"]
    process = subprocess.Popen(command, cwd=TESTS)
    try:
        while not (tmp_path / "port").exists():
            assert process.poll() is None
        url = f"http://127.0.0.1:{(tmp_path / 'port').read_text()}"
        ask = {"model": "some-model", "messages": [{"role": "user", "content": "hello"}]}
        posted(f"{url}/admin/faults", {"kind": 503, "stop": 1, "retry_after": 7})
        refused, replied = (posted(f"{url}/v1/chat/completions", ask) for _ in range(2))
        unknown = posted(f"{url}/v1/chat/completions", ask | {"model": "x"})
        state = posted(f"{url}/admin/faults", {})
    finally:
        process.terminate()
        process.wait()
    log = (tmp_path / "log").read_text()

    assert (refused[0], refused[1]["Retry-After"]) == (503, "7")
    assert replied[2]["choices"][0]["message"]["content"] == "ready"
    assert (unknown[0], unknown[2]["error"]["code"]) == (404, "model_not_found")
    assert [state[2][name] for name in ("requests", "answered", "duplicates", "repeated")] == [3, 1, 1, 0]
    assert [json.loads(line)["status"] for line in log.splitlines()] == [503, 200, 404]
    assert climbing.KEY not in log


def posted(url: str, body: dict[str, Any]) -> tuple[int, Any, Any]:
    """Return status, headers and JSON of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {climbing.KEY}"})  # noqa: S310
    try:
        answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, json.load(answer)
