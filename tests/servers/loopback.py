"""A small HTTP server that speaks the providers' protocols on 127.0.0.1 and fails on demand.

Replies are a pure function of the request, so two runs against it can be compared byte for byte.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Kind: TypeAlias = Literal["html", "truncated", "empty", "null", "hang"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with every n-th request.

    Args:
        kind: an HTTP status, or what a reply with status 200 looks like; "hang" is no answer at all.
        every: 1 spoils all requests, 2 the second, the fourth, ...
        error: the error object of a status.
    """

    kind: int | Kind
    every: int = 1
    error: dict[str, Any] | None = None


class Seen(NamedTuple):
    """A request that arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def word_count(text: str) -> str:
    """Answer with the number of words asked."""
    return f"{len(text.split())} words"


class Loopback:
    """A provider on this machine: `with Loopback() as server: OpenAIModel("m", base_url=f"{server.url}/v1")`.

    Args:
        answer: the reply's text, given the last user turn or the text to continue.
        fault: what goes wrong.
        finish: the reply's finish reason, in the provider's own words; by default that of a whole reply.
        extra: laid over the fields of a reply's message (chat), choice (completions) or body (messages).
    """

    def __init__(
        self,
        answer: Callable[[str], str] = word_count,
        *,
        fault: Fault | None = None,
        finish: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.answer, self.fault, self.finish, self.extra = answer, fault, finish, extra or {}
        self.requests: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.loopback = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def respond(self, seen: Seen) -> tuple[int, str] | None:
        """Return status and body, or None to close the connection without an answer."""
        with self._lock:
            self.requests.append(seen)
            spoiled = self.fault is not None and len(self.requests) % self.fault.every == 0
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if spoiled and self.fault is not None:
                return self._spoil(seen, self.fault)
            return 200, json.dumps(self._reply(seen, self.answer(_asked(seen.body))))
        finally:
            with self._lock:
                self.in_flight -= 1

    def _spoil(self, seen: Seen, fault: Fault) -> tuple[int, str] | None:
        match fault.kind:
            case int(status):
                return status, json.dumps({"error": fault.error or {"message": f"fault {status}"}})
            case "html":
                return 200, "<html><body>Bad gateway</body></html>"
            case "truncated":
                return 200, json.dumps(self._reply(seen, "cut"))[:-5]
            case "empty":
                return 200, json.dumps(self._reply(seen, "") | {"choices": [], "content": []})
            case "null":
                return 200, json.dumps(self._reply(seen, None))
            case "hang":
                self._closing.wait()
                return None

    def _reply(self, seen: Seen, text: str | None) -> dict[str, Any]:
        """Return a reply of the kind that the path asks for; its usage counts words."""
        taken, given = len(_asked(seen.body).split()), len((text or "").split())
        if seen.path == "/v1/messages":
            content = [{"type": "thinking", "thinking": "..."}, {"type": "text", "text": text}]
            usage = {"input_tokens": taken, "output_tokens": given}
            usage |= {"cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
            return {"content": content, "stop_reason": self.finish or "end_turn", "usage": usage} | self.extra
        choice: dict[str, Any] = {"finish_reason": self.finish or "stop"}
        if seen.path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text} | self.extra
        else:
            choice |= {"text": text} | self.extra
        usage = {"prompt_tokens": taken, "completion_tokens": given}
        return {"choices": [choice], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 1}}}


def _asked(body: dict[str, Any]) -> str:
    users = [turn["content"] for turn in body.get("messages", ()) if turn["role"] == "user"]
    return str(users[-1] if users else body["prompt"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    loopback: Loopback


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answered = self.server.loopback.respond(Seen(self.path, headers, body))
        if answered is None:
            self.close_connection = True
            return
        status, text = answered
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if text.startswith("<") else "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("retry-after-ms", "1")  # the SDKs wait no longer than this before the next try
        self.end_headers()
        self.wfile.write(text.encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet."""
