"""A small HTTP server that speaks the providers' protocols on 127.0.0.1 and fails on demand.

Replies are a pure function of the request, so two runs against it can be compared byte for byte. It runs in a thread,
`with Loopback() as server`, or as a process of its own, `python -m servers.loopback --port-file FILE`, where
POST /admin/faults sets what goes wrong and GET /admin/state says what came. Paths of batches are `batch_routes`'.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import pkgutil
import signal
import socket
import struct
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

Kind: TypeAlias = Literal["html", "truncated", "empty", "null", "half", "reset", "hang"]

MODEL = "some-model"
_BATCH_PATHS = ("/v1/files", "/v1/batches", "/v1/messages/batches")
_REPLY_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Numbers count from 1, the requests since the fault was set that `path` and `text` let it see.

    Args:
        kind: an HTTP status, or what becomes of a reply with status 200: "html", "truncated" JSON, "empty" choices,
            "null" content, "half" a body, connection "reset", "hang" until the client gives up.
        every: 1 spoils all requests, 2 the second, the fourth, ...
        error: the error object of a status.
        start: number of the first request that it may spoil.
        stop: number of the last one, None where it never ends.
        seconds: how long it lasts, from the first request that it spoiled; None where it never ends.
        retry_after: seconds that a status asks to wait, None where it does not say.
        path: how the paths begin that it sees.
        text: what stands in the bodies that it sees.
        most: how often it may spoil one and the same request, None where any number of times.
    """

    kind: int | Kind
    every: int = 1
    error: dict[str, Any] | None = None
    start: int = 1
    stop: int | None = None
    seconds: float | None = None
    retry_after: float | None = 0.001
    path: str = ""
    text: str = ""
    most: int | None = None


