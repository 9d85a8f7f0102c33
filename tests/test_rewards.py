from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import InputError
from promptopt.evaluation.verdicts import verdict
from promptopt.models.fake import FakeModel
from promptopt.prompt import Example
from promptopt.replies import Response
from promptopt.rewards import (
    Contains,
    Exact,
    Judge,
    Label,
    LabelLikelihood,
    LabelMargin,
    Matches,
    Number,
    Reward,
    TokenF1,
    last_number,
    named_label,
    reward_named,
    softmax,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MOOD = ("negative", "positive")


def worth(reward: Reward, target: str | None, text: str) -> float:
    return verdict(reward, Example({"text": "x"}, target, "e"), Response(text)).reward


def why(reward: Reward, target: str, text: str) -> str:
    value = reward(Example({"text": "x"}, target, "e"), Response(text))
    assert isinstance(value, tuple)
    return value[1]


def by_logprobs(reward: Reward, target: str, logprobs: Sequence[float]) -> float:
    return verdict(reward, Example({"text": "x"}, target, "e"), Response("", tuple(logprobs))).reward


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("reward", "target", "text", "value"),
    [
        (Exact(), "Paris", " paris\n", 1),
        (Exact(), "Straße", "STRASSE", 1),
        (Exact(), "Paris", "Paris.", 0),
        (Contains(), " Paris ", "It is PARIS.", 1),
        (Contains(), "Paris", "It is Rome.", 0),
        (TokenF1(), "the red fox", "The fox!", 0.8),
        (TokenF1(), "a a b", "a b b", 2 / 3),
        (TokenF1(), "fox", "dog", 0),
        (TokenF1(), "fox", "", 0),
        (Matches(r"is (\w+)"), "Rome", "It is Rome.", 1),
        (Matches(r"is (\w+)"), "Rome", "It is Paris, is Rome", 0),
        (Matches(r"\d+"), "12", "about 12 or 13", 1),
        (Matches(r"is (\w+)"), "Rome", "no", 0),
        (Matches(r"(x)|y"), "y", "y", 0),
    ],
)
def test_a_text_is_compared_with_the_target(reward: Reward, target: str, text: str, value: float) -> None:
    assert worth(reward, target, text) == pytest.approx(value)


def test_a_pattern_says_what_it_found() -> None:
    assert why(Matches(r"is (\w+)"), "Rome", "It is Paris") == "found 'Paris', wanted 'Rome'"
    assert why(Matches(r"is (\w+)"), "Rome", "Paris") == r"nothing in the reply matches is (\w+)"
    assert why(Matches(r"is (\w+)"), "Rome", "It is Rome") == ""


@pytest.mark.parametrize(
    "reward",
    [Exact(), Contains(), Matches("x"), Number(), TokenF1(), Label(MOOD), LabelMargin(MOOD), LabelLikelihood(MOOD)],
)
def test_every_built_in_reward_asks_for_a_target(reward: Reward) -> None:
    with pytest.raises(InputError, match="example 'e' has no target, which this reward needs"):
        worth(reward, None, "x")


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", 18),
        ("3 + 4 = 7.", 7),
        ("$1,234,567.50 in all", 1234567.5),
        ("-4", -4),
        ("it is -1,000.", -1000),
        ("so .5 remains", 0.5),
        ("-.25", -0.25),
        ("12, or rather 13,", 13),
        ("80%", 80),
        ("x = 9\n\n", 9),
        ("10-6", 6),
        ("from 2019-2024", 2024),
        ("(3,4)", 4),
        ("1,2,3", 3),
        ("1234,567", 567),
        ("1,2345", 2345),
        ("3.0", 3),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["", "none", "-", ".", ",", "five"])
def test_a_text_without_a_number_has_none(text: str) -> None:
    assert last_number(text) is None


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "It is {:,}.", "{}.0", "a 7 and {:,}"]))
def test_a_whole_number_is_read_however_it_is_written(number: int, form: str) -> None:
    assert last_number(form.format(number)) == number


def test_numbers_are_compared_by_value() -> None:
    assert worth(Number(), "a chain of 5 steps #### 1,000", "So 1000.00") == 1
    assert worth(Number(), "3", "4, no: 3") == 1
    assert why(Number(), "3", "it is 4") == "said 4, wanted 3"
    assert why(Number(), "3", "no idea") == "the reply holds no number"
    with pytest.raises(InputError, match="example 'e' has the target 'three', which contains no number"):
        worth(Number(), "three", "3")


