"""End to end against a server that nobody here wrote: `transformers serve`, with SmolLM2, over the openai adapter."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from ports import free_port

from promptopt import Example, Memo, Message, Prompt, Request, Response, Task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.models.hosted.openai import OpenAIModel

pytest.importorskip("fastapi", reason="the extra 'serving' is not installed")
pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch

from promptopt.models.local import LocalModel
from promptopt.models.local.conversion import tokenizer_folder, weights_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.prompt import Context

pytestmark = [pytest.mark.serving, pytest.mark.smollm2]

PATIENCE = 120  # seconds that the server may take to come up on a busy machine
ASK = "Is the sentiment of this review positive or negative? Answer with one word.\n\n"
ITEMS = [
    ("a joy from start to end", "positive"),
    ("a dull and terrible evening", "negative"),
    ("the best film of the year", "positive"),
    ("I want my money back", "negative"),
]
TASK = """
name = "films"
description = "Is the review of a film positive or negative?"
seed_prompt = "Say whether the review is positive or negative. Answer with one word."
labels = ["positive", "negative"]
reward = "contains"
max_tokens = 8
[data]
train = "train.csv"
validation = "validation.csv"
test = "test.csv"
inputs = ["text"]
label = "label"
"""


class Server(NamedTuple):
    """A running server.

    Args:
        model: the name that it wants to be asked by, which is the model's folder.
        url: for the adapter.
        log: what it says.
    """

    model: str
    url: str
    log: Path

    def answered(self) -> int:
        """Count the replies so far, by the server's own log."""
        return self.log.read_text().count('"POST /v1/')


@pytest.fixture(scope="module")
def folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as one folder, of the parts that the local model keeps."""
    folder = tmp_path_factory.mktemp("smollm2")
    for part in (tokenizer_folder(smollm2), weights_folder(smollm2, torch.float32)):
        for file in part.iterdir():
            if not (folder / file.name).exists() or file.name == "config.json":
                (folder / file.name).unlink(missing_ok=True)
                (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    port = free_port()
    # With two threads on two cores that others use too, a reply takes ten times as long.
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = home / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("transformers")), *words],
            env=os.environ | quiet | {"HF_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield Server(str(folder), f"http://127.0.0.1:{port}/v1", log)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  our own http URL
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not come up (exit code {process.poll()}):\n{log.read_text()[-3000:]}")


def test_a_greedy_chat_gets_the_text_that_the_local_model_writes(server: Server, folder: Path) -> None:
    chats: list[Context] = [(Message("user", ASK + text),) for text, _ in ITEMS[:2]]
    chats.append((Message("system", "You are terse."), Message("user", "Name three colours.")))
    requests = [Request(context=chat, max_tokens=12) for chat in chats]
    hosted = dict(OpenAIModel(server.model, base_url=server.url, api_key="none").generate(requests))
    local = dict(LocalModel(str(folder), dtype="float32", device="cpu").generate(requests))
    for index in range(len(requests)):
        theirs, ours = hosted[index], local[index]

        assert isinstance(theirs, Response), theirs
        assert isinstance(ours, Response), ours
        assert theirs.text == ours.text
        assert theirs.finish_reason == ours.finish_reason
        assert theirs.usage.input == ours.usage.input
        # The server counts the token that ends a reply.
        assert theirs.usage.output == ours.usage.output + (ours.finish_reason == "stop")


def test_optimize_from_the_shell_ends_with_a_result_and_a_second_run_asks_nothing(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "task.toml").write_text(TASK)
    for split in ("train", "validation", "test"):
        rows = "".join(f"{split} {number}: {text},{label}\n" for number, (text, label) in enumerate(ITEMS))
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows)

    before = server.answered()
    first = _optimize(tmp_path, server)
    asked = server.answered()
    again = _optimize(tmp_path, server)

    assert first["models"]["task"]["endpoint"] == server.url
    assert len(first["history"]) > 1
    assert first["test"] is None or first["test"]["examples"] == len(ITEMS)  # None where the seed prompt stays
    assert not first["unfinished"]
    assert first["failed"] == 0
    assert sum(paid["calls"] for paid in first["paid"].values()) == asked - before > 0
    assert sum(used["input_tokens"] for used in first["used"].values()) > 0
    assert server.answered() == asked
    assert again["paid"] == {}
    assert again["history"] == first["history"]


def _optimize(folder: Path, server: Server) -> dict[str, Any]:
    words = ["optimize", "task.toml", "--model", f"openai:{server.model}", "--base-url", server.url]
    search = ["--strategy", "promptquine.paper", "--set", "offspring=2", "--set", "max_prompts=2"]  # some 40 calls
    done = subprocess.run(
        [sys.executable, "-m", "promptopt", *words, *search, "--budget", "400 calls", "--run-dir", "run"],
        cwd=folder,
        env=os.environ | {"OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((folder / "run" / "result.json").read_text())
    return result


def test_log_probabilities_that_the_server_leaves_out_are_missed_once_and_replaced_by_votes(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ("positive", "negative")
    items = tuple(Example({"text": text}, label, text) for text, label in ITEMS)
    task = Task(train=items, seed_prompt=Prompt(ASK + "{text}"), labels=labels, max_tokens=12)
    model = OpenAIModel(server.model, base_url=server.url, api_key="none")
    before = server.answered()
    with Memo(tmp_path / "votes") as memo, caplog.at_level(logging.WARNING, logger="promptopt"):
        scores = Scorer(task, model, Caller(memo, Ledger())).score([task.seed_prompt], items, replicates=3)

    said = [record.getMessage() for record in caplog.records if record.name.startswith("promptopt")]
    assert len(said) == 1
    assert "gives no log-probabilities: labels are read from the text, as votes" in said[0]
    assert "Ignoring unsupported fields in the request: {" in server.log.read_text()
    replies = [reply for item in scores.replies[0] for reply in item]
    assert [reply.label_logprobs for reply in replies if isinstance(reply, Response)] == [None] * 12
    assert server.answered() - before == 12
    assert scores.rewards[0, :2].tolist() == [[1.0] * 3] * 2
