"""What changed between two prompts, part by part: turns against turns, demonstrations against demonstrations.

A search that prunes tokens writes the demonstrations of its seed prompt out. Then the earlier prompt is written out too, as it
was sent, so that like is compared with like.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.prompt import Layout, Message, Prompt, Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_SIMILARITY = 0.4  # below, two demonstrations or turns are different ones, not one that was changed
_MAX_PAIRS = 900  # above, only equal parts are paired: comparing all would take seconds
_TEXT = "text"


class Part(NamedTuple):
    """One part of a prompt: its instruction, a turn or a demonstration."""

    label: str
    text: str


class Change(NamedTuple):
    """A part before and after; None where it was added or removed."""

    label: str
    before: str | None
    after: str | None


def prompt_changes(before: Prompt, after: Prompt, layout: Layout | None) -> list[tuple[str, list[Change]]]:
    """Return the changes of each named prompt of a program; of another prompt one entry without a name.

    Args:
        before: the earlier prompt.
        after: the later prompt.
        layout: the task's layout, to write demonstrations out; None if the result does not have it.
    """
    if isinstance(before, Prompts) and isinstance(after, Prompts):
        return [(name, _changes(before[name], after[name], None)) for name in before.names if name in after.names]
    return [("", _changes(before, after, layout))]


def written_out(prompt: Prompt, layout: Layout | None) -> Prompt:
    """Return the prompt with its demonstrations as text or turns, as they are sent; unchanged where that is not possible."""
    demonstrations = prompt.demonstrations
    if demonstrations is None or demonstrations.nearest is not None or layout is None or layout.format == "caption":
        return prompt
    if layout.format == "completion":
        try:
            return layout.flatten(prompt)
        except InputError:  # a demonstration contains a slot of the task as text
            return prompt
    _, template = layout.parts(prompt)
    turns = [
        turn
        for item in demonstrations.items
        for turn in (Message("user", layout.fill(template, item)), Message("assistant", str(item.target)))
    ]
    return replace(prompt, demonstrations=None, turns=(*prompt.turns, *turns))


def _changes(before: Prompt, after: Prompt, layout: Layout | None) -> list[Change]:
    earlier = written_out(before, layout) if after.demonstrations is None else before
    by_paragraph = earlier != before and not (earlier.turns or after.turns)
    return _aligned(_parts(earlier, by_paragraph=by_paragraph), _parts(after, by_paragraph=by_paragraph))


def _parts(prompt: Prompt, *, by_paragraph: bool) -> list[Part]:
    """Return the parts of a prompt as they are sent: turns, its text, demonstrations."""
    parts = [Part(turn.role, turn.content) for turn in prompt.turns]
    parts += [Part(_TEXT, text) for text in (prompt.text.split("\n\n") if by_paragraph else [prompt.text])]
    if prompt.demonstrations is None:
        return parts
    items, nearest = prompt.demonstrations.items, prompt.demonstrations.nearest
    if nearest is not None:
        parts.append(Part("demonstrations", f"the {nearest} nearest of {len(items)}"))
    return parts + [Part("demonstration", f"{'; '.join(item.inputs.values())} -> {item.target}") for item in items]


def _aligned(before: Sequence[Part], after: Sequence[Part]) -> list[Change]:
    """Pair parts in order so that their total similarity is largest."""
    scores = _similarities(before, after)
    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i in reversed(range(len(before))):
        for j in reversed(range(len(after))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], scores[i][j] + best[i + 1][j + 1])
    changes: list[Change] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and scores[i][j] and best[i][j] == scores[i][j] + best[i + 1][j + 1]:
            changes.append(Change(after[j].label, before[i].text, after[j].text))
            i, j = i + 1, j + 1
        elif j == len(after) or (i < len(before) and best[i][j] == best[i + 1][j]):
            changes.append(Change(before[i].label, before[i].text, None))
            i += 1
        else:
            changes.append(Change(after[j].label, None, after[j].text))
            j += 1
    return changes


def _similarities(before: Sequence[Part], after: Sequence[Part]) -> list[list[float]]:
    """Return the similarity of each pair of parts, 0 if they are not to be paired."""
    if len(before) * len(after) > _MAX_PAIRS:
        return [[float(a == b) for b in after] for a in before]
    once = {
        label
        for label in (_TEXT, "demonstrations")
        if [part.label for part in before].count(label) == [part.label for part in after].count(label) == 1
    }
    return [[_similarity(a, b, paired=a.label in once) for b in after] for a in before]


def _similarity(before: Part, after: Part, *, paired: bool) -> float:
    if before.label != after.label:
        return 0.0
    ratio = SequenceMatcher(None, before.text.split(), after.text.split(), autojunk=False).ratio()
    if paired:  # the only text, however much of it was rewritten
        return max(ratio, _MIN_SIMILARITY)
    return ratio if ratio >= _MIN_SIMILARITY else 0.0
