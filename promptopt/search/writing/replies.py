"""Extracts usable prompts from a writer's replies, with reasons for rejecting the others. Pure functions of text."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from promptopt.parsing.thinking import split_thinking
from promptopt.prompt import Prompt
from promptopt.search.writing.marks import between
from promptopt.search.writing.relevance import Relevance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from promptopt.prompt import Example
    from promptopt.task import Task

MAX_CHARACTERS = 4_000  # of a proposal; longer ones are essays, not prompts

_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FIELD_OF_ITEM = re.compile(
    r"^(wanted|reply|reward|why):", re.MULTILINE | re.IGNORECASE
)  # as messages to a writer show items
_MOST_FIELDS = 1  # of an item in a prompt, which may end with "Reply:"
_LEFTOVERS = re.compile(r"(?:\s*(?:<br ?/?>|^Prompt:))+\s*\Z", re.MULTILINE | re.IGNORECASE)  # after a proposal
_COPY_WORDS = 8  # identical consecutive words that count as a copy


class ParsedReplies(NamedTuple):
    """The proposals in a writer's replies.

    Args:
        prompts: usable prompts, in order.
        rejected: counts of rejected proposals, by reason.
    """

    prompts: list[Prompt]
    rejected: Counter[str]


def proposals(task: Task, reply: str, like: Prompt, known: Iterable[Prompt] = ()) -> list[Prompt]:
    """Return the usable prompts in a writer's reply, in order; arguments as for `parse_proposals`."""
    return parse_proposals(task, [reply], like, known).prompts


def parse_proposals(
    task: Task, replies: Iterable[str], like: Prompt, known: Iterable[Prompt] = (), longest: int = MAX_CHARACTERS
) -> ParsedReplies:
    """Return the usable prompts in a writer's replies, and count the others.

    Reasons for rejection: "incomplete" (an unclosed tag or reasoning block), "empty", "too long", "slots" (missing, added or
    repeated), "copy" (of a known prompt or an earlier proposal, ignoring white space and case), "training text" (8 consecutive
    words from a training example that do not occur in the seed prompt, the task or `like`), "message" (fields of an item, such as
    "reward:", as the message to the writer shows it), and the reasons of `Relevance`: "answer", "too short", "off task".

    Args:
        task: supplies the slots to keep and the training examples not to copy.
        replies: the writer's texts. Without <prompt> tags, a text is one proposal; if it consists of fenced blocks only, as
            coding models often write, each block is a proposal.
        like: the prompt whose demonstrations and slots new prompts keep.
        known: prompts that do not count as new.
        longest: maximum characters of a proposal.
    """
    seen_texts = {_normalized(prompt.text) for prompt in (like, *known)}
    training_ngrams = _training_ngrams(task, like)
    slots, relevance = _slots(task, like.text), Relevance(task, like)
    out = ParsedReplies([], Counter())
    for text in (_trimmed(text, like) for reply in replies for text in _texts(reply)):
        why = _basic_rejection(text, longest)
        if not why and text is not None:
            if _slots(task, text) != slots:
                why = "slots"
            elif _normalized(text) in seen_texts:
                why = "copy"
            elif not training_ngrams.isdisjoint(_ngrams(text)):
                why = "training text"
            elif len(_fields_of_items(text) - _fields_of_items(like.text)) > _MOST_FIELDS:
                why = "message"
            elif not (why := relevance.against(text)):
                seen_texts.add(_normalized(text))
                out.prompts.append(Prompt(text, like.demonstrations))
        if why:
            out.rejected[why] += 1
    return out


def _texts(reply: str) -> Iterator[str | None]:
    """Yield the proposals in a reply, None for an incomplete one."""
    answer, _, complete = split_thinking(reply)
    if not complete:
        yield None
        return
    marked = between(answer, "<prompt>", "</prompt>")
    yield from (text.strip() for text in marked.inside)
    if marked.is_open:
        yield None
    elif (
        not marked.inside
        and (blocks := _FENCED.findall(marked.outside))
        and not _FENCED.sub("", marked.outside).strip()
    ):
        yield from (block.strip() for block in blocks)
    elif not marked.inside:
        yield marked.outside.replace("</prompt>", "").strip()


def _trimmed(text: str | None, like: Prompt) -> str | None:
    """Return a proposal without what small writers leave behind it, such as a line break in HTML or the heading of a next prompt."""
    if text is None or len(text) > MAX_CHARACTERS or _LEFTOVERS.search(like.text):
        return text
    return _LEFTOVERS.sub("", text)


def _fields_of_items(text: str) -> set[str]:
    return {name.casefold() for name in _FIELD_OF_ITEM.findall(text)}


def _basic_rejection(text: str | None, longest: int) -> str:
    if text is None:
        return "incomplete"
    if not text:
        return "empty"
    return "too long" if len(text) > longest else ""


def _slots(task: Task, text: str) -> list[str]:
    return sorted(task.layout.split(text)[1::2])


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())


def _training_ngrams(task: Task, like: Prompt) -> set[tuple[str, ...]]:
    """Return the word n-grams that reveal a copy of a training example."""
    own_texts = (like.text, task.seed_prompt.text, task.template, task.description)
    return {ngram for example in task.train for text in _fields(example) for ngram in _ngrams(text)}.difference(
        *map(_ngrams, own_texts)
    )


def _fields(example: Example) -> Iterator[str]:
    yield from example.inputs.values()
    if example.target is not None:
        yield example.target


def _ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + _COPY_WORDS]) for i in range(len(words) - _COPY_WORDS + 1)}
