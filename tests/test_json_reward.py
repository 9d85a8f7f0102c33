"""The reward by a JSON schema: what is valid, how fields are compared, and what the prompt writer reads."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.loopback import Loopback
from shell import promptopt

from promptopt import Example, InputError, JsonFields, Prompt, Response, Task, load_task
from promptopt.parsing.json_replies import compare_fields, parse_json
from promptopt.rewards import reward_named
from promptopt.testing import check_reward

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "item": {"type": "string"},
        "quantity": {"type": "integer", "minimum": 1},
        "date": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["item", "quantity"],
    "additionalProperties": False,
}
TARGET = '{"item": "oak stool", "quantity": 6}'
REWARD = JsonFields(SCHEMA)
ORDER = Example({"text": "Six oak stools, please."}, TARGET, "1")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def reward(reply: str, example: Example = ORDER) -> tuple[float, str]:
    return REWARD(example, Response(reply))


@pytest.mark.parametrize(
    ("reply", "value", "words"),
    [
        (TARGET, 1.0, ""),
        ('\n {"quantity": 6, "item": " Oak Stool "}\n', 1.0, ""),
        ('{"item": "oak stool", "quantity": 6.0}', 1.0, ""),
        ('{"item": "oak stool", "quantity": 5}', 0.5, "quantity: said 5, wanted 6"),
        ('{"item": "stool", "quantity": 5}', 0.0, 'item: said "stool", wanted "oak stool"; quantity: said 5, wanted 6'),
        (f'{TARGET[:-1]}, "date": "2026-03-04"}}', 0.8, 'date: said "2026-03-04", wanted nothing'),
    ],
)
def test_a_valid_reply_earns_the_f1_of_its_fields(reply: str, value: float, words: str) -> None:
    earned, reason = reward(reply)

    assert earned == pytest.approx(value)
    assert reason == words


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("six stools", "the reply is not JSON: Expecting value"),
        (f"```json\n{TARGET}\n```", "it begins with ```: reply with the JSON alone"),
        (f"Here it is: {TARGET}", "the reply is not JSON"),
        (f"{TARGET} {TARGET}", "the reply is not JSON: Extra data"),
        ('{"item": "oak stool", "quantity": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "the reply is not JSON"),
        ("", "the reply is not JSON"),
        ("[]", "the reply does not match the schema: the reply: [] is not of type 'object'"),
        ('{"item": "oak stool", "quantity": "six"}', "quantity: 'six' is not of type 'integer'"),
        ('{"item": "oak stool", "quantity": 0}', "quantity: 0 is less than the minimum of 1"),
        ('{"quantity": 6}', "the reply: 'item' is a required property"),
        (f'{TARGET[:-1]}, "colour": "red"}}', "'colour' was unexpected"),
        (f'{TARGET[:-1]}, "date": "4 March"}}', "date: '4 March' is not a 'date'"),
        (f'{TARGET[:-1]}, "tags": ["a", 2]}}', "tags.1: 2 is not of type 'string'"),
    ],
)
def test_a_reply_that_the_schema_does_not_allow_is_worth_0_and_the_writer_reads_why(reply: str, words: str) -> None:
    value, reason = reward(reply)

    assert value == 0.0
    assert words in reason


def test_without_a_target_a_valid_reply_is_worth_1() -> None:
    unlabelled = Example({"text": "Six."}, None, "2")

    assert reward('{"item": "anything", "quantity": 1}', unlabelled) == (1.0, "")
    assert reward("{}", unlabelled)[0] == 0.0


def test_lists_are_compared_item_by_item_and_truth_values_are_no_numbers() -> None:
    assert compare_fields({"a": [1, 2]}, {"a": [1, 3]}) == (0.5, "a.1: said 2, wanted 3")
    assert compare_fields({"a": True}, {"a": 1}) == (0.0, "a: said true, wanted 1")
    assert compare_fields({"a": []}, {"a": [1]}) == (0.0, "a.0: missing, wanted 1; a: said [], wanted nothing")
    assert compare_fields({}, {}).f1 == 1.0


@settings(max_examples=40)
@given(JSON_VALUES, JSON_VALUES)
def test_the_f1_is_symmetric_between_0_and_1_and_1_for_equal_values(a: Any, b: Any) -> None:
    assert compare_fields(a, a) == (1.0, "")
    assert compare_fields(a, b).f1 == compare_fields(b, a).f1
    assert 0.0 <= compare_fields(a, b).f1 <= 1.0
    assert (compare_fields(a, b).words == "") == (compare_fields(a, b).f1 == 1.0)
    assert parse_json(json.dumps(a)) == a


def test_a_reply_may_be_nested_deeper_than_calls_may_be() -> None:
    deep = "[" * 600 + "1" + "]" * 600
    nodes = {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}, {"type": "integer"}]}}
    reward = JsonFields({"$ref": "#/$defs/a", "$defs": nodes})

    assert compare_fields(parse_json(deep), parse_json(deep)).f1 == 1
    assert reward(Example({"text": "a"}, None, "1"), Response(deep)) == (
        0.0,
        "the reply does not match the schema: the reply: it is nested too deeply",
    )


def test_it_keeps_the_contract_of_rewards() -> None:
    check_reward(REWARD, Task(train=(ORDER,), seed_prompt=Prompt("{text}"), reward=REWARD))


# ---------------------------------------------------------------- schemas and targets


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "the JSON schema is invalid at type"),
        ({"properties": {"a": {"minimum": "1"}}}, r"invalid at properties\.a\.minimum"),
    ],
)
def test_an_invalid_schema_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        JsonFields(schema)


def test_a_schema_that_refers_elsewhere_is_refused_and_nothing_is_asked_for() -> None:
    with Loopback() as server:
        remote = JsonFields({"$ref": f"{server.url}/order.json"})
        with pytest.raises(InputError, match=r"refers to .*order\.json', which is not in it: put it into \$defs"):
            remote(ORDER, Response(TARGET))
        assert server.requests == []
    local = JsonFields({"$ref": "#/$defs/order", "$defs": {"order": SCHEMA}})
    assert local(ORDER, Response(TARGET)) == (1.0, "")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("six", "target of example '1' is not JSON"),
        (
            '{"item": "a"}',
            "does not match the schema .*'quantity' is a required property.*: correct the target or the schema",
        ),
    ],
)
def test_a_target_that_no_reply_could_reach_is_refused_before_a_call(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Task(train=(Example({"text": "a"}, target, "1"),), seed_prompt=Prompt("{text}"), reward=REWARD)


def test_without_the_extra_the_reward_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "import promptopt\n"
        "try: promptopt.JsonFields({})\n"
        "except promptopt.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'promptopt-toolkit[json]'" in done.stdout


# ---------------------------------------------------------------- by name


def test_a_task_file_and_the_command_line_name_a_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-no-use-at-all")
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    rows = [{"text": f"order {number}", "order": TARGET} for number in range(30)]
    (tmp_path / "orders.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "task.toml").write_text(
        'seed_prompt = "{text}"\nreward = "json:order.json"\n[data]\nfile = "orders.jsonl"\ninputs = ["text"]\nlabel = "order"\n',
        encoding="utf-8",
    )
    with Loopback(lambda _: '{"item": "oak stool", "quantity": 5}') as server:
        place = ["--model", "openai:some-model", "--base-url", f"{server.url}/v1", "--json"]
        by_file = promptopt(tmp_path, "score", "task.toml", *place)
        columns = ["--data", "orders.jsonl", "--input", "text", "--label", "order", "--reward", "json:order.json"]
        by_option = promptopt(tmp_path, "score", *columns, *place)

    assert load_task(tmp_path / "task.toml").reward == REWARD
    assert [json.loads(done.stdout)[0]["reward"][0] for done in (by_file, by_option)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [("json", "needs the file of a JSON schema"), ("json:none.json", "cannot read the JSON schema")],
)
def test_a_reward_without_a_schema_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reward_named(name, (), tmp_path)
