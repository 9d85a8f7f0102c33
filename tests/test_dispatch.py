"""How many calls go out at once, when they wait, and when an endpoint is given up. No sockets: attempts are functions."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from promptopt.errors import InputError, TransientModelError
from promptopt.models.hosted import endpoint as endpoint_module
from promptopt.models.hosted.dispatch import dispatch
from promptopt.models.hosted.endpoint import AttemptError, Patience, endpoint
from promptopt.replies import Arrival, Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

_names = itertools.count()
HASTY = Patience(backoff=0.001)


class Plan:
    """Attempts that fail as told: `failures[job]` are raised in turn, then the job's number is the reply."""

    def __init__(self, failures: dict[int, list[Exception]] | None = None) -> None:
        self.failures = failures or {}
        self.tries: list[int] = []
        self.out = self.most = 0
        self.name = f"endpoint {next(_names)}"

    async def __call__(self, job: int) -> Response | Failure:
        self.tries.append(job)
        self.out += 1
        self.most = max(self.most, self.out)
        await asyncio.sleep(0.001)
        self.out -= 1
        left = self.failures.get(job, [])
        if left:
            raise left.pop(0)
        return Response(str(job))

    def run(self, jobs: Iterator[int] | range, most: int = 16) -> list[Arrival]:
        return list(dispatch(self.name, jobs, self, lambda: most, patience=HASTY))


def broken(count: int) -> list[Exception]:
    return [AttemptError("it broke") for _ in range(count)]


def overloads(count: int, wait: float | None = None) -> list[Exception]:
    return [AttemptError("too many", wait=wait, overloaded=True) for _ in range(count)]


def test_every_job_is_answered_once_under_its_number() -> None:
    plan = Plan()

    assert sorted(plan.run(range(100))) == [Arrival(i, Response(str(i))) for i in range(100)]
    assert len(plan.tries) == 100


def test_calls_begin_few_and_become_more_up_to_the_most() -> None:
    plan = Plan()
    plan.run(range(8))
    first = plan.most
    plan.run(range(400), most=16)

    assert first <= 8
    assert plan.most == 16


def test_an_overloaded_endpoint_gets_half_as_many_calls_once_for_all_that_were_out() -> None:
    plan = Plan({8 + i: overloads(1) for i in range(4)})
    plan.run(range(8))
    before = endpoint(plan.name).window
    plan.run(iter(range(8, 12)))

    # Four were out together: halved once, then a little wider with each reply.
    assert before / 2 <= endpoint(plan.name).window < before / 2 + 1


def test_a_job_that_fails_passes_on_a_later_try() -> None:
    plan = Plan({3: broken(HASTY.tries - 1)})

    assert Arrival(3, Response("3")) in plan.run(range(6))
    assert plan.tries.count(3) == HASTY.tries


def test_one_job_that_never_passes_is_a_failure_with_its_reason_and_the_rest_goes_on() -> None:
    plan = Plan({3: broken(99)})
    replies = dict(plan.run(range(20)))

    assert replies[3] == Failure(f"it broke, {HASTY.tries} times")
    assert plan.tries.count(3) == HASTY.tries
    assert len(replies) == 20


def test_one_lone_job_that_never_passes_is_no_reason_to_give_up_the_endpoint() -> None:
    plan = Plan({0: broken(99)})

    assert plan.run(range(1)) == [Arrival(0, Failure(f"it broke, {HASTY.tries} times"))]


def test_too_many_calls_are_waited_out_and_are_no_tries() -> None:
    plan = Plan({3: overloads(HASTY.tries + 1)})

    assert Arrival(3, Response("3")) in plan.run(range(6))
    assert Plan({0: overloads(99)}).run(range(1)) == [Arrival(0, Failure(f"too many, {HASTY.waits} times"))]


def test_nothing_is_sent_while_the_endpoint_wants_to_be_left_alone() -> None:
    plan = Plan({0: overloads(1, wait=0.2)})
    times: list[float] = []

    async def timed(job: int) -> Response | Failure:
        times.append(asyncio.get_running_loop().time())
        return await plan(job)

    list(dispatch(plan.name, iter(range(40)), timed, lambda: 4, patience=HASTY))
    # The four that were out together, then nothing until the wait is over.
    late = [time for time in times if time > times[0] + 0.15]
    assert len(times) - len(late) <= 8
    assert min(late) >= times[0] + 0.2


def test_a_long_wait_is_logged_once_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint_module, "_LONG_WAIT", 0.05)
    caplog.set_level("INFO", "promptopt")
    Plan({job: overloads(1, wait=0.06) for job in range(4)}).run(range(4))

    (line,) = caplog.messages
    assert line.endswith(": too many; waiting 0 s before the next call")


def test_an_endpoint_that_asks_for_longer_than_a_run_should_wait_ends_it() -> None:
    with pytest.raises(TransientModelError, match=r"asks to wait 3,600 s: run again after that"):
        Plan({0: overloads(1, wait=3600.0)}).run(range(3))


def test_an_endpoint_that_answers_nothing_is_given_up_after_bounded_tries() -> None:
    plan = Plan({job: broken(99) for job in range(1000)})
    with pytest.raises(
        TransientModelError, match=r"does not answer \(it broke; 8 attempts at 2 requests\): run again"
    ) as e:
        plan.run(range(1000), most=8)

    assert (e.value.endpoint, e.value.attempt) == (plan.name, HASTY.tries)
    assert len(plan.tries) <= HASTY.tries * 9  # one more request starts before the second is given up


def test_an_endpoint_that_dies_on_the_way_is_given_up_after_bounded_tries() -> None:
    plan = Plan({job: broken(99) for job in range(50, 1000)})
    arrived: list[Arrival] = []
    with pytest.raises(TransientModelError):
        arrived.extend(dispatch(plan.name, range(1000), plan, lambda: 8, patience=HASTY))

    assert {arrival.number for arrival in arrived} >= set(range(50))
    assert len(plan.tries) <= 50 + HASTY.tries * 9


def test_jobs_are_pulled_only_when_there_is_room_and_what_was_pulled_is_answered() -> None:
    pulled: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(100):
            pulled.append(job)
            yield job

    arrivals = dispatch(Plan().name, jobs(), Plan(), lambda: 4)
    first = next(arrivals)

    assert len(pulled) <= 8
    assert sorted([first, *arrivals]) == [Arrival(i, Response(str(i))) for i in range(100)]


def test_where_the_jobs_end_in_an_error_those_in_flight_arrive_first() -> None:
    def jobs() -> Iterator[int]:
        yield from range(5)
        raise InputError("no more")

    arrived: list[Arrival] = []
    with pytest.raises(InputError, match="no more"):
        arrived.extend(dispatch(Plan().name, jobs(), Plan(), lambda: 4))
    assert sorted(arrival.number for arrival in arrived) == list(range(5))


@pytest.mark.parametrize(("backoff", "pauses"), [(0.0, [0, 0, 0]), (0.5, [0.5, 1, 2]), (40.0, [40, 60, 60])])
def test_waits_double_up_to_a_minute_and_can_be_switched_off(backoff: float, pauses: list[float]) -> None:
    assert [Patience(backoff=backoff).pause(count, jitter=1.0) for count in (1, 2, 3)] == pauses
