"""The train of thought in a reply, told from the answer. A pure function of text; knows nothing of models or of rewards.

Models that think first write the thought between marks of their own before the answer. Servers leave the marks in, or the
first of them out (where a chat template opens the thought itself), or both where special tokens are dropped.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from promptopt.replies import Response

_WORD = r"(?:[a-z]{2,8}:)?(?:think(?:ing)?|thoughts?|reasoning|antthinking)"
_MARKS = (  # of a beginning, of an end
    (rf"<\s?{_WORD}\s?>", rf"<\s?/\s?{_WORD}\s?>"),  # most
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    ("◁think▷", "◁/think▷"),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (r"<unused94>(?:thought)?", "<unused95>"),  # MedGemma
    # gpt-oss writes in channels, of which the last, "final", is the answer.
    (
        r"(?:<\|start\|>(?:assistant)?)?<\|channel\|>(?:analysis|commentary)[^<]{0,80}<\|message\|>",
        r"(?:<\|end\|>)?(?:<\|start\|>(?:assistant)?)?<\|channel\|>final[^<]{0,80}<\|message\|>",
    ),
)
_BEGIN, _END = ("|".join(marks) for marks in zip(*_MARKS, strict=True))
# A mark in backticks, or inside a proposed prompt, is something that the answer speaks of.
_TOKEN = re.compile(
    rf"(?P<quoted>`(?:{_BEGIN}|{_END})`|<prompt>(?:(?!</?prompt>).)*</prompt>)|(?P<begin>{_BEGIN})|(?P<end>{_END})",
    re.IGNORECASE | re.DOTALL,
)
_DROPPED = re.compile(r"\s{0,9}analysis(?=\S).*assistant\s?final", re.DOTALL)  # gpt-oss without its special tokens
_AROUND = re.compile(  # an answer's own marks, which are no part of it
    r"<\|(?:START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|return|end)\|>", re.IGNORECASE
)


class SplitReply(NamedTuple):
    """A reply in two.

    Args:
        answer: what is left without the thought; the text itself where it has none.
        thinking: the thoughts, without their marks.
        complete: False where the last thought never ends, and so the answer never came.
    """

    answer: str
    thinking: str = ""
    complete: bool = True


def split_thinking(text: str) -> SplitReply:
    """Tell the thoughts in a reply from its answer, in time that grows with the text's length.

    A thought lies between two marks, or before an end without a beginning, or after a beginning without an end. Marks that
    are quoted (in backticks, or within <prompt>...</prompt>) are text.
    """
    dropped = _DROPPED.match(text)
    if dropped is not None:
        return SplitReply(text[dropped.end() :].strip(), dropped[0].strip())
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
    answer = _AROUND.sub("", "".join(answers)).strip()
    return SplitReply(answer, "\n".join(kept for thought in thoughts if (kept := thought.strip())), not inside)


def strip_thinking(reply: Response) -> Response:
    """Return a reply whose thoughts are taken off its text and kept beside it.

    One that ends while it still thinks was cut off, whatever its finish reason says. A label that was scored by
    log-probabilities stays as it is.
    """
    if reply.label_logprobs is not None:
        return reply
    split = split_thinking(reply.text)
    if split.answer is reply.text:
        return reply
    finish = reply.finish_reason if split.complete or reply.finish_reason == "refusal" else "length"
    kept = "\n".join(filter(None, (reply.thinking, split.thinking)))
    return replace(reply, text=split.answer, thinking=kept, finish_reason=finish)
