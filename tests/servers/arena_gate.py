"""The arena's gate with scripted models, in the standard library, for tests of the peers' scripts.

Half of the replies are right, decided by a hash of the request, so that prompts differ in their scores. The writer answers
in the form that a library asks for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

Messages = list[dict[str, str]]

LABELS = ("subjective", "objective")
FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`( \(must be formatted as a valid Python dict)?")


@dataclass
class FakeGate:
    """The gate: `with FakeGate(targets, budget) as gate`.

    Args:
        targets: id of an item -> the right answer.
        budget: in words of requests and replies.
    """

    targets: Mapping[str, str]
    budget: int
    url: str = ""
    tokens: int = 0
    refused: int = 0
    asked: list[tuple[str, Messages]] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def conversations(self, model: str) -> list[Messages]:
        """Return what a model was asked."""
        return [messages for name, messages in self.asked if name == model]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body of a reply."""
        if path == "/spent":
            return 200, {"tokens": self.tokens, "budget": self.budget, "calls": len(self.asked)}
        if path == "/best":
            self.best.append(body)
            return 200, {}
        if path == "/reward":
            target = self.targets[body["id"]]
            return 200, {"reward": float(target in body["reply"].lower()), "target": target}
        return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refused or self.tokens >= 0.98 * self.budget:  # as the gate, which counts requests in flight
            self.refused += 1
            return 429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "spent"}}
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in body["messages"]]
        if "too long" in messages[-1]["content"]:
            return 400, {"error": {"code": "context_length_exceeded", "message": "too long"}}
        self.asked.append((body["model"], messages))
        text = said(body["model"], messages)
        usage = {"prompt_tokens": len(str(messages).split()), "completion_tokens": len(text.split())}
        self.tokens += sum(usage.values())
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        about = {"id": "0", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, about | {"choices": [choice], "usage": usage | {"total_tokens": sum(usage.values())}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({})

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: dict[str, Any]) -> None:
                status, found = gate.answer(self.path, body)
                raw = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        return Handler


def said(model: str, messages: Messages) -> str:
    """Return a model's reply, in DSPy's form if that is asked for, or in JSON for Opik."""
    number = int.from_bytes(hashlib.sha256(json.dumps(messages).encode()).digest()[:4])
    last = messages[-1]["content"]
    if model == "task":
        return _filled(LABELS[number % 2], last)
    text = f"Is it subjective or objective? Mind rule {number % 1000}."
    if "JSON" in last:
        return json.dumps(_for_opik(text))
    return f"Here it is:\n```\n{text}\n```" if "```" in last else _filled(text, last, f"<prompt>{text}</prompt>")


def _for_opik(text: str) -> dict[str, Any]:
    """Return four prompts, as its MetaPrompt optimizer asks for them."""
    return {"prompts": [{"prompt": [{"role": "system", "content": text}]}] * 4}


def _filled(text: str, last: str, otherwise: str = "") -> str:
    """Return `text` in the fields that DSPy asks for."""
    fields = FIELD.findall(last)
    if not fields:
        return otherwise or text
    filled = (f"[[ ## {name} ## ]]\n{json.dumps({'predict': text}) if is_dict else text}" for name, is_dict in fields)
    return "\n\n".join(filled) + "\n\n[[ ## completed ## ]]"
