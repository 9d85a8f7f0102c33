"""Thoughts are told from answers in every spelling, once, on the way from the model or the memo to the reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from promptopt import Example, FakeModel, Memo, Prompt, Response, Task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.parsing.labels import named_label
from promptopt.parsing.thinking import split_thinking, strip_thinking
from promptopt.rewards import last_number
from promptopt.search.writing.replies import proposals

if TYPE_CHECKING:
    from pathlib import Path

THOUGHT = "it could be no; I lean yes"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>", "</think>"),
        ("<THINK>\n", "\n</THINK>\n\n"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("analysis", "assistantfinal"),
    ],
)
def test_a_thought_is_taken_off_and_kept(begin: str, end: str) -> None:
    whole = split_thinking(f"{begin}{THOUGHT}{end}yes")

    assert (whole.answer, whole.complete) == ("yes", True)
    assert THOUGHT in whole.thinking
    if begin != "analysis":
        assert split_thinking(f"{THOUGHT}{end}yes") == ("yes", THOUGHT, True)
        assert split_thinking(f"{begin}{THOUGHT}") == ("", THOUGHT, False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18 <think>check 3</think>", "18"),
        ("<think>a</think>x<think>b</think> y", "x y"),
        ("<think>use <think> tags</think> then</think>yes", "yes"),
        ("yes <think>or no", "yes"),
        ("<think></think>yes", "yes"),
    ],
)
def test_an_answer_is_what_no_thought_holds(text: str, answer: str) -> None:
    assert split_thinking(text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        " blanks \n",
        "Write `<think>` first, then `</think>`.",
        "<prompt>Think in <think></think>, then say: {text}</prompt>",
        "think> about <b>it</b> [THINKING]",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert split_thinking(text) == (text, "", True)


@pytest.mark.parametrize(
    "text", ["<think>", "</think>", "<prompt>", "`", "<", "\n", "<|channel|>analysis", "<prompt></think>"]
)
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    split_thinking(text * 30_000)  # hours, where it is not linear


def test_a_reply_that_never_stops_thinking_was_cut_off() -> None:
    reply = strip_thinking(Response("<think>yes or no"))

    assert (reply.text, reply.finish_reason, reply.thinking) == ("", "length", "yes or no")
    assert reply.truncated_before_text
    assert strip_thinking(Response("<think>no", finish_reason="refusal")).finish_reason == "refusal"


def test_labels_and_numbers_are_read_after_the_thought() -> None:
    assert named_label("<think>yes or no? It says no.</think>yes", ("yes", "no")) == "yes"
    assert named_label("yes or no? It says no.\n</think>\n\nyes", ("yes", "no")) == "yes"
    assert last_number("18 <think>check 3</think>") == 18
    assert last_number("<think>3 * 6 = 18</think> eighteen") is None


def test_no_reward_sees_a_thought_and_the_memo_holds_the_reply_as_it_came(tmp_path: Path) -> None:
    raw, old = f"<think>{THOUGHT}</think>yes", f"{THOUGHT}</think>yes"
    task = Task(
        train=tuple(Example({"text": text}, "yes", text) for text in (raw, old)),
        seed_prompt=Prompt("{text}"),
        format="completion",
    )
    model = FakeModel(lambda request: Response(str(request.context), thinking="beside"), "thinks")
    for _ in range(2):  # from the model, then from the memo
        with Memo(tmp_path) as memo:
            scores = Scorer(task, model, Caller(memo, Ledger())).score([task.seed_prompt], task.train)
            memo.export(tmp_path / "all.jsonl")
        assert raw in (tmp_path / "all.jsonl").read_text("utf-8")
        assert scores.rewards.ravel().tolist() == [1.0, 1.0]
        for (reply,) in scores.replies[0]:
            assert isinstance(reply, Response)
            assert (reply.text, reply.thinking) == ("yes", f"beside\n{THOUGHT}")


def test_a_response_with_a_thought_can_be_read_back() -> None:
    reply = Response("<think>a</think>b", thinking="c")

    assert Response.from_json(reply.to_json()) == reply
    assert "thinking" not in Response("b").to_json()  # as memos of before have it


def test_a_writer_s_drafts_are_no_proposals() -> None:
    task = Task(train=(Example({"text": "a"}, "b", "1"),), seed_prompt=Prompt("Say {text}"))
    half = "I could write <prompt>a draft: {text}</prompt> but:\n</think>\n<prompt>Answer: {text}</prompt>"

    assert proposals(task, half, task.seed_prompt) == [Prompt("Answer: {text}")]
