"""Throughput of `promptopt serve` at 64 concurrent requests, beside other servers of the same weights.

    python -m benchmarks.serving --transformers [--llama-python PYTHON]

A round is one prompt (demonstrations of SST-2) before 32 sentences with two labels each: 64 texts to score by
`/v1/completions` with `echo` and `logprobs`, all sent at once. Each round has a prompt of its own, so that no server knows it
from an earlier round; the first only warms up. The servers take turns within a round, and wait while another works.
`transformers serve` scores nothing: it gets the same texts as chats, of which it writes one token each, and so does ours for
comparison. Slow servers can be given the first texts alone (`--baseline-requests`), all at once too. Medians over the rounds, by the clock, and in processor time of the server's process, which other work on the
machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
import torch

from promptopt.models.local.catalog import model_file
from promptopt.models.local.conversion import tokenizer_folder, weights_folder

from .local_scoring.turns import print_table  # type: ignore[import-not-found]
from .local_scoring.work import DATA_SETS, Cell, items, parent  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PATIENCE = 300  # seconds to wait for a server
_TICKS = os.sysconf("SC_CLK_TCK")


class Way(NamedTuple):
    """One server and what it is asked.

    Args:
        name: in the table.
        model: the server's name of the model.
        url: base URL.
        process: its number.
        chat: whether it gets chats, rather than texts to score.
        requests: how many of a round's texts it gets.
    """

    name: str
    model: str
    url: str
    process: int
    chat: bool
    requests: int = 64


class Spent(NamedTuple):
    """What one round took, in seconds per request."""

    clock: float
    processor: float


def main() -> None:
    """Start the servers, run the rounds, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--model", default="smollm2", help="a known model or a GGUF file")
    parser.add_argument("--dtype", default="float32", help="of ours and of transformers")
    parser.add_argument("--demonstrations", type=int, default=4, help="of each label")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, after one to warm up")
    parser.add_argument("--baseline-requests", type=int, default=8, help="of the 64 texts, for the other servers")
    parser.add_argument("--transformers", action="store_true", help="also `transformers serve`")
    parser.add_argument("--llama-python", help="also llama_cpp.server, by a Python that has llama-cpp-python[server]")
    options = parser.parse_args()
    prompts = [texts(options, number) for number in range(options.repeats + 1)]
    with ExitStack() as stack:
        ways = start(options, stack)
        rounds = [run_round(ways, of_round) for of_round in prompts][1:]
    medians = [Spent(*map(statistics.median, zip(*column, strict=True))) for column in zip(*rounds, strict=True)]
    best = {way.chat: spent for way, spent in zip(ways, medians, strict=True) if way.name.startswith("promptopt")}
    print_table(
        ("server", "requests at once", "requests/s", "processor ms/request", "time / ours", "processor time / ours"),
        [
            (
                way.name,
                str(way.requests),
                f"{1 / spent.clock:.2f}",
                f"{spent.processor * 1e3:.0f}",
                f"{spent.clock / best[way.chat].clock:.2f}",
                f"{spent.processor / best[way.chat].processor:.2f}",
            )
            for way, spent in zip(ways, medians, strict=True)
        ],
    )


def start(options: argparse.Namespace, stack: ExitStack) -> list[Way]:
    """Start the servers."""
    python, weights = [sys.executable, "-m"], model_file(options.model)
    path = weights if weights.exists() else Path(options.model)
    ours = [*python, "promptopt", "serve", f"local:{path}", "--dtype", options.dtype]
    url, process = stack.enter_context(server(ours))
    ways = [
        Way("promptopt serve, scores", str(path), url, process, chat=False),
        Way("promptopt serve, chats of 1 token", str(path), url, process, chat=True),
    ]
    if options.transformers:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        unpack(path, Path(folder), options.dtype)
        words = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--host", "127.0.0.1"]
        url, process = stack.enter_context(server([*words, "--device", "cpu", "--dtype", options.dtype]))
        ways.append(
            Way(
                "transformers serve, chats of 1 token",
                folder,
                url,
                process,
                chat=True,
                requests=options.baseline_requests,
            )
        )
    if options.llama_python:
        words = [
            options.llama_python,
            "-m",
            "llama_cpp.server",
            "--model",
            str(path),
            "--n_ctx",
            "2048",
            "--logits_all",
            "true",
        ]
        bos = ["--kv_overrides", "tokenizer.ggml.add_bos_token=bool:true"]
        url, process = stack.enter_context(server([*words, *bos]))
        ways.append(
            Way("llama_cpp.server, scores", str(path), url, process, chat=False, requests=options.baseline_requests)
        )
    return ways


def unpack(path: Path, folder: Path, dtype: str) -> None:
    """Link the model in transformers' own format, of the parts that the local model keeps, into one folder."""
    for part in (tokenizer_folder(path), weights_folder(path, getattr(torch, dtype))):
        for file in part.iterdir():
            if not (folder / file.name).exists() or file.name == "config.json":
                (folder / file.name).unlink(missing_ok=True)
                (folder / file.name).symlink_to(file)


@contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run a server on a free port; yield its base URL and its process number."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(  # noqa: S603  our own words
        [*command, "--port", str(port)], env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + _PATIENCE
        while not is_up(f"http://127.0.0.1:{port}/v1/models"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{' '.join(command)} did not come up")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE):  # noqa: S310  our own http URL
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def texts(options: argparse.Namespace, number: int) -> list[str]:
    """Return the 64 texts of a round."""
    cell = Cell("sst-2", options.demonstrations, 1, 32)
    template, labels = DATA_SETS[cell.data_set]
    prompt = parent(cell, number, options.data)
    return [f"{prompt}{template.format(text)} {label}" for text in items(cell, options.data) for label in labels]


def run_round(ways: Sequence[Way], prompts: Sequence[str]) -> list[Spent]:
    """Return what each way took for the same texts."""
    out = []
    for way in ways:
        # Ours scores first: its chats begin with another text, so that they find nothing in the cache.
        begun, used = time.perf_counter(), processor_seconds(way.process)
        asyncio.run(ask(way, prompts[: way.requests]))
        seconds = time.perf_counter() - begun, processor_seconds(way.process) - used
        out.append(Spent(*(value / way.requests for value in seconds)))
        print(f"{way.name}: {seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time", file=sys.stderr)
    return out


async def ask(way: Way, prompts: Sequence[str]) -> None:
    """Send all requests at once and wait for their replies."""
    async with openai.AsyncOpenAI(base_url=way.url, api_key="none", max_retries=0, timeout=1800) as client:

        async def one(prompt: str) -> Any:
            if way.chat:
                turns: Any = [{"role": "user", "content": prompt}]
                return await client.chat.completions.create(
                    model=way.model, messages=turns, max_tokens=1, temperature=0
                )
            return await client.completions.create(
                model=way.model, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1
            )

        await asyncio.gather(*map(one, prompts))


def processor_seconds(process: int) -> float:
    """Return the processor time of a process and its finished children so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


if __name__ == "__main__":
    main()
