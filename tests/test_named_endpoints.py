"""Named endpoints and clouds: what each is sent, what its recorded replies and errors mean, and the fault matrix."""

from __future__ import annotations

import json
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from servers.loopback import Fault, Loopback, word_count
from shell import promptopt
from test_endpoints import raw
from test_hosted import CHAT, KEY, ask, request

from promptopt import Failure, InputError, PermanentModelError, Price, RequestOptions, Response, load_model
from promptopt.models import batch_model
from promptopt.models.hosted.endpoint import PATIENCE
from promptopt.models.hosted.model import HostedModel
from promptopt.models.hosted.services import NAMED

if TYPE_CHECKING:
    from pathlib import Path

    from servers.loopback import Kind

CLOUDS = ("azure", "bedrock", "vertex")
KINDS = (*NAMED, *CLOUDS)
OWN_SERVERS = ("ollama", "vllm", "lmstudio")
PATHS = {
    "azure": "/openai/deployments/some-model/chat/completions",
    "bedrock": "/model/some-model/invoke",
    "vertex": "/projects/my-project/locations/here/publishers/anthropic/models/some-model:rawPredict",
}
KEY_VARIABLES = {kind: service.key_variable for kind, service in NAMED.items()} | {
    "azure": "AZURE_OPENAI_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "vertex": "VERTEX_ACCESS_TOKEN",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEY_VARIABLES.values(), "AWS_DEFAULT_REGION", "AZURE_OPENAI_ENDPOINT", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("NO_PROXY", "127.0.0.1"),
        ("OPENAI_API_VERSION", "2024-10-21"),
        ("AWS_REGION", "here"),
        ("CLOUD_ML_REGION", "here"),
        ("ANTHROPIC_VERTEX_PROJECT_ID", "my-project"),
    ):
        monkeypatch.setenv(name, value)


def model_of(kind: str, url: str, monkeypatch: pytest.MonkeyPatch, key: str = KEY, **settings: Any) -> HostedModel:
    if key:
        monkeypatch.setenv(KEY_VARIABLES[kind], key)
    address = url if kind in CLOUDS else f"{url}/v1"
    model = load_model(f"{kind}:some-model", base_url=address, backoff=0, **settings)
    assert isinstance(model, HostedModel)
    return model


def kinds_by_client() -> list[Any]:
    """All kinds, of which those that share class and client with another are for `make test-all`."""
    return [pytest.param(kind, marks=[] if kind in ("azure", "bedrock") else [pytest.mark.wide]) for kind in KINDS]


# ---------------------------------------------------------------- what is sent


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_reaches_its_path_with_its_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback() as server:
        model = model_of(kind, server.url, monkeypatch)
        (reply,) = ask(model, request(temperature=0.5))
        (seen,) = server.requests

    assert isinstance(reply, Response)
    assert reply.text == "3 words"
    assert seen.path == PATHS.get(kind, "/v1/chat/completions")
    sent_key = seen.headers.get("api-key") if kind == "azure" else seen.headers["authorization"].removeprefix("Bearer ")
    assert sent_key == KEY
    assert seen.body["temperature"] == 0.5
    assert model.fingerprint["provider"] == kind
    assert KEY not in str(model.fingerprint) + repr(model)


@pytest.mark.parametrize(("kind", "version"), [("bedrock", "bedrock-2023-05-31"), ("vertex", "vertex-2023-10-16")])
def test_anthropic_at_a_cloud_has_the_model_in_the_path_and_the_version_in_the_body(
    kind: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback() as server:
        ask(model_of(kind, server.url, monkeypatch), request())
        (seen,) = server.requests

    assert seen.body == {
        "anthropic_version": version,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "one two three"}],
        "temperature": 0.0,
        "max_tokens": 7,
    }


