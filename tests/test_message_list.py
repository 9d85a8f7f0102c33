"""A system prompt with slots and a user turn, and whole lists of messages: what is sent, searched, exported and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from promptopt import (
    Demonstrations,
    Example,
    FunctionModel,
    InputError,
    Message,
    Prompt,
    Result,
    Task,
    check_drift,
    load_task,
    optimize,
)
from promptopt.data.task_spec import parse_spec
from promptopt.optimization.preflight import fields_not_sent
from promptopt.prompt import Layout, as_dicts
from promptopt.results.export import export
from promptopt.results.portable import PortablePrompt
from promptopt.search.tokens import tokenize, words

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request
    from promptopt.prompt import Context

INPUTS = {"context": "Rome is old. {question}", "question": "How old is Rome?"}
PROMPT = Prompt("Answer from this:\n{context}")
TURNS = (Message("user", "May I ask?"), Message("assistant", "Yes: {context} is at hand."))
LAYOUT = Layout(("context", "question"), "Question: {question}", "chat", "system")
WITH_TURNS = replace(LAYOUT, turns=TURNS)
SENT = (Message("system", "Answer from this:\nRome is old. {question}"), Message("user", "Question: How old is Rome?"))


def contents(context: Context) -> list[str]:
    return [turn["content"] for turn in as_dicts(context)]


def example(number: int, target: str = "old") -> Example:
    return Example({"context": f"fact {number}", "question": f"q{number}"}, target, f"id{number}")


# ---------------------------------------------------------------- what is sent


def test_a_system_prompt_is_filled_and_the_users_turn_follows() -> None:
    assert LAYOUT.render_inputs(PROMPT, INPUTS) == SENT
    assert WITH_TURNS.render_inputs(PROMPT, INPUTS) == (SENT[0], *TURNS, SENT[1])


def test_a_prompt_without_a_slot_is_the_same_in_both_roles() -> None:
    plain = Prompt("Be brief.")

    assert LAYOUT.render_inputs(plain, INPUTS) == replace(LAYOUT, prompt_role="auto").render_inputs(plain, INPUTS)


def test_without_a_prompt_the_fixed_turns_are_still_sent_as_they_are() -> None:
    empty = Prompt("")

    assert WITH_TURNS.render_inputs(empty, INPUTS) == (*TURNS, SENT[1])
    tokens = tokenize(empty, WITH_TURNS, words)
    assert not len(tokens.prunable)
    assert tokens.prompt(tokens.full()) == empty


def test_with_demonstrations_the_instruction_is_sent_once() -> None:
    shown = replace(PROMPT, demonstrations=Demonstrations((example(1), example(2, "new"))))
    sent = LAYOUT.render_inputs(shown, INPUTS)
    whole_message = Layout(("context", "question"), "", "chat").render_inputs(shown, INPUTS)

    assert contents(sent) == [
        SENT[0].content,
        "Question: q1",
        "old",
        "Question: q2",
        "new",
        SENT[1].content,
    ]
    assert sum("Answer from this" in text for text in contents(sent)) == 1
    assert (
        sum("Answer from this" in text for text in contents(whole_message)) == 3
    )  # as before: the slot's text is the message


def test_a_layout_without_a_role_is_saved_as_before() -> None:
    plain = Layout(("text",), "{text}")

    assert plain.to_json() == {"fields": ["text"], "template": "{text}", "format": "chat"}
    assert WITH_TURNS.to_json()["turns"] == [turn._asdict() for turn in TURNS]


# ---------------------------------------------------------------- in a task


def task(**settings: Any) -> Task:
    values: dict[str, Any] = {
        "train": tuple(map(example, range(12))),
        "validation": tuple(map(example, range(12, 20))),
        "test": tuple(map(example, range(20, 40))),
        "seed_prompt": PROMPT,
        "template": "Question: {question}",
        "prompt_role": "system",
        "turns": TURNS,
    }
    return Task(**values | settings)


def answer(request: Request) -> str:
    """The seed prompt loses every third item; every request must have the whole list."""
    assert not isinstance(request.context, str)
    system, *turns = request.context
    text = str(request.context)
    if "Rewrite it" in text:
        return "<prompt>Answer kindly from this:\n{context}</prompt>"
    assert tuple(turns[:2]) == TURNS
    number = int(turns[-1][1].removeprefix("Question: q"))
    assert f"fact {number}" in system[1]
    return "old" if "kindly" in system[1] or number % 3 else "new"


def test_a_search_sends_the_whole_list_and_keeps_the_slots(tmp_path: Path) -> None:
    model = FunctionModel(answer, name="rome", version="1")
    result = optimize(task(), model, "random", budget="900 calls", run_dir=tmp_path / "run", tracking=False)
    loaded = Result.load(tmp_path / "run" / "result.json")

    assert result.prompt.text == "Answer kindly from this:\n{context}"
    assert loaded.layout == WITH_TURNS
    assert loaded.messages(INPUTS)[1:3] == as_dicts(TURNS)
    assert check_drift(tmp_path / "run", model).changed == 0


def test_a_field_that_neither_turn_sends_is_said() -> None:
    assert fields_not_sent(task()) == ""
    assert "no slot {context}" in fields_not_sent(task(seed_prompt=Prompt("Answer. {question}")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": (Message("system", "a"),)}, "contain a system message, but the prompt is the system message"),
        ({"prompt_role": "auto"}, "the task has turns, which follow a system prompt"),
        ({"prompt_role": "user"}, "prompt_role must be 'auto' or 'system', not 'user'"),
        ({"format": "completion"}, "is for chats of one call"),
        ({"template": "Go on."}, "has no slot"),
    ],
)
def test_what_makes_no_list_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(**settings)


# ---------------------------------------------------------------- tokens of the prompt


@pytest.mark.parametrize("layout", [LAYOUT, WITH_TURNS])
def test_only_the_prompt_is_pruned_and_its_slots_stay(layout: Layout) -> None:
    own = (Message("user", "own turn"), Message("assistant", "own answer"))
    tokens = tokenize(replace(PROMPT, turns=own), layout, words)
    nothing = tokens.prompt(np.zeros(len(tokens), dtype=np.bool_))
    kept = tokens.full()
    kept[0] = False

    assert tokens.prompt(tokens.full()) == replace(PROMPT, turns=own)
    assert nothing == Prompt("{context}")
    assert tokens.prompt(kept) == Prompt(PROMPT.text.removeprefix("Answer"), turns=own)
    pruned = "".join(tokens.pieces[i] for i in tokens.prunable)
    assert "Question" not in pruned
    assert "May I ask" not in pruned


# ---------------------------------------------------------------- task files


FILE = """
[[message]]
role = "system"
content = "Answer from this:\\n{context}"