@dataclass
class Seen:
    """A request that arrived; header names in lower case, times on `time.monotonic`'s clock.

    Args:
        path: without what follows a question mark.
        headers: as they came.
        body: its JSON, {} where there is none.
        arrived: when the last byte of it was there.
        ended: when the answer was sent, or the connection was gone; None while it is open.
        status: of the answer, 0 where there was none.
        spoiled: by what fault.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    arrived: float = 0.0
    ended: float | None = None
    status: int = 0
    spoiled: int | Kind | None = None

    @property
    def answered(self) -> bool:
        """Whether a whole and good reply was sent."""
        return self.status == HTTPStatus.OK and self.spoiled is None


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    text: str
    content_type: str = "application/json"


def word_count(text: str) -> str:
    """Answer with the number of words asked."""
    return f"{len(text.split())} words"


class Loopback:
    """A provider on this machine: `with Loopback() as server: OpenAIModel("m", base_url=f"{server.url}/v1")`.

    Args:
        answer: the reply's text, given the last user turn or the text to continue; it may wait.
        fault: what goes wrong, one or several; of those that meet a request the first counts.
        finish: the reply's finish reason, in the provider's own words; by default that of a whole reply.
        extra: laid over the fields of a reply's message (chat), choice (completions) or body (messages).
        latency: seconds from a request to its answer.
        logprobs: (token, log-probability) of the likeliest first tokens, best first, given what `answer` is given; without
            it a chat request's wish for them is ignored, as some servers do.
        score: laid over the choice of a completion, given the request's body: see `scoring`.
        known: names of the models that there are; without any, all names are answered and "some-model" is listed.
        port: 0 takes a free one.
        log: file to which each request is added as a line of JSON once it is over, without its headers.
        waits: False where `answer` never waits and is to be called without a thread, which is faster.
    """

    def __init__(
        self,
        answer: Callable[[str], str] = word_count,
        *,
        fault: Fault | Iterable[Fault] | None = None,
        finish: str | None = None,
        extra: dict[str, Any] | None = None,
        latency: float = 0.0,
        logprobs: Callable[[str], Sequence[tuple[str, float]]] | None = None,
        score: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        known: Collection[str] = (),
        port: int = 0,
        log: Path | None = None,
        waits: bool = True,
    ) -> None:
        self.answer, self.finish, self.extra = answer, finish, extra or {}
        self.latency, self.logprobs, self.score, self.known = latency, logprobs, score, known
        self.requests: list[Seen] = []
        self.duplicates = 0
        """Requests with the path and body of an earlier one."""
        self.repeated = 0
        """Requests with the path and body of one that had been answered well."""
        self.answered = 0
        """Requests that got a whole and good reply."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.batches: Any = None
        """What `batch_routes` keeps between requests."""
        self._faults: list[_Armed] = []
        self.fail(fault)
        self._sent: dict[tuple[str, bytes], bool] = {}  # what came -> whether it was answered well
        self._log = log
        self._waits = waits
        self._changed = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._connections: set[_Connection] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._pool = ThreadPoolExecutor(256, thread_name_prefix="loopback")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False)

    def fail(self, fault: Fault | Iterable[Fault] | None) -> None:
        """Let this go wrong from now on, in place of what went wrong before; None lets all go well."""
        faults = [fault] if isinstance(fault, Fault) else list(fault or ())
        self._faults = [_Armed(each) for each in faults]

    def wait_answered(self, count: int, timeout: float = 60.0) -> bool:
        """Wait until so many requests got a good reply; return whether they did."""
        with self._changed:
            return self._changed.wait_for(lambda: self.answered >= count, timeout)

    def wait_idle(self, timeout: float = 60.0) -> bool:
        """Wait until no request is open; return whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.in_flight, timeout)

    def state(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "requests": len(self.requests),
            "answered": self.answered,
            "duplicates": self.duplicates,
            "repeated": self.repeated,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }

    def reply(self, path: str, body: dict[str, Any], text: str | None) -> dict[str, Any]:
        """Return a reply of the kind that the path asks for; its usage counts words."""
        asked = asked_text(body)
        taken, given = len(asked.split()), len((text or "").split())
        if path == "/v1/messages":
            content = [{"type": "thinking", "thinking": "..."}, {"type": "text", "text": text}]
            usage = {"input_tokens": taken, "output_tokens": given}
            usage |= {"cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
            return {"content": content, "stop_reason": self.finish or "end_turn", "usage": usage} | self.extra
        choice: dict[str, Any] = {"finish_reason": self.finish or "stop"}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text} | self.extra
            if self.logprobs is not None and body.get("logprobs"):
                choice["logprobs"] = {"content": [_first_token(self.logprobs(asked), body.get("top_logprobs", 0))]}
        else:
            choice |= {"text": text} | self.extra | (self.score(body) if self.score is not None else {})
        usage = {"prompt_tokens": taken, "completion_tokens": given}
        return {"choices": [choice], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 1}}}

    def take(self, link: _Connection, method: str, target: str, headers: dict[str, str], raw: bytes) -> None:
        """Deal with one whole request."""
        path = target.partition("?")[0]
        if path.startswith("/admin/"):
            link.send(self._admin(method, path, raw))
            return
        seen = Seen(path, headers, _json_object(raw), arrived=time.monotonic())
        fault = self._meet(path, raw)
        seen.spoiled = None if fault is None else fault.kind
        self.duplicates += (path, raw) in self._sent
        self.repeated += self._sent.setdefault((path, raw), False)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        link.open, link.raw = seen, raw
        with self._changed:
            self.requests.append(seen)
            self._changed.notify_all()

        def arrived(answer: Future[Answer]) -> None:
            error = answer.exception()
            whole = answer.result() if error is None else _error(HTTPStatus.INTERNAL_SERVER_ERROR, repr(error), "")
            self._loop.call_soon_threadsafe(link.send, whole)

        def go() -> None:
            if fault is not None and fault.kind in ("hang", "reset"):
                if fault.kind == "reset":
                    link.reset()
            elif fault is not None and isinstance(fault.kind, int):
                error = json.dumps({"error": fault.error or {"message": f"fault {fault.kind}"}})
                link.send(Answer(fault.kind, error), _waiting(fault.retry_after))
            elif self._waits:
                self._pool.submit(self._answer, seen, method, raw).add_done_callback(arrived)
            else:
                link.send(self._answer(seen, method, raw))

        if self.latency:
            self._loop.call_later(self.latency, go)
        else:
            go()

    def over(self, link: _Connection, status: int) -> None:
        """Book a request whose answer was sent, or whose connection is gone."""
        seen, link.open = link.open, None
        if seen is None:
            return
        with self._changed:
            self.in_flight -= 1
            seen.status, seen.ended = status, time.monotonic()
            if seen.answered:
                self.answered += 1
                self._sent[seen.path, link.raw] = True
            self._changed.notify_all()
        if self._log is not None:
            line = {name: value for name, value in asdict(seen).items() if name != "headers"}
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"answered": seen.answered}) + "\n")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), sock=self._socket, backlog=1024)
        )
        self._loop.call_soon(self._ready.set)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for link in tuple(self._connections):
                link.transport.abort()
            self._loop.run_until_complete(asyncio.sleep(0))  # closes what was aborted
            self._loop.close()

    def _meet(self, path: str, raw: bytes) -> Fault | None:
        """Count one request, and return what goes wrong with it."""
        met = [armed.fault for armed in self._faults if armed.meets(path, raw)]
        return met[0] if met else None

    def _answer(self, seen: Seen, method: str, raw: bytes) -> Answer:
        if seen.path.startswith(_BATCH_PATHS):
            routes = importlib.import_module("servers.batch_routes")
            return Answer(*routes.respond(self, method, seen.path, seen.headers, raw))
        if seen.path == "/v1/models" or seen.path.startswith("/v1/models/"):
            return self._models(seen.path)
        if _protocol(seen.path) not in _REPLY_PATHS or method != "POST":
            return _error(HTTPStatus.NOT_FOUND, f"Unknown request URL: {method} {seen.path}", "unknown_url")
        name = str(seen.body.get("model"))
        if self.known and name not in self.known:
            return _no_model(name)
        return self._spoilt(seen, self.answer(asked_text(seen.body)))

    def _spoilt(self, seen: Seen, text: str) -> Answer:
        """Return a reply, or what became of it."""
        given: str | None = {"empty": "", "null": None}.get(str(seen.spoiled), text)
        reply = self.reply(_protocol(seen.path), seen.body, given)
        if seen.spoiled == "html":
            return Answer(200, "<html><body>Bad gateway</body></html>", "text/html")
        if seen.spoiled == "empty":
            reply |= {"choices": [], "content": []}
        return Answer(200, json.dumps(reply)[: -5 if seen.spoiled == "truncated" else None])

    def _models(self, path: str) -> Answer:
        names = tuple(self.known) or (MODEL,)
        # What OpenAI says of a model, and what Anthropic says.
        about = {"object": "model", "created": 0, "owned_by": "loopback", "type": "model", "created_at": "1970-01-01"}
        if path == "/v1/models":
            listed = [{"id": name, "display_name": name} | about for name in names]
            return Answer(200, json.dumps({"object": "list", "data": listed, "has_more": False}))
        name = path.removeprefix("/v1/models/")
        if name not in names:
            return _no_model(name)
        return Answer(200, json.dumps({"id": name, "display_name": name} | about))

    def _admin(self, method: str, path: str, raw: bytes) -> Answer:
        if (method, path) == ("POST", "/admin/faults"):
            given = json.loads(raw)
            self.fail([Fault(**each) for each in (given if isinstance(given, list) else [given] if given else [])])
        elif (method, path) != ("GET", "/admin/state"):
            return _error(HTTPStatus.NOT_FOUND, "POST /admin/faults or GET /admin/state", "unknown_url")
        return Answer(200, json.dumps(self.state()))


@dataclass
class _Armed:
    """A fault that was set, and what it saw since."""

    fault: Fault
    seen: int = 0
    until: float | None = field(default=None)
    spoiled: Counter[bytes] = field(default_factory=Counter)

    def meets(self, path: str, raw: bytes) -> bool:
        fault = self.fault
        if not path.startswith(fault.path) or fault.text.encode() not in raw:
            return False
        self.seen += 1
        now = time.monotonic()
        if self.seen < fault.start or self.seen % fault.every:
            return False
        if fault.stop is not None and self.seen > fault.stop:
            return False
        if fault.most is not None and self.spoiled[raw] >= fault.most:
            return False
        if fault.seconds is not None:
            self.until = self.until or now + fault.seconds
            if now >= self.until:
                return False
        self.spoiled[raw] += 1
        return True


class _Connection(asyncio.Protocol):
    """One client; asks the server for each request, one after the other."""

    def __init__(self, server: Loopback) -> None:
        self.server = server
        self.open: Seen | None = None
        self.raw = b""
        self._parts: deque[bytes] = deque()
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.server._connections.discard(self)
        self.server.over(self, 0)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:  # the rest of a long body
            return
        whole = b"".join(self._parts)
        self._parts.clear()
        head, mark, rest = whole.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs} if mark else {}
        self._missing = int(headers.get("content-length", 0)) - len(rest)
        if not mark or self._missing > 0:
            self._parts.append(whole)
            return
        method, target, _ = first.split(" ", 2)
        self.server.take(self, method, target, headers, rest)

    def send(self, answer: Answer, headers: str = "") -> None:
        """Send a whole answer, or half of it where the request was spoiled that way."""
        if self.transport.is_closing():
            return
        status, text, kind = answer
        body = text.encode()
        half = self.open is not None and self.open.spoiled == "half"
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in _STATUSES else 'Fault'}\r\n{headers}"
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode("latin-1") + (body[: len(body) // 2] if half else body))
        if half:
            self.transport.close()
        self.server.over(self, status)

    def reset(self) -> None:
        """Close the connection with a reset, as a server does that crashed."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


