"""How fast the memo is, in a folder and on a server, beside bare diskcache: `python benchmarks/memo.py` prints one table.

All run in turns within one process, so that a slow moment of the machine meets all; medians over the turns. The server is
`redis-server` on this machine, with appendonly yes and appendfsync everysec, where it is installed.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import diskcache

from promptopt.memo import Memo
from promptopt.memo.memo import KeyMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TURNS = 15
CALLS = 1000
REVIEW = "It begins slowly and ends well, and nobody in between is dull; the music, for once, knows when to be silent. "
REPLY = "The review praises the acting and the ending and forgives the slow start; on balance it is positive. "
FINGERPRINT = {"provider": "openai", "endpoint": "https://api.openai.com/v1", "model": "gpt-4.1-mini-2025-04-14"}


def request(number: int) -> dict[str, Any]:
    """Return a request body of about 1 KB."""
    context = [["system", f"You label reviews of films. {REPLY}"], ["user", f"Review {number}: {REVIEW * 7}"]]
    return {"context": context, "max_tokens": 64, "temperature": 0.7, "stop": ["\n"]}


def response(number: int) -> dict[str, Any]:
    """Return a reply of about 0.5 KB, as it is stored."""
    logprobs = [-0.1234567890123 / number, -2.987654321 * number]
    return {"text": REPLY * 4, "label_logprobs": logprobs, "usage": [312, 0, 41], "finish_reason": "stop"}


class Turn:
    """What is measured: `CALLS` calls of each kind, on requests that no other turn has."""

    def __init__(self, memo: Memo, bare: Any, shared: Memo | None, number: int) -> None:
        numbers = range(number * CALLS + 1, (number + 1) * CALLS + 1)
        self.memo, self.bare, self.shared = memo, bare, shared or memo
        self.make = KeyMaker(FINGERPRINT, "generate")
        self.bodies = [request(n) for n in numbers]
        self.values = {self.make(body): response(n) for n, body in zip(numbers, self.bodies, strict=True)}
        self.raw = {key: json.dumps(value).encode() for key, value in self.values.items()}
        self.batch = {self.make(body, 1): response(n) for n, body in zip(numbers, self.bodies, strict=True)}

    def bare_set(self) -> None:
        """Store bytes of the same size by diskcache alone."""
        for key, value in self.raw.items():
            self.bare.set(key, value)

    def put(self) -> None:
        """Store values one by one."""
        for key, value in self.values.items():
            self.memo.put(key, value)

    def put_many(self) -> None:
        """Store values at once."""
        self.memo.put_many(self.batch)

    def bare_get(self) -> None:
        """Read bytes by diskcache alone, keys at hand."""
        for key in self.raw:
            self.bare.get(key)

    def key_and_get(self) -> None:
        """Make keys and read values one by one."""
        for body in self.bodies:
            self.memo.get(self.make(body))

    def keys_and_get_many(self) -> None:
        """Make keys and read values at once."""
        self.memo.get_many([self.make(body) for body in self.bodies])

    def claim(self) -> None:
        """Claim keys at once, and free them."""
        with self.memo.claim(self.values):
            pass

    def server_put(self) -> None:
        """Store values on the server one by one."""
        for key, value in self.values.items():
            self.shared.put(key, value)

    def server_put_many(self) -> None:
        """Store values on the server at once."""
        self.shared.put_many(self.batch)

    def server_key_and_get(self) -> None:
        """Make keys and read values from the server one by one."""
        for body in self.bodies:
            self.shared.get(self.make(body))

    def server_keys_and_get_many(self) -> None:
        """Make keys and read values from the server at once."""
        self.shared.get_many([self.make(body) for body in self.bodies])

    def server_claim(self) -> None:
        """Claim keys on the server at once, and free them."""
        with self.shared.claim(self.values):
            pass

    def check(self) -> None:
        """Stop where the memo gives back something else than it was given."""
        if any(memo.get_many(list(self.values)) != self.values for memo in (self.memo, self.shared)):
            raise SystemExit("the memo gave back something else than it was given")


def per_second(work: Callable[[], None]) -> float:
    """Return how many of `CALLS` calls fit into a second."""
    start = time.perf_counter()
    work()
    return CALLS / (time.perf_counter() - start)


@contextmanager
def server(folder: str) -> Iterator[Memo]:
    """Start a server, and give the memo on it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command = [shutil.which("redis-server") or "", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *log]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603  the command is ours
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            with Memo(f"redis://127.0.0.1:{port}/0") as memo:
                yield memo
        finally:
            process.terminate()


def main() -> None:
    """Measure, and print the table."""
    reads, writes = ["key_and_get", "keys_and_get_many"], ["put", "put_many", "claim"]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        memo = stack.enter_context(Memo(f"{folder}/memo"))
        bare = stack.enter_context(diskcache.Cache(f"{folder}/bare"))
        shared = None
        if shutil.which("redis-server") and find_spec("redis"):
            shared = stack.enter_context(server(folder))
            reads, writes = ([*names, *(f"server_{name}" for name in names)] for names in (reads, writes))
        table = {"bare_set": writes, "bare_get": reads}
        rates: dict[str, list[float]] = {name: [] for base, names in table.items() for name in (base, *names)}
        for number in range(TURNS):
            turn = Turn(memo, bare, shared, number)
            for name, rate in rates.items():
                rate.append(per_second(getattr(turn, name)))
            turn.check()
    for base, names in table.items():
        for name in (base, *names):
            median = statistics.median(rates[name])
            ratio = statistics.median(ours / bare for ours, bare in zip(rates[name], rates[base], strict=True))
            print(f"{name:<26}{median:>10,.0f} / s{ratio:>8.0%} of {base}")


if __name__ == "__main__":
    main()
