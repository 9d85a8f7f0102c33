"""The two places where a memo can be, for tests that hold for both: a folder, and a real server of their own."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script beside the test, and kill it where it has not ended by then."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


@dataclass
class FolderPlace:
    """A memo in a folder, and what can be done behind its back."""

    name: str

    def other(self) -> str:
        """Return a place for another memo."""
        return f"{self.name}-other"

    def raw(self, key: str) -> bytes:
        """Return the packed value of an entry."""
        ((value,),) = self._sql("SELECT value FROM Cache WHERE key = ?", key)
        return bytes(value)

    def meddle(self, key: str, data: Any) -> None:
        """Put something into the memo that it did not pack."""
        self._sql("INSERT OR REPLACE INTO Cache(key, raw, store_time, mode, value) VALUES (?, 1, 0, 1, ?)", key, data)

    def age(self, key: str, seconds: float) -> None:
        """Make an entry older."""
        self._sql("UPDATE Cache SET store_time = store_time - ? WHERE key = ?", seconds, key)

    def _sql(self, statement: str, *values: Any) -> list[Any]:
        connection = sqlite3.connect(f"{self.name}/cache.db", isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


@dataclass
class RedisServer:
    """`redis-server` on a free port, with its log in a folder.

    Args:
        folder: where its files lie.
        synced: when its log is on disk: "always" before a reply is sent, or "everysec".
    """

    folder: Path
    synced: str = "everysec"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server: install the package of that name")
        pytest.importorskip("redis", reason="the extra 'scale' is not installed")
        self.port = free_port()
        self.start()

    def url(self, database: int = 0, user: str = "") -> str:
        """Return the URL of one of its databases."""
        return f"redis://{user}127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> Any:
        """Return a client of its own."""
        import redis

        return redis.Redis(port=self.port, db=database)

    def start(self) -> None:
        """Start it, on the files of its last life, and return when it answers."""
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        log = ("--appendonly", "yes", "--appendfsync", self.synced, "--save", "")
        command = [shutil.which("redis-server") or "", *where, *log]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.wait()

    def wait(self) -> None:
        """Block until it has read its log."""
        import redis

        while True:
            assert self.process is not None
            assert self.process.poll() is None, "redis-server ended"
            try:
                with self.client() as client:
                    client.ping()
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class ServerPlace:
    """A memo on a server, and what can be done behind its back."""

    server: RedisServer
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.server.url()
        with self.server.client() as client:
            client.flushall()

    def other(self) -> str:
        """Return a place for another memo."""
        return self.server.url(1)

    def raw(self, key: str) -> bytes:
        """Return the packed value of an entry."""
        with self.server.client() as client:
            return bytes(client.get(f"promptopt:memo:{key}")[8:])

    def meddle(self, key: str, data: bytes) -> None:
        """Put something into the memo that it did not pack."""
        with self.server.client() as client:
            client.set(f"promptopt:memo:{key}", struct.pack(">d", 0) + data)

    def age(self, key: str, seconds: float) -> None:
        """Make an entry older."""
        with self.server.client() as client:
            entry = client.get(f"promptopt:memo:{key}")
            client.set(
                f"promptopt:memo:{key}", struct.pack(">d", struct.unpack(">d", entry[:8])[0] - seconds) + entry[8:]
            )
