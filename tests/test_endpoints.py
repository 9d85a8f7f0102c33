"""Endpoints that refuse a field, one item, or everything, in the words of providers, gateways and servers."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import toys
from servers.loopback import Fault, Loopback

from promptopt import Exact, Example, Prompt, Task, load_model, optimize
from promptopt.errors import FinalModelError, InputError, ModelError, PassingModelError
from promptopt.models.base import Request
from promptopt.models.hosted import connection
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.completions import CompletionsModel
from promptopt.models.hosted.dialect import Dialect, Negotiation, changes, negotiate
from promptopt.models.hosted.endpoint import PATIENCE
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.hosted.refusals import Refusal, error_in, read_refusal
from promptopt.prompt import Message
from promptopt.replies import Failure, Response
from promptopt.report.curves import command
from promptopt.report.text import markdown

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

KEY = "sk-canary-0123456789abcdefWXYZ"
LABELS = ("great", "poor")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def openai(url: str, **settings: Any) -> OpenAIModel:
    return OpenAIModel("some-model", base_url=f"{url}/v1", api_key=KEY, **{"backoff": 0.0} | settings)


def request(text: str = "one two three", **settings: Any) -> Request:
    return Request(context=(Message("user", text),), **{"max_tokens": 7} | settings)


def ask(model: Any, *requests: Request) -> list[Response | Failure]:
    return [arrival.reply for arrival in sorted(model.generate(requests))]


def texts(replies: list[Response | Failure]) -> list[str | None]:
    return [reply.text if isinstance(reply, Response) else None for reply in replies]


# ---------------------------------------------------------------- a field that is not taken

NO_LOGPROBS: list[tuple[int, Any]] = [
    (
        400,
        {
            "code": 400,
            "message": "Invalid JSON payload received. Unknown name 'logprobs': Cannot find field.",
            "status": "INVALID_ARGUMENT",
        },
    ),
    (400, "This model does not support logprobs."),
    (
        400,
        {
            "message": "`logprobs` is not supported with this model",
            "param": "logprobs",
            "code": "unsupported_parameter",
        },
    ),
    (422, {"message": "Extra inputs are not permitted", "type": "extra_forbidden", "loc": ["body", "top_logprobs"]}),
    (400, {"message": "Logprobs is not enabled for model some-model", "type": "invalid_request_error"}),
    (501, {"message": "not implemented: log probs"}),
    (400, {"message": "Unsupported parameter"}),  # which one is not said
    (400, {"message": "The request is invalid."}),
]


@pytest.mark.parametrize(("status", "error"), NO_LOGPROBS)
def test_a_server_that_refuses_logprobs_is_asked_without_them(status: int, error: Any) -> None:
    with Loopback(lambda _: "great", fault=Fault(status, error=error, text="logprobs")) as server:
        model = openai(server.url)
        replies = ask(model, *[request(labels=LABELS)] * 6)
        refused = [seen for seen in server.requests if seen.spoiled is not None]

    assert texts(replies) == ["great"] * 6
    assert len(refused) == 1
    assert model.changes == ("gives no log-probabilities: labels are read from the text, as votes",)


def test_a_server_that_gives_fewer_likeliest_tokens_is_asked_for_as_many_as_it_gives() -> None:
    error = {"message": "top_logprobs must be between 0 and 5, not 20"}
    with Loopback(
        lambda _: "great",
        fault=Fault(400, error=error, text='"top_logprobs":20'),
        logprobs=lambda _: [("great", -0.1), ("poor", -2.5)],
    ) as server:
        model = openai(server.url)
        (reply,) = ask(model, request(labels=LABELS))

    assert isinstance(reply, Response)
    assert reply.label_logprobs == pytest.approx((-0.1, -2.5))
    assert model.changes == ("gives the log-probabilities of at most 5 tokens",)


def test_where_stops_are_refused_the_reply_is_cut_here() -> None:
    error = {"message": "'stop' is not supported with this model"}
    with Loopback(lambda _: "four\nand more", fault=Fault(400, error=error, text='"stop"')) as server:
        replies = ask(openai(server.url), *[request(stop=("\n",))] * 3)
    assert texts(replies) == ["four"] * 3
    assert all(isinstance(reply, Response) and reply.finish_reason == "stop" for reply in replies)


def test_several_refused_fields_are_all_found() -> None:
    faults = [
        Fault(400, error={"message": "Unsupported value: 'temperature' does not support 0"}, text='"temperature"'),
        Fault(400, error={"message": "'stop' is not supported"}, text='"stop"'),
        Fault(400, error={"message": "use 'max_completion_tokens' instead of 'max_tokens'"}, text='"max_tokens"'),
    ]
    with Loopback(lambda _: "great", fault=faults) as server:
        model = openai(server.url)
        replies = ask(model, *[request(stop=("END",))] * 5)
        last = server.requests[-1].body
        count = len(server.requests)

    assert texts(replies) == ["great"] * 5
    assert set(last) == {"model", "messages", "max_completion_tokens"}
    assert count <= 5 + 2 * len(faults)


def test_a_value_that_the_user_chose_is_theirs_to_correct() -> None:
    error = {"message": "temperature must be between 0 and 1"}
    with Loopback(fault=Fault(400, error=error, text='"temperature":1.7')) as server:
        with pytest.raises(FinalModelError, match="between 0 and 1"):
            ask(openai(server.url), request(temperature=1.7))
        assert len(server.requests) == 1


def test_anthropic_finds_out_refused_stops_and_sampling() -> None:
    faults = [
        Fault(400, error={"type": "invalid_request_error", "message": "top_k: is not supported"}, text='"top_k"'),
        Fault(
            400,
            error={"type": "invalid_request_error", "message": "stop_sequences: not permitted"},
            text='"stop_sequences"',
        ),
    ]
    with Loopback(lambda _: "great STOP", fault=faults) as server:
        model = AnthropicModel("some-model", base_url=server.url, api_key=KEY)
        replies = ask(model, *[request(top_k=4, stop=("STOP",))] * 2)
    assert texts(replies) == ["great "] * 2


def test_fields_refused_in_the_same_words_are_left_out_together() -> None:
    fields = {"logprobs": 20, "stop": ["\n"]}
    said: list[str] = []
    known = Negotiation(Dialect(), said.append)
    refusal = Refusal(400, "bad request", "bad request")

    async def tried(dialect: Dialect) -> Any:
        return "a reply" if set(fields) <= dialect.omitted else refusal

    def possible(dialect: Dialect, words: str) -> Any:
        return changes(dialect, {name: value for name, value in fields.items() if name not in dialect.omitted}, words)

    assert asyncio.run(negotiate(known, refusal, possible, tried)) == "a reply"
    assert known.dialect.omitted == {"logprobs", "stop"}
    assert len(said) == 2


# ---------------------------------------------------------------- one item that is refused

REFUSED_ITEMS: list[tuple[int, Any]] = [
    (
        400,
        {
            "code": "content_filter",
            "message": "The response was filtered due to the prompt triggering the content policy",
        },
    ),
    (400, {"code": "invalid_prompt", "message": "Invalid prompt: your prompt was flagged"}),
    (400, {"message": "This model's maximum context length is 2048 tokens", "code": "context_length_exceeded"}),
    (400, {"message": "something about knives that nobody foresaw"}),
    (403, {"message": "The chosen model requires moderation and the input was flagged for violence"}),
    (403, {"message": "Request blocked"}),
    (413, {"message": "Request too large"}),
    (429, {"message": "Request too large for model on tokens per minute (TPM): Limit 6000, Requested 9000"}),
    (451, {"message": "Unavailable For Legal Reasons"}),
]


@pytest.mark.parametrize("place", [0, 7], ids=["first", "later"])
@pytest.mark.parametrize(("status", "error"), REFUSED_ITEMS)
def test_one_refused_item_is_a_gap_with_its_reason_and_the_rest_goes_on(status: int, error: Any, place: int) -> None:
    if place == 0 and "nobody" in error["message"]:
        pytest.skip("before anything was answered, words that nobody foresaw may be about the model")
    requests = [request(f"item {number}" + (" with a knife" if number == place else "")) for number in range(10)]
    with Loopback(fault=Fault(status, error=error, text="knife")) as server:
        replies = ask(openai(server.url), *requests)

    (gap,) = [reply for reply in replies if isinstance(reply, Failure)]
    assert replies[place] is gap
    assert gap.refused
    assert error["message"][:20] in gap.reason


@pytest.mark.parametrize("status", [400, 403])
def test_where_every_item_is_refused_the_run_ends_after_few_calls(status: int) -> None:
    error = {"code": "content_filter", "message": "Our content policy forbids this"}
    with Loopback(fault=Fault(status, error=error)) as server:
        with pytest.raises(ModelError):
            ask(openai(server.url), *(request(f"item {number}") for number in range(60)))
        assert len(server.requests) <= PATIENCE.refusals + 2


def test_two_items_without_text_do_not_make_a_healthy_endpoint_look_dead() -> None:
    requests = [request(f"item {number}" + (" silence" if number in (3, 4) else "")) for number in range(12)]
    with Loopback(fault=Fault("null", text="silence")) as server:
        replies = ask(openai(server.url), *requests)
    assert [number for number, reply in enumerate(replies) if isinstance(reply, Failure)] == [3, 4]


def test_a_healthy_endpoint_whose_remaining_items_are_all_silent_is_probed_and_left_alive() -> None:
    with Loopback(fault=Fault("null", text="silence")) as server:
        model = openai(server.url)
        first = ask(model, request("item"))
        left = ask(model, *(request(f"silence {number}") for number in range(3)))
    assert texts(first + left) == ["1 words", None, None, None]


# ---------------------------------------------------------------- errors that HTTP calls a success


@pytest.mark.parametrize(
    ("error", "says", "kind"),
    [
        ({"message": "Insufficient credits. Add more.", "code": 402}, "quota", FinalModelError),
        ({"message": "No auth credentials found", "code": 401}, "does not let this key", FinalModelError),
        ({"message": "no such model", "code": 404}, "unknown", FinalModelError),
    ],
)
def test_an_error_within_http_200_means_what_its_code_means(error: Any, says: str, kind: type[ModelError]) -> None:
    with Loopback(fault=Fault(200, error=error)) as server:
        with pytest.raises(kind, match=says):
            ask(openai(server.url), *[request()] * 5)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error", [{"message": "Provider returned error", "code": 502}, "upstream failed", {"type": "overloaded_error"}]
)
def test_a_passing_error_within_http_200_is_tried_again(error: Any) -> None:
    with Loopback(fault=Fault(200, error=error, stop=1)) as server:
        assert texts(ask(openai(server.url), request())) == ["3 words"]
        assert len(server.requests) == 2


@pytest.mark.parametrize("finish", ["error", "insufficient_system_resource", "abort", "ERROR", "FINISH_REASON_OTHER"])
def test_an_end_that_is_no_whole_reply_is_a_gap(finish: str) -> None:
    with Loopback(lambda _: "great", finish=finish) as server:
        (reply,) = ask(openai(server.url), request())
    assert isinstance(reply, Failure)
    assert finish in reply.reason


@pytest.mark.parametrize(
    ("finish", "is_"),
    [
        ("STOP", "stop"),
        ("FinishReason.MAX_TOKENS", "length"),
        ("maxTokens", "length"),
        ("eos_token", "stop"),
        ("content_filter", "refusal"),
    ],
)
def test_ends_are_read_in_every_spelling(finish: str, is_: str) -> None:
    with Loopback(lambda _: "great", finish=finish) as server:
        (reply,) = ask(openai(server.url), request())
    assert isinstance(reply, Response)
    assert reply.finish_reason == is_


@pytest.mark.parametrize(
    ("content", "text", "thinking"),
    [
        ([{"type": "text", "text": "great"}], "great", ""),
        ([{"type": "text", "text": "gr"}, {"type": "text", "text": "eat"}], "great", ""),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "great"}],
            "great",
            "Hm.",
        ),
        (
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"type": "text", "text": "great"},
            ],
            "great",
            "Hm.",
        ),
    ],
)
def test_content_in_parts_is_its_text(content: Any, text: str, thinking: str) -> None:
    with Loopback(extra={"content": content}) as server:
        (reply,) = ask(openai(server.url), request())
    assert isinstance(reply, Response)
    assert (reply.text, reply.thinking) == (text, thinking)


# ---------------------------------------------------------------- what an error says


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after-ms": "1500"}, {}, 1.5),
        ({"retry-after": "7"}, {}, 7.0),
        ({"retry-after": "soon"}, {}, None),
        ({}, {"error": {"message": "Please try again in 1m2.5s."}}, 62.5),
        ({}, {"error": {"message": "Please retry after 20 seconds."}}, 20.0),
        ({}, {"error": {"message": "try again in 6ms"}}, 0.006),
        ({}, [{"error": {"message": "slow", "details": [{"@type": "RetryInfo", "retryDelay": "34s"}]}}], 34.0),
        ({}, {"error": {"message": "Too many requests"}}, None),
    ],
)
def test_the_wait_is_read_wherever_it_stands(headers: dict[str, str], body: Any, wait: float | None) -> None:
    assert read_refusal(429, headers, json.dumps(body)).wait == pytest.approx(wait)


def test_a_limit_by_the_day_ends_the_run_and_one_by_the_minute_does_not() -> None:
    daily = {"message": "Rate limit reached: 50 requests per day (RPD)"}
    with Loopback(fault=Fault(429, error=daily, retry_after=None)) as server:
        with pytest.raises(PassingModelError, match=r"a usage limit at .* is reached"):
            ask(openai(server.url), request())
        assert len(server.requests) == 1
    minute = {"message": "Rate limit reached: 50 requests per minute"}
    with Loopback(fault=Fault(429, error=minute, stop=1)) as server:
        assert texts(ask(openai(server.url), request())) == ["3 words"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"choices": [{"message": {"content": "An error, code 500."}}]}, None),
        ({"error": None, "choices": []}, None),
        ({"choices": [{"error": {"code": 502, "message": "upstream"}}]}, 502),
        ({"error": {"type": "authentication_error"}}, 401),
        ({"error": {"message": "?"}}, 500),
    ],
)
def test_errors_within_a_good_status_are_told_from_replies(body: Any, status: int | None) -> None:
    assert error_in(body) == status


# ---------------------------------------------------------------- connections


class Raw(http.server.BaseHTTPRequestHandler):
    """Sends the same bytes to everybody."""

    sent: tuple[int, dict[str, str], bytes]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, headers, body = self.sent
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's name
        pass


@contextmanager
def raw(status: int, headers: dict[str, str], body: bytes) -> Generator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Sends", (Raw,), {"sent": (status, headers, body)}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_redirect_is_named_and_the_key_is_not_sent_on() -> None:
    says = r"redirects \(307\) to https://elsewhere.example; .*--base-url"
    with (
        raw(307, {"location": "https://elsewhere.example/v1/secret?x=1"}, b"") as url,
        pytest.raises(FinalModelError, match=says),
    ):
        ask(openai(url), request())


def test_a_reply_that_unpacks_to_gigabytes_is_read_to_a_bound_only() -> None:
    bomb = gzip.compress(b" " * (3 * connection.MAX_REPLY_BYTES))
    with raw(200, {"content-encoding": "gzip", "content-type": "application/json"}, bomb) as url:
        (reply,) = ask(openai(url), request())
    assert isinstance(reply, Failure)
    assert "larger than 16 MB" in reply.reason


@pytest.mark.parametrize("encoding", ["br", "zstd", "rot13"])
def test_an_encoding_that_was_not_asked_for_is_a_gap(encoding: str) -> None:
    with raw(200, {"content-encoding": encoding}, b"?!") as url:
        (reply,) = ask(openai(url), request())
    assert isinstance(reply, Failure)
    assert encoding in reply.reason


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"choices": 3}', b'{"choices": [{"message": 5}]}', b"\xff\xfe\x00", b"null"]
)
def test_a_body_that_is_no_reply_is_a_gap_and_no_traceback(body: bytes) -> None:
    with raw(200, {}, body) as url:
        (reply,) = ask(openai(url), request())
    assert isinstance(reply, Failure)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:9"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/no/such.pem"),
        ("OPENAI_ORG_ID", "Müller"),
    ],
)
def test_a_slip_in_the_environment_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable == "ALL_PROXY":
        pytest.importorskip("httpx")
        if "socksio" in {name.partition(".")[0] for name in sys.modules}:
            pytest.skip("a SOCKS proxy can be used here")
    monkeypatch.setenv(variable, value)
    with pytest.raises(FinalModelError, match=variable) as caught:
        ask(openai("http://127.0.0.1:9"), request())
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_answers_as_its_parent() -> None:
    code = """
