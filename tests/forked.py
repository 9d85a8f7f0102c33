"""Processes that are forked from one where everything is imported: as real as others, and there at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_RUN = (
    "promptopt.cli",
    "promptopt.evaluation.batch_journal",
    "promptopt.memo.memo",
    "promptopt.tracking",
    "promptopt.models.hosted.prices",
    "rich.live",
)
_LIBRARIES = (
    "openai.resources.chat",
    "openai.resources.batches",
    "anthropic.resources.messages",
    "httpcore2",
    "anyio._backends._asyncio",
)
_STUDY = (
    "optuna.storages",
    "optuna.storages._rdb.storage",
    "sqlalchemy.dialects.sqlite",
    "alembic.command",
    "alembic.migration",
    "redis",
)
_SERVER.set_forkserver_preload([*_RUN, *_LIBRARIES, *_STUDY, "scipy.special", "truststore", "diskcache", "aiolimiter"])


class Forked:
    """A program in a process of its own; names are those of `subprocess.Popen`.

    Args:
        program: MODULE:FUNCTION, called without arguments.
        words: its command line.
        environment: all of it.
        folder: where it runs; what it prints is kept there, as "stdout" and "stderr".
    """

    def __init__(self, program: str, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        for path in (self.stdout, self.stderr):
            path.write_bytes(b"")
        self._process = _SERVER.Process(target=_run, args=(program, list(words), dict(environment), folder))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        assert self.returncode is not None, "it still runs"
        return self.stdout.read_text("utf-8"), self.stderr.read_text("utf-8")

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _run(program: str, words: list[str], environment: dict[str, str], folder: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["promptopt", *words]
    resolve_name(program)()
