from __future__ import annotations

import json
import re
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from promptopt.errors import InputError
from promptopt.prompt import Context, Demonstrations, Example, Layout, Message, Prompt, Prompts

PLAIN = Layout(("text",), "Review: {text}", "completion")
CHAT = Layout(("text",), "Review: {text}", "chat")
TWO = Layout(("question", "hint"), "{question} ({hint})", "completion")


def item(text: str, target: str | None = None, name: str = "") -> Example:
    return Example({"text": text}, target, name or text)


GOOD, BAD, QUERY = item("good", "positive"), item("bad", "negative"), item("so so")


# ---------------------------------------------------------------- slots


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{question} {question}", "Q Q"),
        ('{"json": {question}} {} {{hint}}', '{"json": Q} {} {H}'),
        ("{other} {Question} { question }", "{other} {Question} { question }"),
        ("\\{question} $1 \\1", "\\Q $1 \\1"),
        ("", ""),
    ],
)
def test_slots_are_replaced_and_other_braces_are_text(text: str, filled: str) -> None:
    assert TWO.fill(text, Example({"question": "Q", "hint": "H"}, None, "1")) == filled


def test_a_value_that_holds_a_slot_is_not_filled_again() -> None:
    example = Example({"question": "{hint} {question} \\g<0>", "hint": "{question}"}, None, "1")
    assert TWO.fill("{question}|{hint}", example) == "{hint} {question} \\g<0>|{question}"


def test_field_names_are_no_patterns() -> None:
    layout = Layout(("a.b", "a"), "{a.b}")
    assert layout.fill("{a.b} {axb} {a}", Example({"a.b": "1", "a": "2"}, None, "1")) == "1 {axb} 2"


@given(st.text("{}tex "))
def test_cut_text_joins_to_itself_with_slots_at_odd_places(text: str) -> None:
    layout = Layout(("t", "ex"), "{t}")
    parts = layout.split(text)
    assert "".join(parts) == text
    assert all(part in ("{t}", "{ex}") for part in parts[1::2])
    assert not any(layout.has_slot(part) for part in parts[::2])
    assert layout.has_slot(text) == (len(parts) > 1)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("layout", "prompt", "shown"),
    [
        (PLAIN, Prompt("Say: {text}!"), "Say: so so!"),
        (PLAIN, Prompt("Judge."), "Judge.\n\nReview: so so"),
        (PLAIN, Prompt(""), "Review: so so"),
        (PLAIN, Prompt("{text} ->", Demonstrations((GOOD, BAD))), "good -> positive\n\nbad -> negative\n\nso so ->"),
        (PLAIN, Prompt("Judge.", Demonstrations((BAD,))), "Judge.\n\nReview: bad negative\n\nReview: so so"),
        (CHAT, Prompt("Say: {text}!"), (Message("user", "Say: so so!"),)),
        (CHAT, Prompt("Judge."), (Message("system", "Judge."), Message("user", "Review: so so"))),
        (CHAT, Prompt(""), (Message("user", "Review: so so"),)),
        (
            CHAT,
            Prompt("Judge.", Demonstrations((GOOD, BAD))),
            (
                Message("system", "Judge."),
                Message("user", "Review: good"),
                Message("assistant", "positive"),
                Message("user", "Review: bad"),
                Message("assistant", "negative"),
                Message("user", "Review: so so"),
            ),
        ),
        (
            CHAT,
            Prompt("{text}?", Demonstrations((GOOD,))),
            (Message("user", "good?"), Message("assistant", "positive"), Message("user", "so so?")),
        ),
    ],
)
def test_a_prompt_and_an_example_make_a_message(layout: Layout, prompt: Prompt, shown: Context) -> None:
    assert layout.render(prompt, QUERY) == shown


# ---------------------------------------------------------------- demonstrations


def test_the_query_is_never_shown_as_a_demonstration() -> None:
    for nearest in (None, 1, 2):
        shown = Demonstrations((GOOD, BAD), nearest).for_example(item("good", "positive"))
        assert shown == (BAD,)


def test_the_nearest_items_are_shown_the_most_alike_last() -> None:
    items = (
        item("a dull film", "n"),
        item("the actors were lovely", "p"),
        item("lovely music and lovely actors", "p"),
        item("nothing in common", "n"),
    )
    query = item("lovely lovely actors and music")
    assert Demonstrations(items, 2).for_example(query) == (items[1], items[2])
    assert Demonstrations(items, 3).for_example(query)[1:] == (items[1], items[2])


def test_rare_words_weigh_more_than_common_ones_and_ties_go_to_the_first() -> None:
    items = tuple(item(text, "x") for text in ("the the", "zebra", "the one", "the other"))
    assert Demonstrations(items, 1).for_example(item("the zebra")) == (items[1],)
    same = (item("x y", "1", "first"), item("y x", "2", "second"))
    assert Demonstrations(same, 1).for_example(item("x")) == (same[0],)


def test_items_without_a_word_in_common_are_still_shown() -> None:
    assert Demonstrations((GOOD, BAD), 2).for_example(item("???")) == (BAD, GOOD)


def test_demonstrations_must_be_labelled() -> None:
    with pytest.raises(InputError, match="demonstration 'so so' has no target"):
        Demonstrations((GOOD, QUERY))


@pytest.mark.parametrize("nearest", [0, -1, 3])
def test_nearest_must_be_a_number_of_items_that_there_are(nearest: int) -> None:
    with pytest.raises(InputError, match=f"nearest must be between 1 and the 2 demonstrations, not {nearest}"):
        Demonstrations((GOOD, BAD), nearest)


# ---------------------------------------------------------------- one flat text

