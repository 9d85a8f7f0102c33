from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from promptopt.errors import InputError
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Demonstrations, Example, Prompt, default_template
from promptopt.rewards import Exact, Label, LabelMargin, Number
from promptopt.task import Task


def item(text: str, target: str | None = "yes", name: str = "", **more: str) -> Example:
    return Example({"text": text, **more}, target, name or text)


def task(**settings: Any) -> Task:
    return Task(**{"train": (item("a"), item("b", "no")), "seed_prompt": Prompt("Answer yes or no."), **settings})


def untyped(make: Any) -> Any:
    """As those call it who have no type checker."""
    return make


def test_a_task_fills_in_what_follows_from_the_rest() -> None:
    plain = task()
    assert (plain.fields, plain.template, plain.reward) == (("text",), "{text}", Exact())
    labelled = task(labels=("yes", "no"))
    assert labelled.reward == Label(("yes", "no"))
    assert task(labels=("yes", "no"), reward=LabelMargin(("yes", "no"))).reward == LabelMargin(("yes", "no"))


def test_a_default_reward_follows_what_it_was_made_from_and_a_given_one_stays() -> None:
    labelled = task(labels=("yes", "no"))
    assert replace(labelled, labels=("no", "yes")).reward == Label(("no", "yes"))
    assert replace(replace(labelled, name="b"), labels=()).reward == Exact()
    assert (
        replace(labelled, reward=Exact()).reward
        == replace(task(reward=Exact()), labels=("yes", "no")).reward
        == Exact()
    )


def test_lists_become_tuples() -> None:
    made = task(train=[item("a")], labels=["yes", "no"], stop=["\n"])
    assert (made.train, made.labels, made.stop) == ((item("a"),), ("yes", "no"), ("\n",))


def test_a_template_names_each_field_where_there_are_several() -> None:
    assert default_template(("question", "hint")) == "question: {question}\nhint: {hint}"
    assert default_template(("question",)) == "{question}"


def test_data_without_labels_is_allowed() -> None:
    assert task(train=(item("a", None),), labels=("yes", "no")).train[0].target is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train": ()}, "the task has no training examples"),
        ({"train": (Example({}, "yes", "a"),)}, "the example 'a' has no input fields: give at least one"),
        (
            {"format": "text"},
            "format must be 'chat', 'completion' or (for a model that compares images with texts) 'caption', not 'text'",
        ),
        ({"labels": ("yes", "yes")}, "contain a label twice"),
        (
            {"labels": ("yes", "no"), "reward": Label(("Yes", "No"))},
            "the reward Label has the labels ['Yes', 'No'], but the task has ['yes', 'no']: give both the same labels",
        ),
        ({"labels": ("yes", "no"), "reward": LabelMargin(("yes", "no", "?"))}, "the reward LabelMargin has the labels"),
        (
            {"labels": ("yes", " Yes"), "train": (item("a"),)},
            "the labels 'yes' and ' Yes' cannot be told apart in a reply",
        ),
        ({"labels": ("", "yes"), "train": (item("a"),)}, "the label '' is empty"),
        (
            {"train": (item("a", "7"), item("b", "7 or 8")), "reward": Number()},
            "example 'b' has the target '7 or 8', which contains 2 numbers: give one number",
        ),
        (
            {"train": (item("a", "7"),), "test": (item("b", "seven"),), "reward": Number()},
            "example 'b' has the target 'seven'",
        ),
        ({"labels": ("yes",)}, "give two or more labels, or none for free text, not ['yes']"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1 (all tokens), not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1 (all tokens), not 1.5"),
        ({"top_p": float("nan")}, "top_p must be above 0"),
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"seed_prompt": "Answer."}, "seed_prompt must be a Prompt, such as Prompt('...'), not 'Answer.'"),
        (
            {"seed_prompt": untyped(Prompt)("Answer.", [item("c")])},
            "demonstrations must be Demonstrations((example, ...)), not [",
        ),
        ({"labels": "yes"}, "labels must be several texts, such as ('yes', 'no'), not 'yes'"),
        ({"labels": (0, 1)}, "labels must be several texts, such as ('yes', 'no'), not 0"),
        ({"stop": "."}, "stop must be several texts"),
        ({"reward": "exact"}, "reward must be a reward such as Exact(), or a function, not 'exact'"),
        (
            {"train": ({"text": "a"},)},
            "every example must be an Example, such as Example({'text': '...'}, 'yes', '1'), not {'text': 'a'}",
        ),
        ({"train": (untyped(Example)("a", "yes", "c"),)}, "the inputs of example 'c' must be {field: text}, not 'a'"),
        (
            {"train": (untyped(Example)({"text": 5}, "yes", "c"),)},
            "example 'c' holds 5: inputs, target and id must be texts, such as '5'",
        ),
        ({"train": (untyped(item)("a", 1),)}, "example 'a' holds 1: inputs, target and id must be texts"),
        ({"train": (untyped(item)("a", name=7),)}, "example 7 holds 7"),
        ({"top_k": -1}, "top_k must be 1 or more, or 0 for all tokens, not -1"),
        ({"template": "Review:"}, "the template 'Review:' has no slot: name a field, such as {text}"),
        ({"template": "Review: {txt}"}, "the template has the slot {txt}, but the data has no such field, did you"),
        ({"seed_prompt": Prompt("Is {txet} good?")}, "the seed prompt has the slot {txet}"),
        ({"test": (item("a"),)}, "the id 'a' is used in train and in test: ids must be unique"),
        ({"train": (item("a"), item("x", name="a"))}, "the id 'a' is used in train and in train"),
        ({"validation": (Example({"body": "c"}, "yes", "c"),)}, "validation example 'c' has no field 'text'"),
        (
            {"labels": ("yes", "no"), "test": (item("c", "yse"),)},
            "test example 'c' has the label 'yse', which is not one of ['yes', 'no'], did you mean 'yes'?",
        ),
        (
            {"seed_prompt": Prompt("x", Demonstrations((Example({"body": "c"}, "yes", "c"),)))},
            "demonstration 'c' has no field 'text'",
        ),
        (
            {"labels": ("yes", "no"), "seed_prompt": Prompt("x", Demonstrations((item("c", "maybe"),)))},
            "demonstration 'c' has the label 'maybe', which is not one of ['yes', 'no']",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        task(**settings)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["no slot", "{text}", '{text} as {"json": 1}', "{text} {}", "{text} {other}"])
def test_braces_that_cannot_be_meant_as_slots_are_text(text: str) -> None:
    check_slots(text, ("text",), "here")


@pytest.mark.parametrize("text", ["{other}", "{text} {txt}", "{text} {input}", "{sentence}"])
def test_a_slot_that_looks_meant_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"here has the slot .* but the data has no such field.*fields: text"):
        check_slots(text, ("text",), "here")
