"""A PostgreSQL server of a test's own, in a folder of its own, on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def postgres() -> Generator[str]:
    """Start a server, and stop it afterwards; the URL of an empty database."""
    pytest.importorskip("psycopg", reason="needs the extra 'scale'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    binary = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
    if not (binary / "postgres").is_file():
        pytest.skip("PostgreSQL is not installed")
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="promptopt-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to be started by root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data, log = folder / "data", folder / "log"
    try:
        initialise = [binary / "initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync"]
        subprocess.run([*as_user, *map(str, initialise)], check=True, capture_output=True, cwd=folder)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        start = [binary / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start"]
        # Not captured: the server keeps what pg_ctl was given, and a pipe would never end.
        subprocess.run([*as_user, *map(str, start)], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    finally:
        stop = [binary / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run([*as_user, *map(str, stop)], check=False, capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)
