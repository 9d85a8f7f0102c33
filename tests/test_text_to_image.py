"""Text to image: the example runs against a server that draws, and what is not a picture is dealt with."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from servers.loopback import Fault, Loopback
from servers.pictures import COLOURS, Pictures, drawn, pixels, png

from promptopt import Failure, Judge, Price, Prompt, Request, Response, Result, Usage, optimize
from promptopt.images import content, parse_reference, reference
from promptopt.prompt import Message

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / "examples" / "text_to_image" / "text_to_image.py"
KEY = "sk-canary-0123456789abcdefWXYZ"


@pytest.fixture(scope="module")
def example() -> Any:
    """The example's module."""
    spec = importlib.util.spec_from_file_location("text_to_image", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["text_to_image"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def run(server: Loopback, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--base-url", f"{server.url}/v1", "--folder", str(folder), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"NO_PROXY": "127.0.0.1"}
    )


def asked(example: Any, server: Loopback, folder: Path, text: str = "two red apples", **settings: Any) -> Any:
    model = example.PictureModel("painter", folder, base_url=f"{server.url}/v1", backoff=0, **settings)
    return next(model.generate([Request(context=text, max_tokens=1)])).reply


def test_the_example_finds_a_better_wording_and_a_second_run_asks_nothing(example: Any, tmp_path: Path) -> None:
    with Pictures() as server:
        first = run(server, tmp_path)
        result, asked = Result.load(tmp_path / "run" / "result.json"), len(server.requests)
        again = example.main(
            argparse.Namespace(
                model="gpt-image-1",
                judge="gpt-4.1-mini",
                base_url=f"{server.url}/v1",
                folder=tmp_path,
                budget="300 calls",
                price_of_a_picture=None,
            )
        )

        assert first.stdout.startswith("Better than the seed prompt")
        assert all(care in result.prompt.text for care in ("exactly as many", "plain background", "true colours"))
        assert set(result.used) == {"task", "writer", "judge"}
        assert len(server.requests) == asked
        assert str(again).splitlines()[0] == first.stdout.splitlines()[0]
        assert not any(KEY in file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file())


def test_a_picture_is_kept_under_its_digest_and_counts_as_one_token(example: Any, tmp_path: Path) -> None:
    with Pictures() as server:
        reply = asked(example, server, tmp_path / "pictures")

    assert isinstance(reply, Response)
    assert reply.usage == Usage(output=1)
    assert pixels(content(parse_reference(reply.text))) == drawn("two red apples")
    assert Price(0.0, 1e6 * 0.25).of(reply.usage) == 0.25
    assert server.requests[0].body == {
        "model": "painter", "prompt": "two red apples", "n": 1, "size": "1024x1024", "response_format": "b64_json",
    }  # fmt: skip


def test_the_judge_is_sent_the_picture_itself(example: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png([COLOURS["red"]] * 2 + [(255, 255, 255)] * 34))
    item = example.wishes([0])[0]
    with Pictures() as server:
        judge = Judge(example.SeeingModel("judge", base_url=f"{server.url}/v1"), example.CRITERIA)
        request = Request(context=judge.context(item, Response(reference(tmp_path / "a.png"))), max_tokens=99)
        said = next(judge.model.generate([request])).reply

    assert isinstance(said, Response)
    assert judge.read(said.text) == (1.0, "I see what was asked.\nScore: 10")
    sent = server.requests[0].body["messages"][-1]["content"]
    assert [part["type"] for part in sent] == ["text", "image_url", "text"]
    assert sent[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "sha256" not in json.dumps(sent)


def test_a_text_without_a_picture_is_sent_as_it_is(example: Any) -> None:
    model = example.SeeingModel("judge", base_url="http://127.0.0.1:9/v1")

    body = model.body(Request(context=(Message("user", "Hello"),), max_tokens=9))

    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert model.fingerprint["sees"] == "pictures"


def test_a_model_that_takes_no_response_format_is_asked_without(example: Any, tmp_path: Path) -> None:
    with Pictures(old=False) as server:
        reply = asked(example, server, tmp_path)

    assert isinstance(reply, Response)
    assert ["response_format" in seen.body for seen in server.requests] == [True, False]


def test_a_refused_picture_is_a_reply_that_the_judge_scores(example: Any, tmp_path: Path) -> None:
    with Pictures(refuses="red") as server:
        model = example.PictureModel("painter", tmp_path, base_url=f"{server.url}/v1")
        judge = example.SeeingModel("judge", base_url=f"{server.url}/v1")
        assert asked(example, server, tmp_path) == Response("", finish_reason="refusal")
        settings = {"prompts": ("{wish}, please",), "pool": 2, "restarts": 1, "iterations": 1, "proposals": 1}

        result = optimize(
            example.task(judge),
            model,
            "hillclimb",
            writer=judge,
            settings=settings,
            budget="200 calls",
            memo=tmp_path / "m",
        )

    assert result.failed == 0
    assert "unfinished" not in str(result).splitlines()[0]


@pytest.mark.parametrize("kind", ["html", "empty", 500])
def test_an_answer_without_a_picture_is_asked_for_again(example: Any, tmp_path: Path, kind: Any) -> None:
    with Pictures(fault=Fault(kind, stop=1)) as server:
        reply = asked(example, server, tmp_path)

    assert isinstance(reply, Response)
    assert len(server.requests) == 2


def test_an_endpoint_that_never_sends_a_picture_is_a_failure(example: Any, tmp_path: Path) -> None:
    with Pictures(fault=Fault("empty")) as server:
        reply = asked(example, server, tmp_path)

    assert isinstance(reply, Failure)
    assert "holds no picture" in reply.reason
    assert not list(tmp_path.iterdir())


def test_the_task_splits_its_wishes(example: Any) -> None:
    task = example.task(example.SeeingModel("judge", base_url="http://127.0.0.1:9/v1"))

    assert [len(part) for part in (task.train, task.validation, task.test)] == [8, 8, 8]
    assert task.layout.render(Prompt("Draw {wish}"), task.train[0]) == "Draw two red apples"
