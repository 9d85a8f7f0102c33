"""How many requests a second reach a server, and what a memo hit costs: `python -m benchmarks.throughput`.

Ours, `OpenAIModel.generate`, runs in turns with a bare asyncio loop over the same SDK client, in one process, so that a
slow moment of the machine meets both; medians over the turns. The server of the tests answers in a process of its own.
How much it could answer is shown by a client of plain sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai

from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.memo import Memo
from promptopt.models.base import Request
from promptopt.models.fake import FakeModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.prompt import Message
from promptopt.replies import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TESTS = Path(__file__).resolve().parent.parent / "tests"
KEY = "sk-of-no-use-at-all"
MODEL = "some-model"
HITS = 1_000
REVIEW = "It begins slowly and ends well, and nobody in between is dull; the music, for once, knows when to be silent. "


def requests_of(turn: int, count: int) -> list[Request]:
    """Return requests of about 1 KB that no other turn has."""
    system = Message("system", "You label reviews of films. Say good or bad.")
    users = (Message("user", f"Review {turn}.{n}: {REVIEW * 7}") for n in range(count))
    return [Request(context=(system, user), max_tokens=8) for user in users]


def ours(url: str, requests: list[Request], concurrency: int) -> None:
    """Ask by `generate`."""
    model = OpenAIModel(MODEL, base_url=url, api_key=KEY, concurrency=concurrency)
    failed = [arrival for arrival in model.generate(requests) if isinstance(arrival.reply, Failure)]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed; the first: {failed[0].reply}")


def bare(url: str, requests: list[Request], concurrency: int) -> None:
    """Ask by the SDK's client alone."""
    asyncio.run(_bare(url, requests, concurrency))


async def _bare(url: str, requests: list[Request], concurrency: int) -> None:
    left = iter(requests)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:

        async def work() -> None:
            for request in left:
                messages: Any = [turn._asdict() for turn in request.context if isinstance(turn, Message)]
                reply = await client.chat.completions.with_raw_response.create(
                    model=MODEL, messages=messages, temperature=0.0, max_tokens=request.max_tokens
                )
                json.loads(reply.http_response.text)

        await asyncio.gather(*(work() for _ in range(concurrency)))


def sockets(url: str, requests: list[Request], concurrency: int) -> None:
    """Ask by plain sockets, to see what the server can do."""
    asyncio.run(_sockets(url, requests, concurrency))


async def _sockets(url: str, requests: list[Request], concurrency: int) -> None:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    left = iter(requests)

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for request in left:
            body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": str(request.context)}]})
            writer.write(f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))


@contextmanager
def server(latency: float) -> Generator[str]:
    """Run the tests' server in a process of its own, and yield its base URL."""
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        command = [sys.executable, "-m", "servers.loopback", "--port-file", str(port), "--latency", str(latency)]
        process = subprocess.Popen(command, cwd=TESTS)  # noqa: S603  a command of our own
        try:
            while not port.exists():
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port.read_text(encoding='utf-8')}/v1"
        finally:
            process.terminate()
            process.wait()


def measure_requests(given: argparse.Namespace) -> None:
    """Print requests per second, and the ratio of the two ways within each turn."""
    ways: tuple[Callable[[str, list[Request], int], None], ...] = (sockets, bare, ours)
    rates: dict[str, list[float]] = {way.__name__: [] for way in ways}
    with server(0.0) as url:
        start = time.perf_counter()
        sockets(url, requests_of(0, 2 * given.requests), given.concurrency)
        print(
            f"the server alone, without latency: {2 * given.requests / (time.perf_counter() - start):,.0f} requests/s"
        )
    with server(given.latency) as url:
        for turn in range(given.turns + 1):  # the first warms up
            for n, way in enumerate(ways if turn % 2 else reversed(ways)):
                requests = requests_of(turn * len(ways) + n, given.requests)
                start = time.perf_counter()
                way(url, requests, given.concurrency)
                if turn:
                    rates[way.__name__].append(given.requests / (time.perf_counter() - start))
    ceiling = given.concurrency / given.latency if given.latency else float("inf")
    print(f"{given.requests:,} requests, concurrency {given.concurrency}, {1000 * given.latency:g} ms of latency,")
    print(f"which allow {ceiling:,.0f} requests/s; medians of {given.turns} turns")
    for name, each in rates.items():
        print(f"{name:<10}{statistics.median(each):>8,.0f} requests/s   ({min(each):,.0f} to {max(each):,.0f})")
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["bare"], strict=True)]
    print(
        f"ours / bare, within a turn: median {statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})"
    )


def measure_hits(turns: int) -> None:
    """Print what a memo hit costs, from request to response."""
    model = FakeModel(lambda _: REVIEW * 4, MODEL)
    requests = requests_of(0, HITS)
    each = []
    with tempfile.TemporaryDirectory() as folder, Memo(folder) as memo:
        Caller(memo, Ledger()).generate("task", model, requests)
        for _ in range(turns * 5):
            caller = Caller(memo, Ledger())
            start = time.perf_counter()
            caller.generate("task", model, requests)
            each.append((time.perf_counter() - start) / HITS * 1e6)
            if caller.ledger.paid:
                raise SystemExit("a request that the memo holds was asked again")
    print(f"memo hit, batches of {HITS:,}: {statistics.median(each):.1f} us ({min(each):.1f} to {max(each):.1f})")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--requests", type=int, default=3_000, help="of each way in each turn")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.02, help="of the server, in seconds")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    measure_hits(given.turns)
    measure_requests(given)


if __name__ == "__main__":
    main()
