from __future__ import annotations

import asyncio
import logging
import math
import re
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from servers.loopback import Fault, Loopback, word_count
from shell import promptopt
from typer.testing import CliRunner

from promptopt.cli import app
from promptopt.errors import FinalModelError, InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo import Memo
from promptopt.models.base import LabelModel, Model, Price, Request
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.endpoint import PATIENCE
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.prompt import Context, Example, Message, Prompt
from promptopt.replies import Arrival, Failure, Response, Usage
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from servers.loopback import Kind

    from promptopt.models.hosted.model import HostedModel

KEY = "sk-canary-0123456789abcdefWXYZ"
CHAT = (Message("system", "Be brief."), Message("user", "one two three"))
KINDS = ("openai", "anthropic")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def model_of(kind: str, url: str, **settings: Any) -> HostedModel:
    chosen: dict[str, Any] = {"api_key": KEY, "backoff": 0.0} | settings
    if kind == "openai":
        return OpenAIModel("some-model", base_url=f"{url}/v1", **chosen)
    return AnthropicModel("some-model", base_url=url, **chosen)


def request(context: Context = CHAT, **settings: Any) -> Request:
    return Request(context=context, **{"max_tokens": 7} | settings)


def ask(model: Model, *requests: Request) -> list[Response | Failure]:
    arrivals = sorted(model.generate(requests))
    assert [arrival.number for arrival in arrivals] == list(range(len(requests)))
    return [arrival.reply for arrival in arrivals]


def ask_one(model: Model, context: Context = CHAT) -> Response | Failure:
    (reply,) = ask(model, request(context))
    return reply


def final_error(kind: str, fault: Fault, **settings: Any) -> tuple[str, int]:
    """Return what the user reads, the traceback included, and how many requests were sent."""
    with Loopback(fault=fault) as server:
        with pytest.raises(FinalModelError) as caught:
            ask(model_of(kind, server.url, **settings), *[request()] * 40)
        return "".join(traceback.format_exception(caught.value)), len(server.requests)


@pytest.mark.parametrize(
    ("kind", "usage"),
    [("openai", Usage(input=3, cached=1, output=2)), ("anthropic", Usage(input=6, cached=2, output=2, written=1))],
)
def test_a_reply_comes_back_with_its_usage(kind: str, usage: Usage) -> None:
    thoughts = {"openai": "", "anthropic": "..."}[kind]
    with Loopback() as server:
        assert ask_one(model_of(kind, server.url)) == Response("3 words", usage=usage, thinking=thoughts)


def test_plain_text_is_continued_by_openai_completions() -> None:
    with Loopback() as server:
        reply = ask_one(model_of("openai", server.url), "once upon a time")
        (seen,) = server.requests

    assert reply == Response("4 words", usage=Usage(input=4, cached=1, output=2))
    assert (seen.path, seen.body["prompt"], seen.body["max_tokens"]) == ("/v1/completions", "once upon a time", 7)


def test_plain_text_is_refused_by_anthropic_before_any_call() -> None:
    with Loopback() as server:
        with pytest.raises(FinalModelError, match="format to 'chat'"):
            ask_one(model_of("anthropic", server.url), "once upon a time")
        assert server.requests == []


def test_openai_is_sent_the_turns_and_the_settings_and_no_more() -> None:
    with Loopback() as server:
        ask(model_of("openai", server.url), request(temperature=0.5, stop=("\n", "END"), replicate=3))
        (seen,) = server.requests

    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two three"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["\n", "END"],
    }


