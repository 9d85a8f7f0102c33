"""The arena's models, and the server in front of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from promptopt import InputError
from promptopt.models.local.catalog import KNOWN, model_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MODELS = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "qwen05": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "qwen15": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
}
"""Name in the arena -> name of its file."""


def file_of(name: str, folder: Path) -> Path:
    """Return the file of a model, in `folder` or where `promptopt models fetch` puts it.

    Raises:
        InputError: it is in neither.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: use one of {', '.join(MODELS)}")
    places = [folder / MODELS[name], *([model_file(name)] if name in KNOWN else [])]
    existing = [path for path in places if path.exists()]
    if not existing:
        raise InputError(
            f"the model {name} is not in {folder}: put {MODELS[name]} there, or give its folder by --models"
        )
    return existing[0]


@contextmanager
def server(files: Sequence[Path], dtype: str, threads: int | None) -> Iterator[str]:
    """Start `promptopt serve` for the models in `files`; yields its base URL, with /v1."""
    specs = [f"local:{file}" for file in dict.fromkeys(files)]
    words = [sys.executable, "-m", "promptopt", "serve", *specs, "--port", "0", "--dtype", dtype]
    settings = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=settings) as process:  # noqa: S603
        try:
            yield _address(process)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    """Wait until the server says where it listens."""
    for line in process.stdout or ():
        address = re.search(r"http://\S+/v1", line)
        if address:
            return address[0]
    raise InputError("promptopt serve ended before it listened: see its error above")
