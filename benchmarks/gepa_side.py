"""GEPA's side of `against_gepa`: runs in a Python that has gepa, reads its case from standard input as JSON.

Settings are GEPA's defaults: its default adapter (the prompt before the item), its reflection message, Pareto selection,
minibatches of 3, acceptance by strict improvement, no merge, no cache.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gepa  # type: ignore[import-not-found]
from gepa.adapters.default_adapter.default_adapter import EvaluationResult  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from servers import landscape


class Side:
    """The models behind the server, and what the callbacks saw.

    Args:
        url: of the server's chat completions.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = 0
        self.accepted: list[int] = []
        self.best: list[tuple[int, str]] = []

    def ask(self, model: str, content: str) -> str:
        """Send one user turn."""
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), head)  # noqa: S310  of the loopback server
        self.calls += 1
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return str(json.load(reply)["choices"][0]["message"]["content"])

    def task(self, messages: list[dict[str, str]]) -> str:
        """Ask the task model, with GEPA's two turns as one, which is how ours asks."""
        return self.ask("task", " ".join(message["content"] for message in messages))

    def reflect(self, prompt: str) -> str:
        """Ask the writer."""
        return self.ask("writer", prompt)

    def on_candidate_accepted(self, event: dict[str, Any]) -> None:  # noqa: ARG002  GEPA's signature
        """Note a prompt that passed the gate."""
        self.accepted.append(self.calls)

    def on_valset_evaluated(self, event: dict[str, Any]) -> None:
        """Note a prompt that is the best so far on all validation items."""
        if event["is_best_program"]:
            self.best.append((self.calls, event["candidate"]["prompt"]))


class Quiet:
    """GEPA's logger, silent."""

    def log(self, message: str) -> None:
        """Drop the message."""


def judged(data: dict[str, Any], response: str) -> Any:
    """Return the reward and its words."""
    score, words = landscape.judged(data["input"], response)
    return EvaluationResult(score=score, feedback=words)


def main() -> None:
    """Run one case."""
    case = json.load(sys.stdin)
    side = Side(case["url"])
    data = {
        split: [{"input": item, "additional_context": {}, "answer": landscape.target_of(item)} for item in case[split]]
        for split in ("train", "validation")
    }
    result = gepa.optimize(
        seed_candidate={"prompt": case["prompt"]},
        trainset=data["train"],
        valset=data["validation"],
        task_lm=side.task,
        evaluator=judged,
        reflection_lm=side.reflect,
        stop_callbacks=lambda _: side.calls >= case["budget"],
        callbacks=[side],
        logger=Quiet(),
        seed=case["seed"],
    )
    out = {
        "version": version("gepa"),
        "prompt": result.best_candidate["prompt"],
        "calls": side.calls,
        "accepted": side.accepted,
        "best": side.best,
    }
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
