"""The gate between contestants and models. It counts tokens, enforces the budget, and applies the metric.

    POST /v1/chat/completions, /v1/completions    OpenAI's protocol; the models are called `task` and `writer`
    POST /reward   {"id", "reply"}                -> {"reward", "target"}; free of charge
    POST /best     {"prompt", "validation"}       the contestant's best prompt so far, with its own score of it
    GET  /spent                                   -> {"tokens", "budget", "calls"}

Once the budget is spent, every further request is refused like one over quota (status 429, `insufficient_quota`). Requests in
flight count by their length, at the tokens per character of earlier ones, and are answered.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from promptopt.evaluation.verdicts import verdict
from promptopt.parsing.thinking import split_thinking
from promptopt.replies import Response as Reply
from promptopt.serving.server import listen

from .post import post

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request

    from promptopt import Example
    from promptopt.rewards import Reward

WRITER_TOKENS = 1024  # of a reply of the writer, at most
ROLES = ("task", "writer")

_AT_ONCE = 128  # requests in flight


@dataclass
class Tally:
    """Usage of one model: calls, and tokens by direction."""

    calls: int = 0
    input: int = 0
    output: int = 0


@dataclass
class Lengths:
    """Characters of one model's answered requests and of those in flight."""

    answered: int = 0
    in_flight: int = 0


@dataclass(frozen=True)
class Best:
    """A contestant's best prompt so far, and the tokens of both models spent by then."""

    tokens: int
    prompt: Mapping[str, Any]
    validation: float | None


@dataclass
class Gate:
    """One contestant's way to the models.

    Args:
        models: role -> base URL and name of the model there.
        examples: by id, the examples whose rewards may be requested.
        metric: of a reply.
        max_tokens: role -> maximum length of a reply; larger values in requests are reduced to it.
        budget: tokens of all roles and directions.
    """

    models: Mapping[str, tuple[str, str]]
    examples: Mapping[str, Example]
    metric: Reward
    max_tokens: Mapping[str, int]
    budget: int
    spent: dict[str, Tally] = field(default_factory=lambda: {role: Tally() for role in ROLES})
    best: list[Best] = field(default_factory=list)
    refused: int = 0
    _lengths: dict[str, Lengths] = field(default_factory=lambda: {role: Lengths() for role in ROLES}, repr=False)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE), repr=False)

    @property
    def tokens(self) -> int:
        """Tokens spent so far."""
        return sum(tally.input + tally.output for tally in self.spent.values())

    def app(self) -> Starlette:
        """Return the gate's application."""
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/reward", self._reward, methods=["POST"]),
            Route("/best", self._best, methods=["POST"]),
            Route("/spent", self._spent),
        ]
        return Starlette(routes=routes)

    def post_best(self, prompt: Mapping[str, Any], validation: float | None) -> None:
        """Record the best prompt so far; of the last one recorded, posted again, its score."""
        if not self.best or self.best[-1].prompt != prompt:
            self.best.append(Best(self.tokens, prompt, validation))
        elif validation is not None:
            self.best[-1] = replace(self.best[-1], validation=validation)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        role = str(body.get("model", "")).removeprefix("openai/")
        if role not in self.spent:
            return _refusal(404, "model_not_found", f"There is no model {role!r} here: use task or writer.")
        if self.refused or self.tokens + self._expected() >= self.budget:
            self.refused += 1
            return _refusal(429, "insufficient_quota", f"The budget of {self.budget} tokens is spent.")
        url, body["model"] = self.models[role]
        limit = body.pop("max_completion_tokens", None) or body.get("max_tokens")
        body["max_tokens"] = self.max_tokens[role] if limit is None else min(limit, self.max_tokens[role])
        path = request.url.path.removeprefix("/v1")
        lengths, length = self._lengths[role], len(json.dumps(body))
        lengths.in_flight += length
        answer = await asyncio.get_running_loop().run_in_executor(self._pool, post, f"{url}{path}", body)
        lengths.in_flight -= length
        if answer.ok:
            lengths.answered += length
            self._count(self.spent[role], answer.json()["usage"])
        return Response(answer.body, answer.status, media_type="application/json")

    def _expected(self) -> float:
        """Return the expected tokens of the requests in flight."""
        return sum(
            lengths.in_flight * (self.spent[role].input + self.spent[role].output) / max(lengths.answered, 1)
            for role, lengths in self._lengths.items()
        )

    @staticmethod
    def _count(tally: Tally, usage: Mapping[str, int]) -> None:
        tally.calls += 1
        tally.input += usage["prompt_tokens"]
        tally.output += usage.get("completion_tokens", 0)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": role, "object": "model"} for role in ROLES]})

    async def _reward(self, request: Request) -> Response:
        asked = await request.json()
        example = self.examples[str(asked["id"])]
        return JSONResponse({"reward": judged(self.metric, example, asked["reply"]), "target": example.target})

    async def _best(self, request: Request) -> Response:
        posted = await request.json()
        self.post_best(posted["prompt"], posted.get("validation"))
        return JSONResponse({})

    async def _spent(self, _: Request) -> Response:
        calls = sum(tally.calls for tally in self.spent.values())
        return JSONResponse({"tokens": self.tokens, "budget": self.budget, "calls": calls})

    def close(self) -> None:
        """Stop the threads that forward requests."""
        self._pool.shutdown(wait=False)

    def usage(self) -> dict[str, dict[str, int]]:
        """Return role -> calls, input and output tokens."""
        return {role: asdict(tally) for role, tally in self.spent.items() if tally.calls}


def judged(metric: Reward, example: Example, reply: str) -> float:
    """Return the reward of a reply."""
    return verdict(metric, example, Reply(text=split_thinking(reply).answer)).reward


@contextmanager
def served(gate: Gate) -> Iterator[str]:
    """Serve the gate from a thread; yields its address, without /v1."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(
            gate.app(), lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            gate.close()


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": code, "param": None, "code": code}}, status)