@pytest.mark.parametrize(
    ("target", "reply", "value"),
    [
        ("1/2", "2", 0),
        ("1/2", "0.5", 1),
        ("-5", "The answer is \u22125.", 1),
        ("50", "50%", 1),
        ("0.5", "50%", 0),
        ("3 + 4 = 7\n#### 7", "7", 1),
        ("so 1 + 1 = $\\boxed{2}$", "2", 1),
        ("1e400", "1e400", None),
        ("5 or 6", "6", None),
        ("#### 5 or 6", "6", None),
        ("The sum of 2 and 3 is 5.", "5", None),
    ],
)
def test_a_target_has_exactly_one_number(target: str, reply: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(InputError, match=r"which contains .*give one number, or a solution that ends in '#### N'"):
            worth(Number(), target, reply)
    else:
        assert worth(Number(), target, reply) == value


# ---------------------------------------------------------------- labels

NESTED = ("positive", "not positive", "very positive")


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("positive", MOOD, "positive"),
        (" **Positive.** ", MOOD, "positive"),
        ("The label is: POSITIVE!", MOOD, "positive"),
        ("Negative. It is far from positive.", MOOD, "negative"),
        ("neither positive nor negative", MOOD, None),
        ("positively", MOOD, None),
        ("nonnegative", MOOD, None),
        ("", MOOD, None),
        ("I think so", MOOD, None),
        ("not positive", NESTED, "not positive"),
        ("It is not positive", NESTED, "not positive"),
        ("It is positive", NESTED, "positive"),
        ("very positive, not positive", NESTED, "very positive"),
        ("It is positive and not positive", NESTED, None),
        ("World", ("World", "World news"), "World"),
        ("world news", ("World", "World news"), "World news"),
        ("C++", ("C", "C++"), "C++"),
        ("I write C++", ("C", "C++"), "C++"),
        ("0.", ("0", "1"), "0"),
        ("10", ("0", "1"), None),
        ("a.c", ("abc", "a.c"), "a.c"),
        ("STRASSE", ("Straße", "Weg"), "Straße"),
    ],
)
def test_the_label_that_a_reply_names(text: str, labels: tuple[str, ...], label: str | None) -> None:
    assert named_label(text, labels) == label


def test_a_label_reward_reads_text() -> None:
    assert worth(Label(MOOD), "positive", "Positive, I would say") == 1
    assert worth(Label(MOOD), "positive", "negative") == 0
    assert why(Label(MOOD), "positive", "negative") == "said negative, wanted positive"
    assert why(Label(MOOD), "positive", "hm") == "the reply names none or several of the labels negative, positive"


@pytest.mark.parametrize(
    ("text", "value"), [("", 1.0), ("positive", 1.0), ("negative", 0.0), ("The film is long.", 0.0)]
)
def test_the_text_decides_whatever_log_probabilities_say(text: str, value: float) -> None:
    example, reply = Example({"text": "x"}, "positive", "e"), Response(text, (-2.0, -1.0), labels=MOOD)

    assert Label(MOOD)(example, reply)[0] == value


@pytest.mark.parametrize("reward", [Label(MOOD), Label(MOOD[::-1]), LabelMargin(MOOD), LabelMargin(MOOD[::-1])])
def test_log_probabilities_are_taken_by_the_names_of_the_labels(reward: Reward) -> None:
    named = Response("", (-0.1, -2.5), labels=("positive", "negative"))

    assert verdict(reward, Example({"text": "x"}, "positive", "e"), named).reward > 0