import os, sys
from promptopt.models.openai import OpenAIModel
from promptopt.models.base import Request
model = OpenAIModel("m", base_url=sys.argv[1], api_key="key")
def said(): return [a.reply.text for a in model.generate([Request(context="one two", max_tokens=3)])]
print(said(), flush=True)
child = os.fork()
print(said(), flush=True)
if not child: os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    with Loopback() as server:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{server.url}/v1"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.stdout.splitlines() == ["['2 words']"] * 3, done.stderr
    assert done.returncode == 0


# ---------------------------------------------------------------- servers that score


def test_a_server_that_refuses_one_way_of_scoring_is_asked_the_next() -> None:
    def score(body: dict[str, Any]) -> dict[str, Any]:
        words = body["prompt"].replace(" ", "\n ").split("\n")
        if "prompt_logprobs" in body:
            return {"prompt_logprobs": [None, *({"1": {"logprob": -0.5, "decoded_token": word}} for word in words[1:])]}
        return {"logprobs": {"tokens": [" four"], "token_logprobs": [-0.5]}}

    error = {"message": "echo is not supported"}
    with Loopback(score=score, fault=Fault(400, error=error, text='"echo"')) as server:
        assert CompletionsModel("m", base_url=f"{server.url}/v1", api_key=KEY).scoring_method() == "prompt_logprobs"