texts = st.text("abt{ex}\n .", max_size=12)


@given(
    text=texts,
    template=texts.map(lambda text: f"{text}{{text}}"),
    shown=st.lists(st.tuples(texts, texts.filter(bool)), max_size=3),
    query=st.text(min_size=1, max_size=8),
)
def test_a_flat_prompt_says_what_the_prompt_said(
    text: str, template: str, shown: list[tuple[str, str]], query: str
) -> None:
    layout = Layout(("text",), template, "completion")
    items = tuple(item(value, target, f"d{i}") for i, (value, target) in enumerate(shown))
    turn = text if layout.has_slot(text) else template
    written = [f"{layout.fill(turn, demonstration)} {demonstration.target}" for demonstration in items]
    assume(not any(layout.has_slot(part) for part in written))
    prompt = Prompt(text, Demonstrations(items) if items else None)
    flat = layout.flatten(prompt)
    assert flat.demonstrations is None
    example = item(query, name="query")
    assert layout.render(flat, example) == layout.render(prompt, example)


def test_flattening_refuses_what_one_text_cannot_say() -> None:
    with pytest.raises(InputError, match="nearest demonstrations differ"):
        PLAIN.flatten(Prompt("{text}", Demonstrations((GOOD, BAD), 1)))
    with pytest.raises(InputError, match="demonstration 'd' contains a slot"):
        PLAIN.flatten(Prompt("Judge.", Demonstrations((item("write {text}", "x", "d"),))))


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(""),
        Prompt("Größe {text}\n\u2028"),
        Prompt("x", Demonstrations((GOOD, BAD))),
        Prompt("x", Demonstrations((GOOD, BAD), 1)),
    ],
)
def test_a_prompt_survives_json(prompt: Prompt) -> None:
    back = Prompt.from_json(json.loads(json.dumps(prompt.to_json())))
    assert back == prompt
    assert hash(back) == hash(prompt)


@pytest.mark.parametrize("format_", ["chat", "completion"])
def test_nothing_is_lost_of_a_value_with_odd_characters(format_: Literal["chat", "completion"]) -> None:
    value = "\x00{text}\\n%s\r\n\U0001f600"
    shown = Layout(("text",), "{text}", format_).render(Prompt(""), item(value))
    assert (shown if isinstance(shown, str) else shown[-1].content) == value


def test_a_prompt_is_read_with_its_demonstrations() -> None:
    items = (Example({"text": "a joy"}, "great", "1"), Example({"text": "dull"}, "terrible", "2"))

    assert str(Prompt("Label it: {text}")) == "Label it: {text}"
    assert str(Prompt("Label it.", Demonstrations(items, nearest=1))) == (
        "Label it.\n\nwith the 1 nearest of 2 demonstrations before each item:\n  a joy -> great\n  dull -> terrible"
    )


# ---------------------------------------------------------------- what a model is sent


def test_a_prompt_with_a_slot_is_the_users_turn() -> None:
    assert Prompt("Review: {text} {mood}").messages({"text": "so so {text}"}) == [
        {"role": "user", "content": "Review: so so {text} {mood}"}
    ]


def test_a_prompt_without_a_slot_is_the_systems_turn_before_the_template() -> None:
    instruction = {"role": "system", "content": "Sort."}

    assert Prompt("Sort.").messages({"text": "so so"}) == [instruction, {"role": "user", "content": "so so"}]
    assert Prompt("Sort.").messages({"a": "1", "b": "2"})[1] == {"role": "user", "content": "a: 1\nb: 2"}
    assert Prompt("Sort.").messages({"text": "so so"}, template="Review: {text}")[1]["content"] == "Review: so so"


def test_demonstrations_and_turns_come_before_the_input() -> None:
    prompt = Prompt("Sort.", Demonstrations((GOOD, BAD)), (Message("user", "?"), Message("assistant", "!")))

    assert [turn["content"] for turn in prompt.messages({"text": "bad day"})] == [
        "Sort.", "?", "!", "good", "positive", "bad", "negative", "bad day",
    ]  # fmt: skip
    nearest = Prompt("Sort.", Demonstrations((GOOD, BAD), nearest=1))
    assert [turn["content"] for turn in nearest.messages({"text": "bad day"})] == [
        "Sort.",
        "bad",
        "negative",
        "bad day",
    ]


def test_a_completion_is_a_text_and_a_caption_has_its_image() -> None:
    prompt = Prompt("Sort.", Demonstrations((GOOD,)))

    assert prompt.render({"text": "bad"}, template="{text}:", format="completion") == "Sort.\n\ngood: positive\n\nbad:"
    assert Prompt("a {label}").render({"image": "x.png"}, format="caption")[1] == Message("user", "x.png")


@pytest.mark.parametrize(
    ("prompt", "inputs", "message"),
    [
        (Prompt("{text}"), {}, "the inputs have no fields: give {field: text}"),
        (Prompt("{text}"), {"text": 5}, "the field 'text' of the input holds 5: give a text, such as '5'"),
        (
            Prompt("", Demonstrations((GOOD,))),
            {"words": "a"},
            "demonstration 'good' has no field 'words': give the fields",
        ),
        (Prompts({"a": Prompt("x")}), {"text": "a"}, "name one of them, such as prompt['a']; the prompts: a"),
    ],
)
def test_inputs_that_cannot_be_rendered_are_refused(prompt: Prompt, inputs: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        prompt.messages(inputs)
    with pytest.raises(InputError, match=re.escape(message)):
        prompt.render(inputs)


def test_a_caption_needs_its_image() -> None:
    with pytest.raises(InputError, match="the input has no field 'image'"):
        Prompt("a {label}").render({"text": "x"}, format="caption")