@pytest.mark.parametrize("reward", [Label(MOOD), LabelMargin(MOOD)])
@pytest.mark.parametrize(
    ("logprobs", "labels", "said"),
    [
        (
            (-1.0, -2.0),
            ("good", "negative"),
            "no log-probability of the label 'positive', only of ['good', 'negative']",
        ),
        ((-1.0, -2.0, -3.0), (), "the response has 3 log-probabilities for the labels ['negative', 'positive']"),
    ],
)
def test_log_probabilities_of_other_labels_are_refused(
    reward: Reward, logprobs: tuple[float, ...], labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        reward(Example({"text": "x"}, "positive", "e"), Response("", logprobs, labels=labels))


# ---------------------------------------------------------------- margins


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_tie_is_a_gap_of_zero_for_every_label(count: int) -> None:
    labels = tuple("abcde"[:count])
    for target in labels:
        assert by_logprobs(LabelMargin(labels), target, [-1.5] * count) == 0


def test_the_target_is_masked_by_its_place_and_not_by_its_value() -> None:
    a, b, c = 0.4, 0.4, 0.2  # the target ties with another: that one stays in the maximum
    logs = [math.log(p) for p in (a, b, c)]
    reward = LabelMargin(("a", "b", "c"))
    assert by_logprobs(reward, "a", logs) == pytest.approx(0, abs=1e-12)
    assert by_logprobs(reward, "c", logs) == pytest.approx(180 * (0.2 - 0.4))


def test_a_margin_weighs_right_and_wrong_differently() -> None:
    logs = [math.log(0.7) - 3, math.log(0.3) - 3]  # normalised over the vocabulary, not over the labels
    assert by_logprobs(LabelMargin(MOOD), "negative", logs) == pytest.approx(200 * 0.4)
    assert by_logprobs(LabelMargin(MOOD), "positive", logs) == pytest.approx(180 * -0.4)
    assert by_logprobs(LabelMargin(MOOD, wrong=1, right=1), "positive", logs) == pytest.approx(-0.4)


def test_a_likelihood_is_among_the_labels_and_has_a_floor() -> None:
    logs = [math.log(0.7) - 3, math.log(0.3) - 3]  # normalised over the vocabulary, not over the labels
    assert by_logprobs(LabelLikelihood(MOOD), "negative", logs) == pytest.approx(math.log(0.7))
    assert by_logprobs(LabelLikelihood(MOOD), "positive", logs) == pytest.approx(math.log(0.3))
    assert by_logprobs(LabelLikelihood(MOOD, floor=0.4), "positive", logs) == pytest.approx(math.log(0.4))
    votes = [worth(LabelLikelihood(MOOD), "positive", text) for text in ("Positive.", "negative", "hm")]
    assert votes == pytest.approx([0, math.log(0.01), math.log(0.01)])
    with pytest.raises(InputError, match="floor must be a probability between 0 and 1, not 0"):
        LabelLikelihood(MOOD, floor=0)


@given(st.lists(st.floats(-1000, 0), min_size=2, max_size=6), st.data())
def test_a_margin_lies_between_its_factors_and_its_sign_says_who_is_likeliest(
    logs: list[float], data: st.DataObject
) -> None:
    labels = tuple("abcdef"[: len(logs)])
    y = data.draw(st.integers(0, len(logs) - 1))
    value = by_logprobs(LabelMargin(labels), labels[y], logs)
    assert -180 <= value <= 200
    others = max(logs[:y] + logs[y + 1 :])
    if value > 0:
        assert logs[y] > others
    if value < 0:
        assert logs[y] < others


def test_a_text_votes_so_that_the_mean_is_the_margin_of_the_shares() -> None:
    even = LabelMargin(MOOD, wrong=1, right=1)
    votes = [worth(even, "positive", text) for text in ("positive", "Positive.", "negative", "hm")]
    assert votes == [1, 1, -1, -1]
    assert (worth(LabelMargin(MOOD), "positive", "positive"), worth(LabelMargin(MOOD), "positive", "x")) == (200, -180)


def test_a_margin_needs_two_labels() -> None:
    with pytest.raises(InputError, match=r"two labels or more, not \['a'\]"):
        LabelMargin(("a",))


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_softmax_sums_to_one_and_does_not_overflow(logits: list[float]) -> None:
    assert math.fsum(softmax(logits)) == pytest.approx(1)


# ---------------------------------------------------------------- by name and by judge


@pytest.mark.parametrize(
    ("name", "reward"),
    [
        ("exact", Exact()),
        ("contains", Contains()),
        ("number", Number()),
        ("f1", TokenF1()),
        ("label", Label(MOOD)),
        ("margin", LabelMargin(MOOD)),
        ("regex:a:b", Matches("a:b")),
    ],
)
def test_a_reward_has_a_name(name: str, reward: Reward) -> None:
    assert reward_named(name, MOOD) == reward


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nubmer", "unknown reward 'nubmer', did you mean 'number'?; known: exact, contains, number"),
        ("label", "the reward 'label' needs the task's labels"),
        ("margin", "the reward 'margin' needs the task's labels"),
        ("regex", "needs its pattern after a colon"),
        ("regex:", "needs its pattern after a colon"),
        ("regex:(", "the reward's pattern '(' is not a valid regular expression"),
    ],
)
def test_a_reward_that_there_is_not_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        reward_named(name)
    assert said in str(caught.value)


JUDGE = Judge(FakeModel(lambda _: ""), "be brief")


@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("Clear.\nScore: 7", 0.7),
        ("score:10", 1.0),
        ("**Score:** 8/10", 0.8),
        ("Score: **6**", 0.6),
        ("Score: 0", 0.0),
        ("Score: 7.5", 0.75),
        ("Score: 2 was my first thought.\nScore: 9", 0.9),
    ],
)
def test_a_verdict_is_read(verdict: str, score: float) -> None:
    read = JUDGE.read(verdict)
    assert read is not None
    assert read == (score, verdict.strip())


@pytest.mark.parametrize("verdict", ["", "Seven of ten", "Score: high", "Score: 11", "Score: -3", "7"])
def test_a_verdict_without_a_score_from_0_to_10_is_none(verdict: str) -> None:
    assert JUDGE.read(verdict) is None


def test_a_judge_is_shown_criteria_input_reference_and_reply() -> None:
    question = Example({"q": "2+2?", "hint": "even"}, "4", "e")
    shown = "\n".join(turn[1] for turn in JUDGE.context(question, Response("five")))
    for part in ("be brief", "q: 2+2?", "hint: even", "Reference answer:\n4", "Reply to grade:\nfive"):
        assert part in shown
    unlabelled = Example({"q": "2+2?"}, None, "e")
    assert "Reference" not in "\n".join(turn[1] for turn in JUDGE.context(unlabelled, Response("five")))
