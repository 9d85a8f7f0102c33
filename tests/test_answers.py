from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from promptopt.errors import InputError
from promptopt.parsing.labels import check_labels, named_label

if TYPE_CHECKING:
    from collections.abc import Callable

MOOD = ("negative", "positive")
SPAM = ("spam", "not_spam")
HAM = ("spam", "ham")
TOXIC = ("toxic", "ok")
YES = ("yes", "no")
LETTERS = ("A", "B", "C", "D")
STARS = ("1", "2", "3", "4", "5")
NEWS = ("IT", "Sports", "World", "Business")
GRADES = ("A", "A+", "A-", "A*")
CODE = ("C", "C++", "C#")
CHINESE = ("\u6b63\u9762", "\u8d1f\u9762")
JAPANESE = ("ポジティブ", "ネガティブ")
THAI = ("บวก", "ลบ")
KOREAN = ("긍정", "부정")
NLI = ("entailment", "not_entailment")

READ: list[tuple[tuple[str, ...], list[tuple[str, str | None]]]] = [
    # a negation or a longer phrase gives no opposite
    (SPAM, [("not spam", "not_spam"), ("NOT SPAM!", "not_spam"), ("not-spam", "not_spam"), ("notspam", "not_spam")]),
    (SPAM, [("not\u2013spam", "not_spam"), ("not **spam**", "not_spam"), ("This is notspam.", "not_spam")]),
    (SPAM, [("It is not a spam message", None), ("cannot be spam", None), ("'not_spam'", "not_spam")]),
    (("Spam", "NotSpam"), [("NotSpam", "NotSpam"), ("It is not spam.", "NotSpam"), ("spam", "Spam")]),
    (
        NLI,
        [
            ("Not entailment", "not_entailment"),
            ("non-entailment", None),
            ("No, it is not entailment", "not_entailment"),
        ],
    ),
    (("don't know", "know"), [("don\u2019t know", "don't know"), ("I don\u02bct know.", "don't know")]),
    (TOXIC, [("non-toxic", None), ("non\u2011toxic", None), ("nontoxic", None), ("never toxic", None)]),
    (TOXIC, [("Nothing here is toxic", None), ("That isn't, in my view, toxic", None), ("toxic-free", None)]),
    (
        MOOD,
        [("isn't positive", None), ("isn\u2019t\u00a0positive at all", None), ("neither positive nor negative", None)],
    ),
    (MOOD, [("not positive or negative", None), ("anything but positive", None), ("Hardly positive.", None)]),
    (MOOD, [("It's not positive, it's negative.", "negative"), ("more positive than negative", "positive")]),
    (MOOD, [("Positive? No, negative.", "negative"), ("sentiment: not positive", None), ("unpositive", None)]),
    ((*MOOD, "neutral"), [("neither positive, negative nor neutral", None)]),
    (
        HAM,
        [("doesn\u2019t contain spam", None), ("not_spam", None), ("anti-spam", None), ("spam isn't the label", None)],
    ),
    (HAM, [("Ham, not spam.", "ham"), ("not ham; spam", "spam"), ("ham instead of spam", "ham"), ("spam: no", None)]),
    (("good", "bad"), [("The movie was not bad", None)]),
    # ordinary words count where they are an answer
    (LETTERS, [("This is a tough one.", None), ("The answer is B because a car moves.", "B"), ("A car moves", None)]),
    (LETTERS, [("(B)", "B"), ("B)", "B"), ("B.", "B"), ("b", "B"), ("B) a car", "B"), ("B. Because", "B")]),
    (LETTERS, [("I choose B.", "B"), ("I'd go with option C because", "C"), ("The vitamin is C rich", None)]),
    (LETTERS, [("B is incorrect.", None), ("A is wrong. The answer is C.", "C"), ("Let's see.\n\nB", "B")]),
    (LETTERS, [("A) x\nB) y\nI think B is best", None), ("A) x\nB) y\nAnswer: B", "B"), ("Assistant: B", "B")]),
    (LETTERS, [("A, B", None), ("A or B", None), ("The answer is A or B.", None), ("Both A and B", None)]),
    (LETTERS, [("The answer is not A, it is B.", "B"), ("The answer is A. No, the answer is B.", None)]),
    (LETTERS, [("The answer may be: A. The final answer is B", "B"), ("B\n\nA would be a car", "B")]),
    (NEWS, [("It is about sports", "Sports"), ("It is about IT.", "IT"), ("A story about it.", None), ("it", "IT")]),
    (NEWS, [("IT, because of computers", "IT"), ("IT'S GREAT", None), ("This is the world's best sport", None)]),
    (YES, [("no problem, the answer is yes", "yes"), ("There is no evidence", None), ("Well, no.", "no")]),
    (YES, [("Is it spam? No.", "no"), ("Yes or no", None), ("yes and no.", None), ("No way is this a yes", None)]),
    (("a", "b"), [("a", "a"), ("a cat", None), ("Answer: a car", None), ("Answer: a", "a")]),
    # numbers
    (STARS, [("1.", "1"), ("Rating: 4/5", "4"), ("Rating: 4 out of 5 stars", "4"), ("10", None), ("5.0", None)]),
    (STARS, [("-1", None), ("It has 3 plots", None), ("1. good\n2. bad", None), ("from 1-5", None), ("5%", None)]),
    (("-1", "1"), [("-1", "-1"), ("\u22121", "-1"), ("\u20131", "-1"), ("1", "1"), ("Score: -1", "-1")]),
    (("0.", "1."), [("0.", "0."), ("0", "0."), ("Label: 1", "1.")]),
    # labels with signs
    (("U.K.", "U.S."), [("U.K.", "U.K."), ("UK", "U.K."), ("It is the U.S., I think", "U.S.")]),
    (("'no'", "'yes'"), [("'no'", "'no'"), ("No", "'no'"), ("It says 'yes'.", "'yes'")]),
    (CODE, [("C++", "C++"), ("**C#**", "C#"), ("C", "C"), ("I write C++", "C++"), ("It is C#.", "C#")]),
    (GRADES, [("A+", "A+"), ("**A***", "A*"), ("A-", "A-"), ("a", "A")]),
    (("A", "B"), [("A+", None), ("B-", None)]),
    ((":)", ":("), [(":)", ":)"), ("Nice :(", ":("), ('":)"', ":)")]),
    (("\U0001f44d", "\U0001f44e"), [("\U0001f44d\ufe0f", "\U0001f44d"), ("Great \U0001f44d!", "\U0001f44d")]),
    (("*", "**", "***"), [("*", "*"), ("**", "**"), ("***", "***")]),
    (("Sci/Tech", "World"), [("Sci-Tech", "Sci/Tech"), ("It is sci/tech news", "Sci/Tech")]),
    # markdown, LaTeX, JSON
    (LETTERS, [("**Answer:** B", "B"), ("Answer: **B**", "B"), ("The final answer is $\\boxed{B}$.", "B")]),
    (
        LETTERS,
        [("\\boxed{\\text{B}}", "B"), ("$B$", "B"), ("\\(B\\)", "B"), ("### B", "B"), ("> B", "B"), ("`B`", "B")],
    ),
    (
        ("spam", "ham"),
        [("_spam_", "spam"), ("It is _spam_.", "spam"), ("<label>spam</label>", "spam"), ("- ham", "ham")],
    ),
    (HAM, [('{"label": "spam"}', "spam"), ('```json\n{"label": "ham"}\n```', "ham"), ("```\nham\n```", "ham")]),
    (
        HAM,
        [('{"spam": false, "ham": true}', "ham"), ("Label = spam", "spam"), ("The label is \u201cspam\u201d.", "spam")],
    ),
    (("tech_support", "billing"), [("tech\\_support", "tech_support"), ("Tech Support", "tech_support")]),
    # Unicode
    (("caf\u00e9", "bar"), [("cafe\u0301", "caf\u00e9")]),
    (("cafe\u0301", "bar"), [("caf\u00e9", "cafe\u0301")]),
    (
        MOOD,
        [("\u200bpositive\ufeff", "positive"), ("\uff30\uff2f\uff33itive", "positive"), ("POS\u00adITIVE", "positive")],
    ),
    (CHINESE, [("\u8fd9\u662f\u6b63\u9762\u7684\u8bc4\u4ef7\u3002", CHINESE[0]), ("\u4e0d\u6b63\u9762", None)]),
    (CHINESE, [("\u8fd9\u4e0d\u662f\u6b63\u9762\u7684", None), ("\u975e\u5e38\u6b63\u9762", CHINESE[0])]),
    (("\u540c\u610f", "\u4e0d\u540c\u610f"), [("\u6211\u4e0d\u540c\u610f", "\u4e0d\u540c\u610f")]),
    (LETTERS, [("\u7b54\u6848\u662fB\u3002", "B"), ("\u7b54\u6848\uff1aC", "C")]),
    (JAPANESE, [("これはポジティブです", "ポジティブ"), ("ポジティブではありません", None)]),
    (THAI, [("นี่เป็นบวก", "บวก"), ("ไม่เป็นบวก", None)]),
    (KOREAN, [("답은 긍정입니다.", "긍정"), ("긍정이 아닙니다", None)]),
    # none, or several
    (MOOD, [("", None), ("hm", None), ("positive negative", None), ("Positive/negative", None), ("\ud800", None)]),
    (MOOD, [("positive\n\nReview: dull\nLabel: negative", "positive"), ("Positive, no doubt.", "positive")]),
]