def test_own_servers_need_no_key_and_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in OWN_SERVERS:
        with Loopback() as server:
            model = model_of(kind, server.url, monkeypatch, key="")
            assert isinstance(ask(model, request())[0], Response)
            assert server.requests[0].headers["authorization"] == "Bearer none"
        assert model.price == Price(0.0, 0.0)


@pytest.mark.parametrize("kind", [kind for kind in (*NAMED, "azure") if kind not in OWN_SERVERS])
def test_without_a_key_nothing_is_sent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback() as server:
        with pytest.raises(PermanentModelError, match=f"set {KEY_VARIABLES[kind]}"):
            ask(model_of(kind, server.url, monkeypatch, key=""), request())
        assert server.requests == []


OPTIONS = {
    "gemini": ({"thinking_budget": 512}, {"extra_body": {"google": {"thinking_config": {"thinking_budget": 512}}}}),
    "openrouter": (
        {"thinking_budget": 512, "extra": {"provider": {"order": ["one"]}}},
        {"reasoning": {"max_tokens": 512}, "provider": {"order": ["one"]}},
    ),
    "mistral": ({"seed": 3}, {"random_seed": 3}),
    "ollama": ({"reasoning_effort": "none", "seed": 3}, {"reasoning_effort": "none", "seed": 3}),
    "groq": ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    "vllm": ({"logit_bias": {"5": 1}}, {"logit_bias": {"5": 1}}),
    "azure": ({"seed": 3}, {"seed": 3}),
    "bedrock": ({"thinking_budget": 1024}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_are_sent_in_the_words_of_the_endpoint(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, fields = OPTIONS[kind]
    with Loopback() as server:
        ask(
            model_of(kind, server.url, monkeypatch),
            request(options=RequestOptions(**options), max_tokens=2048),  # type: ignore[arg-type]
        )
        (seen,) = server.requests
    assert {name: seen.body.get(name) for name in fields} == fields  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("groq", {"logit_bias": {"5": 1}}, "takes no logit_bias"),
        ("ollama", {"logit_bias": {"5": 1}}, "takes no logit_bias"),
        ("mistral", {"logit_bias": {"5": 1}}, "takes no logit_bias"),
        ("vllm", {"thinking_budget": 9}, "takes no thinking_budget"),
        ("lmstudio", {"response_format": "json"}, "takes a JSON schema as response_format, not 'json'"),
        ("vertex", {"seed": 1}, "takes no seed"),
    ],
)
def test_what_an_endpoint_does_not_take_is_refused(
    kind: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=message):
        model_of(kind, "http://127.0.0.1:9", monkeypatch, options=RequestOptions(**options))


def test_groq_is_never_asked_for_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(lambda _: "great") as server:
        ask(model_of("groq", server.url, monkeypatch), request(labels=("great", "poor")))
        (seen,) = server.requests
    assert not {"logprobs", "top_logprobs"} & seen.body.keys()


# ---------------------------------------------------------------- replies and errors in the shapes of each endpoint

REPLIES: dict[str, tuple[dict[str, Any], str, int]] = {  # reply -> its thinking, its output tokens
    # completion_tokens without the thinking, which is in the total
    "gemini": (
        {
            "choices": [{"finish_reason": "stop", "index": 0, "message": {"content": "great", "role": "assistant"}}],
            "usage": {"completion_tokens": 1, "prompt_tokens": 8, "total_tokens": 40},
        },
        "",
        32,
    ),
    "ollama": (
        {
            "choices": [
                {"finish_reason": "stop", "message": {"role": "assistant", "content": "great", "reasoning": "Hm."}}
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13},
            "system_fingerprint": "fp_ollama",
        },
        "Hm.",
        5,
    ),
    "openrouter": (
        {
            "provider": "One",
            "choices": [
                {
                    "finish_reason": "stop",
                    "native_finish_reason": "completed",
                    "logprobs": None,
                    "message": {
                        "role": "assistant",
                        "content": "great",
                        "refusal": None,
                        "reasoning": "Hm.",
                        "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
                    },
                }
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13, "cost": 0.0001},
        },
        "Hm.",
        5,
    ),
    "groq": (
        {
            "choices": [
                {"finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": "great"}}
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13, "total_time": 0.01},
            "x_groq": {"id": "req_1"},
        },
        "",
        5,
    ),
    # a reasoning model's content is a list of parts
    "mistral": (
        {
            "choices": [
                {
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "tool_calls": None,
                        "content": [
                            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                            {"type": "text", "text": "great"},
                        ],
                    },
                }
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13},
        },
        "Hm.",
        5,
    ),
    "vllm": (
        {
            "choices": [
                {
                    "finish_reason": "stop",
                    "stop_reason": None,
                    "logprobs": None,
                    "message": {"role": "assistant", "content": "great", "reasoning_content": "Hm.", "tool_calls": []},
                }
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13, "prompt_tokens_details": None},
            "prompt_logprobs": None,
        },
        "Hm.",
        5,
    ),
    "lmstudio": (
        {
            "choices": [
                {"finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": "great"}}
            ],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13},
            "stats": {},
        },
        "",
        5,
    ),
    "azure": (
        {
            "choices": [
                {
                    "finish_reason": "stop",
                    "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
                    "message": {"role": "assistant", "content": "great", "refusal": None},
                }
            ],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
            "usage": {"completion_tokens": 5, "prompt_tokens": 8, "total_tokens": 13},
        },
        "",
        5,
    ),
}


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_in_the_shape_of_the_endpoint_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, thinking, output = REPLIES[kind]
    padded = b"\n   \n" + json.dumps(body).encode()  # OpenRouter sends white space while it waits
    with raw(200, {"content-type": "application/json"}, padded) as url:
        (reply,) = ask(model_of(kind, url, monkeypatch), request())

    assert isinstance(reply, Response)
    assert (reply.text, reply.thinking, reply.usage.input, reply.usage.output) == ("great", thinking, 8, output)


