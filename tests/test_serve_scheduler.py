"""The scheduler of `promptopt serve`, over a model that does what its test says: who is computed with whom, and who is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from promptopt import Request, Response

pytest.importorskip("torch", reason="the extra 'local' is not installed")

from promptopt.models.local.decoding import Written
from promptopt.serving import scheduler as scheduler_module
from promptopt.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

BROKEN = (666,)


class Puppet:
    """A model whose replies have as many tokens as they may; the prompt or sequence `BROKEN` fails its batch."""

    def __init__(self) -> None:
        self.scored: list[list[tuple[int, ...]]] = []
        self.steps: list[list[tuple[int, ...]]] = []

    def scores(self, sequences: Sequence[tuple[int, ...]], likeliest: int) -> list[Any]:
        self.scored.append([*sequences])
        if BROKEN in sequences:
            raise RuntimeError("out of memory")
        return [(sequence, likeliest) for sequence in sequences]

    def decoding(self) -> PuppetDecoding:
        return PuppetDecoding(self)


class PuppetDecoding:
    def __init__(self, model: Puppet) -> None:
        self.model = model
        self.rows: dict[int, tuple[tuple[int, ...], int]] = {}  # prompt, tokens to go
        self.count = 0

    def add(
        self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]], likeliest: Sequence[int | None]
    ) -> range:
        assert len(likeliest) == len(prompts)
        if BROKEN in prompts:
            raise RuntimeError("out of memory")
        numbers = range(self.count, self.count + len(prompts))
        self.rows |= {
            number: (prompt, request.max_tokens)
            for number, prompt, request in zip(numbers, prompts, requests, strict=True)
        }
        self.count = numbers.stop
        return numbers

    def drop(self, numbers: Collection[int]) -> None:
        assert len(numbers) < len(self.rows)
        for number in numbers:
            del self.rows[number]

    def step(self) -> list[Written]:
        self.model.steps.append([prompt for prompt, _ in self.rows.values()])
        self.rows = {number: (prompt, left - 1) for number, (prompt, left) in self.rows.items()}
        done = [number for number, (_, left) in self.rows.items() if not left]
        return [Written(number, Response(str(self.rows.pop(number)[0])), ()) for number in done]


def run(script: Callable[[Scheduler], Awaitable[None]], *puppets: Puppet) -> None:
    """Run a script beside the scheduler of models a, b, ...; it stops when the script ends."""

    async def main() -> None:
        scheduler = Scheduler(dict(zip("abc", puppets, strict=False)))  # type: ignore[arg-type]
        computing = asyncio.create_task(scheduler.run())
        await asyncio.wait_for(asyncio.ensure_future(script(scheduler)), 60)
        computing.cancel()
        await asyncio.wait([computing])

    asyncio.run(main())


def written(scheduler: Scheduler, prompt: int, tokens: int, model: str = "a") -> asyncio.Task[Written]:
    return asyncio.create_task(scheduler.write(model, (prompt,), Request(context="", max_tokens=tokens)))


def test_what_arrives_together_is_computed_together() -> None:
    puppet = Puppet()

    async def script(scheduler: Scheduler) -> None:
        scores = [scheduler.score("a", (number,), 1 + number % 3) for number in range(50)]
        found: list[Any] = await asyncio.gather(*scores, *(written(scheduler, number, 3) for number in range(20)))
        assert found[:50] == [((number,), 3) for number in range(50)]  # the most that any of them wants
        assert [row.reply.text for row in found[50:]] == [str((number,)) for number in range(20)]

    run(script, puppet)
    assert [len(batch) for batch in puppet.scored] == [50]
    assert [len(rows) for rows in puppet.steps] == [20] * 3


def test_late_replies_join_and_scores_do_not_wait_for_replies_in_progress() -> None:
    puppet = Puppet()

    async def script(scheduler: Scheduler) -> None:
        long = written(scheduler, 1, 5000)
        await written(scheduler, 0, 1)
        await scheduler.score("a", (7,), 1)
        await written(scheduler, 2, 3)
        assert not long.done()
        await long

    run(script, puppet)
    assert puppet.steps.count([(1,), (2,)]) == 3


def test_replies_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_MAX_ROWS", 4)
    monkeypatch.setattr(scheduler_module, "_MAX_STATE_TOKENS", 12)
    puppet = Puppet()

    async def script(scheduler: Scheduler) -> None:
        await asyncio.gather(*(written(scheduler, number, 1) for number in range(10)))
        await asyncio.gather(*(written(scheduler, number, 50) for number in (10, 11)))  # either is too much, but alone

    run(script, puppet)
    assert [len(rows) for rows in puppet.steps] == [4, 4, 2] + [1] * 100


def test_whoever_went_away_is_not_computed() -> None:
    puppet = Puppet()

    async def script(scheduler: Scheduler) -> None:
        gone = [written(scheduler, 1, 3), asyncio.create_task(scheduler.score("a", (1,), 1))]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        leaving, staying = written(scheduler, 2, 10_000), written(scheduler, 3, 2000)
        await written(scheduler, 0, 1)
        leaving.cancel()
        await staying

    run(script, puppet)
    assert not puppet.scored
    assert puppet.steps[0] == [(2,), (3,), (0,)]
    assert puppet.steps[-1] == [(3,)]


def test_a_batch_that_fails_fails_alone() -> None:
    puppet = Puppet()

    async def script(scheduler: Scheduler) -> None:
        for failing in (scheduler.score("a", BROKEN, 1), written(scheduler, *BROKEN, 3)):
            with pytest.raises(RuntimeError, match="out of memory"):
                await failing
        assert (await written(scheduler, 2, 3)).reply == Response("(2,)")
        found: Any = await scheduler.score("a", (2,), 1)
        assert found == ((2,), 1)

    run(script, puppet)


def test_models_take_turns_and_what_is_left_at_the_end_is_cancelled() -> None:
    first, second = Puppet(), Puppet()
    left: list[asyncio.Task[Written]] = []

    async def script(scheduler: Scheduler) -> None:
        left.append(written(scheduler, 1, 10_000))
        await written(scheduler, 0, 1)
        await written(scheduler, 2, 100, "b")
        assert len(first.steps) >= 100

    run(script, first, second)
    assert left[0].cancelled()
    assert len(second.steps) == 100
