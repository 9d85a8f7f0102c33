"""How fast the memo is beside bare diskcache: `python benchmarks/memo.py` prints one table.

Both run in turns within one process, so that a slow moment of the machine meets both; medians over the turns.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import diskcache

from promptopt.memo import KeyMaker, Memo

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def __init__(self, memo: Memo, bare: Any, number: int) -> None:
        numbers = range(number * CALLS + 1, (number + 1) * CALLS + 1)
        self.memo, self.bare = memo, bare
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

    def check(self) -> None:
        """Stop where the memo gives back something else than it was given."""
        if self.memo.get_many(list(self.values)) != self.values:
            raise SystemExit("the memo gave back something else than it was given")


def per_second(work: Callable[[], None]) -> float:
    """Return how many of `CALLS` calls fit into a second."""
    start = time.perf_counter()
    work()
    return CALLS / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print the table."""
    table = {"bare_get": ("key_and_get", "keys_and_get_many"), "bare_set": ("put", "put_many")}
    rates: dict[str, list[float]] = {name: [] for base, names in table.items() for name in (base, *names)}
    with (
        tempfile.TemporaryDirectory() as folder,
        Memo(f"{folder}/memo") as memo,
        diskcache.Cache(f"{folder}/bare") as bare,
    ):
        for number in range(TURNS):
            turn = Turn(memo, bare, number)
            for work in (
                turn.bare_set,
                turn.put,
                turn.put_many,
                turn.bare_get,
                turn.key_and_get,
                turn.keys_and_get_many,
            ):
                rates[work.__name__].append(per_second(work))
            turn.check()
    for base, names in table.items():
        for name in (base, *names):
            rate = statistics.median(rates[name])
            ratio = statistics.median(ours / bare for ours, bare in zip(rates[name], rates[base], strict=True))
            print(f"{name:<18}{rate:>10,.0f} / s{ratio:>7.0%} of {base}")


if __name__ == "__main__":
    main()
