"""Slots that look meant, in the marks of other tools, and text that only looks like them."""

from __future__ import annotations

import pytest

from promptopt.errors import InputError
from promptopt.parsing.slots import check_slots

FIELDS = ("text", "rating")


@pytest.mark.parametrize(
    "slot",
    [
        "{{text}}", "{{ text }}", "{{ item.text | trim }}", "{{$json.text}}", "${text}", "{text!r}", "{text:>10}",
        "{text!s:20}", "{text[0]}", "{text.strip()}", "%(text)s", "[[text]]", "<<text>>", "<text>", "$text", "%text%",
        "{ text }", "{{TEXT}}",
    ],
)  # fmt: skip
def test_another_tools_slot_is_refused_with_the_way_to_write_it(slot: str) -> None:
    with pytest.raises(
        InputError, match=r"the prompt has .* the slot syntax of another tool: write \{text\}; fields: text"
    ):
        check_slots(f"Classify {slot} now", FIELDS, "the prompt")


@pytest.mark.parametrize("slot", ["{{input}}", "${sentence}", "<<input>>"])
def test_a_usual_slot_of_others_is_refused_where_the_text_has_none_of_its_own(slot: str) -> None:
    with pytest.raises(InputError, match="the slot syntax of another tool"):
        check_slots(f"Classify {slot} now", FIELDS, "the prompt")


def test_a_usual_name_in_marks_is_text_beside_a_slot_of_ones_own() -> None:
    check_slots("Classify {text}, as in <input>", FIELDS, "the prompt")


@pytest.mark.parametrize(
    "text",
    [
        "Classify {text}",
        '{text}\nReply with JSON such as {{"a": 1}}',
        r"Write \textbf{{text}} about {text}",
        "<text>{text}</text>",
        "<text>\n{text}",
        "It costs $5 and 20% of {text}",
        "f(x) = {x} for {text}",
        "Say positive or negative.",
        "{}",
        "{ }",
    ],
)
def test_what_has_another_meaning_is_text(text: str) -> None:
    check_slots(text, FIELDS, "the prompt")


def test_a_tag_of_the_template_is_no_slip() -> None:
    check_slots("Read what <text> holds", FIELDS, "the prompt", "<text>{text}</text>")


@pytest.mark.parametrize(
    ("slot", "near"), [("{Text}", "text"), ("{ratng}", "rating"), ("{review}", "fields: text, rating")]
)
def test_a_slip_in_a_fields_name_names_the_nearest(slot: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        check_slots(f"Classify {slot}", FIELDS, "the prompt")


@pytest.mark.parametrize(("character", "says"), [("\ud83d", "an unpaired surrogate"), ("\x00", "NUL character")])
def test_a_character_that_no_request_holds_is_named_with_its_place(character: str, says: str) -> None:
    with pytest.raises(InputError, match=f"the prompt holds .*{says}.*at 4" if character == "\x00" else says):
        check_slots(f"Say {character}", FIELDS, "the prompt")