def test_anthropic_is_sent_the_system_turns_apart_and_the_version_that_takes_a_temperature() -> None:
    context = (Message("system", "Be brief."), Message("system", "Be kind."), *CHAT[1:])
    with Loopback() as server:
        ask(model_of("anthropic", server.url), request(context, stop=("END",)))
        (seen,) = server.requests

    assert (seen.path, seen.headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")
    assert KEY in seen.headers.get("authorization", "") + seen.headers.get("x-api-key", "")
    assert seen.body == {
        "model": "some-model",
        "system": "Be brief.\n\nBe kind.",
        "messages": [{"role": "user", "content": "one two three"}],
        "temperature": 0.0,
        "max_tokens": 7,
        "stop_sequences": ["END"],
    }


def test_anthropic_is_sent_no_temperature_where_it_is_the_default() -> None:
    with Loopback() as server:
        ask(model_of("anthropic", server.url), request(CHAT[1:], temperature=1.0))
        (seen,) = server.requests

    assert set(seen.body) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize("context", [CHAT, "one two three"])
def test_openai_is_sent_a_top_p(context: Context) -> None:
    with Loopback() as server:
        ask(model_of("openai", server.url), request(context, top_p=0.9))
        (seen,) = server.requests

    assert seen.body["top_p"] == 0.9


def test_openai_refuses_a_top_k_and_loses_no_reply() -> None:
    arrivals: list[Arrival] = []
    with Loopback() as server:
        with pytest.raises(InputError, match=r"'some-model' .* top_k = 40, .* omit top_k, or set top_p"):
            arrivals.extend(model_of("openai", server.url).generate([*[request()] * 4, request(top_k=40), request()]))
        assert len(server.requests) == len(arrivals) == 4


def test_anthropic_is_sent_a_top_p_and_a_top_k() -> None:
    with Loopback() as server:
        ask(model_of("anthropic", server.url), request(CHAT[1:], temperature=1.0, top_p=0.9, top_k=40))
        (seen,) = server.requests

    assert set(seen.body) == {"model", "messages", "max_tokens", "top_p", "top_k"}
    assert (seen.body["top_p"], seen.body["top_k"]) == (0.9, 40)


def test_openai_itself_is_told_the_length_by_the_name_that_its_newer_models_know() -> None:
    model = OpenAIModel("some-model")

    assert model.body(request())["max_completion_tokens"] == 7
    assert model.body(request("plain"))["max_tokens"] == 7


@pytest.mark.parametrize(
    ("kind", "said", "finish"),
    [
        ("openai", "stop", "stop"),
        ("openai", "length", "length"),
        ("openai", "content_filter", "refusal"),
        ("anthropic", "stop_sequence", "stop"),
        ("anthropic", "max_tokens", "length"),
        ("anthropic", "refusal", "refusal"),
    ],
)
def test_finish_reasons_are_translated(kind: str, said: str, finish: str) -> None:
    with Loopback(finish=said) as server:
        reply = ask_one(model_of(kind, server.url))

    assert isinstance(reply, Response)
    assert (reply.text, reply.finish_reason) == ("3 words", finish)


def test_an_openai_refusal_is_a_reply() -> None:
    with Loopback(extra={"content": None, "refusal": "I will not."}) as server:
        reply = ask_one(model_of("openai", server.url))

    assert isinstance(reply, Response)
    assert (reply.text, reply.finish_reason) == ("I will not.", "refusal")


@pytest.mark.parametrize(("kind", "said"), [("openai", "length"), ("anthropic", "max_tokens")])
def test_a_reply_cut_off_while_thinking_is_a_reply_without_text(kind: str, said: str) -> None:
    thinking: dict[str, Any] = {"content": None} if kind == "openai" else {"content": [{"type": "thinking"}]}
    with Loopback(finish=said, extra=thinking) as server:
        reply = ask_one(model_of(kind, server.url))

    assert isinstance(reply, Response)
    assert (reply.text, reply.finish_reason) == ("", "length")


def test_a_reply_without_usage_counts_no_tokens() -> None:
    with Loopback(extra={"usage": None}) as server:
        assert ask_one(model_of("anthropic", server.url)) == Response("3 words", thinking="...")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("html", "sent '<html>"),
        ("truncated", "instead of a JSON object"),
        ("empty", "without choices|no text"),
        ("null", "no text"),
    ],
)
def test_a_broken_reply_is_a_failure(kind: str, fault: Kind, reason: str) -> None:
    with Loopback(fault=Fault(fault)) as server:
        reply = ask_one(model_of(kind, server.url))

    assert isinstance(reply, Failure)
    assert any(words in reply.reason for words in reason.split("|"))


