"""Models for test_replicas.py, loaded by actors as python:replicated:NAME. What they do is logged to $REPLICATED_LOG."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Literal

from promptopt import Arrival, FakeLabelModel, FinalModelError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.prompt import Context

IN_ACTOR = "RAY_RAYLET_PID" in os.environ


def values(context: Context, labels: Sequence[str]) -> list[float]:
    """Depend on the text alone; so does what an undisturbed model would say."""
    return [-((hash_of(str(context)) * (n + 3)) % 101) / 10 - 0.1 for n, _ in enumerate(labels)]


def hash_of(text: str) -> int:
    return sum((n + 1) * ord(letter) for n, letter in enumerate(text))


def log(record: Any) -> None:
    """Append one line, whole whatever happens next."""
    path = os.environ.get("REPLICATED_LOG")
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps(record) + "\n").encode())
        os.close(handle)


class Slow(FakeLabelModel):
    """Takes a moment over each context, and has some of them do harm."""

    unit: Literal["batch"] = "batch"  # type: ignore[assignment]
    pause = 0.01  # seconds

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        for arrival, context in zip(super().label_logprobs(contexts, labels), list(contexts), strict=True):
            text = str(context)
            log([os.getpid(), text])
            if "poison" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "wrong" in text:
                raise InputError(f"cannot read {text!r}")
            if "refused" in text:
                raise FinalModelError("no more of this")
            time.sleep(self.pause)
            yield arrival


class Telling(FakeLabelModel):
    """Says what the process may compute with."""

    def __init__(self) -> None:
        super().__init__(values, "telling")
        self.handler = lambda _: os.environ["OMP_NUM_THREADS"]


class Mixed(FakeLabelModel):
    """Another model in every process."""

    fingerprint: Mapping[str, Any] = property(lambda _: {"provider": "fake", "model": os.getpid()})  # type: ignore[assignment]

    def __init__(self) -> None:
        self.logprobs = values


slow, quick, telling, mixed = Slow(values, "slow"), Slow(values, "quick"), Telling(), Mixed()
quick.pause = 0.001
if not IN_ACTOR:
    only_here = slow
