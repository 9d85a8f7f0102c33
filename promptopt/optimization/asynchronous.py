"""`aoptimize`: a run that does not block the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from promptopt.evaluation.calls import Stop
from promptopt.optimization.api import run_job
from promptopt.optimization.job import prepare
from promptopt.strategies.auto import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from promptopt.evaluation.ledger import Budget
    from promptopt.memo.memo import Memo
    from promptopt.models.base import Model
    from promptopt.results.result import Result
    from promptopt.strategies.base import Strategy
    from promptopt.task import Task
    from promptopt.tracking import Callback
    from promptopt.tracking.display import Display


async def aoptimize(
    task: Task | str | Path,
    model: Model | str,
    strategy: Strategy | str = AUTO,
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    objectives: Sequence[str] | str | None = None,
    prefer: str | None = None,
    run_dir: Path | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
    tracking: bool | str = True,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
) -> Result:
    """Run `optimize` in a thread, so that the event loop stays free.

    Cancelling ends the run as Ctrl-C ends `optimize`: once the calls in flight have returned, the unfinished result is in
    `run_dir`, and `CancelledError` is raised. Rewards and callbacks are called in the thread.

    Args: as of `optimize`. Runs at the same time must not share a local model.

    Returns:
        The result.

    Raises:
        InputError, PermanentModelError, TransientModelError: as `optimize`.
    """
    job = prepare(
        task,
        model,
        strategy,
        writer=writer,
        budget=budget,
        seed=seed,
        settings=settings,
        objectives=objectives,
        prefer=prefer,
    )
    stop = Stop()
    run = asyncio.create_task(
        asyncio.to_thread(
            run_job,
            job,
            run_dir=run_dir,
            memo=memo,
            display=display,
            tracking=tracking,
            callbacks=callbacks,
            overwrite=overwrite,
            stop=stop,
        )
    )
    try:
        return await asyncio.shield(run)
    except asyncio.CancelledError:
        stop.requested = True
        await asyncio.gather(run, return_exceptions=True)
        raise