@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_replies_are_asked_for_again(kind: str) -> None:
    with Loopback(fault=Fault("null", every=3)) as server:
        replies = ask(model_of(kind, server.url, concurrency=1), *[request()] * 4)
        tries = len(server.requests)

    assert [isinstance(reply, Response) for reply in replies] == [True] * 4
    assert tries == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_a_passing_error_is_tried_again_and_then_a_failure(kind: str, status: int) -> None:
    with Loopback(fault=Fault(status)) as server:
        reply = ask_one(model_of(kind, server.url))
        tries = len(server.requests)

    assert tries == (PATIENCE.waits if status in (429, 529) else PATIENCE.tries)
    assert reply == Failure(
        f"{server.url}{'/v1' * (kind == 'openai')} answered {status} (fault {status}), {tries} times"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_passing_error_that_passes_leaves_a_reply(kind: str) -> None:
    with Loopback(fault=Fault(500, every=2)) as server:
        replies = ask(model_of(kind, server.url, concurrency=1), *[request()] * 4)
        tries = len(server.requests)

    assert [isinstance(reply, Response) for reply in replies] == [True] * 4
    assert tries == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "error", "mend"),
    [
        (401, {"message": f"Incorrect API key: {KEY}"}, "check {KIND}_API_KEY"),
        (403, {"message": "no"}, "check {KIND}_API_KEY"),
        (404, {"message": "no such model"}, "model 'some-model' is unknown at http://127.0.0.1"),
        (400, {"message": "temperature: must be at most 1"}, "must be at most 1): correct the request settings"),
        (422, {"message": "bad stop"}, "bad stop): correct the request settings"),
        (402, {"message": "pay"}, "add credit"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "add credit"),
    ],
)
def test_a_final_error_stops_after_one_request_and_names_the_mend(
    kind: str, status: int, error: dict[str, Any], mend: str
) -> None:
    message, sent = final_error(kind, Fault(status, error=error))

    assert mend.replace("{KIND}", kind.upper()) in message
    assert sent == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_final_error_after_good_replies_stops_the_rest(kind: str) -> None:
    with Loopback(fault=Fault(401, every=3)) as server:
        with pytest.raises(FinalModelError):
            ask(model_of(kind, server.url, concurrency=1), *[request()] * 400)

        assert len(server.requests) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("quoted", [KEY, f"{KEY[:7]}***", f"***{KEY[-4:]}"])
def test_no_part_of_the_key_is_shown(
    kind: str, status: int, quoted: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Loopback(fault=Fault(status, error={"message": f"the key ({quoted}) is bad"})) as server:
        model = model_of(kind, server.url)
        try:
            shown = repr(ask_one(model))
        except FinalModelError as error:
            shown = "".join(traceback.format_exception(error))
    shown += repr(model) + str(model) + str(model.fingerprint) + str(capfd.readouterr()) + caplog.text

    assert "some-model" in shown
    assert KEY[:7] not in shown
    assert KEY[-4:] not in shown


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_key_nothing_is_sent(kind: str) -> None:
    with Loopback() as server:
        with pytest.raises(FinalModelError, match=f"set {kind.upper()}_API_KEY"):
            ask_one(model_of(kind, server.url, api_key=None))
        assert server.requests == []


def test_a_key_that_no_header_can_hold_is_named_and_not_shown() -> None:
    with pytest.raises(FinalModelError, match="correct OPENAI_API_KEY") as caught:
        ask_one(OpenAIModel("some-model", api_key=f"{KEY}\u201d"))

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_key_and_endpoint_come_from_the_environment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{kind.upper()}_API_KEY", f" {KEY}\n")
    with Loopback() as server:
        endpoint = server.url + "/v1" * (kind == "openai")
        monkeypatch.setenv(f"{kind.upper()}_BASE_URL", f"{endpoint}/")
        model = OpenAIModel("m") if kind == "openai" else AnthropicModel("m")

        assert isinstance(ask_one(model), Response)
        assert model.fingerprint == {"provider": kind, "endpoint": endpoint, "model": "m"}


def test_an_endpoint_with_user_and_password_is_refused_and_they_are_not_shown() -> None:
    with pytest.raises(InputError, match="'host:8000/v1/' contains a user or password") as caught:
        OpenAIModel("m", base_url="https://me:secret@host:8000/v1/")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["host/v1", "ftp://host/v1", "https://", "https://h/v1?a=b", "http://[", "https://h/v1#x"]
)
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="https://host/v1"):
        OpenAIModel("m", base_url=url)