@pytest.mark.parametrize(("labels", "reply", "label"), [(x, *each) for x, rows in READ for each in rows])
def test_the_label_that_a_reply_names_whatever_the_order_of_labels(
    labels: tuple[str, ...], reply: str, label: str | None
) -> None:
    assert {named_label(reply, order) for order in (labels, labels[::-1], sorted(labels))} == {label}


WORD_SETS = [*dict.fromkeys(labels for labels, _ in READ)]
WRAPPERS: list[Callable[[str], str]] = [
    lambda x: x,
    lambda x: f"  {x}\n",
    lambda x: f"\u00a0{x}\u200b",
    lambda x: f'"{x}"',
    lambda x: f"\u201c{x}\u201d",
    lambda x: f"**{x}**",
    lambda x: f"`{x}`",
    lambda x: f"```\n{x}\n```",
    lambda x: f"# {x}",
    lambda x: f'{{"label": "{x}"}}',
    lambda x: f"Answer: {x}",
    lambda x: f"**Answer:** {x}",
    lambda x: f"The answer is {x}.",
    lambda x: f"\\boxed{{{x}}}",
    lambda x: f"Let me think about this one.\n\nFinal answer: {x}",
]


@given(st.sampled_from(WORD_SETS), st.data())
def test_a_label_names_itself_in_any_case_and_wrapper(labels: tuple[str, ...], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    cases: list[Callable[[str], str]] = [str, str.upper, str.lower, str.title]
    case = data.draw(st.sampled_from(cases))
    wrapper = data.draw(st.sampled_from(WRAPPERS))
    if label.strip("*") and "*" not in label:
        assert named_label(wrapper(case(label)), labels) == label


@pytest.mark.parametrize("label", ["◁THINK▷", "<think>", "</think>"])
def test_a_label_that_marks_thinking_is_refused(label: str) -> None:
    with pytest.raises(InputError, match="marks a model's thinking"):
        check_labels(["yes", label])


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True))
def test_whatever_the_labels_are_each_names_itself_or_they_are_refused(labels: list[str]) -> None:
    try:
        check_labels(labels)
    except InputError:
        assume(condition=False)
    assert [named_label(label, labels) for label in labels] == labels
    assert [named_label(f" {label}\n", labels) for label in labels] == labels


