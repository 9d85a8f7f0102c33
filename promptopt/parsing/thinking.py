"""Separates a model's reasoning from its answer. Pure functions of text; knows nothing of models or rewards.

Reasoning models write their thoughts between special marks before the answer. Servers may keep both marks, drop the first
(if the chat template opens the thought itself), or drop both (if they strip special tokens).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from promptopt.replies import Response

_WORD = r"(?:[a-z]{2,8}:)?(?:think(?:ing)?|thoughts?|reasoning|antthinking)"
_MARKS = (  # (start, end) of a thought
    (rf"<\s?{_WORD}\s?>", rf"<\s?/\s?{_WORD}\s?>"),  # most
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    ("◁think▷", "◁/think▷"),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (r"<unused94>(?:thought)?", "<unused95>"),  # MedGemma
    # gpt-oss writes in channels; the last one, "final", is the answer.
    (
        r"(?:<\|start\|>(?:assistant)?)?<\|channel\|>(?:analysis|commentary)[^<]{0,80}<\|message\|>",
        r"(?:<\|end\|>)?(?:<\|start\|>(?:assistant)?)?<\|channel\|>final[^<]{0,80}<\|message\|>",
    ),
)
_BEGIN, _END = ("|".join(marks) for marks in zip(*_MARKS, strict=True))
# A mark in backticks or inside a proposed prompt is quoted by the answer, so it is text.
_TOKEN = re.compile(
    rf"(?P<quoted>`(?:{_BEGIN}|{_END})`|<prompt>(?:(?!</?prompt>).)*</prompt>)|(?P<begin>{_BEGIN})|(?P<end>{_END})",
    re.IGNORECASE | re.DOTALL,
)
_UNMARKED_CHANNELS = re.compile(
    r"\s{0,9}analysis(?=\S).*assistant\s?final", re.DOTALL
)  # gpt-oss without its special tokens
_ANSWER_MARKS = re.compile(  # marks around the answer itself
    r"<\|(?:START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|return|end)\|>", re.IGNORECASE
)


class SplitReply(NamedTuple):
    """A reply, separated into answer and thoughts.

    Args:
        answer: the text without thoughts; the text itself if it has none.
        thinking: the thoughts, without their marks.
        complete: False if the last thought never ends, so that there is no answer.
    """

    answer: str
    thinking: str = ""
    complete: bool = True


def split_thinking(text: str) -> SplitReply:
    """Separate the thoughts in a reply from its answer, in time linear in the length of the text.

    A thought is the text between two marks, before an end mark without a start, or after a start mark without an end.
    Quoted marks (in backticks, or within <prompt>...</prompt>) are text.
    """
    channels = _UNMARKED_CHANNELS.match(text)
    if channels is not None:
        return SplitReply(text[channels.end() :].strip(), channels[0].strip())
    answers: list[str] = []
    thoughts: list[str] = []
    last, inside = 0, False
    for token in _TOKEN.finditer(text):
        if token["begin"] is not None and not inside:
            answers.append(text[last : token.start()])
            last, inside = token.end(), True
        elif token["end"] is not None:
            thoughts += [*answers, text[last : token.start()]] if not inside else [text[last : token.start()]]
            answers = answers if inside else []
            last, inside = token.end(), False
    if not last:
        return SplitReply(text)
    (thoughts if inside else answers).append(text[last:])
    answer = _ANSWER_MARKS.sub("", "".join(answers)).strip()
    return SplitReply(answer, "\n".join(kept for thought in thoughts if (kept := thought.strip())), not inside)


def strip_thinking(reply: Response) -> Response:
    """Return a reply with its thoughts moved from `text` to `thinking`.

    A reply that ends within a thought gets the finish reason "length". Replies with label log-probabilities are not
    changed.
    """
    if reply.label_logprobs is not None:
        return reply
    split = split_thinking(reply.text)
    if split.answer is reply.text:
        return reply
    finish = reply.finish_reason if split.complete or reply.finish_reason == "refusal" else "length"
    kept = "\n".join(filter(None, (reply.thinking, split.thinking)))
    return replace(reply, text=split.answer, thinking=kept, finish_reason=finish)