_STATUSES = frozenset(int(status) for status in HTTPStatus)


def _protocol(path: str) -> str:
    """Return the path of the protocol that a path speaks: clouds put deployment, project and model into it."""
    if path.endswith(("/invoke", ":rawPredict")):
        return "/v1/messages"
    return "/v1/chat/completions" if path.endswith("/chat/completions") else path


def asked_text(body: dict[str, Any]) -> str:
    """Return the last user turn of a request, or the text to continue."""
    users = [turn["content"] for turn in body.get("messages", ()) if turn["role"] == "user"]
    return str(users[-1] if users else body.get("prompt", ""))


def _first_token(likeliest: Sequence[tuple[str, float]], count: int) -> dict[str, Any]:
    tokens = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in likeliest]
    return tokens[0] | {"top_logprobs": tokens[:count]}


def _waiting(seconds: float | None) -> str:
    """Return the header that asks to wait, in the form that knows parts of a second where there are any."""
    if seconds is None:
        return ""
    return f"Retry-After: {seconds:.0f}\r\n" if seconds == int(seconds) else f"retry-after-ms: {1000 * seconds:.0f}\r\n"


def _no_model(name: str) -> Answer:
    return _error(HTTPStatus.NOT_FOUND, f"The model `{name}` does not exist", "model_not_found")


def _error(status: int, message: str, code: str) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "code": code}
    return Answer(status, json.dumps({"error": error}))


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m servers.loopback", description=main.__doc__)
    parser.add_argument("--port-file", type=Path, required=True, help="where the port is written once it listens")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, help="file for a line of JSON a request")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--answer", default="servers.loopback:word_count", help="MODULE:FUNCTION that never waits")
    parser.add_argument("--model", action="append", default=[], help="name of a model that there is; again for more")
    given = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    answer = pkgutil.resolve_name(given.answer)
    server = Loopback(answer, latency=given.latency, log=given.log, known=given.model, port=given.port, waits=False)
    with server:
        partial = given.port_file.with_suffix(".partial")
        partial.write_text(server.url.rpartition(":")[2], encoding="utf-8")
        partial.replace(given.port_file)
        stopped.wait()


if __name__ == "__main__":
    main()