@given(
    st.sampled_from([MOOD, TOXIC, HAM, NLI, ("agree", "disagree")]),
    st.sampled_from(
        ["not {}", "It is not {}.", "isn't {}", "This is never {}", "non-{}", "neither {} nor that", "It's hardly {}"]
    ),
    st.data(),
)
def test_a_negated_label_is_never_named(labels: tuple[str, ...], negation: str, data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    assert named_label(negation.format(label), labels) != label


PIECES = st.sampled_from(
    ["a", "A", "not", "spam", "not_spam", " ", "\n", ".", ",", "**", "_", '"', "(", ")", "answer is", ":", "不", "正面"]
)


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), st.sampled_from(WORD_SETS))
def test_any_text_can_be_read_and_the_order_of_labels_does_not_matter(text: str, labels: tuple[str, ...]) -> None:
    assert named_label(text, labels) == named_label(text, labels[::-1])


@pytest.mark.parametrize(
    "piece", ["spam or ", "A, ", "*a", "(", "\\text{", "answer is ", "\n", "not ", "\u6b63\u9762\u4e0d"]
)
def test_a_very_long_reply_is_read(piece: str) -> None:
    named_label(piece * (100_000 // len(piece)), ("spam", "not_spam", "A", *CHINESE))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("", "yes"), "the label '' is empty"),
        ((" ", "yes"), "the label ' ' is empty"),
        (("\u200b", "yes"), r"the label '\u200b' is empty"),
        (("yes", "Yes"), "the labels 'yes' and 'Yes' cannot be told apart"),
        (("yes", " yes"), "the labels 'yes' and ' yes' cannot be told apart"),
        (("yes", "**yes**"), "the labels 'yes' and '**yes**' cannot be told apart"),
        (("yes", "no", "yes."), "the labels 'yes' and 'yes.' cannot be told apart"),
        (("caf\u00e9", "cafe\u0301"), r"the labels 'caf\xe9' and 'cafe\u0301' cannot be told apart"),
        (("don't", "don\u2019t"), "the labels \"don't\" and 'don\u2019t' cannot be told apart"),
        (("not_spam", "not spam"), "the labels 'not_spam' and 'not spam' cannot be told apart"),
    ],
)
def test_labels_that_no_reply_can_tell_apart_are_refused(labels: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        check_labels(labels)


@pytest.mark.parametrize(
    "labels", [*WORD_SETS, ("+", "-"), ("\u2605", "\u2605\u2605"), ("1-2", "12"), ("<pos>", "<neg>")]
)
def test_labels_that_a_reply_can_tell_apart_are_taken(labels: tuple[str, ...]) -> None:
    check_labels(labels)