@pytest.mark.parametrize("settings", [{"name": ""}, {"concurrency": 0}, {"timeout": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        OpenAIModel(**{"name": "m"} | settings)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_overlap_up_to_the_concurrency(kind: str) -> None:
    together = threading.Barrier(4)

    def answer(text: str) -> str:
        if text != "first":
            together.wait(timeout=30)  # passes only with four calls in flight
        return word_count(text)

    contexts = [(Message("user", text),) for text in ("first", *["a b"] * 8)]
    with Loopback(answer) as server:
        replies = ask(model_of(kind, server.url, concurrency=4), *map(request, contexts))
        most = server.most_in_flight

    assert [reply.text for reply in replies if isinstance(reply, Response)] == ["1 words", *["2 words"] * 8]
    assert most == 4


def test_a_reply_arrives_while_others_are_still_out() -> None:
    gate = threading.Event()

    def answer(text: str) -> str:
        if text == "slow":
            gate.wait(timeout=30)
        return text

    requests = [request((Message("user", text),)) for text in ("first", "slow", "quick")]
    with Loopback(answer) as server:
        arrivals = model_of("openai", server.url).generate(requests)
        order = [next(arrivals).number, next(arrivals).number]
        gate.set()
        order.append(next(arrivals).number)

    assert order == [0, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_have_not_started_are_dropped_when_the_reader_leaves(kind: str) -> None:
    started, gate = threading.Semaphore(0), threading.Event()

    def answer(text: str) -> str:
        if text == "held":
            started.release()
            gate.wait(timeout=30)
        return text

    requests = [request((Message("user", text),)) for text in ("first", "quick", *["held"] * 50)]
    with Loopback(answer) as server:
        arrivals = model_of(kind, server.url, concurrency=2).generate(requests)
        next(arrivals), next(arrivals)
        for _ in range(2):  # both that may be under way
            assert started.acquire(timeout=30)
        arrivals.close()  # type: ignore[attr-defined]  # a generator
        gate.set()

        assert len(server.requests) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_hangs_is_a_failure_and_the_timeout_is_named_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "promptopt"), Loopback(fault=Fault("hang")) as server:
        reply = ask_one(model_of(kind, server.url, timeout=0.1))

    assert isinstance(reply, Failure)
    assert "did not answer within 0.1 s" in reply.reason
    said = [record.getMessage() for record in caplog.records if "--timeout" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(reply.reason.partition(",")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_there_is_a_failure(kind: str) -> None:
    with Loopback() as server:
        pass
    reply = ask_one(model_of(kind, server.url))

    assert isinstance(reply, Failure)
    assert "connection to" in reply.reason


def test_calls_work_where_a_loop_is_running_as_in_a_notebook() -> None:
    async def cell() -> list[Response | Failure]:
        return ask(model_of("openai", server.url), *[request()] * 3)

    with Loopback() as server:
        assert asyncio.run(cell()) == [Response("3 words", usage=Usage(input=3, cached=1, output=2))] * 3


def test_no_requests_need_no_key() -> None:
    assert list(OpenAIModel("m").generate([])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapters_are_models_that_write_text_and_score_no_labels(kind: str) -> None:
    price = Price(1.0, 2.0)
    model = model_of(kind, "http://127.0.0.1", price=price)

    assert isinstance(model, Model)
    assert not isinstance(model, LabelModel)
    assert (model.unit, model.price, model_of(kind, "http://127.0.0.1").price) == ("reply", price, None)


def test_an_adapter_loads_its_sdk_with_the_first_call_only() -> None:
    code = (
        "import sys, promptopt.models.hosted.openai as o, promptopt.models.hosted.anthropic as a; "
        "o.OpenAIModel('m'), a.AnthropicModel('m'); print([m for m in ('openai', 'anthropic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_no_call_leaves_this_machine_where_paid_calls_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTOPT_NO_PAID_CALLS", "1")
    model = OpenAIModel("some-model", base_url="https://example.invalid/v1", api_key="sk-of-no-use-at-all")

    with pytest.raises(FinalModelError, match="PROMPTOPT_NO_PAID_CALLS is set"):
        list(model.generate([Request(context="x", max_tokens=1)]))


def test_replies_in_flight_arrive_before_a_final_error_ends_the_batch() -> None:
    arrived: list[Arrival] = []
    with Loopback(fault=Fault(401, every=7)) as server:
        with pytest.raises(FinalModelError):
            arrived.extend(model_of("openai", server.url, concurrency=4).generate([request()] * 40))
        refused = len(server.requests) // 7

        assert len(arrived) == len(server.requests) - refused


# ---------------------------------------------------------------- labels by log-probabilities

LABELS = ("great", "terrible")


def ask_labels(answer: str, first: Sequence[tuple[str, float]] | None, labels: Sequence[str] = LABELS) -> Response:
    top = None if first is None else (lambda _: first)
    with Loopback(lambda _: answer, logprobs=top) as server:
        (reply,) = ask(model_of("openai", server.url), request(labels=tuple(labels)))
    assert isinstance(reply, Response)
    return reply


def test_labels_are_scored_by_the_likeliest_first_tokens_over_case_and_blanks() -> None:
    reply = ask_labels("Great", [("Great", math.log(0.5)), (" great", math.log(0.2)), ("terrible", math.log(0.1))])

    assert reply.text == "Great"  # what the user gets
    assert reply.label_logprobs == pytest.approx((math.log(0.7), math.log(0.1)))


def test_a_label_outside_the_likeliest_tokens_gets_an_upper_bound() -> None:
    by_least = ask_labels("great", [("great", math.log(0.5)), ("fine", math.log(0.1))])
    by_rest = ask_labels("great", [("great", math.log(0.8)), ("fine", math.log(0.19))])

    assert by_least.label_logprobs == pytest.approx((math.log(0.5), math.log(0.1)))
    assert by_rest.label_logprobs == pytest.approx((math.log(0.8), math.log(0.01)))


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        ("great", None),  # the server gives none
        ("great", [("gre", math.log(0.9)), ("terrible", math.log(0.05))]),  # a label of several tokens
        ("The answer is great", [("great", math.log(0.5)), ("terrible", math.log(0.2))]),  # a longer reply names one
        ("great", [("fine", math.log(0.9))]),  # neither label among them
        ("Well, then", [("Well", math.log(0.5)), ("great", math.log(0.2)), ("terrible", math.log(0.1))]),  # no label
    ],
)
def test_where_first_tokens_do_not_say_it_the_text_is_a_vote(
    answer: str, first: Sequence[tuple[str, float]] | None
) -> None:
    reply = ask_labels(answer, first)

    assert (reply.text, reply.label_logprobs) == (answer, None)


def test_a_server_without_logprobs_is_noticed_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(lambda _: "great") as server:
        ask(model_of("openai", server.url), *[request(labels=LABELS)] * 5)

    assert [record.getMessage() for record in caplog.records if "log-probabilities" in record.getMessage()] == [
        f"some-model at {server.url}/v1 gives no log-probabilities: labels are read from the text, as votes"
    ]


@pytest.mark.parametrize(("temperature", "scored"), [(0.0, 1), (1.0, 3)])
def test_replicates_are_asked_where_log_probabilities_are_missing_or_replies_vary(
    tmp_path: Path, temperature: float, scored: int
) -> None:
    task = Task(
        train=tuple(Example({"text": text}, "great", text) for text in ("scored", "voted")),
        seed_prompt=Prompt("Rate {text}"),
        labels=LABELS,
        temperature=temperature,
    )

    def first(asked: str) -> list[tuple[str, float]]:
        return [("great", -0.1)] if "scored" in asked else [("gr", -0.1)]

    with Loopback(lambda _: "great", logprobs=first) as server, Memo(tmp_path) as memo:
        scorer = Scorer(task, model_of("openai", server.url), Caller(memo, Ledger()))
        scores = scorer.score([task.seed_prompt], task.train, replicates=3)
        asked = ["scored" in str(seen.body) for seen in server.requests]

    assert scores.rewards.shape == (1, 2, 3)
    assert sorted(asked) == [False] * 3 + [True] * scored


def test_a_task_without_logprobs_asks_for_none(tmp_path: Path) -> None:
    task = Task(
        train=(Example({"text": "a"}, "great", "a"),), seed_prompt=Prompt("Rate {text}"), labels=LABELS, logprobs=False
    )
    with Loopback(lambda _: "great", logprobs=lambda _: [("terrible", -0.1)]) as server, Memo(tmp_path) as memo:
        scores = Scorer(task, model_of("openai", server.url), Caller(memo, Ledger())).score(
            [task.seed_prompt], task.train
        )
        (seen,) = server.requests

    assert scores.rewards.item() == 1.0
    assert "logprobs" not in seen.body


# ---------------------------------------------------------------- what a model does not take

UNSUPPORTED = {
    "temperature": {"message": "Unsupported value: 'temperature' does not support 0", "param": "temperature"},
    "top_logprobs": {"message": "logprobs are not supported with this model", "code": "unsupported_parameter"},
    "max_tokens": {"message": "Unsupported parameter: 'max_tokens', use 'max_completion_tokens' instead"},
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_the_model_does_not_take_is_left_out_and_named_once(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault = Fault(400, error=UNSUPPORTED[field], text=f'"{field}"')
    with Loopback(lambda _: "great", fault=fault) as server:
        replies = ask(model_of("openai", server.url), *[request(labels=LABELS)] * 4)
        bodies = [seen.body for seen in server.requests]

    assert all(isinstance(reply, Response) for reply in replies)
    assert [field in body for body in bodies] == [True, False, False, False, False]
    assert ("max_completion_tokens" in bodies[-1]) == (field == "max_tokens")
    named = [record for record in caplog.records if "no log-probabilities" not in record.getMessage()]
    assert len(named) == (field != "top_logprobs")


def test_anthropic_leaves_out_the_sampling_that_newer_models_refuse() -> None:
    error = {"message": "`temperature` is deprecated for this model"}
    with Loopback(fault=Fault(400, error=error, text='"temperature"')) as server:
        replies = ask(model_of("anthropic", server.url), *[request()] * 3)
        bodies = [seen.body for seen in server.requests]

    assert all(isinstance(reply, Response) for reply in replies)
    assert ["temperature" in body for body in bodies] == [True, False, False, False]


def test_anthropic_is_told_to_cache_a_long_system_prompt_only() -> None:
    model = model_of("anthropic", "http://127.0.0.1")
    long = "word " * 1000

    assert model.body(request((Message("system", "short"), *CHAT[1:])))["system"] == "short"
    assert model.body(request((Message("system", long), *CHAT[1:])))["system"] == [
        {"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}
    ]


def test_a_secret_key_is_sent_and_not_shown() -> None:
    with Loopback() as server:
        model = model_of("openai", server.url, api_key=SecretStr(KEY))
        assert isinstance(ask_one(model), Response)
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(model)


def test_requests_a_minute_are_kept_to() -> None:
    # Two at once, then one each half a minute: the third is not sent while we look.
    with Loopback() as server:
        arrivals = model_of("openai", server.url, requests_per_minute=2).generate([request()] * 3)
        next(arrivals), next(arrivals)
        ahead = threading.Thread(target=lambda: list(arrivals), daemon=True)
        ahead.start()
        ahead.join(timeout=0.3)
        assert len(server.requests) == 2


# ---------------------------------------------------------------- promptopt models check


def command(server: Loopback, kind: str = "openai") -> list[str]:
    return ["models", "check", f"{kind}:some-model", "--base-url", server.url + "/v1" * (kind == "openai")]


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_what_an_endpoint_can_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{kind.upper()}_API_KEY", KEY)
    with Loopback(lambda _: "yes", logprobs=lambda _: [("yes", -0.1), ("no", -3.0)]) as server:
        done = CliRunner().invoke(app, command(server, kind))
        out = done.stdout

    assert done.exit_code == 0
    assert KEY not in done.output
    assert f"calling some-model at {server.url}" in done.stderr  # before the first reply, which may take minutes
    assert re.search(r"^ok +usable", out, re.MULTILINE)
    assert bool(re.search(r"^ok +log-probabilities", out, re.MULTILINE)) == (kind == "openai")
    assert re.search(r"^ok +batches", out, re.MULTILINE)
    assert re.search(r"^- +price +unknown", out, re.MULTILINE)


def test_check_names_a_bad_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Loopback(fault=Fault(401)) as server:
        done = promptopt(tmp_path, *command(server))
        assert len(server.requests) == 1

    assert done.returncode == 1
    assert KEY not in done.stdout + done.stderr
    assert re.search(r"^no +usable .* check OPENAI_API_KEY", done.stdout, re.MULTILINE)
