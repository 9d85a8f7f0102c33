"""The messages to a prompt writer, one function a job: what fills the slots of the meta-prompts.

Everything that comes from data or models stands between marks, and holds none of these marks itself.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from promptopt.replies import Response
from promptopt.search.writing.metaprompts import MetaPrompts
from promptopt.search.writing.replies import MAX_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Failure
    from promptopt.task import Task

_FIELD = 600  # characters of an item's field, a reply or a reason; what is longer is shown in part
_CRITICISM = 6_000  # of what a writer said itself, of several kinds of error
_BRACES = re.compile(r"(?<!\{)\{\w+\}(?!\})")  # slots; doubled braces are braces
_MARKS = re.compile(r"<(?=/?(?:prompt|item|criticism)>)")


class ScoredPrompt(NamedTuple):
    """A prompt with its score, as the writer is shown it."""

    prompt: Prompt
    score: float


class ExampleResult(NamedTuple):
    """An item as the writer is shown it.

    Args:
        example: itself.
        reply: the task model's, or None to show the item alone.
        reason: the reward's own words, or "".
        reward: of the reply, or None.
    """

    example: Example
    reply: str | None = None
    reason: str = ""
    reward: float | None = None


def example_result(example: Example, reply: Response | Failure, reason: str, reward: float) -> ExampleResult:
    """Return an item with what became of it under a prompt."""
    return ExampleResult(example, reply.text if isinstance(reply, Response) else None, reason, reward)


def paraphrase(
    task: Task, prompt: Prompt, count: int = 1, *, meta: MetaPrompts | None = None, longest: int = MAX_CHARACTERS
) -> Context:
    """Return the message that asks for other wordings of one prompt."""
    return (meta or _shipped()).message(
        "paraphrase",
        task=_about(task),
        prompt=_tagged(prompt),
        wanted=_wanted(count, "prompt"),
        rules=_rules(longest, [prompt]),
    )


def shorten(
    task: Task, prompt: Prompt, count: int = 1, *, meta: MetaPrompts | None = None, longest: int = MAX_CHARACTERS
) -> Context:
    """Return the message that asks for shorter wordings of one prompt."""
    return (meta or _shipped()).message(
        "shorten",
        task=_about(task),
        prompt=_tagged(prompt),
        wanted=_wanted(count, "shorter prompt"),
        rules=_rules(longest, [prompt]),
    )


def improve(
    task: Task,
    good: Sequence[ScoredPrompt],
    bad: Sequence[ScoredPrompt],
    count: int,
    *,
    losses: Sequence[ExampleResult] = (),
    wins: Sequence[ExampleResult] = (),
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
) -> Context:
    """Return the message that shows scored prompts and items, and asks for better prompts (after Liu et al., CVPR 2024).

    Args:
        task: described, with its labels.
        good: prompts that work well, the best first.
        bad: prompts that work badly.
        count: prompts wanted.
        losses: items on which the first good prompt falls short.
        wins: items on which it does better than the others.
        meta: the wording.
        longest: characters of a prompt.
    """
    return (meta or _shipped()).message(
        "improve",
        task=_about(task),
        good="\n".join(map(_scored, good)),
        bad="\n".join(map(_scored, bad)),
        losses="\n".join(map(_item, losses)),
        wins="\n".join(map(_item, wins)),
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [shown.prompt for shown in (*good, *bad)]),
    )


def good_bad_message(
    good: Sequence[Prompt],
    bad: Sequence[Prompt],
    count: int,
    *,
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
    words: int = 0,
) -> Context:
    """Return the message with two lists and nothing else: no scores, no task (code of Liu et al., in our words).

    Where `words` is above 0 it asks for fewer words than that a prompt.
    """
    short = f" Use fewer than {words} words a prompt." if words else ""
    return (meta or _shipped()).message(
        "lists",
        good="\n".join(map(_tagged, good)),
        bad="\n".join(map(_tagged, bad)),
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [*good, *bad]) + short,
    )


def opro_message(
    task: Task,
    prompts: Sequence[ScoredPrompt],
    count: int,
    *,
    items: Sequence[Example] = (),
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
) -> Context:
    """Return the message with prompts in ascending order of their scores, from 0 to 100, and items (after OPRO)."""
    hundred = all(0 <= shown.score <= 1 for shown in prompts)
    rising = sorted(prompts, key=lambda shown: shown.score)
    return (meta or _shipped()).message(
        "scale",
        task=_about(task),
        prompts="\n".join(
            f"{f'{100 * shown.score:.0f}' if hundred else f'{shown.score:.3g}'}: {_tagged(shown.prompt)}"
            for shown in rising
        ),
        items="\n".join(_item(ExampleResult(item)) for item in items),
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [shown.prompt for shown in prompts]),
    )


def unscored_message(
    task: Task, prompts: Sequence[Prompt], count: int, *, meta: MetaPrompts | None = None, longest: int = MAX_CHARACTERS
) -> Context:
    """Return the message that shows prompts without their scores: the control of what scores are worth to a writer."""
    return (meta or _shipped()).message(
        "blind",
        task=_about(task),
        prompts="\n".join(map(_tagged, prompts)),
        wanted=_wanted(count, "prompt"),
        rules=_rules(longest, prompts),
    )


def combine(
    task: Task,
    prompts: Sequence[ScoredPrompt],
    count: int,
    *,
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
) -> Context:
    """Return the message that asks for prompts that join what is best in several."""
    return (meta or _shipped()).message(
        "combine",
        task=_about(task),
        prompts="\n".join(map(_scored, prompts)),
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [shown.prompt for shown in prompts]),
    )


def summarise(
    task: Task, prompt: Prompt, errors: Sequence[ExampleResult], *, meta: MetaPrompts | None = None
) -> Context:
    """Return the message that asks what in a prompt brought errors about; the reply is a criticism, not a prompt."""
    return (meta or _shipped()).message(
        "summarise", task=_about(task), prompt=_tagged(prompt), items="\n".join(map(_item, errors))
    )


def edit(
    task: Task,
    prompt: Prompt,
    criticism: str,
    count: int,
    *,
    lineage: Sequence[ScoredPrompt] = (),
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
) -> Context:
    """Return the message that shows a prompt with a criticism and asks for mended ones (after ProTeGi)."""
    return (meta or _shipped()).message(
        "edit",
        task=_about(task),
        prompt=_tagged(prompt),
        lineage="\n".join(map(_scored, lineage)),
        criticism=criticism and f"<criticism>{_plain(criticism, _CRITICISM)}</criticism>",
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [prompt]),
    )


@cache
def _shipped() -> MetaPrompts:
    return MetaPrompts()


def _rules(longest: int, shown: Iterable[Prompt]) -> str:
    """Return what to keep to; slots are named where there are some, as a small writer that hears of braces makes some up."""
    each = [set(_BRACES.findall(prompt.text)) for prompt in shown]
    slots = sorted(set.intersection(*each)) if each else []
    kept = f"Leave {', '.join(slots)} in place, exactly as written. " if slots else ""
    return (
        "Put each prompt between <prompt> and </prompt>, and write nothing else. "
        f"{kept}At most {longest} characters a prompt."
    )


def _wanted(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count} {what}s, each different from the others"


def _about(task: Task) -> str:
    lines = [f"The task: {task.description}"] if task.description else []
    return "\n".join([*lines, *([f"The possible answers: {', '.join(task.labels)}"] if task.labels else [])])


def _tagged(prompt: Prompt) -> str:
    return f"<prompt>{_MARKS.sub('&lt;', prompt.text)}</prompt>"


def _scored(shown: ScoredPrompt) -> str:
    return f"{shown.score:.3g}: {_tagged(shown.prompt)}"


def _item(item: ExampleResult) -> str:
    lines = [f"{name}: {_plain(text)}" for name, text in item.example.inputs.items()]
    if item.example.target is not None:
        lines.append(f"wanted: {_plain(item.example.target)}")
    if item.reply is not None:
        lines.append(f"reply: {_plain(item.reply)}")
    if item.reward is not None:
        lines.append(f"reward: {item.reward:.3g}")
    if item.reason:
        lines.append(f"why: {_plain(item.reason)}")
    return "\n".join(["<item>", *lines, "</item>"])


def _plain(text: str, most: int = _FIELD) -> str:
    """Return a text of data or of a model, without marks of ours, and cut where it is long."""
    shown = text if len(text) <= most else f"{text[:most]} [...]"
    return _MARKS.sub("&lt;", shown)
