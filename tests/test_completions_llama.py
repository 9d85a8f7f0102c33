"""Label scores of a server that nobody here wrote, llama-cpp-python's, beside the local engine's on the same weights."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ports import free_port

from promptopt import Message, Response
from promptopt.errors import FinalModelError
from promptopt.models.hosted.completions import CompletionsModel, TokenizedCompletionsModel

pytest.importorskip("torch", reason="the extra 'local' is not installed")

from promptopt.models.local import LocalModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt.prompt import Context
    from promptopt.replies import Arrival

pytestmark = [pytest.mark.llama, pytest.mark.smollm2]

LABELS = ("terrible", "great", "a joy to watch")
TEXTS: list[Context] = ["Review: a dull evening\nSentiment:", "Review: a joy from start to end\nSentiment:"]
CHATS: list[Context] = [(Message("user", "Is this review good or bad? A joy from start to end."),)]

PATIENCE = 120  # seconds that the server may take to come up on a busy machine
QUANTISED = 1.0  # nats of a label: the server multiplies 4-bit weights by 8-bit states, the local engine in float32


@pytest.fixture(scope="module")
def llama_python() -> str:
    """A Python that has llama-cpp-python with its server."""
    here = all(importlib.util.find_spec(name) for name in ("llama_cpp", "starlette_context"))
    given = os.environ.get("PROMPTOPT_LLAMA_PYTHON", sys.executable if here else "")
    if not given:
        pytest.skip("no llama-cpp-python[server] here: set PROMPTOPT_LLAMA_PYTHON to a Python that has it")
    return given


@pytest.fixture(autouse=True)
def _any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def scores(arrivals: Iterable[Arrival]) -> list[Any]:
    """Return log-probabilities in the order of the contexts."""
    replies = [arrival.reply for arrival in sorted(arrivals, key=lambda arrival: arrival.number)]
    return [reply.label_logprobs for reply in replies if isinstance(reply, Response)]


def local_scores(weights: Path, contexts: Sequence[Context]) -> list[Any]:
    return scores(LocalModel(str(weights), dtype="float32", device="cpu").label_logprobs(contexts, LABELS))


@contextmanager
def llama_server(python: str, weights: Path, log: Path, *words: str) -> Iterator[str]:
    """Serve a GGUF file; yield the base URL."""
    port = free_port()
    fixed = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "512", "--n_threads", "1", "--n_threads_batch", "1"]
    command = [python, "-m", "llama_cpp.server", "--model", str(weights), "--model_alias", "smollm2", *fixed, *words]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while not _up(f"http://127.0.0.1:{port}/v1/models"):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(
                    f"llama_cpp.server did not come up (exit code {process.poll()}):\n{log.read_text()[-3000:]}"
                )
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  our own http URL
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def test_llama_cpp_scores_texts_as_the_local_engine_within_quantisation_and_reads_what_they_share_once(
    llama_python: str, smollm2: Path, tmp_path: Path
) -> None:
    starts = "tokenizer.ggml.add_bos_token=bool:true"
    with llama_server(llama_python, smollm2, tmp_path / "log", "--kv_overrides", starts) as url:
        model = CompletionsModel("smollm2", base_url=url, concurrency=1, timeout=300)
        found = scores(model.label_logprobs(TEXTS, LABELS))

    # What the server puts before each text stands there for the local engine.
    ours = local_scores(smollm2, [f"<|im_start|>{text}" for text in TEXTS])
    assert np.abs(np.subtract(found, ours)).max() < QUANTISED
    assert np.argmax(found, axis=1).tolist() == np.argmax(ours, axis=1).tolist()
    reused = [int(count) for count in re.findall(r"(\d+) prefix-match hit", (tmp_path / "log").read_text())]
    assert sum(count > 5 for count in reused) >= 2 * (len(LABELS) - 1)  # each label but a context's first


def test_llama_cpp_scores_chats_but_is_refused_texts_without_a_start_token(
    llama_python: str, smollm2: Path, tmp_path: Path
) -> None:
    with llama_server(llama_python, smollm2, tmp_path / "log") as url:
        settings: dict[str, Any] = {"base_url": url, "concurrency": 1, "timeout": 300}
        model = TokenizedCompletionsModel("smollm2", tokenizer=str(smollm2), **settings)
        found = scores(model.label_logprobs(CHATS, LABELS))
        with pytest.raises(FinalModelError, match="add_bos_token"):
            list(model.label_logprobs(TEXTS, LABELS))

    assert np.abs(np.subtract(found, local_scores(smollm2, CHATS))).max() < QUANTISED
