"""Parses the label that a reply names. Knows nothing of examples, rewards or models.

The reply and the labels are first normalized (`plain_text.plain`, then case folding). The first of these steps that finds
a label decides:

1. The whole reply is a label, ignoring wrappers and full stops; or the first line is, unless the second is another label.
2. A label follows a marker such as `Answer:`, `the label is` or `"label":`. Markers that say "final" take precedence.
3. The reply starts with a label, as in `B) because ...` or `Negative. It is ...`.
4. The last line is a label.
5. The reply mentions exactly one label, as whole words. Negated mentions do not count (`not spam`, `isn't spam`, `spam is
   wrong`). A label that is an ordinary word (`A`, `it`, `no`, a number) counts only in the position of an answer: between
   punctuation, in quotes, or after a word such as `is` or `choose`.

If labels contain one another, the longest match counts. Words of a label may be joined by spaces, hyphens or underscores.
If a step finds several labels, or no step finds any, the reply names no label.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.parsing.plain_text import plain
from promptopt.parsing.thinking import split_thinking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

_PAIRS = {'"': '"', "'": "'", "*": "*", "_": "_", "$": "$", "(": ")", "[": "]", "{": "}", "<": ">"}
_MOST_WRAPPERS = 8
_STOPS = ".,;:!?\u3002\u3001"
_CONTEXT_BEFORE = 80  # characters before a mention that are searched for its negation or marker
_CONTEXT_AFTER = 16  # and after it
_MOST_MENTIONS = 200  # at each end of a reply; a reply with more is degenerate repetition

# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_KATAKANA = "\u30a0-\u30ff"
_UNSPACED = rf"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u309f{_KATAKANA}\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W_{_UNSPACED}]"
_JOINT = r"[\s_/\-\".]"
_JOINTS = re.compile(rf"(?<=[^\W\d_]){_JOINT}{{1,3}}(?=[^\W_])|(?<=\d){_JOINT}{{1,3}}(?=[^\W\d_])")

_FUNCTION_WORDS = (
    "a about above after all am an and any are as at be been both but by can could did do does else for from had "
    "has have he her here his how i if in into is it its just may me might more most must my neither no nor not "
    "none now of off on one only or other others our out over she should so some than that the their them then "
    "there these they this to too under up us very was we were what when where which who why will with would you "
    "your non si la le de"
)
_ORDINARY = frozenset(_FUNCTION_WORDS.split())

_OPENERS = " \"'([{<"
_OPEN = r"[\s\"'(\[{<]*$"
_VERBS = (
    "is|be|was|are|ist|es|est|è|é|as|say|choose|chose|pick|select|prefer|with|answer|label|option|choice|letter|class"
    "|category|rating|score|number"
)
_BEFORE_ANSWER = re.compile(
    rf"(?:^|[\n.!?;:,=>|\"'(\[{{<\u3002\u3001]|(?:^|\s)-|[\u662f\u4e3a\u70ba\u306f]|\b(?:{_VERBS})(?: an?| the)?){_OPEN}"
)
_AFTER_ANSWER = re.compile(
    r"[\"')\]}>]*\s*(?:$|\n|[.;:!,\u3002\u3001](?!\d)|\)|[(]|-\s|/ ?\d|(?:because|since|due|out of|stars?|points?)\b"
    r"|is (?:the )?(?:most )?(?:correct|right|best|answer|appropriate)\b)"
)
_STRICT_END = re.compile(r"[\"')\]}>]*\s*(?:$|[\n.;!,)\u3002])")
_MARKER = re.compile(
    r"(?:\b(?:answer|label|class|classification|category|choice|option|prediction|verdict|conclusion|sentiment|rating|score"
    r"|result|output|topic|type|intent|antwort|respuesta|réponse|risposta|resposta|ответ)\b[^\n.!?;]{0,25}?"
    r"(?:[:=>]|\b(?:is|be|ist|es|est|è|é)\b)(?: (?:\w+ly|option|letter|choice|an?|the))*"
    rf"|(?:\u7b54\u6848|\u56de\u7b54|\u7b54\u3048|\u6807\u7b7e|\u7c7b\u522b|\uc815\ub2f5)[^\n\u3002]{{0,6}}?){_OPEN}"
)
_LISTING = re.compile(r"[\"')\]}]*\s*(?:(?P<comma>,)|/|\||&|-|,?\s*\b(?:and|or|und|oder|et|ou|y|vs\.?))[\s\"'(\[{]*")

_SENTENCE = re.compile(r"[.!?;\n\u3002]")
_CLAUSE = re.compile(
    r"[,:(]|\s-\s|\b(?:(?<!anything )but|however|yet|although|though|instead(?! of)|rather(?! than)|sondern|sino|mais)\b"
)
_NEITHER = re.compile(r"\b(?:neither|none of|weder)\b|(?:\bnot|n't)(?=,)")  # these also negate beyond a comma
_NEGATION = re.compile(
    r"\b(?:not|no|non|never|neither|nor|none|nothing|cannot|without|hardly|barely|scarcely|unlikely|than|unlike|lack(?:s|ing)?"
    r"|nobody|zero|avoids?|(?:false|wrong|incorrect|hard|difficult|stretch) (?:that|to)|instead of|far from|anything but|opposite of|absence of|free (?:of|from)|fail(?:s|ed)? to|excludes?|excluding|anti"
    r"|(?:do|does|did|is|are|was|were|ca|wo|would|could|should)nt|nicht|kein\w*|pas|nunca|jamais|não|не|нет)\b|n't\b"
    r"|(?:\u4e0d(?![\u4ec5\u4f46\u9519])|\u975e(?!\u5e38)|[\u6ca1\u6c92\u65e0\u7121\u672a\u52ff]|\u0e44\u0e21\u0e48).{0,5}$"
)
_OWN_NEGATION = re.compile(r"(?:not|no|non|never)\b.")
_NEGATED_AFTER = re.compile(
    r"[\"')\]}]*\s*(?:\w+n't\b|(?:is|was|are|would be|seems?) (?:not|wrong|incorrect|false|inaccurate|unlikely|ruled out)\b"
    r"|(?:[:=?]|->)[\s\"'(]*(?:not?|false|nope|0)\s*(?:$|[\n.,;}\"'\])])"
    r"|.{0,5}?(?:\u306a[\u3044\u304f\u304b]|\u307e\u305b\u3093|\uc544\ub2c8|\uc544\ub2d9|\uc54a|değil|\u0928\u0939\u0940\u0902))"
)


def named_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a reply names, or None if it names none or is ambiguous; see the steps in the module docstring.

    Thoughts before the answer are ignored. A reply that equals a label exactly names it. Takes time linear in the length of
    the text.
    """
    return _lexicon(tuple(labels)).read(split_thinking(text).answer)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that no reply can name.

    Raises:
        InputError: a label is empty or a mark of a model's thinking, or two are equal after normalization of case, white space, wrappers, punctuation and
            word joints.
    """
    label_by_key: dict[str, str] = {}
    for label in labels:
        key = _normalize_joints(_unwrap(plain(label).casefold()), " ")
        if not key:
            raise InputError(f"the label {label!r} is empty: give a word that a reply can name")
        if split_thinking(label).answer.strip() != label.strip():
            raise InputError(f"the label {label!r} marks a model's thinking, which no answer contains: rename it")
        if key in label_by_key:
            other = label_by_key[key]
            look_alike = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", label)
            first, second = (ascii(each) if look_alike else repr(each) for each in (other, label))
            raise InputError(
                f"the labels {first} and {second} cannot be told apart in a reply, because letter case, white space, "
                "quotes and final full stops are ignored: rename one of them"
            )
        label_by_key[key] = label


class _Mention(NamedTuple):
    """An occurrence of a label in a reply, as whole words.

    Args:
        label: the label.
        start: offset of its first character.
        end: offset after its last character.
        names: the label, and an alternative listed after it, as in `yes or no`.
        negated: whether the reply negates it.
        as_answer: whether it is in the position of an answer, not merely a word in a sentence.
        counts: whether it counts in any position.
    """

    label: str
    start: int
    end: int
    names: frozenset[str]
    negated: bool
    as_answer: bool
    counts: bool


@lru_cache(maxsize=64)
def _lexicon(labels: tuple[str, ...]) -> _Lexicon:
    return _Lexicon(labels)


class _Lexicon:
    """The labels of a task, prepared for parsing replies."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.exact = {label.strip(): label for label in reversed(labels)}
        plains = {label: _unwrap(plain(label).casefold()) for label in labels}
        self.bare = _unambiguous((plains[label], label) for label in labels)
        self.joined = _unambiguous((_normalize_joints(plains[label], ""), label) for label in labels)
        self.longest = 2 * max(map(len, plains.values()), default=0) + 4 * _MOST_WRAPPERS
        self.ordered = sorted((label for label in labels if plains[label]), key=lambda x: len(plains[x]), reverse=True)
        self.ordinary = {label for label in labels if _is_ordinary(plains[label])}
        self.pattern = re.compile("|".join(f"({_pattern(_unwrap(plain(label)))})" for label in self.ordered) or r"(?!)")

    def read(self, text: str) -> str | None:
        """Return the label that a reply names, by the steps in the module docstring."""
        if text.strip() in self.exact:
            return self.exact[text.strip()]
        cased = plain(text)
        folded = cased.casefold()
        lines = folded.split("\n")
        alone = self.alone(folded) or self.first_line(lines)
        if alone is not None:
            return alone
        mentions = list(self.mentions(folded, cased if len(cased) == len(folded) else folded))
        marked = self.marked(folded, mentions)
        if marked:
            return _sole(marked)
        return self.opening(folded, mentions) or self.alone(lines[-1]) or self.mentioned(mentions)

    def alone(self, text: str) -> str | None:
        """Return the label that makes up the whole text."""
        if len(text) > self.longest:
            return None
        bare = _unwrap(text)
        return self.bare.get(bare) or self.joined.get(_normalize_joints(bare, ""))

    def first_line(self, lines: Sequence[str]) -> str | None:
        """Return the label on the first line, unless the second line is another one."""
        first, *rest = [self.alone(line) for line in lines[:2]]
        return first if rest in ([], [None], [first]) else None

    def mentions(self, text: str, cased: str) -> Iterator[_Mention]:
        """Yield the mentions in a text, from left to right; `cased` is the text before case folding."""
        matches = [match for match in self.pattern.finditer(text) if not _continues(text, match.end())]
        if len(matches) > 2 * _MOST_MENTIONS:
            matches = [*matches[:_MOST_MENTIONS], *matches[-_MOST_MENTIONS:]]
        all_caps = cased.isupper()
        floor = 0  # a negation that is part of a label does not negate the following labels
        for number, match in enumerate(matches):
            label, (start, end) = self.label_of(match), match.span()
            following = matches[number + 1] if number + 1 < len(matches) else None
            alternative = [self.label_of(following)] if following and _is_listed(text, end, following) else []
            acronym = label in self.ordinary and label.isupper()  # such as IT
            case_matches = not acronym or cased[start:end].isupper()
            as_answer = _is_answer_like(text, start, end) and (
                case_matches or _is_wrapped(text, start, end) or _marker(text, start) is not None
            )
            negated = _is_negated(text, max(floor, start - _CONTEXT_BEFORE), start, end)
            counts = label not in self.ordinary or (acronym and case_matches and len(label) > 1 and not all_caps)
            yield _Mention(label, start, end, frozenset([label, *alternative]), negated, as_answer, counts)
            floor = end if (counts or as_answer) and _NEGATION.search(match[0]) else floor

    def label_of(self, match: re.Match[str]) -> str:
        """Return the label that the pattern matched."""
        return self.ordered[(match.lastindex or 1) - 1]

    def marked(self, text: str, mentions: Sequence[_Mention]) -> set[str]:
        """Return the labels that a marker announces."""
        final: set[str] = set()
        announced: set[str] = set()
        for mention in mentions:
            marker = _marker(text, mention.start)
            if marker and not mention.negated and (mention.counts or mention.as_answer):
                announced |= mention.names
                final |= mention.names if "final" in text[max(0, marker.start() - 8) : mention.start] else set()
        return final or announced

    def opening(self, text: str, mentions: Sequence[_Mention]) -> str | None:
        """Return the label that the text starts with, unless another one is in answer position too."""
        first = next((m for m in mentions if m.as_answer), None)
        if first is None or first.negated or text[: first.start].strip(_OPENERS):
            return None
        rivals = {
            m.label for m in mentions if m.as_answer and not m.negated and not _OWN_NEGATION.match(m.label.casefold())
        }
        return _sole(first.names | rivals)

    def mentioned(self, mentions: Sequence[_Mention]) -> str | None:
        """Return the label that is mentioned, if there is exactly one."""
        named = {name for m in mentions if (m.counts or m.as_answer) and not m.negated for name in m.names}
        return _sole(named - {m.label for m in mentions if m.negated}) if len(named) == 1 else None


