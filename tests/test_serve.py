"""`promptopt serve` over a real socket: by the openai SDK, by our own hosted models, and beside the local model itself."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from promptopt import Message, Request, Response

pytest.importorskip("torch", reason="the extra 'local' is not installed")
pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

import openai

from promptopt.cli import app
from promptopt.errors import InputError, MissingExtraError
from promptopt.models.hosted.completions import CompletionsModel, TokenizedCompletionsModel
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.local import LocalModel
from promptopt.models.local.served import ServedModel
from promptopt.serving.server import Server, listen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt.prompt import Context
    from promptopt.replies import Arrival

LABELS = ("terrible", "great", "a joy to watch")
STEM = "Review: a dull and terrible evening\nSentiment: terrible\n" * 3  # more than a cached segment
TEXTS: list[Context] = [f"{STEM}Review: {text}\nSentiment:" for text in ("a dull evening", "naïve", "a joy from start")]
CHATS: list[Context] = [
    (Message("system", "Be brief."), Message("user", f"Good or bad? {text}")) for text in ("joy", "dull")
]


class Served(NamedTuple):
    """A running server, the model behind it, and a client."""

    url: str
    model: ServedModel
    client: openai.OpenAI

    def chat(self, content: str = "Good or bad?", **settings: Any) -> Any:
        messages: Any = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model="tiny", messages=messages, **settings)

    def text(self, prompt: Any, **settings: Any) -> Any:
        return self.client.completions.create(model="tiny", prompt=prompt, **settings)


@pytest.fixture(scope="module")
def served(tiny_llama: Path) -> Iterator[Served]:
    model = ServedModel(str(tiny_llama), dtype="float32", device="cpu")
    with listen("127.0.0.1", 0) as listening:
        server = Server({"tiny": model}, listening)
        thread = threading.Thread(target=server.run)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield Served(url, model, client)
        server.stop()
        thread.join()


@pytest.fixture(autouse=True)
def _any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PROMPTOPT_NO_PAID_CALLS")


@pytest.fixture
def local(tiny_llama: Path) -> LocalModel:
    return LocalModel(str(tiny_llama), dtype="float32", device="cpu")


def responses(arrivals: Iterable[Arrival]) -> list[Response]:
    """Return the replies in the order of their requests."""
    replies = [arrival.reply for arrival in sorted(arrivals, key=lambda arrival: arrival.number)]
    assert all(isinstance(reply, Response) for reply in replies), replies
    return [reply for reply in replies if isinstance(reply, Response)]


def test_labels_of_texts_score_as_in_the_local_model_however_often_they_are_asked(
    served: Served, local: LocalModel
) -> None:
    hosted = CompletionsModel("tiny", base_url=served.url)
    expected = [reply.label_logprobs for reply in responses(local.label_logprobs(TEXTS, LABELS))]
    for _ in range(3):  # computed, kept, and again
        found = responses(hosted.label_logprobs(TEXTS, LABELS))
        for reply, logprobs in zip(found, expected, strict=True):
            assert reply.label_logprobs == pytest.approx(logprobs, abs=1e-4)


def test_labels_of_chats_score_as_in_the_local_model(served: Served, local: LocalModel, tiny_llama: Path) -> None:
    hosted = TokenizedCompletionsModel("tiny", base_url=served.url, tokenizer=str(tiny_llama))
    expected = responses(local.label_logprobs(CHATS, LABELS))
    for reply, other in zip(responses(hosted.label_logprobs(CHATS, LABELS)), expected, strict=True):
        assert reply.label_logprobs == pytest.approx(other.label_logprobs, abs=1e-4)


@pytest.mark.parametrize("contexts", [TEXTS, CHATS])
def test_greedy_replies_are_those_of_the_local_model_among_others_too(
    served: Served, local: LocalModel, contexts: Sequence[Context]
) -> None:
    requests = [Request(context=context, max_tokens=5 + 3 * i, stop=("\n",)) for i, context in enumerate(contexts)] * 4
    found = responses(OpenAIModel("tiny", base_url=served.url, concurrency=8).generate(requests))
    expected = responses(local.generate(requests))
    assert [(reply.text, reply.finish_reason, reply.usage) for reply in found] == [
        (reply.text, reply.finish_reason, reply.usage) for reply in expected
    ]


def test_a_label_is_read_from_the_first_tokens_of_a_chat(served: Served, local: LocalModel) -> None:
    chats: list[Context] = [(Message("user", f"Good or bad? {number}"),) for number in range(9)]
    first = responses(local.generate([Request(context=chat, max_tokens=1) for chat in chats]))
    number = next(
        number for number, reply in enumerate(first) if reply.text.isalnum()
    )  # one that is tokenized as written
    labels = (first[number].text, "other")
    request = Request(context=chats[number], max_tokens=1, labels=labels)
    (found,) = responses(OpenAIModel("tiny", base_url=served.url).generate([request]))
    (expected,) = responses(local.label_logprobs([chats[number]], labels[:1]))
    assert found.label_logprobs is not None
    assert expected.label_logprobs is not None
    assert found.label_logprobs[0] == pytest.approx(expected.label_logprobs[0], abs=1e-4)


def test_a_seed_decides_all_replies_and_without_one_they_differ(served: Served) -> None:
    def texts(seed: int | None) -> list[str]:
        reply = served.chat(n=3, seed=seed, max_completion_tokens=12, temperature=1.5)
        return [choice.message.content for choice in reply.choices]

    with ThreadPoolExecutor(8) as threads:  # whatever else is in the batch
        replies = [*threads.map(texts, [7, None, 7, None, 8, -9, 7])]
    assert replies[0] == replies[2] == replies[6]
    assert len({text for reply in replies for text in reply}) == 5 * 3


def test_a_chat_shows_what_was_likeliest_at_each_token(served: Served) -> None:
    reply = served.chat(max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == reply.choices[0].message.content
    for entry in content:
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert len(entry.top_logprobs) == 3
    assert reply.usage.completion_tokens == len(content) == 6
    assert served.chat(max_tokens=2, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert served.chat(max_tokens=2).choices[0].logprobs is None


def test_an_echoed_text_is_scored_token_by_token(served: Served) -> None:
    plain = served.text(str(TEXTS[1]), max_tokens=4, temperature=0, logprobs=2)
    echoed = served.text(str(TEXTS[1]), max_tokens=4, temperature=0, logprobs=2, echo=True)
    again = served.text(echoed.choices[0].text, max_tokens=0, logprobs=2, echo=True)
    shown = echoed.choices[0].logprobs

    assert echoed.choices[0].text == "".join(shown.tokens) == str(TEXTS[1]) + plain.choices[0].text
    assert shown.token_logprobs[-4:] == pytest.approx(plain.choices[0].logprobs.token_logprobs, abs=1e-4)
    count = len(served.model.tokenize(str(TEXTS[1])).ids)  # what was written may be tokenized differently
    assert again.choices[0].logprobs.token_logprobs[1:count] == pytest.approx(shown.token_logprobs[1:count], abs=1e-4)
    assert shown.token_logprobs[count] == max(shown.top_logprobs[count].values())
    assert shown.token_logprobs[0] is shown.top_logprobs[0] is None
    assert shown.text_offset[-1] == len(echoed.choices[0].text) - len(shown.tokens[-1])
    assert again.choices[0].finish_reason == "length"
    assert again.usage.completion_tokens == 0


def test_several_prompts_as_texts_or_tokens_have_their_choices_in_order(served: Served) -> None:
    texts = ["Review:", "Answer with yes", "naïve"]
    tokens = [list(served.model.tokenize(text).ids) for text in texts]
    by_text = served.text(texts, max_tokens=0, echo=True, logprobs=0, n=2)
    by_token = served.text(tokens, max_tokens=0, echo=True, logprobs=0)
    assert [choice.text for choice in by_text.choices] == [text for text in texts for _ in range(2)]
    assert [choice.text for choice in by_token.choices] == texts
    assert by_text.usage.prompt_tokens == sum(map(len, tokens))
    assert by_token.choices[1].logprobs.tokens == by_text.choices[2].logprobs.tokens


def test_prompt_logprobs_have_the_token_first_and_then_the_likeliest(served: Served) -> None:
    text = str(TEXTS[0])
    reply = served.text(text, max_tokens=1, extra_body={"prompt_logprobs": 2}).choices[0]
    echoed = served.text(text, max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    ids, places = served.model.tokenize(text).ids, reply.prompt_logprobs
    assert places[0] is None
    assert [int(next(iter(place))) for place in places[1:]] == list(ids[1:])
    values = [next(iter(place.values()))["logprob"] for place in places[1:]]
    assert values == pytest.approx(echoed.token_logprobs[1:], abs=1e-4)
    assert {len(place) for place in places[1:]} <= {2, 3}


def test_a_stop_string_ends_text_and_log_probabilities(served: Served) -> None:
    whole = served.chat(max_tokens=12, temperature=0).choices[0].message.content
    stop = whole[3:5]
    stopped = served.chat(max_tokens=12, temperature=0, stop=[stop], logprobs=True).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    tokens = "".join(entry.token for entry in stopped.logprobs.content)
    assert tokens.startswith(stopped.message.content)
    assert len(tokens) < len(whole)


def test_a_stream_gives_the_same_text_and_the_usage(served: Served) -> None:
    settings: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "n": 2}
    chunks = [*served.chat(stream=True, stream_options={"include_usage": True}, **settings)]
    whole = served.chat(**settings)
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert texts == [choice.message.content for choice in whole.choices]
    assert chunks[-1].usage == whole.usage
    parts = [chunk.choices[0].text for chunk in served.text("Review:", stream=True, max_tokens=6, temperature=0)]
    assert "".join(parts) == served.text("Review:", max_tokens=6, temperature=0).choices[0].text


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": True}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"seed": "a"}, "seed"),
        ({"extra_body": {"guided_choice": ["a"]}}, "guided_choice"),
        ({"extra_body": {"messages": [{"role": "tool", "content": "a"}]}}, "messages"),
        ({"extra_body": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(served: Served, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.chat(**settings)
    assert caught.value.param == param
    assert param in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_neutral_and_harmless_fields_are_accepted(served: Served) -> None:
    neutral: dict[str, Any] = {"frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}}
    assert served.chat(max_tokens=1, user="me", top_p=0.5, metadata={"a": "b"}, **neutral).choices
    assert served.text("Review:", max_tokens=1, best_of=1, suffix=None).choices


def test_more_than_the_context_holds_is_refused_as_openai_does(served: Served) -> None:
    for settings in ({"max_tokens": 250}, {"content": "dull " * 300}):
        with pytest.raises(openai.BadRequestError) as caught:
            served.chat(**settings)
        assert caught.value.code == "context_length_exceeded"
    assert served.chat("a", temperature=0).usage.total_tokens <= 256


def test_other_models_and_broken_bodies_are_refused(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.completions.create(model="other", prompt="a")
    assert caught.value.code == "model_not_found"
    assert [model.id for model in served.client.models.list()] == ["tiny"]
    assert served.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.BadRequestError, match="no object"):
        served.client.post("/completions", cast_to=object, body=[1])


def test_a_prompt_is_read_once_for_all_requests_that_begin_with_it(served: Served) -> None:
    content = "Answer with yes or no. " * 20
    served.chat(content, max_tokens=1)
    before = served.model.computed_tokens
    used = served.chat(f"{content}?", max_tokens=1).usage.prompt_tokens
    assert served.model.computed_tokens - before < 60 < used


@pytest.fixture
def process(tiny_llama: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "promptopt", "serve", f"local:{tiny_llama}", "--port", "0", "--dtype", "float32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_the_command_names_its_address_answers_and_ends_cleanly_with_ctrl_c(
    process: subprocess.Popen[str], tiny_llama: Path
) -> None:
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/v1", process.stdout.readline())
    assert address is not None
    with openai.OpenAI(base_url=address[0], api_key="none", max_retries=0) as client, ThreadPoolExecutor(1) as waiting:
        (model,) = client.models.list()
        assert model.id == str(tiny_llama)
        assert client.completions.create(model=model.id, prompt="a", max_tokens=1).choices
        # More than it can write before it is stopped; it does not end first.
        long = waiting.submit(client.completions.create, model=model.id, prompt="a", n=128, max_tokens=250)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert isinstance(long.exception(), openai.APIError | None)
    assert process.returncode == 0, err
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("words", "reason"), [(["openai:gpt"], "write local:NAME"), (["local:a", "local:a"], "given twice")]
)
def test_only_local_models_are_served_and_each_once(words: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        app(["serve", *words], standalone_mode=False)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"promptopt-toolkit\[serve\]"):
        app(["serve", "local:smollm2"], standalone_mode=False)


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} .*choose another --port"):
            listen("127.0.0.1", port)