[[message]]
role = "user"
content = "May I ask?"

[[message]]
role = "assistant"
content = "Yes."

[[message]]
role = "user"
content = "Question: {question}"

[data]
file = "rows.jsonl"
inputs = ["context", "question"]
label = "answer"
"""


def test_a_task_file_lists_messages(tmp_path: Path) -> None:
    rows = [{"context": f"fact {n}", "question": f"q{n}", "answer": "old"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "task.toml").write_text(FILE, encoding="utf-8")
    loaded = load_task(tmp_path / "task.toml")

    assert loaded.seed_prompt == PROMPT
    assert contents(loaded.layout.render_inputs(loaded.seed_prompt, INPUTS)) == [
        SENT[0].content,
        "May I ask?",
        "Yes.",
        SENT[1].content,
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "system"', 'role = "user"', "the first message must have the role 'system'"),
        (
            '"user"\ncontent = "Question',
            '"assistant"\ncontent = "Question',
            "the last message must have the role 'user'",
        ),
        (
            "May I ask?",
            "About {context}?",
            r"\[\[message\]\] 2 has the slot {context}, but only the first and the last",
        ),
        ('role = "assistant"', 'role = "system"', r"\[\[message\]\] 3 is a second system message"),
        ('role = "assistant"', 'role = "tool"', "message.2.role = 'tool'"),
        ('content = "Yes."', 'text = "Yes."', r"unknown key 'text' in \[message\]"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = FILE.replace(old, new, 1)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"context": "a", "question": f"q{n}", "answer": "old"}) + "\n" for n in range(30)),
        encoding="utf-8",
    )
    (tmp_path / "task.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_task(tmp_path / "task.toml")


def test_a_list_and_a_seed_prompt_contradict_each_other() -> None:
    values = {
        "seed_prompt": "Answer.",
        "message": [{"role": "system", "content": "a"}, {"role": "user", "content": "{q}"}],
        "data": {"file": "rows.csv", "inputs": ["q"]},
    }
    with pytest.raises(InputError, match=r"both seed_prompt and \[\[message\]\]"):
        parse_spec(values, "task.toml")


# ---------------------------------------------------------------- exports


@pytest.mark.parametrize("layout", [LAYOUT, WITH_TURNS])
def test_exports_send_the_same_messages(layout: Layout) -> None:
    portable = PortablePrompt(prompt=PROMPT, layout=layout)
    expected = portable.messages(INPUTS)
    module: dict[str, Any] = {}
    exec(export(portable, "python"), module)  # noqa: S102  our own file
    saved = PortablePrompt.from_json(json.loads(export(portable, "json")))
    jinja2 = pytest.importorskip("jinja2")

    assert module["messages"](INPUTS) == expected
    assert saved.messages(INPUTS) == expected
    assert json.loads(jinja2.Template(export(portable, "jinja")).render(**INPUTS)) == expected
    assert [turn["role"] for turn in json.loads(export(portable, "messages"))] == [turn["role"] for turn in expected]
    assert json.loads(export(portable, "messages"))[0]["content"] == PROMPT.text
