"""`aoptimize`: the same run, on a free event loop, ended by cancelling."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
import toys

from promptopt import FakeModel, InputError, Prompt, RandomSearch, Result, Task, aoptimize, optimize

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request

SPLITS = toys.splits(24)
TASK = Task(
    train=SPLITS["train"],
    validation=SPLITS["validation"],
    test=SPLITS["test"],
    seed_prompt=Prompt(toys.SEED),
    labels=toys.LABELS,
)
SEARCH = RandomSearch(prompts=24, batch=8)


def test_it_gives_the_result_of_optimize_while_the_loop_goes_on(tmp_path: Path) -> None:
    main = threading.get_ident()
    threads: set[int] = set()
    turned = threading.Event()

    def reply(request: Request) -> str:
        threads.add(threading.get_ident())
        assert turned.wait(60)
        return toys.answer(request)

    async def both() -> Result:
        run = asyncio.create_task(
            aoptimize(TASK, FakeModel(reply), SEARCH, writer=FakeModel(toys.writer), memo=tmp_path / "a")
        )
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(turned.set)
        return await run

    found = asyncio.run(both())
    expected = optimize(TASK, FakeModel(toys.answer), SEARCH, writer=FakeModel(toys.writer), memo=tmp_path / "b")

    assert main not in threads
    assert (found.prompt, found.test) == (expected.prompt, expected.test)


def test_cancelling_keeps_the_best_so_far(tmp_path: Path) -> None:
    asked = 0
    halfway, cancelled = threading.Event(), threading.Event()

    def reply(request: Request) -> str:
        nonlocal asked
        asked += 1
        if asked == 100:
            halfway.set()
            assert cancelled.wait(60)
        return toys.answer(request)

    async def cancel_halfway() -> None:
        writer, memo, run_dir = FakeModel(toys.writer), tmp_path / "memo", tmp_path / "run"
        run = asyncio.create_task(
            aoptimize(TASK, FakeModel(reply), SEARCH, writer=writer, memo=memo, run_dir=run_dir, tracking=False)
        )
        await asyncio.to_thread(halfway.wait, 60)
        run.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel_halfway())

    result = Result.load(tmp_path / "run")
    assert (result.finished, result.unfinished) == (False, "stopped by the user")
    assert asked == 100


def test_input_errors_are_raised_as_by_optimize() -> None:
    with pytest.raises(InputError, match="unknown strategy"):
        asyncio.run(aoptimize(TASK, FakeModel(toys.answer), "nothing"))
