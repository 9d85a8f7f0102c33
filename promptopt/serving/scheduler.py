"""Collects what concurrent requests want of local models into batches: one thread computes, one turn after the other.

In a turn, every model scores all texts that wait as one trie, lets waiting replies join those in progress, and writes one
token of each. Knows nothing of HTTP or JSON.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.models.base import Request
    from promptopt.models.local.decoding import Decoding, Written
    from promptopt.models.local.encoding import Ids
    from promptopt.models.local.served import ServedModel
    from promptopt.models.local.token_scores import TokenScores

# Where nothing is in progress, arrivals are collected until none came for this many seconds, but no longer than ...
_QUIET = 0.01
# ... this: 64 clients that got their replies at once ask again within about a tenth of a second.
_LONGEST_COLLECTION = 0.25
_MAX_ROWS = 32  # replies in progress for one model
_MAX_STATE_TOKENS = 16_384  # of replies in progress, as in the local model
_MAX_SCORED_TOKENS = 65_536  # of the texts scored in one turn, shared tokens counted in each


@dataclass(eq=False)
class Job:
    """Something that a request waits for; a cancelled future drops it."""

    future: asyncio.Future[Any]


@dataclass(eq=False)
class WritingJob(Job):
    """A reply to write.

    Args:
        prompt: its tokens.
        request: how to write it.
        likeliest: how many likeliest tokens to record, None for none.
    """

    prompt: Ids
    request: Request
    likeliest: int | None

    @property
    def tokens(self) -> int:
        """Maximum number of tokens whose states are kept."""
        return len(self.prompt) + self.request.max_tokens


@dataclass(eq=False)
class ScoringJob(Job):
    """A text to score.

    Args:
        sequence: its tokens.
        likeliest: how many likeliest tokens to find at each, 1 or more.
    """

    sequence: Ids
    likeliest: int

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.sequence)


AnyJob: TypeAlias = WritingJob | ScoringJob
JobType = TypeVar("JobType", WritingJob, ScoringJob)


class Outcome(NamedTuple):
    """What became of a job."""

    job: AnyJob
    result: Written | TokenScores | RuntimeError


@dataclass(eq=False)
class ModelQueue:
    """What waits for one model, and what it is writing."""

    model: ServedModel
    to_score: list[ScoringJob] = field(default_factory=list)
    to_write: list[WritingJob] = field(default_factory=list)
    writing: dict[int, WritingJob] = field(default_factory=dict)  # by row
    decoding: Decoding | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.to_score or self.to_write or self.writing)

    def jobs(self) -> Iterator[AnyJob]:
        """Yield all unfinished jobs."""
        yield from chain(self.to_score, self.to_write, self.writing.values())

    def put(self, job: AnyJob) -> None:
        """Add a job."""
        if isinstance(job, ScoringJob):
            self.to_score.append(job)
        else:
            self.to_write.append(job)

    def turn(self) -> Iterator[Outcome]:
        """Score a batch, and write one token of each reply; yield what is finished."""
        self.to_score = [job for job in self.to_score if not job.future.cancelled()]
        self.to_write = [job for job in self.to_write if not job.future.cancelled()]
        scoring, self.to_score = _affordable(self.to_score, _MAX_SCORED_TOKENS, len(self.to_score))
        if scoring:
            yield from self._score(scoring)
        room = _MAX_STATE_TOKENS - sum(job.tokens for job in self.writing.values())
        joining, self.to_write = _affordable(self.to_write, room, _MAX_ROWS - len(self.writing), alone=not self.writing)
        if joining or self.writing:
            yield from self._write(joining)

    def _score(self, jobs: Sequence[ScoringJob]) -> Iterator[Outcome]:
        try:
            scores = self.model.scores([job.sequence for job in jobs], max(job.likeliest for job in jobs))
        except RuntimeError as error:  # of torch
            yield from (Outcome(job, error) for job in jobs)
        else:
            yield from map(Outcome, jobs, scores)

    def _write(self, joining: Sequence[WritingJob]) -> Iterator[Outcome]:
        try:
            self._drop_cancelled()
            yield from self._step(joining)
        except RuntimeError as error:  # of torch, such as for want of memory
            yield from (Outcome(job, error) for job in dict.fromkeys([*self.writing.values(), *joining]))
            self.writing, self.decoding = {}, None

    def _drop_cancelled(self) -> None:
        rows = [row for row, job in self.writing.items() if job.future.cancelled()]
        for row in rows:
            del self.writing[row]
        if not self.writing:
            self.decoding = None
        elif rows and self.decoding is not None:
            self.decoding.drop(rows)

    def _step(self, joining: Sequence[WritingJob]) -> list[Outcome]:
        if self.decoding is None:
            self.decoding = self.model.decoding()
        if joining:
            rows = self.decoding.add(
                [job.request for job in joining],
                [job.prompt for job in joining],
                [job.likeliest for job in joining],
            )
            self.writing |= zip(rows, joining, strict=True)
        outcomes = [Outcome(self.writing.pop(row.number), row) for row in self.decoding.step()] if self.writing else []
        if not self.writing:
            self.decoding = None  # and with it the states
        return outcomes


class Scheduler:
    """Runs the jobs of several models in turns.

    Args:
        models: by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._queues = {name: ModelQueue(model) for name, model in models.items()}
        self._arrivals: asyncio.Queue[tuple[str, AnyJob]] = asyncio.Queue()

    async def write(self, model: str, prompt: Ids, request: Request, likeliest: int | None = None) -> Written:
        """Return a reply."""
        job = WritingJob(asyncio.get_running_loop().create_future(), prompt, request, likeliest)
        self._arrivals.put_nowait((model, job))
        written: Written = await job.future
        return written

    async def score(self, model: str, sequence: Ids, likeliest: int) -> TokenScores:
        """Return the scores of a text."""
        job = ScoringJob(asyncio.get_running_loop().create_future(), sequence, likeliest)
        self._arrivals.put_nowait((model, job))
        scores: TokenScores = await job.future
        return scores

    async def run(self) -> None:
        """Take turns until cancelled; then all unfinished jobs are cancelled."""
        loop = asyncio.get_running_loop()
        try:
            with ThreadPoolExecutor(1, "engine") as thread:
                while True:
                    await self._collect()
                    for outcome in await loop.run_in_executor(thread, self._turn):
                        _deliver(outcome)
        finally:
            self._put_arrivals()
            for job in chain.from_iterable(queue.jobs() for queue in self._queues.values()):
                job.future.cancel()

    async def _collect(self) -> None:
        """Wait until there is something to do."""
        if not any(queue.busy for queue in self._queues.values()):
            self._put(*await self._arrivals.get())
            end, count = asyncio.get_running_loop().time() + _LONGEST_COLLECTION, -1
            while self._arrivals.qsize() > count and asyncio.get_running_loop().time() < end:
                count = self._arrivals.qsize()
                await asyncio.sleep(_QUIET)
        self._put_arrivals()

    def _put_arrivals(self) -> None:
        while not self._arrivals.empty():
            self._put(*self._arrivals.get_nowait())

    def _put(self, model: str, job: AnyJob) -> None:
        self._queues[model].put(job)

    def _turn(self) -> list[Outcome]:
        return [outcome for queue in self._queues.values() for outcome in queue.turn()]


def _affordable(
    jobs: Sequence[JobType], tokens: int, count: int, *, alone: bool = True
) -> tuple[list[JobType], list[JobType]]:
    """Split off the first jobs with so many tokens and so many jobs at most; the first of all always, if it would be `alone`."""
    taken = 0
    for job in jobs[:count]:
        tokens -= job.tokens
        if tokens < 0 and (taken or not alone):
            break
        taken += 1
    return list(jobs[:taken]), list(jobs[taken:])


def _deliver(outcome: Outcome) -> None:
    job, result = outcome
    if job.future.done():  # cancelled meanwhile
        return
    if isinstance(result, RuntimeError):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)
