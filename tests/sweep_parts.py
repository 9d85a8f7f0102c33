"""A toy sweep on disk, and its model, which logs every call: `python:sweep_parts:model` in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from typing import TYPE_CHECKING, Literal

import toys

from promptopt import FakeModel, FinalModelError, Request

if TYPE_CHECKING:
    from pathlib import Path

LOG = "PROMPTOPT_TEST_SWEEP_LOG"
PAUSE = "PROMPTOPT_TEST_SWEEP_PAUSE"
SWEEP = """
budget = "600 calls"
seeds = [0, 1]
tasks = ["toy.toml"]

[[model]]
name = "python:sweep_parts:model"

[[strategy]]
name = "random"
settings = { prompts = 16 }

[[strategy]]
name = "steepest"
"""

WATCH = """
import os
from pathlib import Path

def tell(event):
    with open(Path(__file__).with_name("told.txt"), "a") as file:
        file.write(f"{os.getpid()} {type(event).__name__}\\n")
"""


def reply(request: Request) -> str:
    """Answer an item, or write prompts; log the call where a log is named."""
    if path := os.environ.get(LOG):
        body = {
            "context": request.context,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": list(request.stop),
        }
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps([body, request.replicate, os.getpid()]) + "\n").encode())
        os.close(handle)
    time.sleep(float(os.environ.get(PAUSE, "0")))
    text = toys.text_of(request.context)
    return toys.answer(request) if text[-9:].count("item") else toys.writer(request)


def hard(request: Request) -> str:
    """Answer an item; eight words of a longer prompt spoil an eighth of the items each."""
    words = toys.text_of(request.context).split()
    number = int(re.findall(r"item(\d+)", words[-1])[0])
    return toys.LABELS[1 - number % 2 if f"bad{number * 7 // 2 % 8}" in words else number % 2]


class Quick(FakeModel):
    """Whose replies are stored a batch at a time."""

    unit: Literal["batch"] = "batch"  # type: ignore[assignment]


model = FakeModel(reply, "swept")
hard_model = Quick(hard, "hard")
writer = FakeModel(toys.writer, "writer")


def gone(request: Request) -> str:
    raise FinalModelError("the writer is gone")


mute = FakeModel(gone, "mute")


def broken(request: Request) -> str:
    raise ValueError("no such thing")


faulty = FakeModel(broken, "faulty")


def hard_seed() -> str:
    """The prompt of `hard`: 24 words that do no harm among the eight that do."""
    words = [f"word{i}" for i in range(24)] + [f"bad{i}" for i in range(8)]
    return " ".join(sorted(words, key=lambda word: hashlib.sha256(word.encode()).digest())) + " : {text}"


def write_task(folder: Path, count: int = 24, name: str = "toy", seed_prompt: str = toys.SEED) -> None:
    """Write a toy task: its file and its data."""
    for split in ("train", "validation", "test"):
        rows = [{"id": f"{split}{i}", "text": f"{split} item{i}", "label": toys.LABELS[i % 2]} for i in range(count)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}-{split}.jsonl").write_text(lines, encoding="utf-8")
    (folder / f"{name}.toml").write_text(
        f'seed_prompt = "{seed_prompt}"\nlabels = ["yes", "no"]\ndescription = "Answer."\n[data]\n'
        + "".join(f'{split} = "{name}-{split}.jsonl"\n' for split in ("train", "validation", "test"))
        + 'inputs = ["text"]\nlabel = "label"\nid = "id"\n',
        encoding="utf-8",
    )


def write_sweep(folder: Path, text: str = SWEEP) -> Path:
    """Write a sweep and its task; return the sweep's file."""
    write_task(folder)
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    return folder / "sweep.toml"
