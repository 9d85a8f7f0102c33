"""Errors: what they say in fields beside their message, and that they travel between processes."""

from __future__ import annotations

import pickle
from inspect import isclass
from typing import TYPE_CHECKING, Any

import pytest
from servers.loopback import Fault, Loopback

from promptopt import FakeModel, Memo, MissingExtraError, ModelError, PromptoptError, Request, errors, load_model
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.models.hosted.endpoint import PATIENCE
from promptopt.prompt import Message

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Model


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789abcdefWXYZ")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def requests(count: int) -> list[Request]:
    return [Request(context=(Message("user", f"number {n}"),), max_tokens=7) for n in range(count)]


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        (Fault(401), (401, 1)),
        (Fault(404, start=2), (404, 1)),  # after a reply: three refusals in a row, then a probe
        (Fault(503), (503, PATIENCE.tries)),
        (Fault(429, retry_after=3600), (429, 1)),
        (Fault("reset"), (None, PATIENCE.tries)),
    ],
)
def test_an_error_of_an_endpoint_says_what_it_knows(fault: Fault, fields: tuple[int, int], tmp_path: Path) -> None:
    with Loopback(fault=fault) as server, Memo(tmp_path) as memo:
        model = load_model("openai:some-model", base_url=f"{server.url}/v1", price=None, concurrency=1, backoff=0)
        with pytest.raises(ModelError) as caught:
            Caller(memo, Ledger()).generate("judge", model, requests(8))

    error = caught.value
    assert (error.status, error.attempt) == fields
    assert (error.endpoint, error.role) == (f"{server.url}/v1", "judge")


def test_what_is_not_known_is_none_and_the_role_that_a_model_names_stays(tmp_path: Path) -> None:
    def refuse(_: Request) -> str:
        raise ModelError("no weights", role="task")

    model: Model = FakeModel(refuse)
    with Memo(tmp_path) as memo, pytest.raises(ModelError) as caught:
        Caller(memo, Ledger()).generate("writer", model, requests(1))

    error = caught.value
    assert (error.status, error.endpoint, error.role, error.attempt) == (None, None, "task", None)


def test_every_error_travels_between_processes() -> None:
    kinds = [kind for kind in vars(errors).values() if isclass(kind) and issubclass(kind, PromptoptError)]
    fields: dict[str, Any] = {"status": 429, "endpoint": "http://host/v1", "role": "task", "attempt": 3}
    made = [
        MissingExtraError("a thing", "local")
        if kind is MissingExtraError
        else kind("what happened", **fields)
        if issubclass(kind, ModelError)
        else kind("what happened")
        for kind in kinds
    ]

    for error in made:
        back = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
