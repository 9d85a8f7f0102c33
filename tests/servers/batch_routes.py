"""The batch endpoints of both providers, for the loopback server: files, batches, message batches, and their results.

A batch answers what a plain call answers. What goes wrong, and when a batch is over, `of(server)` says.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from servers.loopback import asked_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers.loopback import Loopback


class Spoiled(NamedTuple):
    """What a batch holds in place of a reply: an HTTP status, or 0 where the request was never run."""

    status: int
    message: str = "the batch expired"


@dataclass
class Batch:
    """One batch: its requests by custom_id, as (path, body)."""

    id: str
    number: int
    requests: dict[str, tuple[str, dict[str, Any]]]
    metadata: dict[str, str]
    created: float = field(default_factory=time.time)
    polls: int = 0


@dataclass
class Batches:
    """What the server keeps, and how it behaves.

    Args:
        polls: looks at a batch that find it unfinished.
        held: whether batches stay unfinished for now.
        answers: cleared, batches are created but their creation is not answered.
        spoil: given the number of the batch (from 0) and of the request in it, what goes wrong with that request; "lost"
            leaves it out of the results.
        refusal: code and message of the refusal of each OpenAI batch.
        hide: so many creations that work are answered with status 500.
        forgotten: batches that the server no longer knows.
        broken: so many results are sent with half a line.
        read: names of the batches whose results were handed out.
    """

    polls: int = 1
    held: bool = False
    spoil: Callable[[int, int], Spoiled | str | None] = lambda _batch, _request: None
    refusal: tuple[str, str] | None = None
    hide: int = 0
    broken: int = 0
    forgotten: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    created: list[Batch] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.answers.set()

    def over(self, batch: Batch) -> bool:
        return not self.held and batch.polls > self.polls


def of(server: Loopback) -> Batches:
    """Return the batches of a server."""
    if server.batches is None:
        server.batches = Batches()
    batches: Batches = server.batches
    return batches


def respond(server: Loopback, method: str, path: str, headers: dict[str, str], raw_body: bytes) -> tuple[int, str, str]:
    """Answer a request under /v1/files, /v1/batches or /v1/messages/batches: status, body, content type."""
    batches = of(server)
    if not (headers.get("authorization", "").startswith("Bearer ") or headers.get("x-api-key")):
        return *_error(401, "no key"), "application/json"
    with batches.lock:
        status, text = _route(server, batches, method, path.removeprefix("/v1").strip("/").split("/"), raw_body)
    if method == "POST" and path.endswith("/batches"):
        batches.answers.wait()
    return status, text, "application/json" if text.startswith("{") else "application/x-jsonl"


def _route(server: Loopback, batches: Batches, method: str, parts: list[str], raw: bytes) -> tuple[int, str]:
    anthropic = parts[0] == "messages"
    parts = parts[1:] if anthropic else parts
    if parts[0] == "files":
        return _upload(batches, raw) if method == "POST" else _content(server, batches, parts[1])
    show = _message_batch if anthropic else _openai_batch
    match method, *parts[1:]:
        case ["POST"]:
            batch = (_create_messages if anthropic else _create)(batches, json.loads(raw))
            batches.hide -= batch is not None
            if batch is None or batches.hide >= 0:
                return _error(500 if batch else 400, "it went wrong")
            return 200, json.dumps(show(batches, batch))
        case ["GET"]:
            listed = [show(batches, batch) for batch in reversed(batches.created)]
            return 200, json.dumps({"object": "list", "data": listed, "has_more": False})
    found = _find(batches, parts[1])
    if found is None:
        return _error(404, f"no batch {parts[1]}")
    if parts[2:] == ["results"]:
        text = _sent(batches, found.id, [_message_result(server, batches, found, key) for key in found.requests])
    else:
        found.polls += 1
        text = json.dumps(show(batches, found))
    return 200, text


def _find(batches: Batches, name: str) -> Batch | None:
    return next((b for b in batches.created if b.id == name and name not in batches.forgotten), None)


def _add(batches: Batches, requests: list[tuple[str, str, dict[str, Any]]], metadata: dict[str, str]) -> Batch | None:
    by_key = {key: (path, body) for key, path, body in requests}
    sound = all(0 < len(key) <= 64 and key.replace("-", "").replace("_", "").isalnum() for key in by_key)
    if not by_key or len(by_key) < len(requests) or not sound:
        return None
    number = len(batches.created)
    batch = Batch(f"batch_{number}", number, by_key, metadata)
    batches.created.append(batch)
    return batch


def _upload(batches: Batches, raw: bytes) -> tuple[int, str]:
    boundary = raw.partition(b"\r\n")[0]
    fields = {}
    for part in raw.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        fields[head.partition(b'name="')[2].partition(b'"')[0].decode()] = content.removesuffix(b"\r\n").decode()
    if fields.get("purpose") != "batch":
        return _error(400, "purpose must be batch")
    name = f"file-{len(batches.files)}"
    batches.files[name] = fields["file"]
    return 200, json.dumps({"id": name, "object": "file", "bytes": len(fields["file"]), "purpose": "batch"})


def _create(batches: Batches, given: dict[str, Any]) -> Batch | None:
    lines = [json.loads(line) for line in batches.files.get(given["input_file_id"], "").splitlines()]
    if given["completion_window"] != "24h" or any(line["url"] != given["endpoint"] for line in lines):
        return None
    requests = [(line["custom_id"], line["url"], line["body"]) for line in lines]
    return _add(batches, requests, given.get("metadata") or {})


def _create_messages(batches: Batches, given: dict[str, Any]) -> Batch | None:
    requests = [(item["custom_id"], "/v1/messages", item["params"]) for item in given["requests"]]
    return _add(batches, requests, {})


def _spoiled(batches: Batches, batch: Batch, key: str) -> Spoiled | str | None:
    return batches.spoil(batch.number, list(batch.requests).index(key))


def _reply(server: Loopback, batch: Batch, key: str) -> dict[str, Any]:
    path, body = batch.requests[key]
    return server.reply(path, body, server.answer(asked_text(body)))


def _openai_batch(batches: Batches, batch: Batch) -> dict[str, Any]:
    total, over = len(batch.requests), batches.over(batch)
    failed = sum(_spoiled(batches, batch, key) is not None for key in batch.requests)
    out: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": next(iter(batch.requests.values()))[0],
        "input_file_id": "file-0",
        "completion_window": "24h",
        "created_at": int(batch.created),
        "metadata": batch.metadata or None,
        "status": "completed" if over else "in_progress",
        "request_counts": {"total": total, "completed": total - failed if over else 0, "failed": failed if over else 0},
    }
    if batches.refusal is not None:
        code, message = batches.refusal
        return out | {"status": "failed", "errors": {"object": "list", "data": [{"code": code, "message": message}]}}
    if over:
        out["output_file_id"] = f"{batch.id}-output" if failed < total else None
        out["error_file_id"] = f"{batch.id}-error" if failed else None
    return out


def _content(server: Loopback, batches: Batches, name: str) -> tuple[int, str]:
    batch = _find(batches, name.rpartition("-")[0])
    if batch is None:
        return _error(404, f"no file {name}")
    lines = []
    for key in reversed(batch.requests):  # in an order of their own
        spoiled = _spoiled(batches, batch, key)
        response: dict[str, Any] | None
        if name.endswith("-output") and spoiled is None:
            response = {"status_code": 200, "request_id": "r", "body": _reply(server, batch, key)}
            lines.append({"id": "x", "custom_id": key, "response": response, "error": None})
        elif name.endswith("-error") and isinstance(spoiled, Spoiled):
            error = {"code": "batch_expired", "message": spoiled.message}
            response = {"status_code": spoiled.status, "request_id": "r", "body": {"error": error}}
            ran = bool(spoiled.status)
            lines.append(
                {"id": "x", "custom_id": key, "response": (ran and response) or None, "error": None if ran else error}
            )
    return 200, _sent(batches, batch.id, lines)


def _message_batch(batches: Batches, batch: Batch) -> dict[str, Any]:
    total, over = len(batch.requests), batches.over(batch)
    failed = sum(_spoiled(batches, batch, key) is not None for key in batch.requests)
    counts = {
        "processing": 0 if over else total,
        "succeeded": total - failed if over else 0,
        "errored": failed if over else 0,
    }
    moment = datetime.fromtimestamp(batch.created, UTC)
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if over else "in_progress",
        "request_counts": counts | {"canceled": 0, "expired": 0},
        "created_at": moment.isoformat().replace("+00:00", "Z"),
        "expires_at": moment.isoformat().replace("+00:00", "Z"),
        "results_url": f"/v1/messages/batches/{batch.id}/results" if over else None,
    }


_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}


def _message_result(server: Loopback, batches: Batches, batch: Batch, key: str) -> dict[str, Any]:
    spoiled = _spoiled(batches, batch, key)
    if isinstance(spoiled, str):
        return {}
    if spoiled is None:
        return {"custom_id": key, "result": {"type": "succeeded", "message": _reply(server, batch, key)}}
    if not spoiled.status:
        return {"custom_id": key, "result": {"type": "expired"}}
    error = {"type": _TYPES.get(spoiled.status, "api_error"), "message": spoiled.message}
    return {"custom_id": key, "result": {"type": "errored", "error": {"type": "error", "error": error}}}


def _sent(batches: Batches, name: str, lines: list[dict[str, Any]]) -> str:
    batches.read.append(name)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if line)
    if batches.broken:
        batches.broken -= 1
        return text[:-10]
    return text


def _error(status: int, message: str) -> tuple[int, str]:
    return status, json.dumps({"error": {"type": "error", "message": message}})
