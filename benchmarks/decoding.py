"""Tokens per second of generation on a CPU, beside transformers and llama.cpp.

    python -m benchmarks.decoding MODEL.gguf [--llama-python PYTHON] [--llama-file OTHER.gguf ...]

Rows are replies in progress: samples of one message, or of different messages. Only decoding steps are timed, not the reading of the
prompts. All ways take turns; medians over the turns. The share is of the memory's rate: the bytes that a step must
read (weights of products, and states of all tokens so far, shared ones once) at the rate at which torch sums up a large array, measured
in every turn. With `--threads 1`, the default, processor time says what the clock would on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from promptopt import Request
from promptopt.models.local import runner
from promptopt.models.local.conversion import weights_folder
from promptopt.models.local.decoding import Decoding
from promptopt.models.local.loading import Files

from .local_scoring.turns import head_width, print_table  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MESSAGE = """Here is an instruction for a classification task, and examples that it gets wrong.

Instruction: Classify the text as negative or positive.

{examples}

Write a better instruction for the same task. Say what distinguishes the classes. Answer with the instruction only."""
EXAMPLES = (
    ("an affecting and quietly funny film that never finds its ending", "positive"),
    ("too long, too loud, and not half as clever as it thinks it is", "negative"),
)
DIFFERENT = 8  # rows for which different messages are measured too
STREAM = 2**27  # numbers of four bytes


class Spent(NamedTuple):
    """Seconds of all steps of one turn."""

    clock: float
    processor: float


class Way(NamedTuple):
    """One way to generate.

    Args:
        name: in the table.
        run: takes prompts and a number of steps; returns what the steps took.
        weights: bytes of weights that a step reads; None if unknown, as of a file that also holds what is only looked up.
    """

    name: str
    run: Callable[[Sequence[Sequence[int]], int], Spent]
    weights: int | None


class Stopwatch:
    """Clock and processor time of this process since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def spent(self) -> Spent:
        """Return the seconds so far."""
        return Spent(time.perf_counter() - self._begun[0], time.process_time() - self._begun[1])


def main() -> None:
    """Run the turns, print a table for each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--ways", default="float32,w16a32,transformers", help="of this process")
    parser.add_argument("--rows", default="1,8,32", help="replies at once")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="turns, after one of two steps to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--llama-file", type=Path, action="append", help="for llama.cpp; by default MODEL")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = Files(str(options.model))
    with ExitStack() as stack:
        ways = [own_way(name, files, options) for name in options.ways.split(",") if name]
        if options.llama_python:
            ways += [llama_way(path, options, stack) for path in options.llama_file or [options.model]]
        for rows in map(int, options.rows.split(",")):
            for shared in (True, False) if rows == DIFFERENT else (True,):
                measure(ways, prompts(files, rows, shared=shared), state_bytes(files), options)


def prompts(files: Files, rows: int, *, shared: bool) -> list[list[int]]:
    """Return the tokens of one message, or of different ones that share only their first sentence."""
    out = []
    for row in range(rows):
        order = EXAMPLES if shared else [EXAMPLES[row % len(EXAMPLES)]]
        mark = "" if shared else f"Note {row}. "
        text = MESSAGE.format(examples="\n".join(f"{mark}Text: {text}\nAnswer: {label}" for text, label in order))
        turns = [{"role": "user", "content": text}]
        chat = files.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        out.append(list(files.tokenizer(chat, add_special_tokens=False)["input_ids"]))
    return out


def state_bytes(files: Files) -> int:
    """Return the bytes of keys and values of one token in float32."""
    config = files.config
    return 2 * 4 * int(config.num_hidden_layers * config.num_key_value_heads * head_width(config))


def own_way(name: str, files: Files, options: argparse.Namespace) -> Way:
    """Return a way of this process: a dtype of ours, or transformers in float32."""
    if name == "transformers":
        network: Any = AutoModelForCausalLM.from_pretrained(weights_folder(options.model, torch.float32))
        return Way("transformers.generate, float32", partial(generate, network), 4 * products(files.config))
    loaded = (
        runner.load_halved(files) if name == "w16a32" else runner.load(files, getattr(torch, name), torch.device("cpu"))
    )
    return Way(f"ours, {name}", partial(decode, loaded), (2 if name == "w16a32" else 4) * products(files.config))


def products(config: Any) -> int:
    """Return the number of weights in products, the output matrix among them."""
    hidden, heads, keys = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    layer = 2 * hidden * head_width(config) * (heads + keys) + 3 * hidden * config.intermediate_size
    return int(config.num_hidden_layers * layer + config.vocab_size * hidden)


def decode(loaded: runner.Runner, rows: Sequence[Sequence[int]], steps: int) -> Spent:
    """Decode by the engine; no token ends a reply."""
    decoding = Decoding(loaded.engine.decoding_batch(), loaded.decoding_head, frozenset(), loaded.tokenizer)
    requests = [Request(context="", max_tokens=steps + 1, temperature=0.7, replicate=i) for i in range(len(rows))]
    decoding.add(requests, [tuple(row) for row in rows])
    decoding.step()
    watch = Stopwatch()
    while len(decoding):
        decoding.step()
    return watch.spent()


@torch.inference_mode()
def generate(network: Any, rows: Sequence[Sequence[int]], steps: int) -> Spent:
    """Decode by transformers."""
    longest = max(map(len, rows))
    padded = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 1.0,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    watches = []

    def started(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        watches.append(Stopwatch())
        return scores

    network.generate(padded, attention_mask=mask, max_new_tokens=steps + 1, logits_processor=[started], **settings)
    return watches[0].spent()


def llama_way(path: Path, options: argparse.Namespace, stack: ExitStack) -> Way:
    """Return llama.cpp on a file, as a process that waits while others work."""
    child = Path(__file__).with_name("llama_decoding.py")
    process = stack.enter_context(
        subprocess.Popen(  # noqa: S603  our own words
            [options.llama_python, str(child), str(path), str(options.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
    stack.callback(process.kill)
    return Way(f"llama.cpp, {path.stem}", partial(ask_llama, process), None)


def ask_llama(process: subprocess.Popen[str], rows: Sequence[Sequence[int]], steps: int) -> Spent:
    """Give llama.cpp one job."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process of llama.cpp has no pipes")
    process.stdin.write(json.dumps({"prompts": [list(row) for row in rows], "steps": steps}) + "\n")
    process.stdin.flush()
    return Spent(*json.loads(process.stdout.readline()))


