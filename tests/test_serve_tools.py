"""Tools through `promptopt serve`, over a real socket: the tokenizer and template are real, the replies are the test's."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from promptopt import Message, Request, Response

pytest.importorskip("torch", reason="the extra 'local' is not installed")
pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

import openai

from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.local.decoding import Written
from promptopt.models.local.served import ServedModel
from promptopt.serving.scheduler import Scheduler
from promptopt.serving.server import Server, listen
from promptopt.tools import Exchange, ToolCall, ToolSchema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}: {{ tool.function.description }}]{% endfor %}"
    "{% for message in messages %}({{ message.role }}) {{ message.content }}"
    "{% for call in message.tool_calls or [] %} {{ call.function.name }} {{ call.function.arguments.item }}{% endfor %}"
    "{% endfor %}(assistant) "
)
LOOK = ToolSchema("look", "Count an item.", '{"type": "object", "properties": {"item": {"type": "string"}}}')
FUNCTION = LOOK.as_function()
CALL = '<tool_call>{"name": "look", "arguments": {"item": "pears"}}</tool_call>'
CALLED = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"item": "pears"}'}}
ASKED = {"role": "user", "content": "How many?"}


class Desk(NamedTuple):
    """A server: its address, a client, the prompts that its model read, and the replies that it gives next."""

    url: str
    client: openai.OpenAI
    read: list[str]
    replies: list[str]

    def chat(self, *messages: Any, **settings: Any) -> Any:
        return self.client.chat.completions.create(model="tiny", messages=[*messages], **settings)


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("tools") / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return ServedModel(str(folder), dtype="float32", device="cpu")


@pytest.fixture
def desk(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PROMPTOPT_NO_PAID_CALLS")
    read, replies = list[str](), list[str]()

    async def write(_: Scheduler, name: str, prompt: tuple[int, ...], *__: Any) -> Written:
        read.append(model.reply_text(prompt))
        return Written(0, Response(replies.pop(0)), ())

    monkeypatch.setattr(Scheduler, "write", write)
    with listen("127.0.0.1", 0) as listening:
        server = Server({"tiny": model}, listening)
        thread = threading.Thread(target=server.run)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield Desk(url, client, read, replies)
        server.stop()
        thread.join()


def test_a_model_reads_tools_calls_one_and_answers_from_its_result(desk: Desk) -> None:
    """Our own hosted model is the client: what it sends for an agent, the server shows to the local model."""
    desk.replies.extend([f"Let me see.{CALL}", "Two."])
    hosted = OpenAIModel("tiny", base_url=desk.url)
    request = Request(context=(Message("user", "How many?"),), max_tokens=50, tools=(LOOK,))
    (arrival,) = hosted.generate([request])
    assert isinstance(arrival.reply, Response)
    assert arrival.reply.text == "Let me see."
    assert arrival.reply.tool_calls == (ToolCall("look", '{"item": "pears"}'),)
    continued = Request(
        context=request.context,
        max_tokens=50,
        tools=(LOOK,),
        exchanges=(Exchange(arrival.reply.text, arrival.reply.tool_calls, ("2",)),),
    )
    (answer,) = hosted.generate([continued])
    assert isinstance(answer.reply, Response)
    assert (answer.reply.text, answer.reply.tool_calls) == ("Two.", ())
    tool = "[look: Count an item.](user) How many?"
    assert desk.read == [
        f"{tool}(assistant) ",
        f"{tool}(assistant) Let me see. look pears(tool) 2(assistant) ",
    ]


def test_results_are_matched_by_id_and_a_conversation_goes_on_after_them(desk: Desk) -> None:
    other = {"id": "b", "type": "function", "function": {"name": "look", "arguments": '{"item": "figs"}'}}
    results = [{"role": "tool", "tool_call_id": name, "content": content} for name, content in (("b", "0"), ("a", "2"))]
    calls = {"role": "assistant", "content": None, "tool_calls": [CALLED, other]}
    desk.replies.append("Bye.")
    reply = desk.chat(ASKED, calls, *results, {"role": "user", "content": "Thanks."}, tools=[FUNCTION])
    assert reply.choices[0].message.tool_calls is None
    assert desk.read[0].endswith("(assistant)  look pears look figs(tool) 2(tool) 0(user) Thanks.(assistant) ")


def test_a_call_in_the_protocols_form_and_as_an_event(desk: Desk) -> None:
    desk.replies.extend([CALL, CALL])
    choice = desk.chat(ASKED, tools=[FUNCTION]).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name, call.function.arguments) == ("function", "look", '{"item": "pears"}')
    (event,) = desk.chat(ASKED, tools=[FUNCTION], stream=True)
    (streamed,) = event.choices[0].delta.tool_calls
    assert (streamed.index, streamed.function.name, streamed.function.arguments) == (0, "look", '{"item": "pears"}')
    assert call.id != streamed.id


def test_with_tool_choice_none_tools_are_not_shown_and_a_reply_is_a_text(desk: Desk) -> None:
    desk.replies.append(CALL)
    choice = desk.chat(ASKED, tools=[FUNCTION], tool_choice="none").choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (CALL, None, "stop")
    assert "look" not in desk.read[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tool_choice": "required"}, "nothing forces this model to call a tool"),
        ({"tools": [{"type": "function", "function": {"name": "look", "strict": True}}]}, "strict is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "cannot call a tool named 'a b'"),
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\] must be"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]}, "a JSON schema as parameters"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [CALLED]}]}, "a message of role 'tool' must answer"),
        (
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [CALLED]}, ASKED]},
            r"messages\[2\]: after tool_calls",
        ),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "needs an id and a function"),
        ({"messages": [{"role": "tool", "tool_call_id": "a", "content": "2"}]}, "needs a role of"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(desk: Desk, changed: dict[str, Any], words: str) -> None:
    body: dict[str, Any] = {"messages": [ASKED], "tools": [FUNCTION]} | changed
    with pytest.raises(openai.BadRequestError, match=words):
        desk.chat(*body.pop("messages"), extra_body=body)
    assert not desk.read


def test_a_template_without_tools_is_named(desk: Desk, model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model._files.tokenizer, "chat_template", "{{ messages[0].content }}")
    with pytest.raises(
        openai.BadRequestError, match="takes no tools: use a model that was trained to call tools"
    ) as caught:
        desk.chat(ASKED, tools=[FUNCTION])
    assert caught.value.param == "tools"
