from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import InputError
from promptopt.prompt import Demonstrations, Example, Layout, Message, Prompt
from promptopt.search.tokens import sections, tokenize, words

LAYOUT = Layout(("text", "hint"), "Review: {text}", "completion")
SLOTS = ("{text}", "{hint}")
GOOD = Example({"text": "fine film", "hint": "a"}, "positive", "g")
BAD = Example({"text": "dull film", "hint": "b"}, "negative", "b")

texts = st.lists(st.one_of(st.text(), st.sampled_from(SLOTS))).map("".join)


@given(st.text())
def test_words_join_to_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(text))


def test_words_and_marks_stand_alone_with_the_space_before_them() -> None:
    assert words("Hello,  wide world!\n") == ["Hello", ",", "  wide", " world", "!", "\n"]
    assert words("") == []
    assert words(" \n") == [" \n"]


@given(texts)
def test_tokens_join_to_the_text_and_the_slots_alone_are_frozen(text: str) -> None:
    tokens = tokenize(Prompt(text), LAYOUT, words)

    assert tokens.prompt(tokens.full()) == Prompt(text)
    assert "".join(tokens.pieces) == LAYOUT.flatten(Prompt(text)).text
    frozen = [piece for piece, kept in zip(tokens.pieces, tokens.frozen, strict=True) if kept]
    assert frozen == LAYOUT.split("".join(tokens.pieces))[1::2]
    assert frozen
    assert all(tokens.pieces)
    assert sorted([*tokens.prunable.tolist(), *np.flatnonzero(tokens.frozen).tolist()]) == list(range(len(tokens)))


@given(texts, st.integers(0))
def test_no_mask_takes_a_slot_away(text: str, seed: int) -> None:
    tokens = tokenize(Prompt(text), LAYOUT, words)
    mask = np.random.default_rng(seed).random(len(tokens)) < 0.5
    slots = [piece for piece in tokens.pieces if piece in SLOTS]

    assert LAYOUT.split(sections(tokens.prompt(mask), LAYOUT)[-1].content)[1::2] == slots
    assert tokens.prompt(np.zeros(len(tokens), dtype=np.bool_)).text == "".join(slots)


def test_a_mask_keeps_the_tokens_that_it_marks() -> None:
    tokens = tokenize(Prompt("Is {text} good ?"), LAYOUT, words)
    mask = tokens.full()
    mask[3] = False

    assert tokens.pieces == ("Is", " ", "{text}", " good", " ?")
    assert tokens.prunable.tolist() == [0, 1, 3, 4]
    assert tokens.prompt(mask).text == "Is {text} ?"
    assert tokens.full().all()  # masks are not shared


def test_a_prompt_without_slots_gets_the_template() -> None:
    tokens = tokenize(Prompt("Judge."), LAYOUT, words)

    assert "".join(tokens.pieces) == "Judge.\n\nReview: {text}"


def test_demonstrations_are_written_out_and_may_be_taken_away() -> None:
    prompt = Prompt("{text} is", Demonstrations((GOOD, BAD)))
    tokens = tokenize(prompt, LAYOUT, words)

    assert tokens.prompt(tokens.full()) == prompt
    assert "".join(tokens.pieces) == "fine film is positive\n\ndull film is negative\n\n{text} is"
    assert tokens.prompt(tokens.frozen).text == "{text}"


def test_a_models_own_pieces_are_cut_around_the_slots() -> None:
    tokens = tokenize(Prompt("ab{text}c{hint}"), LAYOUT, list)

    assert tokens.pieces == ("a", "b", "{text}", "c", "{hint}")
    assert tokens.frozen.tolist() == [False, False, True, False, True]


def test_demonstrations_that_differ_from_example_to_example_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="use fixed ones"):
        tokenize(Prompt("{text}", Demonstrations((GOOD, BAD), nearest=1)), LAYOUT, words)


CHAT = Layout(("text", "hint"), "Review: {text}", "chat")
SHOWN = Prompt("Judge well.", Demonstrations((GOOD, BAD)))


def without(prompt: Prompt, *gone: str) -> Prompt:
    tokens = tokenize(prompt, CHAT, words)
    return tokens.prompt(np.array([piece.strip() not in gone for piece in tokens.pieces]))


def test_the_seed_prompt_of_a_chat_is_one_candidate_and_its_turns_are_what_is_cut() -> None:
    tokens = tokenize(SHOWN, CHAT, words)

    assert tokens.prompt(tokens.full()) is SHOWN
    assert "".join(tokens.pieces) == "Judge well.Review: fine filmpositiveReview: dull filmnegativeReview: {text}"
    assert tokens.section == (0,) * 3 + (1,) * 4 + (2,) + (3,) * 4 + (4,) + (5,) * 4


def shown(*items: Example) -> tuple[Message, ...]:
    return tuple(turn for turn in CHAT.messages(SHOWN, items) if isinstance(turn, Message))


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (("well",), Prompt("Judge.", turns=shown(GOOD, BAD)[1:5])),
        (("Judge", "well", "."), Prompt("Review: {text}", turns=shown(GOOD, BAD)[1:5])),
        (("positive",), Prompt("Judge well.", turns=shown(BAD)[1:3])),
        (("Review", ":", "dull", "film"), Prompt(" {text}", turns=(
            Message("system", "Judge well."), Message("user", " fine"), Message("assistant", "positive"),
        ))),
        (("positive", "negative"), Prompt("Judge well.")),
    ],
)  # fmt: skip
def test_a_pruned_chat_stays_a_chat_and_a_demonstration_without_one_of_its_sides_is_left_out(
    gone: tuple[str, ...], left: Prompt
) -> None:
    assert without(SHOWN, *gone) == left


def test_a_pruned_chat_is_pruned_again_as_the_chat_that_it_is() -> None:
    once = without(SHOWN, "well")
    again = tokenize(once, CHAT, words)

    assert again.prompt(again.full()) is once
    assert CHAT.render(without(once, "positive"), BAD)[1:] == (
        Message("user", "Review: dull film"), Message("assistant", "negative"), Message("user", "Review: dull film"),
    )  # fmt: skip


def test_turns_are_saved_and_shown() -> None:
    once = without(SHOWN, "well")

    assert Prompt.from_json(once.to_json()) == once
    assert str(once).startswith("user: Review: fine film\n\nassistant: positive")
    assert "turns" not in SHOWN.to_json()
