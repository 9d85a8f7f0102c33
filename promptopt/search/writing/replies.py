"""Which parts of a writer's reply are usable prompts, and why the others are not. Pure functions of text."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from promptopt.parsing.thinking import part
from promptopt.prompt import Prompt
from promptopt.search.writing.marks import between
from promptopt.search.writing.relevance import Relevance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from promptopt.prompt import Example
    from promptopt.task import Task

MAX_CHARACTERS = 4_000  # characters of a proposal; longer ones are essays, not prompts

_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_RUN = 8  # words in a row that are no accident


class ParsedReplies(NamedTuple):
    """What a reply held.

    Args:
        prompts: the usable ones, in order.
        rejected: why the others are not, counted.
    """

    prompts: list[Prompt]
    rejected: Counter[str]


def proposals(task: Task, reply: str, like: Prompt, known: Iterable[Prompt] = ()) -> list[Prompt]:
    """Return the usable prompts in a writer's reply, in order; arguments as of `parse_proposals`."""
    return parse_proposals(task, [reply], like, known).prompts


def parse_proposals(
    task: Task, replies: Iterable[str], like: Prompt, known: Iterable[Prompt] = (), longest: int = MAX_CHARACTERS
) -> ParsedReplies:
    """Return the usable prompts in a writer's replies, and count the others.

    Rejected are: "incomplete" (a mark or a train of thought that never ends), "empty", "too long", "slots" (lost, added
    or repeated), "copy" (of a known prompt or an earlier proposal, white space and letter case aside), "training text" (8
    words in a row from a training item that are not the seed prompt's, the task's or `like`'s own), and what is no prompt
    for the task by `Relevance`: "answer", "too short", "off task".

    Args:
        task: whose slots must stay, and whose training items must not be copied.
        replies: the writer's texts; without <prompt> marks all of a text is one proposal, or, where a text is nothing
            but fenced blocks, as coding models like to give, each of these.
        like: the prompt that gives the demonstrations and the slots to keep.
        known: prompts that are no news.
        longest: characters of a proposal.
    """
    seen = {_squeezed(prompt.text) for prompt in (like, *known)}
    copied = _item_runs(task, like)
    slots, relevance = _slots(task, like.text), Relevance(task, like)
    out = ParsedReplies([], Counter())
    for text in (text for reply in replies for text in _texts(reply)):
        why = _against(text, longest)
        if not why and text is not None:
            if _slots(task, text) != slots:
                why = "slots"
            elif _squeezed(text) in seen:
                why = "copy"
            elif not copied.isdisjoint(_runs(text)):
                why = "training text"
            elif not (why := relevance.against(text)):
                seen.add(_squeezed(text))
                out.prompts.append(Prompt(text, like.demonstrations))
        if why:
            out.rejected[why] += 1
    return out


def _texts(reply: str) -> Iterator[str | None]:
    """Yield the proposals of a reply, None for one that never ends."""
    answer, _, whole = part(reply)
    if not whole:
        yield None
        return
    said = between(answer, "<prompt>", "</prompt>")
    yield from (text.strip() for text in said.inside)
    if said.is_open:
        yield None
    elif not said.inside and (blocks := _FENCED.findall(said.outside)) and not _FENCED.sub("", said.outside).strip():
        yield from (block.strip() for block in blocks)
    elif not said.inside:
        yield said.outside.replace("</prompt>", "").strip()


def _against(text: str | None, longest: int) -> str:
    if text is None:
        return "incomplete"
    if not text:
        return "empty"
    return "too long" if len(text) > longest else ""


def _slots(task: Task, text: str) -> list[str]:
    return sorted(task.layout.split(text)[1::2])


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def _item_runs(task: Task, like: Prompt) -> set[tuple[str, ...]]:
    """Return the runs of words by which a copy from the training items is known."""
    own = (like.text, task.seed_prompt.text, task.template, task.description)
    return {run for item in task.train for text in _fields(item) for run in _runs(text)}.difference(*map(_runs, own))


def _fields(item: Example) -> Iterator[str]:
    yield from item.inputs.values()
    if item.target is not None:
        yield item.target


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