def test_a_run_names_the_items_to_leave_out(tmp_path: Path) -> None:
    items = [
        Example({"text": f"item {n}" + (" with a knife" if n == 3 else "")}, "9 words", f"row {n}") for n in range(12)
    ]
    task = Task(train=tuple(items), seed_prompt=Prompt("Say loudly how many words: {text}"), reward=Exact())
    error = {"code": "content_filter", "message": "filtered"}
    with Loopback(fault=Fault(400, error=error, text="knife")) as server:
        result = optimize(task, openai(server.url), "tapruning", budget="200 calls", memo=tmp_path, tracking=False)
    assert "; leave out items that the endpoint refuses: row 3; run again" in result.unfinished


# ---------------------------------------------------------------- further fields of a request


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_further_fields_are_sent_with_every_request_and_make_another_model(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{kind.upper()}_API_KEY", KEY)
    extra = {"logit_bias": {"1904": 100}}
    with Loopback(lambda _: "great") as server:
        url = f"{server.url}/v1" if kind == "openai" else server.url
        spec = f"{kind}:some-model"
        plain, biased = load_model(spec, base_url=url), load_model(spec, base_url=url, extra_body=extra)
        ask(biased, request(), request())

        assert [seen.body["logit_bias"] for seen in server.requests] == [{"1904": 100}] * 2
    assert dict(biased.fingerprint) == {**plain.fingerprint, "extra_body": extra}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 1}, "'temperature', which is set by the task"),
        ({"stream": True}, "'stream', which is set by promptopt"),
        ({"logit_bias": {1, 2}}, "must be a JSON object: .*set"),
        ({"penalty": float("nan")}, "must be a JSON object"),
        ({"api_key": "another"}, "'api_key', which is set by the environment"),
        ({"metadata": {"token": KEY}}, "holds the API key"),
    ],
)
def test_further_fields_that_cannot_be_sent_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OpenAIModel("some-model", api_key=KEY, extra_body=fields)
    with pytest.raises(InputError, match="sends no requests"):
        load_model("local:smollm2", extra_body=fields)


def test_a_result_and_its_command_repeat_the_further_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    task = replace(toys.TASK, max_tokens=1)
    with Loopback(toys.right_answer) as server:
        model = load_model("openai:some-model", base_url=f"{server.url}/v1", extra_body={"logit_bias": {"1904": 100}})
        result = optimize(task, model, "random", budget="200 calls", settings={"prompts": 2})

    assert result.request["max_tokens"] == 1
    assert result.request["extra_body"] == {"logit_bias": {"1904": 100}}
    assert """--extra-body '{"logit_bias": {"1904": 100}}'""" in command(result)
    assert "logit_bias" in markdown(result)
