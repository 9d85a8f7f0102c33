"""Tools that models call: how they are described, both protocols over sockets, the agent's loop, descriptions as prompts, MCP servers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import toys
from servers.loopback import Loopback

from promptopt import (
    Ask,
    Components,
    Example,
    Exchange,
    FakeModel,
    InputError,
    Message,
    Prompt,
    Prompts,
    Request,
    Response,
    Result,
    Run,
    Task,
    ToolCall,
    ToolSchema,
    estimate,
    mcp_tools,
    optimize,
    tool,
)
from promptopt.models.hosted.anthropic import AnthropicModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.local.encoding import Encoder, ToolChat
from promptopt.models.local.tokenizer import FastTokenizer
from promptopt.models.local.tool_calls import with_tool_calls
from promptopt.replies import Call, Failure
from promptopt.tools import parse_arguments, tool_schema

if TYPE_CHECKING:
    from collections.abc import Callable

STOCK = {"apples": 3, "pears": 0}
SERVER = Path(__file__).parent / "servers" / "mcp_stock.py"


def look(item: str) -> str:
    """Say how many of an item there are."""
    return str(STOCK.get(item, "no such item"))


def add(first: int, second: int) -> int:
    return first + second


LOOK = tool_schema(look)


# ---------------------------------------------------------------- descriptions


def every(
    text: str,
    count: int,
    share: float,
    *,
    sure: bool,
    kind: Literal["a", "b"],
    names: list[str],
    more: dict[str, int] | None = None,
    any_of_all: Any = 0,
) -> None:
    """Take one of each."""


def test_a_function_is_described_by_its_name_docstring_and_types() -> None:
    name, description, parameters = tool_schema(every)
    assert (name, description) == ("every", "Take one of each.")
    assert json.loads(parameters) == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "kind": {"enum": ["a", "b"]},
            "names": {"type": "array", "items": {"type": "string"}},
            "more": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            "any_of_all": {},
        },
        "required": ["text", "count", "share", "sure", "kind", "names"],
    }


def test_a_schema_or_a_description_of_ones_own_replaces_what_is_read_off() -> None:
    @tool(version="1", parameters={"type": "object", "properties": {"x": {"type": "integer"}}})
    def own(**arguments: int) -> int:
        return sum(arguments.values())

    assert tool_schema(own, "Add.") == ToolSchema(
        "own", "Add.", '{"properties": {"x": {"type": "integer"}}, "type": "object"}'
    )


def starred(*items: str) -> str:
    return " ".join(items)


def odd(item: set[str]) -> str:
    return " ".join(item)


def unread(item: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(item)


def größe(item: str) -> str:  # noqa: PLC2401  what it is about
    return item


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (starred, "the argument 'items' of the tool 'starred' has no name"),
        (odd, "the argument 'item' of the tool 'odd' has the type set"),
        (unread, "the types of the tool 'unread' cannot be read"),
        (größe, "a model cannot call a tool named 'größe'"),
    ],
)
def test_what_a_model_could_not_call_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tool_schema(function)


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"first": 1, "second": 2}', {"first": 1, "second": 2}),
        ("{", "error: the arguments are not JSON"),
        ("[1]", "error: the arguments must be a JSON object"),
        ("", "error: the argument 'first' is missing"),
        ('{"first": 1}', "error: the argument 'second' is missing"),
        ('{"first": 1, "second": 2, "third": 3}', "error: there is no argument 'third'; the arguments are: first, second"),
        ('{"first": "1", "second": 2}', "error: the argument 'first' must be {\"type\": \"integer\"}"),
        ('{"first": true, "second": 2}', "error: the argument 'first' must be"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_explained_to_the_model(arguments: str, read: Any) -> None:
    found = parse_arguments(ToolCall("add", arguments), tool_schema(add))
    assert found == read if isinstance(read, dict) else str(found).startswith(read)


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (Literal["a", 1], "a", True),
        (Literal["a", 1], "b", False),
        (int | None, None, True),
        (int | None, "1", False),
        (float, 1, True),
        (list[int], [1], True),
        (list[int], {}, False),
        (Any, {}, True),
    ],
)
def test_values_are_checked_by_type(kind: Any, value: Any, fits: bool) -> None:  # noqa: FBT001  a table's column
    def one(value: Any) -> None: ...

    one.__annotations__["value"] = kind
    found = parse_arguments(ToolCall("one", json.dumps({"value": value})), tool_schema(one))
    assert isinstance(found, dict) == fits


# ---------------------------------------------------------------- protocols


class Agents(Loopback):
    """A provider whose model first calls `look`, and then repeats the results."""

    calls = ({"item": "apples"}, {"item": "pears"})

    def reply(self, path: str, body: dict[str, Any], text: str | None) -> dict[str, Any]:
        out = super().reply(path, body, text)
        results = [part for turn in body["messages"] for part in _results(turn)]
        if path == "/v1/messages":
            called = [{"type": "tool_use", "id": f"toolu_{i}", "name": "look", "input": given} for i, given in enumerate(self.calls)]  # fmt: skip
            content = [{"type": "text", "text": " ".join(results)}] if results else called
            return out | {"content": content, "stop_reason": "end_turn" if results else "tool_use"}
        called = [{"id": f"chatcmpl-{i}", "type": "function", "function": {"name": "look", "arguments": json.dumps(given)}} for i, given in enumerate(self.calls)]  # fmt: skip
        message = {"content": " ".join(results)} if results else {"content": None, "tool_calls": called}
        out["choices"][0] |= {"message": {"role": "assistant"} | message, "finish_reason": "stop" if results else "tool_calls"}  # fmt: skip
        return out


def _results(turn: dict[str, Any]) -> list[str]:
    if turn["role"] == "tool":
        return [turn["content"]]
    parts = turn["content"] if isinstance(turn["content"], list) else []
    return [part["content"] for part in parts if part["type"] == "tool_result"]


def _models(url: str) -> list[Any]:
    return [
        OpenAIModel("m", base_url=f"{url}/v1", api_key="k", backoff=0),
        AnthropicModel("m", base_url=url, api_key="k", backoff=0),
    ]


TURNS = (Message("system", "Be brief."), Message("user", "How many apples and pears?"))
ASKED = Request(context=TURNS, max_tokens=20, tools=(LOOK,))
ANSWERED = Request(
    context=TURNS,
    max_tokens=20,
    tools=(LOOK,),
    exchanges=(
        Exchange(
            "Let me see.",
            (ToolCall("look", '{"item": "apples"}'), ToolCall("look", "broken")),
            ("3", "error: not JSON"),
        ),
        Exchange("", (ToolCall("look", '{"item": "pears"}'),), ("0",)),
    ),
)


@pytest.mark.parametrize("number", [0, 1])
def test_both_protocols_carry_tools_calls_and_results(number: int) -> None:
    with Agents() as server:
        model = _models(server.url)[number]
        first, second = [arrival.reply for request in (ASKED, ANSWERED) for arrival in model.generate([request])]
    assert isinstance(first, Response)
    assert first.tool_calls == (ToolCall("look", '{"item": "apples"}'), ToolCall("look", '{"item": "pears"}'))
    assert (first.text, first.finish_reason) == ("", "stop")
    assert isinstance(second, Response)
    assert (second.text, second.tool_calls) == ("3 error: not JSON 0", ())


def test_openai_bodies() -> None:
    model = OpenAIModel("m", base_url="http://127.0.0.1:9/v1", api_key="k")
    body = model.format_body(ANSWERED, model._negotiation.dialect)
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Say how many of an item there are.",
                "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
            },
        }
    ]

    def call(number: int, arguments: str) -> dict[str, Any]:
        return {"id": f"call{number:05}", "type": "function", "function": {"name": "look", "arguments": arguments}}

    assert body["messages"][2:] == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call(0, '{"item": "apples"}'), call(1, "{}")]},
        {"role": "tool", "tool_call_id": "call00000", "content": "3"},
        {"role": "tool", "tool_call_id": "call00001", "content": "error: not JSON"},
        {"role": "assistant", "content": None, "tool_calls": [call(2, '{"item": "pears"}')]},
        {"role": "tool", "tool_call_id": "call00002", "content": "0"},
    ]


def test_anthropic_bodies() -> None:
    model = AnthropicModel("m", base_url="http://127.0.0.1:9", api_key="k")
    body = model.format_body(ANSWERED, model._negotiation.dialect)
    assert body["tools"][0]["input_schema"]["required"] == ["item"]

    def use(number: int, given: dict[str, str]) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"call{number:05}", "name": "look", "input": given}

    def result(number: int, text: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": f"call{number:05}", "content": text}

    assert body["messages"][1:] == [
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, use(0, {"item": "apples"}), use(1, {})]},
        {"role": "user", "content": [result(0, "3"), result(1, "error: not JSON")]},
        {"role": "assistant", "content": [use(2, {"item": "pears"})]},
        {"role": "user", "content": [result(2, "0")]},
    ]  # fmt: skip


def test_without_tools_a_call_is_no_reply() -> None:
    with Agents() as server:
        for model in _models(server.url):
            (arrival,) = model.generate([Request(context=TURNS, max_tokens=20)])
            assert isinstance(arrival.reply, Failure)


def test_a_reply_with_calls_is_written_and_read_again() -> None:
    reply = Response("so", tool_calls=(ToolCall("look", "{}"), ToolCall("add", "[")))
    assert Response.from_json(json.loads(json.dumps(reply.to_json()))) == reply


# ---------------------------------------------------------------- the loop


async def agent(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask.agent("act", example, tools=[look, add])


def items(start: int, count: int) -> tuple[Example, ...]:
    return tuple(
        Example({"question": f"{i}: how many {name}?"}, str(STOCK[name]), str(i))
        for i in range(start, start + count)
        for name in [("apples", "pears")[i % 2]]
    )


def a_task(**changed: Any) -> Task:
    parts: dict[str, Any] = {
        "train": items(0, 6), "validation": items(6, 6), "test": items(12, 12),
        "program": agent, "seed_prompts": {"act": Prompt("Answer.")},
    }  # fmt: skip
    return Task(**(parts | changed))


class SeedOnly:
    writes = False
    programs = True

    def search(self, run: Run) -> None:
        self.scores = run.score([run.task.seed_prompt])


def run(memo: Path, task: Task, model: Any, strategy: Any = None, **more: Any) -> Result:
    return optimize(task, model, strategy or SeedOnly(), memo=memo, tracking=False, **({"budget": "900 calls"} | more))


def rewards(result: Result) -> tuple[float, float]:
    """Of the seed prompts and the chosen ones on test items."""
    assert result.test is not None
    return result.test.seed.estimate, result.test.chosen.estimate


def asks(request: Request) -> Response | str:
    """Calls `look` once for what the question is about, and answers with the result."""
    if request.exchanges:
        return request.exchanges[-1].results[0]
    item = "apples" if "apples" in toys.text_of(request.context) else "pears"
    return Response("Looking.", tool_calls=(ToolCall("look", json.dumps({"item": item})),))


def test_an_agent_calls_tools_until_it_answers(tmp_path: Path) -> None:
    seen: list[tuple[Call, ...]] = []

    def reward(example: Example, response: Response) -> float:
        seen.append(response.trace)
        return float(response.text == example.target)

    result = run(tmp_path, a_task(reward=reward), FakeModel(asks))
    assert rewards(result)[0] == 1.0
    question = (("question", "0: how many apples?"),)
    called = ToolCall("look", '{"item": "apples"}')
    assert seen[0] == (
        Call("act", question, "Looking.", (called,)),
        Call("tool:look", (("arguments", '[[], {"item": "apples"}]'),), '"3"'),
        Call("act", question, "3"),
    )
    assert seen[0][0].said == 'Looking.\ncalls look {"item": "apples"}'
    assert result.used["tool"].calls == 2  # of equal arguments, one
    again = run(tmp_path, a_task(reward=reward), FakeModel(asks))
    assert again == result


def has_both_results(example: Example, response: Response) -> float:
    return float(response.text == "3 0")


@pytest.mark.parametrize("number", [0, 1])
def test_an_agent_over_sockets(tmp_path: Path, number: int) -> None:
    task = a_task(reward=has_both_results)
    with Agents() as server:
        result = run(tmp_path, task, _models(server.url)[number])
        assert rewards(result)[0] == 1.0
        sent = len(server.requests)
        assert run(tmp_path, task, _models(server.url)[number]) == result
        assert len(server.requests) == sent


def test_mistakes_of_the_model_come_back_to_it(tmp_path: Path) -> None:
    results: list[str] = []

    def stumbles(request: Request) -> Response | str:
        results.extend(result for turn in request.exchanges for result in turn.results)
        wrong = (ToolCall("lok", "{}"), ToolCall("look", '{"thing": 1}'), ToolCall("add", '{"first": 1, "second": 2}'))
        return "done" if request.exchanges else Response("", tool_calls=wrong)

    run(tmp_path, a_task(test=(), validation=()), FakeModel(stumbles))
    assert results[:3] == [
        "error: there is no tool 'lok'; the tools are: look, add",
        "error: the argument 'item' is missing",
        "3",
    ]


def test_a_loop_without_end_and_an_exception_fail_their_cell(tmp_path: Path) -> None:
    def falls(item: str) -> str:
        raise KeyError(item)

    async def own(ask: Ask, prompts: Prompts, example: Example) -> Response:
        return await ask.agent("act", example, tools=[look, falls])

    def handler(request: Request) -> Response | str:
        text = toys.text_of(request.context)
        if "4: how many apples?" in text:
            return Response("", tool_calls=(ToolCall("falls", '{"item": "x"}'),))
        if "1: how many pears?" in text:
            return Response("", tool_calls=(ToolCall("look", '{"item": "pears"}'),))
        return "3"

    strategy = SeedOnly()
    run(tmp_path, a_task(program=own, max_calls=7, validation=(), test=()), FakeModel(handler), strategy)
    replies = [cell[0] for cell in strategy.scores.replies[0]]
    reasons = [reply.reason for reply in replies if isinstance(reply, Failure)]
    assert [isinstance(reply, Failure) for reply in replies] == [False, True, False, False, True, False]
    assert reasons[0].startswith("the program makes more than 7 calls")
    assert reasons[1].startswith("tool:falls: it raised KeyError: 'x'")


def test_a_dry_run_takes_an_agent_to_call_one_tool(tmp_path: Path) -> None:
    found = estimate(a_task(), FakeModel(asks), SeedOnly(), budget="900 calls", memo=tmp_path)
    assert {(need.stage, need.role): need.asked.calls for need in found.needs} == {
        ("start", "task"): 2 * 6,
        ("test", "task"): 2 * 12,
    }


async def twice(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("act", example, tools=[look, look])


async def description(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("tool:look", example)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"program": twice}, "two tools are named 'look'"),
        (
            {"program": description, "seed_prompts": {"act": Prompt("A."), "tool:look": Prompt("B.")}},
            "describes a tool",
        ),
        ({"format": "completion"}, "tools need chats"),
    ],
)
def test_what_cannot_be_offered_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, a_task(**changed), FakeModel(asks))


# ---------------------------------------------------------------- descriptions as prompts


def picky(request: Request) -> Response | str:
    """Calls the tool only if its description says that it counts; writes descriptions."""
    text = toys.text_of(request.context)
    if "<prompt>" in text:
        return (
            "<prompt>Counts how many apples or pears there are.</prompt>"
            if "describes the tool 'look'" in text
            else "<prompt>Answer now.</prompt>"
        )
    if not request.tools:
        return "ready"
    return asks(request) if "Counts" in request.tools[0].description else "9"


def test_a_description_is_searched_like_a_prompt_even_if_the_tool_is_never_called(tmp_path: Path) -> None:
    seeds = {"act": Prompt("Answer."), "tool:look": Prompt("Something about apples and pears.")}
    result = run(tmp_path, a_task(seed_prompts=seeds), FakeModel(picky), Components(patience=4), budget="400 calls")
    assert isinstance(result.prompt, Prompts)
    assert result.prompt["tool:look"] == Prompt("Counts how many apples or pears there are.")
    assert rewards(result) == (0.0, 1.0)


def test_the_writer_sees_how_a_tool_was_called_and_no_demonstration_is_made_of_it(tmp_path: Path) -> None:
    class Look:
        writes = False
        programs = True

        def search(self, run: Run) -> None:
            part = run.component("tool:look")
            self.targets = {example.target for example in part.task.train}
            scores = part.score([part.task.seed_prompt])
            self.replies = [cell[0].text for cell in scores.replies[0] if isinstance(cell[0], Response)]
            agent = run.component("act")
            self.agent_targets = {example.target for example in agent.task.train}
            replies = agent.score([agent.task.seed_prompt]).replies[0]
            self.agent_replies = [cell[0].text for cell in replies if isinstance(cell[0], Response)]

    seeds, strategy = {"act": Prompt("Answer."), "tool:look": Prompt("Counts.")}, Look()
    run(tmp_path, a_task(seed_prompts=seeds), FakeModel(picky), strategy)
    assert strategy.targets == {None}
    assert strategy.replies[:2] == ['[[], {"item": "apples"}] -> "3"', '[[], {"item": "pears"}] -> "0"']
    assert strategy.agent_targets == {None}
    assert strategy.agent_replies[0] == 'Looking.\ncalls look {"item": "apples"}\n3'


# ---------------------------------------------------------------- local models


@pytest.mark.parametrize(
    ("text", "calls", "rest"),
    [
        ('Well.\n<tool_call>\n{"name": "look", "arguments": {"item": "ä"}}\n</tool_call>', [("look", '{"item": "ä"}')], "Well."),
        ('<tool_call>{"name": "look", "arguments": {}}</tool_call><tool_call>{"name": "x", "arguments": "y"}', [("look", "{}"), ("x", "y")], ""),
        ('{"name": "look", "parameters": {"item": "a"}}', [("look", '{"item": "a"}')], ""),
        ('```json\n{"name": "look", "arguments": {"item": "a"}}\n```', [("look", '{"item": "a"}')], ""),
        ('{"name": "look", "arguments": {}}\n{"name": "look", "arguments": {}}', [("look", "{}")] * 2, ""),
        ('{"name": "look", "arguments": {}}\nDone.', [], '{"name": "look", "arguments": {}}\nDone.'),
        ('{"name": "other", "arguments": {}}', [], '{"name": "other", "arguments": {}}'),
        ("<tool_call>nothing</tool_call>", [], "<tool_call>nothing</tool_call>"),
        ('[{"name": "look"}]', [], '[{"name": "look"}]'),
    ],
)  # fmt: skip
def test_calls_are_read_from_a_local_models_text(text: str, calls: list[Any], rest: str) -> None:
    reply = with_tool_calls(Response(text), [LOOK])
    assert (list(map(tuple, reply.tool_calls)), reply.text) == (calls, rest)


def test_a_truncated_reply_calls_nothing() -> None:
    reply = Response('<tool_call>{"name": "look", "arguments": {}}', finish_reason="length")
    assert with_tool_calls(reply, [LOOK]) is reply


TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}: {{ tool.function.parameters | tojson }}]{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}({{ call.function.name }} {{ call.function.arguments | tojson }}){% endfor %}"
    "{% endfor %}<assistant>"
)


def test_a_chat_template_gets_tools_calls_and_results(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    encoder = Encoder("m", FastTokenizer(tmp_path))
    chat = ToolChat((*TURNS, *ANSWERED.exchanges), ANSWERED.tools)
    assert encoder.text(chat) == (
        '[look: {"properties": {"item": {"type": "string"}}, "required": ["item"], "type": "object"}]'
        "<system>Be brief.<user>How many apples and pears?"
        '<assistant>Let me see.(look {"item": "apples"})(look {})<tool>3<tool>error: not JSON'
        '<assistant>(look {"item": "pears"})<tool>0<assistant>'
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match="the chat template of m takes no tools"):
        Encoder("m", FastTokenizer(tmp_path)).text(chat)


# ---------------------------------------------------------------- MCP


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Callable[..., str]], Path]:
    calls = tmp_path_factory.mktemp("mcp") / "calls"
    command = [sys.executable, str(SERVER), str(calls)]
    return list(mcp_tools(command, version="1", environment={"STOCK_KEY": "given"})), calls


def test_tools_of_an_mcp_server_are_functions(stock: tuple[list[Callable[..., str]], Path]) -> None:
    (look, _, secret), _ = stock
    assert tool_schema(look)[:2] == ("look", "Say how many of an item there are.")
    assert look(item="apples") == "3"
    assert look(item="plums") == "there is no plums"
    assert secret() == "given"


def test_an_agent_calls_an_mcp_server_once_for_equal_arguments(
    stock: tuple[list[Callable[..., str]], Path], tmp_path: Path
) -> None:
    tools, calls = stock
    seen = len(calls.read_text().splitlines()) if calls.exists() else 0

    async def own(ask: Ask, prompts: Prompts, example: Example) -> Response:
        return await ask.agent("act", example, tools=tools)

    result = run(tmp_path, a_task(program=own), FakeModel(asks))
    assert rewards(result)[0] == 1.0
    assert run(tmp_path, a_task(program=own), FakeModel(asks)) == result
    assert len(calls.read_text().splitlines()) == seen + 2


def test_a_server_that_ends_fails_the_call_and_is_started_again(stock: tuple[list[Callable[..., str]], Path]) -> None:
    (look, *_), _ = stock
    with pytest.raises(RuntimeError, match="the MCP server failed"):
        look(item="bombs")
    assert look(item="pears") == "0"


@pytest.mark.parametrize(
    ("server", "version", "message"),
    [
        (
            ["no-such-command", "--key=secret"],
            "1",
            "the MCP server 'no-such-command' cannot be used .FileNotFoundError",
        ),
        ("http://127.0.0.1:9/mcp?key=secret", "1", "the MCP server 'http://127.0.0.1:9/mcp' cannot be used"),
        ([], "1", "server must be a command"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_without_its_keys(server: Any, version: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        mcp_tools(server, version=version)
    assert "secret" not in str(caught.value)


def test_an_mcp_server_needs_a_version() -> None:
    with pytest.raises(InputError, match="the version of a tool must be a text"):
        mcp_tools([sys.executable, str(SERVER), "unused"], version="")