ERRORS: list[tuple[str, int, Any, str]] = [
    (
        "gemini",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "check GEMINI_API_KEY",
    ),
    (
        "ollama",
        404,
        {"error": {"message": "model 'some-model' not found", "type": "not_found_error", "param": None, "code": None}},
        "model 'some-model' is unknown",
    ),
    ("openrouter", 200, {"error": {"message": "Insufficient credits", "code": 402}, "user_id": "u"}, "add credit"),
    (
        "groq",
        401,
        {"error": {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"}},
        "check GROQ_API_KEY",
    ),
    (
        "mistral",
        400,
        {
            "object": "error",
            "message": "Invalid model: some-model",
            "type": "invalid_model",
            "param": None,
            "code": "1500",
        },
        "model 'some-model' is unknown",
    ),
    (
        "vllm",
        404,
        {"object": "error", "message": "The model `some-model` does not exist.", "type": "NotFoundError", "code": 404},
        "model 'some-model' is unknown",
    ),
    (
        "lmstudio",
        400,
        {"error": "'response_format.type' must be 'json_schema' or 'text'"},
        "must be 'json_schema' or 'text'",
    ),
    (
        "azure",
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        "is unknown at",
    ),
    (
        "bedrock",
        403,
        {"message": "The security token included in the request is invalid."},
        "check AWS_BEARER_TOKEN_BEDROCK",
    ),
    (
        "vertex",
        403,
        [{"error": {"code": 403, "message": "Permission denied on resource project.", "status": "PERMISSION_DENIED"}}],
        "check VERTEX_ACCESS_TOKEN",
    ),
]


@pytest.mark.parametrize(("kind", "status", "error", "advice"), ERRORS)
def test_an_error_in_the_shape_of_the_endpoint_names_what_to_change(
    kind: str, status: int, error: Any, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        raw(status, {"content-type": "application/json"}, json.dumps(error).encode()) as url,
        pytest.raises(PermanentModelError, match=advice),
    ):
        ask(model_of(kind, url, monkeypatch), request())


def test_mistral_refuses_a_field_in_its_own_words_and_is_asked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    detail = {
        "detail": [
            {"type": "extra_forbidden", "loc": ["body", "top_logprobs"], "msg": "Extra inputs are not permitted"}
        ]
    }
    error = {"object": "error", "message": detail, "type": "invalid_request_error"}
    with Loopback(lambda _: "great", fault=Fault(422, error=error, text="logprobs")) as server:
        model = model_of("mistral", server.url, monkeypatch)
        replies = ask(model, *[request(labels=("great", "poor"))] * 3)

    assert [isinstance(reply, Response) for reply in replies] == [True] * 3
    assert any("log-probabilities" in change for change in model.changes)


# ---------------------------------------------------------------- clouds


@pytest.mark.parametrize(
    ("kind", "variable"),
    [
        ("azure", "OPENAI_API_VERSION"),
        ("bedrock", "AWS_REGION"),
        ("vertex", "CLOUD_ML_REGION"),
        ("vertex", "ANTHROPIC_VERTEX_PROJECT_ID"),
    ],
)
def test_what_a_cloud_needs_is_named(kind: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(InputError, match=f"{kind}:m needs .*: set {variable}"):
        load_model(f"{kind}:m", base_url="http://127.0.0.1:9")


def test_addresses_of_clouds_follow_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"set AZURE_OPENAI_ENDPOINT"):
        load_model("azure:m")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    addresses = {kind: load_model(f"{kind}:m").fingerprint for kind in CLOUDS}
    monkeypatch.setenv("CLOUD_ML_REGION", "global")
    everywhere = load_model("vertex:m").fingerprint

    assert addresses["azure"]["endpoint"] == "https://mine.openai.azure.com"
    assert addresses["azure"]["api_version"] == "2024-10-21"
    assert addresses["bedrock"]["endpoint"] == "https://bedrock-runtime.here.amazonaws.com"
    assert addresses["vertex"]["endpoint"] == "https://here-aiplatform.googleapis.com/v1"
    assert everywhere["endpoint"] == "https://aiplatform.googleapis.com/v1"


@pytest.mark.parametrize(("kind", "package"), [("bedrock", "boto3"), ("vertex", "google.auth")])
def test_a_cloud_without_token_and_package_says_how_to_get_credentials(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptopt.models.hosted.clouds._is_installed", lambda name: name != package)
    with Loopback() as server:
        with pytest.raises(PermanentModelError, match=rf"set {KEY_VARIABLES[kind]}, or .*anthropic\[{kind}\]"):
            ask(model_of(kind, server.url, monkeypatch, key=""), request())
        assert server.requests == []


def test_credentials_of_a_cloud_that_cannot_be_read_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, **_: Any) -> None: ...

        def get_credentials(self) -> None: ...

    parts = {name: ModuleType(name) for name in ("boto3", "botocore", "botocore.auth", "botocore.awsrequest")}
    attributes_of: dict[str, dict[str, Any]] = {
        "boto3": {"Session": Session},
        "botocore.auth": {"SigV4Auth": None},
        "botocore.awsrequest": {"AWSRequest": lambda **_: None},
    }
    for name, attributes in attributes_of.items():
        vars(parts[name]).update(attributes)
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("promptopt.models.hosted.clouds._is_installed", lambda _: True)
    with Loopback() as server:
        with pytest.raises(PermanentModelError, match=r"cannot be used .*sign in to the cloud again"):
            ask(model_of("bedrock", server.url, monkeypatch, key=""), request())
        assert server.requests == []


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_cloud_has_no_batches_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"the model {kind}:some-model has no batch endpoint"):
        batch_model(model_of(kind, "http://127.0.0.1:9", monkeypatch))


# ---------------------------------------------------------------- the fault matrix


@pytest.mark.parametrize("kind", kinds_by_client())
@pytest.mark.parametrize("fault", ["html", "truncated", "empty", "null", "half", "reset"])
def test_a_broken_reply_is_asked_for_again_and_then_a_failure(
    kind: str, fault: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(fault=Fault(fault)) as server:
        (reply,) = ask(model_of(kind, server.url, monkeypatch), request())
        assert len(server.requests) == PATIENCE.tries
    assert isinstance(reply, Failure)


@pytest.mark.parametrize("kind", kinds_by_client())
@pytest.mark.parametrize("status", [408, 429, 500, 529])
def test_a_passing_error_is_tried_again_and_leaves_a_reply(
    kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(fault=Fault(status, every=2)) as server:
        replies = ask(model_of(kind, server.url, monkeypatch, concurrency=1), *[request()] * 4)
        assert len(server.requests) == 7
    assert [isinstance(reply, Response) for reply in replies] == [True] * 4


@pytest.mark.parametrize("kind", kinds_by_client())
@pytest.mark.parametrize(
    ("status", "error", "advice"),
    [
        (401, {"message": f"Incorrect API key: {KEY}"}, "check {KEY}"),
        (403, {"message": "no"}, "check {KEY}"),
        (404, {"message": "no such model"}, "model 'some-model' is unknown"),
        (400, {"message": "temperature: must be at most 1"}, "correct the request settings"),
        (402, {"message": "pay"}, "add credit"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "add credit"),
    ],
)
def test_a_permanent_error_stops_after_one_request_and_shows_no_key(
    kind: str, status: int, error: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(fault=Fault(status, error=error)) as server:
        with pytest.raises(PermanentModelError, match=advice.replace("{KEY}", KEY_VARIABLES[kind])) as caught:
            ask(model_of(kind, server.url, monkeypatch), *[request()] * 9)
        assert len(server.requests) == 1
    assert KEY[:7] not in str(caught.value)
    assert KEY[-4:] not in str(caught.value)


@pytest.mark.parametrize("kind", kinds_by_client())
def test_a_server_that_hangs_or_is_not_there_is_a_failure(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(fault=Fault("hang")) as server:
        (hung,) = ask(model_of(kind, server.url, monkeypatch, timeout=0.1), request())
    with Loopback() as gone:
        pass
    (absent,) = ask(model_of(kind, gone.url, monkeypatch), request())

    assert isinstance(hung, Failure)
    assert "did not answer within 0.1 s" in hung.reason
    assert isinstance(absent, Failure)
    assert "connection to" in absent.reason


@pytest.mark.parametrize("kind", kinds_by_client())
def test_calls_overlap_up_to_the_concurrency(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)

    def answer(text: str) -> str:
        if text != "first":
            together.wait(timeout=30)  # passes only with four calls in flight
        return word_count(text)

    contexts = [(CHAT[0], CHAT[1]._replace(content=text)) for text in ("first", *["a b"] * 8)]
    with Loopback(answer) as server:
        ask(model_of(kind, server.url, monkeypatch, concurrency=4), *map(request, contexts))
        assert server.most_in_flight == 4


# ---------------------------------------------------------------- promptopt models check


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_what_an_endpoint_can_do(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLES[kind], KEY)
    with Loopback(lambda _: "yes", logprobs=lambda _: [("yes", -0.1), ("no", -3.0)]) as server:
        address = server.url if kind in CLOUDS else f"{server.url}/v1"
        done = promptopt(tmp_path, "models", "check", f"{kind}:some-model", "--base-url", address)

    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    lines = {line[4:24].strip(): (line[:4].strip(), line[24:]) for line in done.stdout.splitlines()}
    assert lines["usable"][0] == "ok"
    assert (lines["log-probabilities"][0] == "ok") == (kind not in ("groq", "bedrock", "vertex"))
    assert (lines["batches"][0] == "ok") == (kind not in CLOUDS)
    assert ("$0 in, $0 out" in lines["price"][1]) == (kind in OWN_SERVERS)
