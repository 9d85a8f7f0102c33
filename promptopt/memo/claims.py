"""Claims in a folder, shared by all processes of one machine: a claim is a file of keys that its holder keeps locked.

The system releases a lock when its process ends, even by SIGKILL, so a claim is valid while its file exists and is locked;
no clock or heartbeat is needed. All keys of a claim share one lock, because the system searches all locks of a file before
it grants another. Needs `fcntl`, which Windows lacks. Knows nothing of what is computed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from promptopt.memo.store import Claim, ThreadClaims

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

_log = logging.getLogger("promptopt.memo.memo")

_FOLDER = "claims"
_MUTEX = "mutex"  # locked while a process reads the claims and adds its own
_MUTEX_SECONDS = 10.0  # to wait for it; holding it takes milliseconds
_POLL_SECONDS = (0.01, 0.1)  # between checks of another process's lock: at first, and at most
_LOG_SECONDS = 60.0  # between messages while waiting

_descriptors: set[int] = set()  # of locked files: forked children inherit them, and with them the locks


class FolderClaims:
    """Claims among the threads and processes of one machine that use one folder.

    If a claim cannot be written (disk full or read-only, file system without locks), only threads using this object share
    their work.

    Args:
        folder: the memo's; claims are kept in a subfolder, created with the first claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER
        self._threads = ThreadClaims()

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Generator[Claim]:
        """Claim `keys`: those that nobody else is computing are ours until the context ends."""
        with self._threads.claim(keys) as local:
            if not local.mine:
                yield local
                return
            with _published(self._folder, local.mine) as others:
                mine = [key for key in local.mine if key not in others]
                theirs = [key for key in local.mine if key in others]
                flights = [_Flight(file) for file in dict.fromkeys(others.values())]
                yield Claim(mine, local.theirs + theirs, (*local.flights, *flights))


@dataclass
class _Flight:
    """The work of another process, or of another memo in this process.

    Args:
        file: its claim.
    """

    file: Path
    _next_message: float = field(default_factory=lambda: time.monotonic() + _LOG_SECONDS)

    def wait(self, timeout: float) -> bool:
        """Block until the claim is released, for at most `timeout` seconds; return whether it is."""
        end, pause = time.monotonic() + timeout, _POLL_SECONDS[0]
        while self._is_held():
            now = time.monotonic()
            if now > self._next_message:
                self._next_message = now + _LOG_SECONDS
                _log.info("still waiting for another process to get the same replies (its claim is %s)", self.file)
            if now > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS[1])
        return True

    def _is_held(self) -> bool:
        with suppress(OSError), self.file.open("rb") as file:  # if unreadable, the next claim decides
            return _locked_elsewhere(file, fcntl.LOCK_SH)
        return False


@contextmanager
def _published(folder: Path, keys: Sequence[str]) -> Generator[dict[str, Path]]:
    """Claim the keys that nobody else has claimed until the context ends; yield the others' claims by key.

    If claims cannot be read or written, there are no others.
    """
    others: dict[str, Path] = {}
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with _mutex(folder / _MUTEX):
                others = _claimed(folder, keys)
                if len(others) < len(keys):
                    file = stack.enter_context(_claim_file(folder / uuid.uuid4().hex))
                    file.write("\n".join(key for key in keys if key not in others).encode())
        except OSError as error:
            _log.debug("no claims in %s (%s)", folder, error)
        yield others


def _claimed(folder: Path, keys: Sequence[str]) -> dict[str, Path]:
    """Return which of `keys` others have claimed, and in which file; delete the claims of dead processes."""
    wanted = set(keys)
    claimed: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.name == _MUTEX:
            continue
        with suppress(FileNotFoundError), path.open("rb") as file:  # its holder may delete it at any time
            if _locked_elsewhere(file, fcntl.LOCK_SH):
                claimed |= dict.fromkeys(wanted.intersection(file.read().decode().split("\n")), path)
            else:
                path.unlink()
    return claimed


@contextmanager
def _claim_file(path: Path) -> Generator[IO[bytes]]:
    """Create a file that is locked until the context ends, and then deleted."""
    with _opened(path, os.O_EXCL) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield file
        finally:
            if file.fileno() in _descriptors:  # not in a forked child
                with suppress(OSError):
                    path.unlink()


@contextmanager
def _mutex(path: Path) -> Generator[None]:
    """Hold the lock of a file, which is created if missing.

    Raises:
        TimeoutError: another process held it all the time, for example one suspended at the wrong moment.
    """
    with _opened(path) as file:
        end, pause = time.monotonic() + _MUTEX_SECONDS, 0.0005
        while _locked_elsewhere(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise TimeoutError(f"{path} was locked for {_MUTEX_SECONDS:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS[0])
        yield


def _locked_elsewhere(file: IO[bytes], mode: int) -> bool:
    """Try to lock a file until it is closed; return whether another lock prevents that."""
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def _opened(path: Path, flags: int = 0) -> Generator[IO[bytes]]:
    """Open a file for locking, created if missing; children forked meanwhile do not keep the lock."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        _descriptors.add(descriptor)
        try:
            yield file
        finally:
            _descriptors.discard(descriptor)


def _drop_locks() -> None:
    """Drop the inherited locks in a forked child; the parent keeps them."""
    null = os.open(os.devnull, os.O_WRONLY)
    while _descriptors:
        os.dup2(null, _descriptors.pop())
    os.close(null)


os.register_at_fork(after_in_child=_drop_locks)
