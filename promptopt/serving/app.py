"""The HTTP side: routes, errors in OpenAI's shape, events, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from promptopt.serving.completions import Completer
from promptopt.serving.errors import ApiError
from promptopt.serving.parameters import chat_call, parse_body, text_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request

    from promptopt.models.local.served import ServedModel
    from promptopt.serving.parameters import Call
    from promptopt.serving.scheduler import Scheduler

_GONE = 499  # what nginx calls a request whose client closed the connection; nobody reads it


def build_app(models: Mapping[str, ServedModel], scheduler: Scheduler) -> Starlette:
    """Return the application.

    Args:
        models: by the names that requests give.
        scheduler: of the same models; run by the caller.
    """
    completers = {name: Completer(name, model, scheduler) for name, model in models.items()}
    listing = [{"id": name, "object": "model", "created": int(time.time()), "owned_by": "promptopt"} for name in models]

    def completions(read: Callable[[Mapping[str, Any]], Call]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            fields = parse_body(await request.body())
            completer = _completer(completers, fields.get("model"))
            call = read(fields)
            body = await _while_connected(request, completer.answer(call))
            if body is None:
                return Response(status_code=_GONE)
            return (
                StreamingResponse(_events(call, body), media_type="text/event-stream") if call.stream else _json(body)
            )

        return endpoint

    async def list_models(_: Request) -> Response:
        return _json({"object": "list", "data": listing})

    async def show_model(request: Request) -> Response:
        name = _completer(completers, request.path_params["name"]).name
        return _json(next(entry for entry in listing if entry["id"] == name))

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions(chat_call), methods=["POST"]),
            Route("/v1/completions", completions(text_call), methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/v1/models/{name:path}", show_model),
            Route("/health", health),
        ],
        exception_handlers={ApiError: _refusal},
    )


def _completer(completers: Mapping[str, Completer], name: Any) -> Completer:
    """Return the model that a request names.

    Raises:
        ApiError: there is none of this name.
    """
    completer = completers.get(name.removeprefix("local:")) if isinstance(name, str) else None
    if completer is None:
        raise ApiError(
            f"The model {name!r} is not served here: use one of {', '.join(completers)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return completer


async def _while_connected(request: Request, answering: Any) -> dict[str, Any] | None:
    """Return the answer, or None if the client goes away first; then the work is cancelled."""
    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(call: Call, body: Mapping[str, Any]) -> AsyncIterator[str]:
    """Yield a finished reply as events: each choice in one."""
    usage, choices = body["usage"], body["choices"]
    head = dict(body) | ({"object": "chat.completion.chunk"} if call.chat else {})
    head = {name: value for name, value in head.items() if name not in {"usage", "choices"}}
    chunks = [head | {"choices": [_delta(choice) if call.chat else choice]} for choice in choices]
    if call.stream_usage:
        chunks = [*(chunk | {"usage": None} for chunk in chunks), head | {"choices": [], "usage": usage}]
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    others = {name: value for name, value in choice.items() if name != "message"}
    delta = {"role": message["role"], "content": message["content"]}
    if calls := message.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return {**others, "delta": delta}


async def _refusal(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise TypeError(f"{type(error).__name__} is no ApiError") from error
    return _json(error.body(), error.status)


def _json(body: Any, status: int = 200) -> Response:
    return JSONResponse(body, status)
