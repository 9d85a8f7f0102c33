"""Runs through batches in processes of their own, for test_batches.py to start and to kill."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from promptopt import Memo
from promptopt.cli import main
from promptopt.evaluation.batch_journal import ask_in_batches
from promptopt.memo.memo import KeyMaker
from promptopt.models.base import Model, Request
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.loading import batch_model
from promptopt.prompt import Message
from promptopt.replies import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import BatchModel

KEY = "sk-canary-0123456789abcdefWXYZ"
SYSTEM = Message("system", "Be brief.")
MANY = [Request(context=(SYSTEM, Message("user", "word " * n)), max_tokens=7, stop=("\u2028",)) for n in range(1, 41)]
PAUSE = 0.03  # seconds, at most, between two looks at a batch


def plain_model(kind: str, url: str, key: str = KEY) -> Model:
    if kind == "openai":
        return OpenAIModel("some-model", base_url=f"{url}/v1", api_key=key)
    return AnthropicModel("some-model", base_url=url, api_key=key)


def model_of(kind: str, url: str, attempts: int = 30) -> BatchModel:
    return batch_model(plain_model(kind, url), longest_pause=PAUSE, attempts=attempts)


def keys_of(model: Model, requests: Sequence[Request]) -> list[str]:
    make = KeyMaker(model.fingerprint, "generate")
    return [make([list(request.context), request.max_tokens]) for request in requests]


def ask() -> None:
    """KIND URL MEMO: print a line for each reply, then all of them as JSON."""
    kind, url, folder = sys.argv[1:]
    model = model_of(kind, url)
    keys = keys_of(model, MANY)
    with Memo(folder) as memo:
        missing = [number for number, key in enumerate(keys) if memo.get(key) is None]
        arrivals = ask_in_batches(memo, model, [keys[n] for n in missing], [MANY[n] for n in missing])
        for place, reply in arrivals:
            assert isinstance(reply, Response)
            memo.put(keys[missing[place]], reply.to_json())
            print("stored", flush=True)  # noqa: T201  the parent reads it
            time.sleep(0.02)  # so that a kill lands in the middle
        print(json.dumps(list(enumerate(memo.get_many(keys).values()))))  # noqa: T201  the parent reads it


def shell() -> None:
    """Run the command line, which looks at its batches without a pause."""
    defaults = batch_model.__kwdefaults__
    assert defaults is not None
    defaults["longest_pause"] = PAUSE
    main()