def stream_rate() -> float:
    """Return the bytes that torch sums up per second of processor time, best of three."""
    numbers, times = torch.ones(STREAM), []
    for _ in range(3):
        watch = Stopwatch()
        numbers.sum()
        times.append(watch.spent().processor)
    return numbers.nbytes / min(times) * torch.get_num_threads()


def measure(ways: Sequence[Way], rows: Sequence[Sequence[int]], token_bytes: int, options: argparse.Namespace) -> None:
    """Print the table of one batch."""
    turns, rates = [], []
    for way in ways:
        print(way.name, *way.run(rows, 1), file=sys.stderr, flush=True)
    for _ in range(options.repeats):
        rates.append(stream_rate())
        turns.append([way.run(rows, options.steps) for way in ways])
        print([tuple(round(x, 2) for x in spent) for spent in turns[-1]], file=sys.stderr, flush=True)
    medians = [Spent(*map(statistics.median, zip(*column, strict=True))) for column in zip(*turns, strict=True)]
    distinct = len({tuple(row[: i + 1]) for row in rows for i in range(len(row))}) + len(rows) * options.steps / 2
    rate, tokens, different = statistics.median(rates), len(rows) * options.steps, len(set(map(tuple, rows))) > 1

    def share(way: Way, spent: Spent) -> str:
        if way.weights is None:
            return ""
        step = (way.weights + token_bytes * distinct) / rate
        return f"{step * options.steps * options.threads / spent.processor:.0%}"

    print(f"\n{len(rows)} rows, {'different messages' if different else 'one message'}, {rate / 1e9:.1f} GB/s\n")
    print_table(
        (
            "way",
            "tokens/s of the clock",
            "tokens per processor second",
            "share of the memory's rate",
            "time / first way",
        ),
        [
            (
                way.name,
                f"{tokens / spent.clock:.2f}",
                f"{tokens / spent.processor:.2f}",
                share(way, spent),
                f"{spent.processor / medians[0].processor:.2f}",
            )
            for way, spent in zip(ways, medians, strict=True)
        ],
    )


if __name__ == "__main__":
    main()
