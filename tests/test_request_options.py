"""Options that travel with a request: what is sent, what is keyed, what is refused, and what is never written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import test_gate
import toys
from pydantic import SecretStr
from servers.loopback import Fault, Loopback
from shell import promptopt
from test_hosted import KEY, ask, model_of, request

from promptopt import (
    Example,
    FakeLabelModel,
    FakeModel,
    FunctionModel,
    InputError,
    Prompt,
    RequestOptions,
    Task,
    ToolSchema,
    check_drift,
    load_model,
    load_task,
    optimize,
)
from promptopt.data.task_spec import parse_spec
from promptopt.evaluation.caller import Caller, request_keys
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo import Memo, memo_key
from promptopt.models.hosted.fields import is_strict
from promptopt.models.options import NO_OPTIONS, read_options
from promptopt.models.usage import reply_token_range
from promptopt.report.curves import command
from promptopt.results.export import openai_batch
from promptopt.sweep.spec import parse_sweep

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = {
    "type": "object",
    "properties": {"item": {"type": "string"}},
    "required": ["item"],
    "additionalProperties": False,
}
LOOSE = {"type": "object", "properties": {"item": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def sent(kind: str, options: RequestOptions, **settings: Any) -> dict[str, Any]:
    """Return the fields that a request with these options has and one without them has not, and the other way round."""
    with Loopback() as server:
        model = model_of(kind, server.url)
        ask(model, request(**settings), request(options=options, **settings))
        plain, full = (seen.body for seen in server.requests)
    return {name: full.get(name, "not sent") for name in plain | full if plain.get(name) != full.get(name)}


# ---------------------------------------------------------------- what is sent


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"response_format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"response_format": SCHEMA}, {"response_format": FORMAT}),
        (
            {"response_format": LOOSE},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": LOOSE}}},
        ),
        ({"reasoning_effort": "low", "seed": 3}, {"reasoning_effort": "low", "seed": 3}),
        ({"logit_bias": {"1904": 100}}, {"logit_bias": {"1904": 100}}),
        ({"extra": {"service_tier": "flex"}}, {"service_tier": "flex"}),
    ],
)
def test_openai_is_sent_its_own_fields(options: dict[str, Any], fields: dict[str, Any]) -> None:
    assert sent("openai", RequestOptions(**options)) == fields


def test_anthropic_is_sent_its_own_fields_and_no_temperature_while_it_thinks() -> None:
    options = RequestOptions(response_format=SCHEMA, reasoning_effort="low", thinking_budget=2048)

    assert sent("anthropic", options, max_tokens=4096) == {
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "temperature": "not sent",
    }


def test_a_schema_is_strict_where_every_object_in_it_is_closed_and_complete() -> None:
    assert is_strict(SCHEMA)
    assert is_strict({"type": "array", "items": SCHEMA})
    assert not is_strict(LOOSE)
    assert not is_strict({"type": "array", "items": LOOSE})


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_options_of_the_model_and_of_the_request_are_joined(kind: str) -> None:
    model = model_of(kind, "http://127.0.0.1:9", options=RequestOptions(reasoning_effort="low"))
    both = request(options=RequestOptions(response_format=SCHEMA))

    assert model.extra_fields(both) == model_of(kind, "http://127.0.0.1:9").option_fields(
        RequestOptions(reasoning_effort="low", response_format=SCHEMA)
    )
    with pytest.raises(InputError, match="is set twice, to 'low' and to 'high': set it once"):
        list(model.generate([request(options=RequestOptions(reasoning_effort="high"))]))


def test_a_probe_of_a_silent_endpoint_sends_no_options() -> None:
    options = RequestOptions(response_format="json")
    with Loopback(fault=Fault("null", text="response_format")) as server:
        ask(model_of("openai", server.url), *[request(options=options)] * 3)
        probes = [seen for seen in server.requests if "ready" in str(seen.body)]

    assert probes
    assert all("response_format" not in seen.body for seen in probes)


# ---------------------------------------------------------------- what is keyed


def test_options_are_in_the_key_and_a_request_without_them_keeps_its_key() -> None:
    model = model_of("openai", "http://127.0.0.1:9")
    plain, same = request(), request(options=RequestOptions())
    others = [request(options=RequestOptions(seed=seed)) for seed in (1, 2)]
    keys = request_keys(model, [plain, same, *others])

    body: dict[str, Any] = {"context": plain.context, "max_tokens": 7, "temperature": 0.0, "stop": []}
    assert keys[0] == keys[1] == memo_key(model.fingerprint, "generate", body)
    assert len(set(keys)) == 3


def test_two_settings_never_share_a_reply(tmp_path: Path) -> None:
    with Loopback() as server, Memo(tmp_path / "memo") as memo:
        for options in (NO_OPTIONS, RequestOptions(seed=1), RequestOptions(seed=2), RequestOptions(seed=1)):
            task = replace(toys.TASK, request=options)
            scorer = Scorer(task, model_of("openai", server.url), Caller(memo, Ledger()))
            scorer.score([task.seed_prompt], task.train[:1])

        assert [seen.body.get("seed") for seen in server.requests] == [None, 1, 2]


def test_options_of_the_model_are_in_its_fingerprint_under_the_endpoints_names() -> None:
    named = model_of("openai", "http://127.0.0.1:9", options=RequestOptions(reasoning_effort="low"))
    raw = model_of("openai", "http://127.0.0.1:9", extra_body={"reasoning_effort": "low"})

    assert named.fingerprint == raw.fingerprint
    assert named.fingerprint["extra_body"] == {"reasoning_effort": "low"}


def test_a_schema_counts_toward_the_most_tokens_that_a_call_can_use() -> None:
    plain, formatted = request(), request(options=RequestOptions(response_format=SCHEMA))

    assert reply_token_range(formatted).max_input > reply_token_range(plain).max_input + len(json.dumps(SCHEMA))
    assert reply_token_range(formatted).min_input == reply_token_range(plain).min_input


# ---------------------------------------------------------------- headers


def test_headers_are_sent_and_only_digests_of_them_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "a-long-gateway-key")
    headers = {"X-Team": "blue-team-one", "X-Gateway": "env:GATEWAY_KEY", "X-Other": SecretStr("another-secret")}
    with Loopback() as server:
        model = model_of("openai", server.url, headers=headers)
        ask(model, request())
        (seen,) = server.requests

    assert [seen.headers[name] for name in ("x-team", "x-gateway", "x-other")] == [
        "blue-team-one",
        "a-long-gateway-key",
        "another-secret",
    ]
    known = model.fingerprint["headers"]
    assert (known["x-gateway"], known["x-other"]) == ("secret", "secret")
    assert known["x-team"].startswith("sha256:")
    assert not any(
        value in str(model.fingerprint) + repr(model) for value in (*seen.headers["x-team"].split(), "secret-")
    )


def test_another_value_of_a_header_is_another_model_and_another_secret_is_not() -> None:
    def fingerprint(**headers: Any) -> Any:
        return model_of("openai", "http://127.0.0.1:9", headers=headers).fingerprint

    assert fingerprint(team="a") != fingerprint(team="b")
    assert fingerprint(key=SecretStr("a")) == fingerprint(key=SecretStr("b")) != fingerprint()


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_headers_value_that_a_server_quotes_is_masked(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(fault=Fault(status, error={"message": "no such team: blue-team-one"})) as server:
        model = model_of("openai", server.url, headers={"X-Team": "blue-team-one"})
        try:
            shown = repr(ask(model, request()))
        except Exception as error:  # noqa: BLE001  whatever the user would read
            shown = str(error)
    assert "blue-team-one" not in shown + caplog.text


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Authorization": "Bearer x"}, "'Authorization' is set by the API key"),
        ({"Content-Type": "text/plain"}, "is set by the HTTP client"),
        ({"X Team": "a"}, "'X Team' cannot be sent"),
        ({"X-Team": "a\r\nX-Evil: b"}, "'X-Team' cannot be sent"),
        ({"X-Team": "env:NO_SUCH_VARIABLE"}, "takes its value from NO_SUCH_VARIABLE, which is not set"),
        ({"X-Team": 3}, "must have a text as its value, not int"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of("openai", "http://127.0.0.1:9", headers=headers)


def test_a_headers_value_in_the_extra_body_is_refused() -> None:
    with pytest.raises(InputError, match="holds the API key or the value of a header"):
        model_of(
            "openai", "http://127.0.0.1:9", headers={"X-Key": "a-long-secret"}, extra_body={"note": "a-long-secret"}
        )


# ---------------------------------------------------------------- what is refused before anything is spent


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("openai", {"thinking_budget": 2048}, "takes no thinking_budget, only response_format, reasoning_effort"),
        ("anthropic", {"seed": 1}, "takes no seed, only response_format"),
        ("anthropic", {"logit_bias": {"1": 2}}, "takes no logit_bias"),
        ("anthropic", {"response_format": "json"}, "takes a JSON schema as response_format, not 'json': give a schema"),
        ("anthropic", {"thinking_budget": 100}, "thinking_budget of 1024 or more, not 100"),
        ("anthropic", {"thinking_budget": 2048}, "2048 tokens leaves no room for a reply of at most 256 tokens"),
        ("openai", {"extra": {"temperature": 1}}, "extra cannot set 'temperature', which is set by the task"),
        ("openai", {"extra": {"note": KEY}}, "extra holds the API key"),
    ],
)
def test_what_a_protocol_does_not_take_is_refused_before_a_call(
    kind: str, options: dict[str, Any], message: str
) -> None:
    task = replace(toys.TASK, request=RequestOptions(**options), max_tokens=256)
    with Loopback() as server:
        with pytest.raises(InputError, match=message):
            optimize(task, model_of(kind, server.url), "random", budget="200 calls", tracking=False)
        assert server.requests == []


@pytest.mark.parametrize("sampling", [{"top_k": 4}, {"tools": (ToolSchema("look", "Looks.", "{}"),)}])
def test_thinking_is_refused_with_what_it_excludes(sampling: dict[str, Any]) -> None:
    model = model_of("anthropic", "http://127.0.0.1:9", options=RequestOptions(thinking_budget=1024))
    with pytest.raises(InputError, match="together with a thinking budget: remove one"):
        list(model.generate([request(max_tokens=2000, **sampling)]))


def test_a_model_without_requests_refuses_options() -> None:
    labels = ("yes", "no")
    train = (Example({"text": "a"}, "yes", "1"),)
    task = Task(train=train, seed_prompt=Prompt("Say: {text}"), request=RequestOptions(seed=1))
    labelled = replace(task, labels=labels)
    with pytest.raises(InputError, match="sets seed in its request, which the model 'smollm2' does not take"):
        optimize(task, _Bare(), "random", budget="200 calls", tracking=False)
    with pytest.raises(InputError, match="chooses among the labels by log-probability"):
        optimize(labelled, FakeLabelModel(lambda _, names: [-1.0 for _ in names]), "random", budget="9 calls")
    with pytest.raises(InputError, match="sends no requests: omit the options"):
        load_model("local:smollm2", options=RequestOptions(seed=1))
    with pytest.raises(InputError, match="sends no requests: omit the headers"):
        load_model("local:smollm2", headers={"X-Team": "a"})


class _Bare:
    """A model that knows of no options."""

    fingerprint: ClassVar = {"provider": "mine", "model": "smollm2"}
    unit: Literal["reply"] = "reply"
    price = None

    def generate(self, requests: Any) -> Any:
        raise AssertionError(requests)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response_format": "yaml"}, "response_format must be 'json' or a JSON schema, not 'yaml'"),
        ({"reasoning_effort": ""}, "must be a word such as 'low'"),
        ({"reasoning_effort": 3}, "must be a word such as 'low', not 3"),
        ({"thinking_budget": 0}, "thinking_budget must be a whole number, 1 or more, not 0"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"logit_bias": {"5": "much"}}, "must map token numbers to numbers, not to 'much'"),
        ({"logit_bias": [1]}, "logit_bias must be a table"),
        ({"extra": {"a": {1, 2}}}, "extra must be a JSON object"),
    ],
)
def test_options_of_a_wrong_type_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RequestOptions(**options)


# ---------------------------------------------------------------- where they are set


def test_a_function_gets_the_options_of_the_task() -> None:
    got: list[RequestOptions] = []

    def handler(asked: Any) -> str:
        got.append(asked.options)
        return "yes"

    task = replace(toys.TASK, request=RequestOptions(seed=5))
    with Memo() as memo:
        Scorer(task, FakeModel(handler), Caller(memo, Ledger())).score([task.seed_prompt], task.train[:1])
    assert got == [RequestOptions(seed=5)]


TASK_FILE = """
seed_prompt = "Item? {text}"
[request]
response_format = "schema.json"
seed = 4
extra = { service_tier = "flex" }
[data]
file = "rows.csv"
inputs = ["text"]
label = "item"
"""


def write_task(folder: Path, text: str = TASK_FILE) -> Path:
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    rows = "".join(f"row {number},lamp\n" for number in range(30))
    (folder / "rows.csv").write_text(f"text,item\n{rows}", encoding="utf-8")
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder / "task.toml"


def test_a_task_file_sets_options(tmp_path: Path) -> None:
    assert load_task(write_task(tmp_path)).request == RequestOptions(
        response_format=SCHEMA, seed=4, extra={"service_tier": "flex"}
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "sede = 4",
            r"\[request\] has the unknown option 'sede' \(did you mean 'seed'|\[request\] has the unknown option 'sede'",
        ),
        ("headers = { a = 'b' }", "headers, which belong to the endpoint: set them on the model"),
        ('response_format = "none.json"', "cannot read the JSON schema .*none.json"),
        ("thinking_budget = 0", r"\[request\]: thinking_budget must be"),
    ],
)
def test_a_task_file_with_a_wrong_option_says_which(tmp_path: Path, line: str, message: str) -> None:
    file = write_task(
        tmp_path, f'seed_prompt = "{{text}}"\n[request]\n{line}\n{TASK_FILE[TASK_FILE.index("[data]") :]}'
    )
    with pytest.raises(InputError, match=message):
        load_task(file)


def test_a_schema_file_must_hold_an_object(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(InputError, match="does not hold a JSON schema"):
        read_options({"response_format": "schema.json"}, "[request]", tmp_path)


def test_the_command_line_sends_options_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY_KEY", "a-long-gateway-key")
    with Loopback(lambda _: "lamp") as server:
        done = promptopt(
            tmp_path,
            *("score", write_task(tmp_path), "--model", "openai:some-model", "--base-url", f"{server.url}/v1"),
            *("--model-option", "reasoning_effort=low", "--model-option", 'logit_bias={"5": 1}'),
            *("--model-option", "header:X-Gateway=env:GATEWAY_KEY"),
        )
        seen = server.requests[0]

    assert done.returncode == 0, done.stderr
    assert seen.headers["x-gateway"] == "a-long-gateway-key"
    assert {name: seen.body[name] for name in ("reasoning_effort", "logit_bias", "seed", "service_tier")} == {
        "reasoning_effort": "low",
        "logit_bias": {"5": 1},
        "seed": 4,
        "service_tier": "flex",
    }
    assert seen.body["response_format"] == FORMAT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["seed"], "cannot read --model-option 'seed': write NAME=VALUE"),
        (["seed=1", "seed=2"], "--model-option sets 'seed' twice"),
        (["sed=1"], "--model-option has the unknown option 'sed'"),
        (["seed=low"], "--model-option: seed must be a whole number, not 'low'"),
    ],
)
def test_a_wrong_option_on_the_command_line_is_named(tmp_path: Path, options: list[str], message: str) -> None:
    flags = [word for option in options for word in ("--model-option", option)]
    done = promptopt(tmp_path, "score", write_task(tmp_path), "--model", "openai:m", *flags)

    assert done.returncode == 2
    assert message in done.stderr


def test_models_of_a_sweep_with_other_options_are_other_models() -> None:
    values: dict[str, Any] = {
        "tasks": ["task.toml"],
        "budget": "9 calls",
        "model": [{"name": "openai:m"}, {"name": "openai:m", "options": {"reasoning_effort": "low"}}],
        "strategy": [{"name": "random"}],
    }
    spec = parse_sweep(values, "sweep.toml")

    assert [model.label for model in spec.model] == ["openai:m", "openai:m reasoning_effort=low"]
    assert len({hash(model) for model in spec.model}) <= 2
    values["model"][1]["options"] = {"effort": "low"}
    with pytest.raises(InputError, match="unknown option 'effort'"):
        parse_sweep(values, "sweep.toml")


# ---------------------------------------------------------------- what a result says


def test_a_result_repeats_options_for_the_command_and_the_export() -> None:
    task = replace(toys.TASK, request=RequestOptions(seed=3, extra={"service_tier": "flex"}))
    with Loopback(toys.right_answer) as server:
        model = model_of("openai", server.url, options=RequestOptions(reasoning_effort="low"), headers={"X-Team": "a"})
        result = optimize(task, model, "random", budget="200 calls", settings={"prompts": 2}, tracking=False)

    assert result.request["options"] == {"seed": 3, "extra": {"service_tier": "flex"}}
    assert result.request["extra_body"] == {"reasoning_effort": "low"}
    said = command(result)
    assert """--extra-body '{"reasoning_effort": "low"}'""" in said
    assert "--model-option header:x-team=VALUE" in said
    body = json.loads(openai_batch(result.portable(), [dict(toys.TASK.train[0].inputs)]))["body"]
    assert {name: body[name] for name in ("seed", "service_tier", "reasoning_effort")} == {
        "seed": 3,
        "service_tier": "flex",
        "reasoning_effort": "low",
    }


def test_a_later_test_of_a_run_sends_the_options_that_it_recorded(tmp_path: Path) -> None:
    def handler(asked: Any) -> str:
        return test_gate.answer(asked) if asked.options.seed == 3 or "Rewrite it" in str(asked.context) else "none"

    model = FunctionModel(handler, name="seeded", version="1")
    task = replace(test_gate.TASK, test=test_gate.items("test", 30), request=RequestOptions(seed=3))
    optimize(task, model, "random", budget="600 calls", run_dir=tmp_path / "run", tracking=False)

    assert check_drift(tmp_path / "run", model).changed == 0


def test_a_task_files_table_is_checked_when_it_is_read() -> None:
    spec = parse_spec({"request": {"seed": 1}, "data": {"file": "rows.csv", "inputs": ["text"]}}, "task.toml")
    assert spec.request == {"seed": 1}
