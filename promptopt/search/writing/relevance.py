"""Checks whether a writer's text is a prompt for the task, or an answer to the prompt it should rewrite.

Small models often follow a prompt instead of rewriting it. Pure functions of text; nothing here is a score.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptopt.prompt import Prompt
    from promptopt.task import Task

_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
"""A word, or a single character in scripts without spaces between words."""

_STEM = 5  # characters compared, so that "classify" matches "classification"
_MIN_CONTENT = 2  # content words in prompts and description needed to call a text off task
_MIN_SUBJECT = (
    3  # content words of the prompts, without those on the form of an answer, that make such words count for nothing
)
_MIN_REASONING = 2  # stems of `_REASONING` that make a text a prompt for any task; "I think" alone does not
_COPY_WORDS = 4  # words of an example that make a proposal a copy, if they are all of it
_MAX_REMARK = 30  # words; a longer statement may be a prompt that describes the task
_MIN_WORDS = (8, 3), (4, 2)  # a prompt of at least 8 words is replaced by at least 3, one of at least 4 by at least 2

_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a about an and any are as at be been but by can could did do does each for from had has have he her here his how i "
        "if in into is it its me more my no not of on one or our she so some such than that the their them then there these "
        "they this those to was we were what when where whether which who why will with would yes you your"
    )
)
_VERBS = frozenset(
    _WORD.findall(
        "act analyse analyze answer assess assign avoid begin calculate categorise categorize check choose "
        "classify complete compute consider convert decide describe detect determine do ensure evaluate examine "
        "explain extract find follow generate give go identify indicate infer judge keep label let lift list look "
        "make mark match move name never note only output pay pick plan please predict provide put rate read "
        "remember reply report respond return review rewrite say select solve specify start state stop summarise "
        "summarize tag take tell think translate try use work write "
    )
)
_FORM = frozenset(
    word[:5].rstrip("s")
    for word in _WORD.findall(
        "answer answers label labels only output question reply respond single text word words write"
    )
)
"""Stems that say in which form to answer, so that sharing them does not tie a text to the task."""
_REASONING = frozenset(("think", "step", "caref", "reaso"))  # stems that fit any task: "Let's think step by step."
_ADDRESS = frozenset(("must", "should", "you"))
_SUBJECTS = frozenset(
    _WORD.findall("a an he here i it my okay she sorry sure that the there these they this those we your")
)


@dataclass(frozen=True)
class Relevance:
    """Tests proposals against the task.

    Args:
        task: supplies description, labels, fields and training examples.
        like: the prompt that proposals are made from.
    """

    task: Task
    like: Prompt

    def against(self, text: str) -> str:
        """Return why a text is not a prompt for the task, or "".

        Texts with a slot always pass. "answer": only a label or a target, or a statement although the seed prompt is an
        instruction. "training text": a training example or part of one. "too short": a word or two instead of many. "off task":
        shares no content word with the prompts, the description, the labels or the field names; words on the form of an answer,
        such as "Reply with one word", do not count if the prompts say what the task is.
        """
        words = _words(text)
        if self.task.layout.has_slot(text):
            return ""
        if self._answers(text, words):
            return "answer"
        if self._copies_example(words):
            return "training text"
        if len(words) < self._fewest and not self._asks_for_labels(text, words):
            return "too short"
        return "off task" if self._is_off_task(_content(words)) else ""

    def _is_off_task(self, content: set[str]) -> bool:
        about = _content(_words(" ".join(self._about)))
        if len(about) < _MIN_CONTENT or len(content & _REASONING) >= _MIN_REASONING:
            return False
        subject = _content(_words(" ".join(prompt.text for prompt in self._prompts))) - _FORM
        return content.isdisjoint(self._known - _FORM if len(subject) >= _MIN_SUBJECT else self._known)

    def _answers(self, text: str, words: list[str]) -> bool:
        if " ".join(words) in self._targets:
            return True
        if self._asks_for_labels(text, words) or not self._seed_instructs:
            return False
        named = self._named(words)
        if named and (_content(words) <= _content(" ".join(self._labels).split()) or self._ends_with_label(text)):
            return True
        remark = 0 < len(words) <= _MAX_REMARK and words[0] in _SUBJECTS and self.task.format != "completion"
        states = len(named) == 1 or remark
        return states and not _instructs(text)

    def _ends_with_label(self, text: str) -> bool:
        """Whether a text ends like an answered example: "Sentiment: positive"."""
        _, colon, end = text.rpartition(":")
        return bool(colon) and " ".join(_words(end)) in self._labels

    def _copies_example(self, words: list[str]) -> bool:
        part = f" {' '.join(words)} "
        if part in self._own:
            return False
        return f"\n{part}\n" in self._items or (len(words) >= _COPY_WORDS and part in self._items)

    def _asks_for_labels(self, text: str, words: list[str]) -> bool:
        """Whether a text offers a choice of labels, such as "Positive or negative?"."""
        return len(self._named(words)) > 1 and ("or" in words or text.rstrip().endswith(("?", ":")))

    def _named(self, words: list[str]) -> set[str]:
        line = f" {' '.join(words)} "
        return {label for label in self._labels if f" {label} " in line}

    @property
    def _fewest(self) -> int:
        length = min(len(_words(prompt.text)) for prompt in self._prompts)
        return next((fewest for at_least, fewest in _MIN_WORDS if length >= at_least), 1)

    @property
    def _about(self) -> tuple[str, ...]:
        return (*(prompt.text for prompt in self._prompts), self.task.description)

    @property
    def _prompts(self) -> tuple[Prompt, Prompt]:
        return self.task.seed_prompt, self.like

    @cached_property
    def _labels(self) -> frozenset[str]:
        return frozenset(filter(None, (" ".join(_words(label)) for label in self.task.labels)))

    @cached_property
    def _targets(self) -> frozenset[str]:
        targets = (" ".join(_words(example.target)) for example in self.task.train if example.target is not None)
        return self._labels.union(filter(None, targets))

    @cached_property
    def _items(self) -> str:
        lines = [" ".join(_words(text)) for example in self.task.train for text in example.inputs.values()]
        return "".join(f"\n {line} \n" for line in lines if line)

    @cached_property
    def _own(self) -> str:
        return "".join(f" {' '.join(_words(text))} \n" for text in (*self._about, self.task.template))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(_content(_words(f"{self._own} {' '.join(self.task.labels)} {' '.join(self.task.fields)}")))

    @cached_property
    def _seed_instructs(self) -> bool:
        return any(_instructs(prompt.text) for prompt in self._prompts) or any(map(self._has_slot, self._prompts))

    def _has_slot(self, prompt: Prompt) -> bool:
        return self.task.layout.has_slot(prompt.text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _content(words: list[str]) -> set[str]:
    """Return the stems of the content words."""
    return {word[:_STEM].rstrip("s") for word in words if word not in _FUNCTION_WORDS}


def _instructs(text: str) -> bool:
    """Whether a text asks, addresses the reader, or has an imperative verb at the start of a sentence or after "to"."""
    if "?" in text or text.rstrip().endswith(":"):
        return True
    sentences = [_words(sentence) for sentence in re.split(r"[.!:;,\n]", text)]
    starts = {sentence[0] for sentence in sentences if sentence}
    aims = {after for words in sentences for before, after in pairwise(words) if before == "to"}
    return not _VERBS.isdisjoint(starts | aims) or any(not _ADDRESS.isdisjoint(words) for words in sentences)
