"""What a prompt writer is asked, and how its replies are read.

Model text is data: a reply becomes a candidate only if it is whole, keeps the slots, and is no copy. Knows nothing of
models or scores beyond the numbers it is given to show.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from promptopt.prompt import Message, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.prompt import Context
    from promptopt.task import Task

_LONGEST = 4_000  # characters of a proposal; longer ones are essays, not prompts

_RULES = (
    "Put each prompt between <prompt> and </prompt>, and write nothing else. "
    "Keep every placeholder in braces, such as {slot}, exactly as it is."
)


class Shown(NamedTuple):
    """A prompt with its score, as the writer is shown it."""

    prompt: Prompt
    score: float


def paraphrase(task: Task, prompt: Prompt) -> Context:
    """Return the message that asks for another wording of one prompt."""
    return (
        Message("system", "You rewrite prompts for language models."),
        Message(
            "user",
            f"{_about(task)}Rewrite the prompt below in other words. The meaning stays the same.\n{_RULES}\n\n"
            f"{_tagged(prompt)}",
        ),
    )


def improve(task: Task, good: Sequence[Shown], bad: Sequence[Shown], count: int) -> Context:
    """Return the message that shows scored prompts, good and bad, and asks for better ones (Liu et al., CVPR 2024)."""
    parts = [f"{_about(task)}These prompts work well (score, then prompt):", *map(_scored, good)]
    if bad:
        parts += ["These work badly:", *map(_scored, bad)]
    asked = "one better prompt" if count == 1 else f"{count} better prompts, each different from the others"
    parts += [f"Work out what makes a prompt good or bad here, then write {asked}.", _RULES]
    return (Message("system", "You improve prompts for language models."), Message("user", "\n\n".join(parts)))


def proposals(task: Task, reply: str, like: Prompt, known: Iterable[Prompt] = ()) -> list[Prompt]:
    """Return the usable prompts in a writer's reply, in order.

    Args:
        task: whose slots must stay.
        reply: the writer's text; without <prompt> marks all of it is one proposal.
        like: the prompt that gives the demonstrations and the slots to keep.
        known: prompts that are no news.
    """
    texts = re.findall(r"<prompt>(.*?)</prompt>", reply, flags=re.DOTALL) or [re.sub(r"</?prompt>", "", reply)]
    seen = {like, *known}
    out: list[Prompt] = []
    for text in texts:
        prompt = Prompt(text.strip(), like.demonstrations)
        if (
            prompt.text
            and len(prompt.text) <= _LONGEST
            and prompt not in seen
            and _slots(task, prompt) == _slots(task, like)
        ):
            seen.add(prompt)
            out.append(prompt)
    return out


def _about(task: Task) -> str:
    about = f"The task: {task.description}\n" if task.description else ""
    return about + (f"The possible answers: {', '.join(task.labels)}\n" if task.labels else "")


def _tagged(prompt: Prompt) -> str:
    return f"<prompt>{prompt.text}</prompt>"


def _scored(shown: Shown) -> str:
    return f"{shown.score:.3g}: {_tagged(shown.prompt)}"


def _slots(task: Task, prompt: Prompt) -> list[str]:
    return sorted(task.layout.split(prompt.text)[1::2])
