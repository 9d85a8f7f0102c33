"""Runs that were checked on a page, and started from it: each once, as a process of its own, which outlives the server."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt.errors import InputError
from promptopt.utils.characters import printable
from promptopt.utils.files import make_private_folder

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.view.run_form import RunForm

OUTPUT = "output.txt"
"""Name of the file, in the folder of a run that was started from a page, with what the run printed."""

_MOST_STARTS = 50  # kept in memory; older ones are forgotten
_ID_BYTES = 12
_TAIL = 4_000  # bytes of what a run printed that are shown


@dataclass
class Start:
    """A checked run.

    Args:
        id: in addresses.
        form: what was filled in.
        runs: folder of all runs.
        process: the run, once it was started.
    """

    id: str
    form: RunForm
    runs: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def run_folder(self) -> Path:
        """Folder of the run.

        Raises:
            InputError: the run cannot start.
        """
        return self.runs / self.form.folder_name

    @property
    def run_folder_in_use(self) -> Path | None:
        """Folder of the run while it goes on."""
        return self.run_folder if self.process is not None and self.exit_code is None else None

    @property
    def words(self) -> list[str]:
        """The words after `promptopt` of the command; with the run's folder, if the run can start."""
        where = ["--run-dir", str(self.run_folder)] if self.form.checkup.ready else []
        return ["optimize", *self.form.words, *where]

    @property
    def command(self) -> str:
        """The command as one types it."""
        return shlex.join(["promptopt", *self.words])

    @property
    def exit_code(self) -> int | None:
        """Exit code of the run; None before it was started and while it goes on."""
        return None if self.process is None else self.process.returncode

    @property
    def printed(self) -> str:
        """The end of what the run printed."""
        try:
            return printable((self.run_folder / OUTPUT).read_bytes()[-_TAIL:].decode("utf-8", "replace")).strip()
        except OSError:
            return ""


class Starts:
    """All checked runs of this server.

    Args:
        runs: folder of all runs.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._starts: dict[str, Start] = {}
        self._lock = threading.Lock()

    def add(self, form: RunForm) -> Start:
        """Return a new start of what was filled in."""
        start = Start(secrets.token_hex(_ID_BYTES), form, self._runs)
        with self._lock:
            self._starts[start.id] = start
            while len(self._starts) > _MOST_STARTS:
                self._starts.pop(next(iter(self._starts)))
        return start

    def get(self, start_id: str) -> Start | None:
        """Return a start, None if there is none of this id or it was forgotten."""
        return self._starts.get(start_id)

    def start(self, start: Start) -> None:
        """Start a run, unless it was started before, from this form or from another with the same values.

        Raises:
            InputError: it cannot start.
        """
        with self._lock:
            same = (other for other in self._starts.values() if other.run_folder_in_use == start.run_folder)
            if start.process is None:
                before = next(same, None)
                start.process = before.process if before else _started(start)


def _started(start: Start) -> subprocess.Popen[bytes]:
    """Start `promptopt` in a folder, with the environment of this process and so its keys; what it prints goes to a file.

    Raises:
        InputError: the folder cannot be written, or the process cannot be started.
    """
    run_folder = start.run_folder
    try:
        make_private_folder(run_folder)
        descriptor = os.open(run_folder / OUTPUT, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | _NO_LINK, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            process = subprocess.Popen(  # noqa: S603  a list of arguments, no shell; checked before
                [sys.executable, "-m", "promptopt", *start.words],
                cwd=start.form.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends the server alone
            )
    except OSError as error:
        raise InputError(
            f"the run could not be started ({error.strerror or error}): look at {run_folder}, or copy the command"
        ) from error
    threading.Thread(target=process.wait, name="promptopt started run", daemon=True).start()  # notes its exit code
    return process


_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
