"""Messages to a prompt writer, one function per job: each fills the slots of a meta-prompt.

All text from data or models is enclosed in tags, and tags inside that text are escaped.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from promptopt.images import placeholder
from promptopt.replies import Response
from promptopt.search.writing.metaprompts import MetaPrompts
from promptopt.search.writing.replies import MAX_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Failure
    from promptopt.task import Task

_MAX_FIELD = 600  # characters shown of an example's field, a reply or a reason
_MAX_CRITICISM = 6_000  # characters shown of the writer's own criticism, over several kinds of error
_BRACES = re.compile(r"(?<!\{)\{\w+\}(?!\})")  # slots; doubled braces are literal braces
_TAGS = re.compile(r"<(?=/?(?:prompt|item|criticism)>)")


class ScoredPrompt(NamedTuple):
    """A prompt with its score, as shown to the writer."""

    prompt: Prompt
    score: float


class ExampleResult(NamedTuple):
    """An example and the reply to it, as shown to the writer.

    Args:
        example: the example.
        reply: the task model's reply, or None to show the example alone.
        reason: the reward's explanation, or "".
        reward: reward of the reply, or None.
    """

    example: Example
    reply: str | None = None
    reason: str = ""
    reward: float | None = None


def example_result(example: Example, reply: Response | Failure, reason: str, reward: float) -> ExampleResult:
    """Return an example with the reply and reward it got under a prompt."""
    return ExampleResult(example, reply.text if isinstance(reply, Response) else None, reason, reward)


def paraphrase(
    task: Task, prompt: Prompt, count: int = 1, *, meta: MetaPrompts | None = None, longest: int = MAX_CHARACTERS
) -> Context:
    """Return the message that asks for paraphrases of a prompt."""
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
    """Return the message that asks for shorter versions of a prompt."""
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
    """Return the message that shows scored prompts and examples, and asks for better prompts (after Liu et al., CVPR 2024).

    Args:
        task: supplies description and labels.
        good: prompts with high scores, the best first.
        bad: prompts with low scores.
        count: number of prompts to request.
        losses: examples on which the first good prompt falls short.
        wins: examples on which it does better than the others.
        meta: meta-prompts to use; None for the shipped ones.
        longest: maximum characters of a prompt.
    """
    return (meta or _shipped()).message(
        "improve",
        task=_about(task),
        good="\n".join(map(_scored, good)),
        bad="\n".join(map(_scored, bad)),
        losses=_examples(task, losses),
        wins=_examples(task, wins),
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
    """Return the message with lists of good and bad prompts, without scores or task (reworded from the code of Liu et al.).

    If `words` is above 0, the message asks for prompts of fewer words than that.
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
    examples: Sequence[Example] = (),
    meta: MetaPrompts | None = None,
    longest: int = MAX_CHARACTERS,
) -> Context:
    """Return the message with prompts in ascending order of score, from 0 to 100, and examples (after OPRO)."""
    as_percent = all(0 <= shown.score <= 1 for shown in prompts)
    ascending = sorted(prompts, key=lambda shown: shown.score)
    return (meta or _shipped()).message(
        "scale",
        task=_about(task),
        prompts="\n".join(
            f"{f'{100 * shown.score:.0f}' if as_percent else f'{shown.score:.3g}'}: {_tagged(shown.prompt)}"
            for shown in ascending
        ),
        items=_examples(task, map(ExampleResult, examples)),
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [shown.prompt for shown in prompts]),
    )


def unscored_message(
    task: Task, prompts: Sequence[Prompt], count: int, *, meta: MetaPrompts | None = None, longest: int = MAX_CHARACTERS
) -> Context:
    """Return the message that shows prompts without scores: the control for the effect of scores on the writer."""
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
    """Return the message that asks for prompts that combine the strengths of several."""
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
    """Return the message that asks why a prompt caused errors; the reply is a criticism, not a prompt."""
    return (meta or _shipped()).message(
        "summarise", task=_about(task), prompt=_tagged(prompt), items=_examples(task, errors)
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
    """Return the message that shows a prompt with a criticism and asks for corrected prompts (after ProTeGi)."""
    return (meta or _shipped()).message(
        "edit",
        task=_about(task),
        prompt=_tagged(prompt),
        lineage="\n".join(map(_scored, lineage)),
        criticism=criticism and f"<criticism>{_plain(criticism, _MAX_CRITICISM)}</criticism>",
        wanted=_wanted(count, "better prompt"),
        rules=_rules(longest, [prompt]),
    )


@cache
def _shipped() -> MetaPrompts:
    return MetaPrompts()


def _rules(longest: int, shown: Iterable[Prompt]) -> str:
    """Return the rules for proposals. Slots are named only if there are any: small writers that read about braces invent some."""
    slot_sets = [set(_BRACES.findall(prompt.text)) for prompt in shown]
    slots = sorted(set.intersection(*slot_sets)) if slot_sets else []
    keep_slots = f"Leave {', '.join(slots)} in place, exactly as written. " if slots else ""
    return (
        "Put each prompt between <prompt> and </prompt>, and write nothing else. "
        f"{keep_slots}At most {longest} characters a prompt."
    )


def _wanted(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count} {what}s, each different from the others"


def _about(task: Task) -> str:
    lines = [f"The task: {task.description}"] if task.description else []
    return "\n".join([*lines, *([f"The possible answers: {', '.join(task.labels)}"] if task.labels else [])])


def _tagged(prompt: Prompt) -> str:
    return f"<prompt>{_TAGS.sub('&lt;', prompt.text)}</prompt>"


def _scored(shown: ScoredPrompt) -> str:
    return f"{shown.score:.3g}: {_tagged(shown.prompt)}"


def _examples(task: Task, results: Iterable[ExampleResult]) -> str:
    return "\n".join(_example(result, task.images) for result in results)


def _example(result: ExampleResult, images: Sequence[str]) -> str:
    inputs = {name: placeholder(text) if name in images else text for name, text in result.example.inputs.items()}
    lines = [f"{name}: {_plain(text)}" for name, text in inputs.items()]
    if result.example.target is not None:
        lines.append(f"wanted: {_plain(result.example.target)}")
    if result.reply is not None:
        lines.append(f"reply: {_plain(result.reply)}")
    if result.reward is not None:
        lines.append(f"reward: {result.reward:.3g}")
    if result.reason:
        lines.append(f"why: {_plain(result.reason)}")
    return "\n".join(["<item>", *lines, "</item>"])


def _plain(text: str, most: int = _MAX_FIELD) -> str:
    """Return text from data or models with our tags escaped, truncated to `most` characters."""
    excerpt = text if len(text) <= most else f"{text[:most]} [...]"
    return _TAGS.sub("&lt;", excerpt)
