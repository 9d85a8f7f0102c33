"""The hill-climbing run that the faults are shown on: its task, what its models answer, and how it is started.

160 scored calls (7 prompts on 16 items, all of them on 4 validation items, 2 on 10 test items) and 3 calls to the writer.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forked import Forked

from promptopt import Memo, Request, Result
from promptopt.evaluation.caller import _request_key
from promptopt.memo import memo_key
from promptopt.prompt import Message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

    from servers.loopback import Loopback, Seen

KEY = "sk-canary-0123456789abcdefWXYZ"
CALLS = 163
CONCURRENCY = 32
SETTINGS = (
    "restarts=1",
    "resets=1",
    "iterations=1",
    "pool=4",
    "proposals=3",
    "racing=false",
)  # no message is written twice
TASK = """
name = "parity"
description = "Odd or even?"
seed_prompt = "Say wrongly odd or even: {number}"
reward = "exact"
max_tokens = 8
[data]
train = "train.csv"
validation = "validation.csv"
test = "test.csv"
inputs = ["number"]
label = "parity"
"""
SPLITS = {"train": range(100, 116), "validation": range(200, 204), "test": range(300, 310)}
PARITY = ("even", "odd")
WORDS = ("calmly", "briefly", "plainly", "surely", "kindly", "firmly", "exactly", "quietly")


def answer(text: str) -> str:
    """Answer as the task model, as the writer, or to a greeting; a pure function of the text."""
    if "<prompt>" in text:
        return _proposals(text)
    numbers = re.findall(r"\d+", text)
    if not numbers:
        return "ready"
    wrong = _chance(text) < 0.6 - 0.15 * sum(word in text for word in WORDS)
    return PARITY[(int(numbers[-1]) + wrong) % 2]


def _proposals(text: str) -> str:
    """Put another word before the best prompt shown, three times."""
    best = re.findall(r"<prompt>(.*?)</prompt>", text)[0 if "in other words" in text else 1]
    first = int(_chance(text) * len(WORDS))
    words = [WORDS[(first + n) % len(WORDS)] for n in range(3)]
    return "\n".join(f"<prompt>{word} {best}</prompt>" for word in words)


def _chance(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


@dataclass(frozen=True)
class Climb:
    """One run in a folder of its own.

    Args:
        folder: where its task, memo and result lie.
        url: of the server.
        memo: its memo, if not its own.
        timeout: seconds of a try.
        forked: from a process that has imported everything, or a new interpreter.
    """

    folder: Path
    url: str
    memo: Path
    timeout: float = 30.0
    forked: bool = False

    @classmethod
    def at(
        cls, folder: Path, url: str, memo: Path | None = None, *, timeout: float = 30.0, forked: bool = False
    ) -> Climb:
        """Write the task, and return the run."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.toml").write_text(TASK, encoding="utf-8")
        for name, numbers in SPLITS.items():
            rows = "".join(f"{number},{PARITY[number % 2]}\n" for number in numbers)
            (folder / f"{name}.csv").write_text(f"number,parity\n{rows}", encoding="utf-8")
        return cls(folder, url, memo or folder / "memo", timeout, forked)

    @property
    def run_dir(self) -> Path:
        """Where the result lies."""
        return self.folder / "run"

    def start(self) -> subprocess.Popen[str] | Forked:
        """Start the command line in a process of its own."""
        base, models = f"{self.url}/v1", ("--model", "openai:some-model", "--writer", "openai:writer")
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        command: list[Any] = ["optimize", self.folder / "task.toml", *models]
        command += ["--base-url", base, "--writer-base-url", base, "--strategy", "hillclimb", *settings]
        command += ["--concurrency", CONCURRENCY, "--timeout", self.timeout, "--budget", "600 calls"]
        command += ["--run-dir", self.run_dir, "--memo", self.memo, "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        environment |= {"OPENAI_API_KEY": KEY, "PROMPTOPT_NO_PAID_CALLS": "1", "NO_PROXY": "127.0.0.1"}
        words = [str(word) for word in command]
        if self.forked:
            return Forked("promptopt.cli:main", words, environment, self.folder)
        return subprocess.Popen(
            [sys.executable, "-m", "promptopt", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def result(self) -> Result:
        """Return the saved result without the models, which name the server's port."""
        return replace(Result.load(self.run_dir / "result.json"), models={})

    def leaks(self, *printed: str) -> list[str]:
        """Return where the key is found: in what was printed, or in the files that the run wrote."""
        files = [file for folder in (self.folder, self.memo) for file in folder.rglob("*") if file.is_file()]
        found = [str(file) for file in files if KEY.encode() in file.read_bytes()]
        return found + [text for text in printed if KEY in text]

    def keys(self, requests: Iterable[Seen]) -> set[str]:
        """Return the keys under which the memo keeps the replies to HTTP requests of the run."""
        return {self._key(seen.body) for seen in requests}

    def held(self, keys: set[str]) -> set[str]:
        """Return those keys whose replies are in the memo."""
        with Memo(self.memo) as memo:
            return set(memo.get_many(list(keys)))

    def killed(self, server: Loopback, kills: int, rng: np.random.Generator) -> int:
        """Run, killed so many times, each after a random number of replies, then to the end.

        Returns:
            How many requests were sent although their replies were in the memo when their process was started.
        """
        kept: set[str] = set()
        repeated = 0
        for kill in range(kills + 1):
            before = len(server.requests)
            process = self.start()
            if kill < kills:
                server.wait_answered(server.answered + int(rng.integers(1, CALLS // kills)))
                process.kill()
            process.communicate()
            server.wait_idle()
            repeated += len(kept & self.keys(server.requests[before:]))
            kept = self.held(self.keys(server.requests))
        return repeated

    def _key(self, body: dict[str, Any]) -> str:
        request = Request(
            context=tuple(Message(turn["role"], turn["content"]) for turn in body["messages"]),
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
        )
        fingerprint = {"provider": "openai", "endpoint": f"{self.url}/v1", "model": body["model"]}
        return memo_key(fingerprint, "generate", _request_key(request))