def _unambiguous(keyed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return label by key, without keys shared by several labels."""
    out: dict[str, str] = {}
    shared = set()
    for key, label in keyed:
        if out.setdefault(key, label) != label:
            shared.add(key)
    return {key: label for key, label in out.items() if key and key not in shared}


def _sole(labels: AbstractSet[str]) -> str | None:
    return next(iter(labels)) if len(labels) == 1 else None


def _unwrap(text: str) -> str:
    """Strip wrappers such as quotes and brackets and, if the text has letters or digits, final punctuation."""
    text = text.strip()
    for _ in range(_MOST_WRAPPERS):
        has_word = any(map(str.isalnum, text))
        inner = text
        if len(text) > 2 and _PAIRS.get(text[0]) == text[-1] and (has_word or text[0] == '"'):  # noqa: PLR2004
            inner = text[1:-1]
        elif has_word and (text[-1] in _STOPS or (text[-1] == ")" and "(" not in text)):
            inner = text[:-1]
        if inner == text:
            break
        text = inner.strip()
    return text


def _normalize_joints(text: str, joint: str) -> str:
    """Replace whatever joins words by `joint`; numbers are not joined."""
    return _JOINTS.sub(joint, text)


def _is_ordinary(label: str) -> bool:
    single = len(label) == 1 and (label.isalnum() or label.isascii())
    return single or label in _ORDINARY or re.fullmatch(r"[-+]?\d+(?:[.,]\d+)?", label) is not None


def _pattern(label: str) -> str:
    """Return a pattern that finds a label as whole words in case-folded text; the label's case shows words in `notSpam`."""
    camel = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", label)
    words = [word.casefold() for word in _JOINTS.split(camel)]
    fewest = 0 if camel != label or re.search(r"\w[_-]\w", label) else 1
    body = rf"{_JOINT}{{{fewest},3}}".join(map(re.escape, words))
    return _left_edge(words[0][:1]) + body + _right_edge(words[-1][-1:])


def _left_edge(sign: str) -> str:
    if re.match(f"[{_KATAKANA}]", sign):
        return rf"(?<![{_KATAKANA}])"
    if re.match(f"[{_UNSPACED}]", sign):
        return ""
    if not sign.isalnum():
        return rf"(?<!{re.escape(sign)})"
    return rf"(?<!{_LETTER})(?<!{_LETTER}[-_'])" + (r"(?<!\d[.,:])(?<![-+/])" if sign.isdigit() else "")


def _right_edge(sign: str) -> str:
    if re.match(f"[{_KATAKANA}]", sign):
        return rf"(?![{_KATAKANA}])"
    if re.match(rf"[{_UNSPACED}\uac00-\ud7a3]", sign):  # Korean endings are attached to the word
        return ""
    if not sign.isalnum():
        return rf"(?!{re.escape(sign)})"
    return rf"(?!{_LETTER})(?![-_']{_LETTER})(?![+#])" + (r"(?![.,:]\d)(?! ?%)" if sign.isdigit() else "")


def _continues(text: str, end: int) -> bool:
    """Whether a combining vowel or tone mark follows, so that this is a different word."""
    return end < len(text) and unicodedata.category(text[end]).startswith("M")


def _marker(text: str, start: int) -> re.Match[str] | None:
    """Return the marker, such as `Answer:`, directly before `start`."""
    return _MARKER.search(text, max(0, start - _CONTEXT_BEFORE), start)


def _is_wrapped(text: str, start: int, end: int) -> bool:
    return start > 0 and _PAIRS.get(text[start - 1]) == text[end : end + 1]


def _is_answer_like(text: str, start: int, end: int) -> bool:
    """Whether a label is in the position of an answer: at a boundary on both sides."""
    if _is_wrapped(text, start, end):
        return True
    before = text[start - _CONTEXT_BEFORE : start] if start > _CONTEXT_BEFORE else f"\n{text[:start]}"
    return bool(_AFTER_ANSWER.match(text, end)) and bool(_BEFORE_ANSWER.search(before.removeprefix(" ")))


def _is_listed(text: str, end: int, following: re.Match[str]) -> bool:
    """Whether the next mention is an alternative to the one that ends here, as in `yes or no`."""
    joint = _LISTING.fullmatch(text, end, following.start())
    if joint is None or joint["comma"] is None:
        return joint is not None
    return _STRICT_END.match(text, following.end()) is not None and not _OWN_NEGATION.match(following[0])


def _is_negated(text: str, floor: int, start: int, end: int) -> bool:
    if _NEGATED_AFTER.match(text[end : end + _CONTEXT_AFTER]):
        return True
    sentence = _SENTENCE.split(text[floor:start])[-1]
    return bool(_NEITHER.search(sentence) or _NEGATION.search(_CLAUSE.split(sentence)[-1]))
